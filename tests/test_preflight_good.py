"""What is no finding, and how findings are put."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mudanza.model.host import HugePages
from mudanza.model.migration import Chain, Tls
from mudanza.model.units import GIB, MIB
from mudanza.model.vm import Backing, Firmware, Graphics, Tpm, VmState
from tests import factories as make
from tests.factories import IMAGES, NO, OTHER_UUID, YES
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
    iso,
    neighbour,
    nic,
    options,
    source,
    target,
    target_entry,
    third,
    vm,
)

# Memory, QEMU's own need (100 MiB, 8 MiB a vCPU, 1/512) and what stays with a host of 16 GiB (1/20).
NEEDED = GIB + 100 * MIB + 2 * 8 * MIB + GIB // 512 + 16 * GIB // 20

GOOD_CHANGES: dict[str, Change] = {
    "a shared disk": SHARED,
    "a shared disk without host cache under an old QEMU": all_of(
        SHARED, disk(cache="none"), source(qemu_version=3_000_000), target(qemu_version=3_000_000)
    ),
    "a shareable disk on shared storage": all_of(SHARED, disk(shareable=True)),
    "a shared disk that the other user's group may write": all_of(
        SHARED, disk(owner=(64055, 107), mode=0o660), target(qemu_owner=(107, 107))
    ),
    "a network disk": disk(kind="network", source="rbd://mon:6789/pool/web", pool=None, volume=None, format="raw"),
    "an empty drive": iso(source=None),
    "an ISO that is there": iso(),
    "an ISO nobody could size": iso(capacity=None),
    "UEFI": vm(firmware=UEFI),
    "firmware the target names as its own": all_of(
        vm(firmware=Firmware(PATHS["loader"], None)), target(firmware_loaders=frozenset({PATHS["loader"]}))
    ),
    "a TPM": vm(tpm=Tpm("tpm-crb", "emulator", "2.0")),
    "a libvirt network on a bridge": nic(**NETWORK_CARD),
    "a mapped bridge": options(map_network={"br0": "eth0"}),
    "huge pages that are free": all_of(
        vm(hugepages=(2 * MIB,)), target(hugepages=(HugePages(2 * MIB, 1024, 512),), memory_free=1 * GIB)
    ),
    "a display on every address": vm(graphics=(Graphics("vnc", "0.0.0.0"), Graphics("spice", "::1"))),
    "room made since libvirt last looked": all_of(
        target(pools=(make.pool(available=0),)), facts(room={"images": 10 * GIB})
    ),
    "room and memory beside those on their way there": all_of(
        target(memory_free=NEEDED + GIB), facts(reserved_memory=GIB, reserved_room={"images": 50 * GIB})
    ),
    "a display on an address the target has": vm(graphics=(Graphics("vnc", "192.0.2.10"),)),
    "a port that only a VM shut off would want": all_of(
        vm(graphics=(Graphics("vnc", None, port=5907, autoport=False),)),
        neighbour(state=VmState.SHUTOFF, graphics=(Graphics("vnc", None, port=5907),)),
    ),
    "entropy from a device every host has": device("rng", path="/dev/urandom"),
    "pins to CPUs that are there": vm(pinned_cpus=frozenset({0, 7})),
    "a 32-bit guest": vm(arch="i686", machine="pc-i440fx-5.2"),
    "software emulation": vm(domain_type="qemu"),
    "host-passthrough between equal CPUs": vm(cpu_mode="host-passthrough"),
    "newer software at the target": target(libvirt_version=10_000_000, qemu_version=9_000_000),
    "memory that fits exactly": target(memory_free=NEEDED),
    "memory all guests may just use": all_of(target(memory_total=8 * GIB), neighbour(memory=6 * GIB, vcpus=1)),
    "memory that may just grow to fit": vm(memory_limit=16 * GIB - 16 * GIB // 20),
    "another VM in huge pages": neighbour(memory=15 * GIB, hugepages=(0,)),
    "a pool that takes even the virtual size exactly": target(pools=(make.pool(available=10 * GIB),)),
    "as many vCPUs as the target has CPUs": vm(vcpus=8),
    "clocks one second apart": facts(clock_offset=1.0),
    "the first QEMU that drops the host's cache": all_of(
        SHARED, source(qemu_version=4_000_000), target(qemu_version=4_000_000)
    ),
    "root opens any image": all_of(SHARED, target(qemu_owner=(0, 0))),
    "the vsock address of a VM that is shut off": all_of(
        vm(vsock_cid=3), neighbour(vsock_cid=3, state=VmState.SHUTOFF)
    ),
    "encryption not wanted": all_of(facts(tls=NO), options(tls=Tls.OFF)),
    "a controller connection in the clear": target(encrypted=False),
    "an address of IP version 6": target_entry(uri="qemu+ssh://root@[2001:db8::2]:22/system"),
    "a VM that came by migration": vm(reason="migrated"),
    "a peer URI beside a local one": target_entry(uri="qemu:///system", peer_uri="qemu+ssh://h2/system"),
    "limited throughput": disk(iotune=True),
    "a neighbour": neighbour(),
    "a name that leads nowhere, and data that gets through": target(hostname="localhost"),
    "the pool at another path, mapped": all_of(
        target(pools=(make.pool(name="fast", path="/fast"),)), options(map_storage={"images": "fast"})
    ),
    "a directory mapped": all_of(
        target(pools=(make.pool(name="fast", path="/fast"),)), options(map_storage={IMAGES + "/": "fast"})
    ),
    "shared or not, when it is copied elsewhere": all_of(
        facts(shared={}),
        target(pools=(make.pool(name="fast", path="/fast"),)),
        options(map_storage={"images": "fast"}),
    ),
    "the same pool name and type at another path": target(pools=(make.pool(path="/srv/images"),)),
    "an unseen third host, live": third({"error": "timed out"}),
    "a shareable disk that nobody uses and that is there already, cold": all_of(
        disk(shareable=True),
        neighbour(host="h1", disks=(make.disk(),), state=VmState.SHUTOFF),
        facts(occupied={"vda": YES}),
        cold,
    ),
    "internal snapshots, cold": all_of(vm(snapshots=(SNAPSHOT,)), cold),
    "external snapshots, cold": all_of(vm(snapshots=(replace(SNAPSHOT, external=True),)), cold),
    "snapshots of a shared disk": all_of(
        vm(snapshots=(SNAPSHOT, replace(SNAPSHOT, external=True, memory=f"{IMAGES}/before.mem"))), SHARED
    ),
    "checkpoints": vm(checkpoints=("monday",)),
}


@pytest.mark.parametrize("name", GOOD_CHANGES)
def test_these_changes_are_no_finding(name: str) -> None:
    assert GOOD_CHANGES[name](Scene()).findings() == ()


def test_everything_wrong_is_said_at_once() -> None:
    wrong = all_of(vm(job="backup", tpm=Tpm("tpm-tis", "passthrough")), target(memory_free=0, interfaces=frozenset()))
    assert [finding.code for finding in wrong(Scene()).findings()] == [
        "job-running",
        "memory",
        "bridge-missing",
        "tpm-passthrough",
    ]


def test_of_a_target_not_seen_only_the_vm_itself_is_judged() -> None:
    unseen = all_of(target(error="timed out", pools=(), machines=frozenset()), vm(job="backup"))
    assert [finding.code for finding in unseen(Scene()).findings()] == ["target-unreachable", "job-running"]


def test_a_chain_made_one_image_keeps_no_snapshots_and_no_bitmaps() -> None:
    inside, beside = SNAPSHOT, replace(SNAPSHOT, external=True)
    chain = make.disk(backing=(Backing(f"{IMAGES}/base.qcow2", "qcow2"),))
    built = vm(disks=(chain,), snapshots=(inside, beside), checkpoints=("monday",))
    assert all_of(built, cold)(Scene()).findings() == ()
    codes = [finding.code for finding in all_of(built, options(chain=Chain.FLATTEN), cold)(Scene()).findings()]
    assert codes == ["snapshots", "snapshots-external", "checkpoints", "disk-flattened"]


def test_figures_are_named() -> None:
    (memory,) = target(memory_free=1 * GIB)(Scene()).findings()
    assert "1.1 GiB" in memory.message
    assert "1 GiB free" in memory.message
    assert "819 MiB" in memory.message
    (space,) = target(pools=(make.pool(available=1 * GIB),))(Scene()).findings()
    assert "1 GiB free" in space.message
    assert "2 GiB" in space.message


def test_disks_of_one_pool_are_summed() -> None:
    second = make.disk(target="vdb", source=f"{IMAGES}/data.qcow2", volume="data.qcow2")
    two = all_of(vm(disks=(make.disk(), second)), target(pools=(make.pool(available=3 * GIB),)))
    (space,) = two(Scene()).findings()
    assert (space.code, "vda, vdb" in space.message, "4 GiB" in space.message) == ("pool-space", True, True)
    apart = options(map_storage={"images": "fast"})
    other_pool = make.disk(target="vdb", source="/data/data.qcow2", volume="data.qcow2", pool="data")
    pools = (
        make.pool(name="fast", path="/fast", available=12 * GIB),
        make.pool(name="d", path="/data", available=12 * GIB),
    )
    assert all_of(vm(disks=(make.disk(), other_pool)), target(pools=pools), apart)(Scene()).findings() == ()


@pytest.mark.parametrize("name", ["a;reboot", "$(id)", "--help", '">', "máquina virtual"])
def test_strange_names_make_no_dangerous_remedies(name: str) -> None:
    named = all_of(vm(name=name, job="backup", snapshots=(SNAPSHOT,)), neighbour(name=name))
    findings = named(Scene()).findings()
    assert len(findings) == 3
    for finding in findings:
        assert name not in finding.remedy
        assert make.UUID in finding.remedy or OTHER_UUID in finding.remedy
