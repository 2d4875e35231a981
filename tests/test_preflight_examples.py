"""Each finding is provoked by the smallest change to a case that has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mudanza.model.disk_locks import DiskLocks, LockManager
from mudanza.model.finding import Level
from mudanza.model.host import HugePages, NumaNode
from mudanza.model.migration import Answer, Chain, Mode, Probe, Tls
from mudanza.model.policy import Compression, Policy
from mudanza.model.units import GIB, MIB
from mudanza.model.vm import Backing, BoundMemory, Graphics, Snapshot, Tpm, VmState
from mudanza.model.wishes import wishes_of
from tests import factories as make
from tests.factories import IMAGES, NO, UNKNOWN, YES
from tests.preflight_scenes import (
    NETWORK_CARD,
    PATHS,
    SHARED,
    SNAPSHOT,
    UEFI,
    Change,
    Scene,
    all_of,
    cold,
    device,
    disk,
    facts,
    in_place,
    iso,
    lookup,
    neighbour,
    nic,
    options,
    source,
    target,
    target_entry,
    third,
    vm,
)

CHAIN = (Backing(PATHS["base"], "qcow2"),)
SECOND = make.disk(target="vdb", source="/srv/other/two.qcow2", pool=None, volume=None, backing=CHAIN)
MACVTAP = {"kind": "direct", "source": "eth0", "mode": "bridge"}
EXTERNAL = Snapshot("overlay", external=True, current=True)
ELSEWHERE = Graphics("vnc", "192.0.2.99")
B, W = Level.BLOCKER, Level.WARNING

FITS = GIB + 100 * MIB + 2 * 8 * MIB + GIB // 512 + 16 * GIB // 20
BOUND = vm(numa_nodes=frozenset({0}), bound_memory=(BoundMemory(frozenset({0}), GIB),))
TO_IMAGES = {IMAGES: "images"}
BEFORE_QEMU_5_2 = all_of(source(qemu_version=5_001_000), target(qemu_version=5_001_000))
TWO_POOLS = (make.pool(), make.pool(name="iso", path="/iso"))


def wishing(**said: str) -> Change:
    return vm(wishes=wishes_of({name.replace("_", "-"): text for name, text in said.items()}))


LOCKED = DiskLocks(LockManager.VIRTLOCKD, space="/srv/locks", inode="7")
UNLOCKED = DiskLocks(LockManager.NONE)


def locks(here: DiskLocks, there: DiskLocks) -> Change:
    return facts(shared={"vda": YES}, locks=(here, there))


EXAMPLES: list[tuple[str, Level, Change]] = [
    # Who and where
    ("target-is-source", B, lambda s: replace(s, target=s.source)),
    ("same-machine", B, facts(same_machine=True)),
    ("same-machine", B, lambda s: target(host_uuid=s.source.host_uuid)(s)),
    ("hostname-same", B, all_of(target(hostname="h1.example"), facts(data_path=NO))),
    ("hostname-same", B, all_of(target(hostname="h1.example"), facts(data_path=UNKNOWN))),
    ("source-unreachable", B, source(error="connection refused")),
    ("target-unreachable", B, target(error="no route to host")),
    ("target-maintenance", B, target_entry(maintenance=True)),
    ("uuid-running", B, neighbour(uuid=make.UUID, state=VmState.PAUSED)),
    ("uuid-running", B, third(state=VmState.RUNNING)),
    ("uuid-stale", B, neighbour(uuid=make.UUID, state=VmState.SHUTOFF)),
    ("uuid-elsewhere", W, third(state=VmState.SHUTOFF)),
    ("host-unseen", W, all_of(third({"error": "timed out"}), cold)),
    ("name-taken", B, neighbour(name="web")),
    # The way there
    ("peer-unreachable", B, facts(peer=Probe(NO.answer, "connection refused"))),
    ("peer-unknown", W, facts(peer=UNKNOWN)),
    ("peer-uri-missing", B, target_entry(uri="qemu+unix:///system?socket=/run/x/libvirt-sock")),
    ("peer-uri-missing", B, target_entry(uri="qemu:///system")),
    ("peer-uri-missing", B, target_entry(uri="qemu+ssh://root@localhost:2222/system")),
    ("peer-uri-missing", B, target_entry(uri="qemu+ext://h2/system?command=/usr/local/bin/way")),
    ("migration-address", B, all_of(target(hostname="localhost.localdomain"), facts(data_path=NO))),
    ("data-path", B, facts(data_path=NO)),
    ("tls-required", B, all_of(facts(tls=NO), options(tls=Tls.REQUIRE))),
    ("tls-required", B, all_of(facts(tls=UNKNOWN), options(tls=Tls.REQUIRE))),
    ("tls-missing", W, facts(tls=NO)),
    ("tls-unproven", W, facts(tls=UNKNOWN)),
    ("peer-in-the-clear", W, all_of(target_entry(peer_uri="qemu+tcp://h2/system"), options(tls=Tls.REQUIRE))),
    ("streams-unsupported", B, all_of(BEFORE_QEMU_5_2, options(streams=4))),
    ("streams-post-copy", B, options(streams=4, policy=Policy.NOW)),
    ("compression-memory", B, all_of(options(compression=Compression.XBZRLE), source(memory_free=GIB // 2))),
    ("compression-streams", B, options(compression=Compression.XBZRLE, streams=4)),
    ("clocks-unknown", W, facts(clock_offset=None)),
    ("clocks-apart", W, facts(clock_offset=-1.2)),
    # What the VM is doing
    ("vm-unreadable", B, vm(error="no storage volume with matching path")),
    ("vm-not-running", B, vm(state=VmState.SHUTOFF)),
    ("vm-transient-cold", B, lambda s: replace(s, mode=Mode.COLD, vm=replace(s.vm, persistent=False))),
    ("vm-crashed", B, vm(state=VmState.CRASHED)),
    ("vm-in-between", B, vm(state=VmState.SHUTDOWN)),
    ("vm-suspended", B, vm(state=VmState.PMSUSPENDED)),
    ("vm-io-error", B, vm(state=VmState.PAUSED, reason="I/O error")),
    ("vm-unsettled", B, vm(state=VmState.PAUSED, reason="migrating")),
    ("vm-unsettled", B, vm(state=VmState.PAUSED, reason="api error")),
    ("vm-unsettled", B, vm(reason="post-copy failed")),
    ("vm-paused", W, vm(state=VmState.PAUSED, reason="user")),
    ("vm-transient", W, vm(persistent=False)),
    ("managed-save", B, vm(has_managed_save=True, state=VmState.SHUTOFF)),
    ("qemu-arguments", W, vm(qemu_arguments=True)),
    ("job-unfinished", B, facts(unfinished_job=7)),
    ("wish-unreadable", B, wishing(policy="gentel")),
    ("wish-unreadable", B, wishing(hooks="dns; rm")),
    ("hook-unknown", B, facts(hooks={"dns": UNKNOWN})),
    ("hook-missing", B, facts(hooks={"dns": NO})),
    ("wish-unreadable", B, wishing(max_downtime="500")),
    ("wish-unreadable", B, wishing(max_down_time="500ms")),
    ("wish-unreadable", B, all_of(wishing(policy="gentel", deadline="soon"), options(named=frozenset({"policy"})))),
    ("vm-claimed", B, facts(claim=make.CLAIM)),
    ("claim-taken-over", W, all_of(facts(claim=make.CLAIM), options(take_claim=True))),
    ("job-running", B, vm(job="backup")),
    ("block-job", B, disk(mirror=True)),
    ("snapshots", B, vm(snapshots=(SNAPSHOT,))),
    ("snapshots", B, all_of(vm(snapshots=(SNAPSHOT,)), options(format="raw"), cold)),
    ("snapshots-external", B, vm(snapshots=(EXTERNAL,))),
    ("snapshots-external", B, all_of(vm(snapshots=(EXTERNAL,)), options(format="raw"), cold)),
    ("snapshots-external", B, all_of(vm(snapshots=(replace(EXTERNAL, memory="/var/mem"),)), SHARED)),
    ("checkpoints", W, all_of(vm(checkpoints=("monday",)), options(format="raw"))),
    # Machine and CPU
    ("libvirt-older", W, target(libvirt_version=8_010_000)),
    ("qemu-older", W, target(qemu_version=7_001_050)),
    ("architecture", B, target(arch="aarch64")),
    ("domain-type", B, target(domain_types=frozenset({"qemu"}))),
    ("domain-type", B, all_of(target(domain_types=frozenset({"qemu"})), facts(cpu=UNKNOWN))),
    ("emulator-missing", B, lookup(emulator=NO)),
    ("machine-type", B, target(machines=frozenset({"pc-q35-6.2", "q35"}))),
    ("cpu-incompatible", B, facts(cpu=Probe(NO.answer, "missing features: avx512f"))),
    ("cpu-unknown", W, facts(cpu=UNKNOWN)),
    ("cpu-vendor", B, all_of(vm(cpu_mode="host-passthrough"), target(cpu_vendor="AMD"))),
    ("cpu-vendor", W, all_of(vm(cpu_mode="host-passthrough"), target(cpu_vendor="AMD"), cold)),
    ("cpu-passthrough", W, all_of(vm(cpu_mode="host-passthrough"), target(cpu_model="Broadwell"))),
    ("cpu-passthrough", W, all_of(vm(cpu_mode="host-passthrough"), target(cpu_features=frozenset({"vmx"})))),
    ("launch-security", B, vm(launch_security="sev")),
    ("tsc-unfixed", B, vm(tsc_unfixed=True)),
    ("vcpus-over", W, vm(vcpus=9)),
    ("cpu-pin-missing", B, vm(pinned_cpus=frozenset({7, 8}))),
    ("cpu-pin-taken", W, all_of(vm(pinned_cpus=frozenset({1, 2})), neighbour(pinned_cpus=frozenset({2, 3})))),
    # Memory
    ("memory", B, target(memory_free=1 * GIB)),
    ("memory", B, target(memory_free=FITS - 1)),
    ("memory", W, all_of(target(memory_free=1 * GIB), cold)),
    ("memory", B, facts(reserved_memory=12 * GIB - FITS + 1)),
    ("memory-overcommitted", W, neighbour(memory=15 * GIB)),
    ("memory-hotplug", W, vm(memory_limit=16 * GIB)),
    ("memory-file", W, vm(memory_source="file")),
    ("huge-pages", B, vm(hugepages=(0,))),
    ("huge-pages", B, all_of(vm(hugepages=(2 * MIB,)), target(hugepages=(HugePages(2 * MIB, 1024, 511),)))),
    ("huge-pages", B, all_of(vm(hugepages=(2 * MIB,)), target(hugepages=(HugePages(1 * GIB, 4, 4),)))),
    ("numa-node-missing", B, vm(numa_nodes=frozenset({0, 1}))),
    ("numa-memory", B, all_of(BOUND, target(nodes=(NumaNode(0, GIB // 2, GIB // 2),)))),
    ("numa-memory", W, all_of(BOUND, target(nodes=(NumaNode(0, GIB // 2, GIB // 2),)), cold)),
    ("numa-memory-cached", W, all_of(BOUND, target(nodes=(NumaNode(0, 8 * GIB, GIB // 2),)))),
    # Disks
    ("disk-kind", B, disk(kind="nvme", source="0000:01:00.0")),
    ("shared-unknown", B, facts(shared={"vda": UNKNOWN})),
    ("shared-unknown", B, facts(shared={})),
    ("disk-shareable", B, disk(shareable=True)),
    ("disk-shareable", B, all_of(disk(shareable=True), neighbour(host="h1", disks=(make.disk(),)), cold)),
    ("disk-lun", B, disk(device="lun")),
    ("disk-encrypted", B, disk(encryption="luks")),
    ("disk-encrypted", B, all_of(disk(encryption="luks"), options(format="raw"), cold)),
    ("disk-size-unknown", B, disk(capacity=None)),
    ("map-onto-itself", B, all_of(SHARED, options(map_storage={"images": "images"}))),
    ("pools-unknown", B, target(pools=None)),
    ("pool-missing", B, target(pools=())),
    ("pool-missing", B, target(pools=(make.pool(path="/srv/images", kind="netfs"),))),
    ("pool-missing", B, options(map_storage={"images": "fast"})),
    (
        "chain-in-volume-group",
        B,
        all_of(
            disk(backing=(Backing("/srv/base/base.qcow2", "qcow2"),)),
            options(map_storage={"/srv/base": "vg"}),
            target(pools=(make.pool(), make.pool(name="vg", kind="logical", path="/dev/vg"))),
            cold,
        ),
    ),
    ("pool-inactive", B, target(pools=(make.pool(active=False),))),
    ("pool-kind", B, target(pools=(make.pool(kind="disk"),))),
    ("pool-kind", B, target(pools=(make.pool(kind="disk", active=False),))),
    ("pool-kind", B, all_of(target(pools=(make.pool(kind="rbd", path=None),)), options(map_storage=TO_IMAGES))),
    ("volume-clash", B, vm(disks=(make.disk(), make.disk(target="vdb")))),
    ("map-unused", B, options(map_storage={"imagse": "images"})),
    ("map-unused", B, options(map_network={"br00": "br0"})),
    ("map-not-needed", W, all_of(source(pools=TWO_POOLS), options(map_storage={"iso": "x"}))),
    ("map-not-needed", W, all_of(source(pools=TWO_POOLS), options(map_storage={"/iso/": "x"}))),
    ("map-not-needed", W, options(map_network={"eth0": "eth1"})),
    ("pool-space", B, target(pools=(make.pool(available=2 * GIB - 1),))),
    ("pool-space", B, all_of(disk(allocation=None), target(pools=(make.pool(available=10 * GIB - 1),)))),
    ("pool-space", B, target(pools=(make.pool(kind="logical", available=10 * GIB - 1),))),
    ("pool-space", B, facts(room={"images": 2 * GIB - 1})),
    ("pool-space", B, facts(room={"images": 60 * GIB}, reserved_room={"images": 58 * GIB + 1})),
    ("pool-space", B, facts(reserved_room={"images": 99 * GIB})),
    ("pool-space-virtual", W, target(pools=(make.pool(available=2 * GIB),))),
    ("pool-space-virtual", W, target(pools=(make.pool(available=10 * GIB - 1),))),
    ("volume-occupied", B, facts(occupied={"vda": YES})),
    (
        "volume-occupied",
        B,
        all_of(
            vm(snapshots=(replace(EXTERNAL, memory="/var/mem"),)),
            disk(backing=CHAIN),
            facts(occupied={"vda": NO, "/var/mem": YES}),
            cold,
        ),
    ),
    ("data-elsewhere", B, all_of(facts(elsewhere={f"{IMAGES}/web.qcow2": Probe(Answer.YES, "/srv/data")}), cold)),
    ("data-file-stays", W, facts(elsewhere={f"{IMAGES}/web.qcow2": YES})),
    ("volume-unknown", B, facts(occupied={"vda": UNKNOWN})),
    ("pool-squashes-root", B, facts(squashed={"images": YES})),
    ("volume-unknown", B, facts(occupied={})),
    ("cache-mode", B, all_of(SHARED, disk(cache="unsafe"))),
    ("cache-mode", W, all_of(SHARED, disk(cache="unsafe"), cold)),
    ("cache-mode", B, all_of(SHARED, source(qemu_version=3_001_000))),
    ("lock-manager-missing", W, locks(LOCKED, UNLOCKED)),
    ("lock-manager-missing", W, locks(UNLOCKED, LOCKED)),
    ("lock-spaces-differ", W, locks(LOCKED, replace(LOCKED, space="/srv/other"))),
    ("shared-pool-missing", B, all_of(SHARED, disk(kind="volume"), target(pools=()))),
    ("shared-pool-missing", B, all_of(SHARED, disk(kind="volume"), target(pools=(make.pool(active=False),)))),
    ("disk-transient", B, disk(transient=True)),
    ("backing-missing", B, all_of(SHARED, disk(backing=CHAIN), lookup(base=NO))),
    ("backing-missing", B, all_of(SHARED, disk(backing=CHAIN), lookup(base=UNKNOWN))),
    (
        "chain-mixed",
        B,
        all_of(
            vm(disks=(make.disk(backing=CHAIN), SECOND)),
            target(pools=(make.pool(), make.pool(name="vg", kind="logical", path="/dev/vg"))),
            options(chain=Chain.KEEP, map_storage={"/srv/other": "vg"}),
        ),
    ),
    ("disk-flattened", W, disk(backing=CHAIN)),
    # Within one host
    ("map-onto-itself", B, all_of(in_place, options(map_storage={"images": "images"}))),
    ("pool-missing", B, all_of(in_place, options(map_storage={"images": "fats"}))),
    ("volume-occupied", B, all_of(in_place, facts(occupied={"vda": YES}))),
    ("job-running", B, all_of(in_place, vm(job="backup"))),
    ("block-job", B, all_of(in_place, disk(mirror=True))),
    ("disk-stays", W, all_of(in_place, disk(shareable=True))),
    ("disk-stays", W, all_of(in_place, iso(pool="images"))),
    ("disk-flattened", W, all_of(in_place, disk(backing=CHAIN))),
    ("chain-in-place", B, all_of(in_place, disk(backing=CHAIN), options(chain=Chain.KEEP))),
    ("snapshots", B, all_of(in_place, vm(snapshots=(SNAPSHOT,)))),
    ("snapshots", B, all_of(in_place, vm(snapshots=(SNAPSHOT,)), options(format="raw"), cold)),
    ("snapshots-external", B, all_of(in_place, vm(snapshots=(EXTERNAL,)))),
    ("managed-save", B, all_of(in_place, vm(has_managed_save=True), cold)),
    ("disk-transient", B, all_of(in_place, disk(transient=True))),
    # Files
    ("file-missing", B, all_of(iso(), lookup(iso=NO))),
    ("file-missing", B, all_of(vm(boot_files=(PATHS["kernel"],)), lookup(kernel=NO))),
    ("file-missing", B, all_of(vm(firmware=UEFI), lookup(loader=NO))),
    ("file-missing", B, all_of(vm(firmware=UEFI), lookup(template=NO))),
    ("file-missing", B, all_of(device("char", path=PATHS["serial"]), lookup(serial=NO))),
    ("file-unknown", W, all_of(iso(), lookup(iso=UNKNOWN))),
    ("host-drive", W, iso(kind="block", source=PATHS["drive"])),
    ("nvram-overwritten", W, all_of(vm(firmware=UEFI), lookup(nvram=YES))),
    # Network
    ("networks-unknown", W, all_of(nic(**NETWORK_CARD), target(networks=None))),
    ("network-missing", B, all_of(nic(**NETWORK_CARD), target(networks=()))),
    ("network-missing", B, all_of(nic(**NETWORK_CARD), options(map_network={"lan": "wan"}))),
    ("network-inactive", B, all_of(nic(**NETWORK_CARD), target(networks=(make.network(active=False),)))),
    ("network-host-only", W, all_of(nic(**NETWORK_CARD), target(networks=(make.network(forward="nat"),)))),
    ("portgroup-missing", W, nic(portgroup="blue", **NETWORK_CARD)),
    ("interfaces-unknown", W, target(interfaces=None)),
    ("interfaces-unknown", W, all_of(nic(**MACVTAP, vlans=()), target(interfaces=None), cold)),
    ("bridge-missing", B, target(interfaces=frozenset({"eth0"}))),
    ("bridge-missing", B, options(map_network={"br0": "br1"})),
    ("device-missing", B, all_of(nic(**MACVTAP), target(interfaces=frozenset({"eth1"})), cold)),
    ("macvtap", W, nic(**MACVTAP)),
    ("macvtap-exclusive", W, nic(kind="direct", source="eth0", mode="passthrough")),
    ("user-network", W, nic(kind="user", source=None)),
    ("passthrough-card", B, nic(kind="hostdev", source="0000:01:00.1")),
    ("passthrough-card", B, nic(kind="vdpa", source="/dev/vhost-vdpa-0")),
    ("passthrough-card", B, all_of(nic(**NETWORK_CARD), source(networks=(make.network(forward="hostdev"),)))),
    ("failover-card", W, nic(kind="hostdev", source="0000:01:00.1", teaming="transient")),
    ("vhost-user-card", W, nic(kind="vhostuser", source="/run/vhost.sock")),
    ("card-unproven", W, nic(kind="ethernet", source=None)),
    ("openvswitch", W, nic(virtualport="openvswitch")),
    ("vlan", W, nic(vlans=(10, 20))),
    ("nwfilter-missing", B, nic(nwfilter="clean-traffic")),
    ("connections-untracked", W, all_of(nic(nwfilter="web-in"), target(nwfilters=frozenset({"web-in"})))),
    ("nwfilters-unknown", W, all_of(nic(nwfilter="clean-traffic"), target(nwfilters=None))),
    ("mac-duplicate", W, neighbour(nics=(make.nic(mac="52:54:00:00:00:01".upper()),))),
    # Devices
    ("host-device", B, device("pci")),
    ("host-device", B, device("virtiofs")),
    ("host-device", B, device("shmem")),
    ("host-device", W, all_of(device("usb"), cold)),
    ("failover-device", W, device("pci", teaming=True)),
    ("usb-redirection", W, device("redirdev")),
    ("serial-listens", W, device("listener")),
    ("device-unknown", W, device("teapot")),
    ("display-address", B, all_of(vm(graphics=(ELSEWHERE,)), facts(addresses={"192.0.2.99": NO}))),
    ("display-address-unknown", W, all_of(vm(graphics=(ELSEWHERE,)), facts(addresses={}))),
    (
        "display-port",
        B,
        all_of(
            vm(graphics=(Graphics("vnc", None, port=5907, autoport=False),)),
            neighbour(graphics=(Graphics("spice", None, port=5907),)),
        ),
    ),
    ("tpm-missing", B, all_of(vm(tpm=Tpm("tpm-crb", "emulator", "2.0")), target(tpm_backends=frozenset()))),
    ("tpm-passthrough", B, vm(tpm=Tpm("tpm-tis", "passthrough"))),
    ("vsock-taken", B, all_of(vm(vsock_cid=3), neighbour(vsock_cid=3))),
    # Access to what it opens
    ("secret-missing", B, vm(secrets=("ceph-key",))),
    ("secret-missing", B, disk(secret="ceph-key")),
    ("secrets-unknown", W, all_of(vm(secrets=("ceph-key",)), target(secrets=None))),
    ("security-label", B, vm(seclabels=("selinux",))),
    ("confinement-lost", W, target(security_models=frozenset({"dac"}))),
    ("disk-owner", W, all_of(SHARED, target(qemu_owner=(107, 107)))),
]  # fmt: skip


def _name(example: tuple[str, Level, Change]) -> str:
    return f"{example[0]}-{example[1]}"


def test_the_unchanged_case_has_no_finding() -> None:
    assert Scene().findings() == ()
    assert cold(Scene()).findings() == ()


@pytest.mark.parametrize("example", EXAMPLES, ids=_name)
def test_the_smallest_change_provokes_exactly_that_finding(example: tuple[str, Level, Change]) -> None:
    code, level, change = example
    findings = change(Scene()).findings()
    assert {(finding.code, finding.level) for finding in findings} == {(code, level)}, findings
    assert all(finding.remedy and finding.message and finding.subject for finding in findings)
