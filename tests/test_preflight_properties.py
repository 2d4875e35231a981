"""What holds for preflight whatever the case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mudanza.model.cluster import Cluster
from mudanza.model.finding import Finding, blockers
from mudanza.model.host import Host, HostEntry, HugePages, Network, NumaNode, Pool
from mudanza.model.migration import Answer, Chain, Facts, Media, MigrationOptions, Mode, Probe, Tls
from mudanza.model.units import GIB, MIB
from mudanza.model.vm import (
    Backing,
    BoundMemory,
    Disk,
    Firmware,
    Graphics,
    HostDevice,
    Nic,
    Snapshot,
    Tpm,
    Vm,
    VmState,
)
from mudanza.preflight.checklist import check
from tests import factories as make

NAMES = st.sampled_from(
    ["images", "br0", "lan", "a;reboot", "$(id)", "--help", '">', "é", "", "h1", "h2", "eth0", "vda"]
)
PATHS = st.sampled_from([make.IMAGES, f"{make.IMAGES}/web.qcow2", "/dev/vg/a", "/", "", "relative", "/x//y/", "//"])
TEXT = NAMES | PATHS | st.text(max_size=8)
SIZES = st.integers(0, 64 * GIB)
SMALL = st.integers(0, 70)
SELDOM = st.sampled_from([False] * 9 + [True])
SELDOM_A_TEXT = st.sampled_from([None] * 9 + ["timed out"])


def few(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=3).map(tuple)


def some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.frozensets(strategy, max_size=3)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


PROBES = st.builds(Probe, st.sampled_from(Answer), TEXT)
IDS = maybe(st.tuples(SMALL, SMALL))
DISKS = st.builds(
    Disk,
    target=st.sampled_from(["vda", "vdb", "sda"]),
    device=st.sampled_from(["disk", "cdrom", "floppy", "lun"]),
    bus=TEXT,
    kind=st.sampled_from(["file", "block", "network", "volume", "dir", "nvme", "vhostuser", "?"]),
    source=maybe(TEXT),
    format=st.sampled_from(["qcow2", "raw", "vmdk"]),
    cache=st.sampled_from(["default", "none", "directsync", "writeback", "unsafe"]),
    capacity=maybe(SIZES),
    allocation=maybe(SIZES),
    backing=few(st.builds(Backing, PATHS, TEXT)),
    pool=maybe(NAMES),
    volume=maybe(NAMES),
    owner=IDS,
    mode=maybe(st.integers(0, 0o777)),
    secret=maybe(TEXT),
    encryption=maybe(st.just("luks")),
)
NICS = st.builds(
    Nic,
    mac=st.sampled_from(["52:54:00:00:00:01", "52:54:00:AA:00:02"]),
    kind=st.sampled_from(["network", "bridge", "direct", "user", "ethernet", "hostdev", "vdpa", "vhostuser", "?"]),
    source=maybe(NAMES),
    virtualport=maybe(st.just("openvswitch")),
    vlans=few(SMALL),
    nwfilter=maybe(NAMES),
    portgroup=maybe(NAMES),
    mode=maybe(st.sampled_from(["bridge", "passthrough"])),
    teaming=maybe(st.sampled_from(["persistent", "transient"])),
)
VMS = st.builds(
    Vm,
    uuid=st.sampled_from([make.UUID, make.OTHER_UUID]),
    name=TEXT,
    host=st.sampled_from(["h1", "h2", "h3"]),
    state=st.sampled_from(VmState),
    reason=st.sampled_from(["booted", "user", "migrating", "I/O error", ""]),
    memory=SIZES,
    vcpus=SMALL,
    arch=st.sampled_from(["x86_64", "i686", "aarch64"]),
    machine=st.sampled_from(["pc-q35-7.2", "virt"]),
    domain_type=st.sampled_from(["kvm", "qemu"]),
    xml=st.just(""),
    cpu_mode=maybe(st.sampled_from(["host-passthrough", "host-model"])),
    emulator=maybe(PATHS),
    disks=few(DISKS),
    nics=few(NICS),
    host_devices=few(st.builds(HostDevice, st.sampled_from(["pci", "char", "redirdev", "?"]), TEXT, path=maybe(PATHS))),
    graphics=few(st.builds(Graphics, TEXT, maybe(TEXT), port=maybe(SMALL), autoport=st.booleans())),
    snapshots=few(st.builds(Snapshot, TEXT, memory=maybe(PATHS))),
    checkpoints=few(TEXT),
    firmware=maybe(st.builds(Firmware, maybe(PATHS), maybe(PATHS), maybe(PATHS))),
    tpm=maybe(st.builds(Tpm, TEXT, st.sampled_from(["emulator", "passthrough"]))),
    boot_files=few(PATHS),
    hugepages=few(st.sampled_from([0, 2 * MIB, GIB])),
    pinned_cpus=some(SMALL),
    numa_nodes=some(SMALL),
    bound_memory=few(st.builds(BoundMemory, some(SMALL), SIZES, few(st.sampled_from([0, 2 * MIB, GIB])))),
    memory_limit=maybe(SIZES),
    memory_source=maybe(st.just("file")),
    launch_security=maybe(st.just("sev")),
    vsock_cid=maybe(SMALL),
    secrets=few(TEXT),
    seclabels=few(st.sampled_from(["selinux", "apparmor"])),
    job=maybe(TEXT),
    error=maybe(TEXT),
)
POOLS = st.builds(
    Pool, NAMES, st.sampled_from(["dir", "logical", "rbd", "netfs"]), maybe(PATHS), st.booleans(), SIZES, SIZES
)
NETWORKS = st.builds(Network, NAMES, st.booleans(), maybe(st.sampled_from(["nat", "bridge"])), maybe(NAMES), few(NAMES))
URIS = st.sampled_from(["qemu:///system", "qemu+tls://h/system", "qemu+tcp://h:1/system", "qemu+ssh://[::1", "", "x"])


def hosts(name: str) -> st.SearchStrategy[Host]:
    return st.builds(
        Host,
        entry=st.builds(HostEntry, st.just(name), URIS, maybe(URIS), maybe(TEXT), maintenance=st.booleans()),
        error=SELDOM_A_TEXT,
        hostname=TEXT,
        host_uuid=TEXT,
        arch=st.sampled_from(["x86_64", "aarch64", ""]),
        cpus=SMALL,
        cpu_model=TEXT,
        cpu_vendor=st.sampled_from(["Intel", "AMD", ""]),
        cpu_features=some(TEXT),
        memory_total=SIZES,
        memory_free=SIZES,
        libvirt_version=st.integers(0, 20_000_000),
        qemu_version=st.integers(0, 20_000_000),
        daemon=st.sampled_from(["libvirtd", "virtqemud", ""]),
        domain_types=some(st.sampled_from(["kvm", "qemu"])),
        machines=some(st.sampled_from(["pc-q35-7.2", "virt"])),
        pools=maybe(few(POOLS)),
        networks=maybe(few(NETWORKS)),
        interfaces=maybe(some(NAMES)),
        hugepages=few(st.builds(HugePages, st.sampled_from([2 * MIB, GIB]), SMALL, SMALL)),
        cpu_count_by_node=few(SMALL),
        nodes=few(st.builds(NumaNode, SMALL, SIZES, SIZES)),
        nwfilters=maybe(some(NAMES)),
        secrets=maybe(some(TEXT)),
        security_models=some(st.sampled_from(["dac", "selinux", "apparmor"])),
        qemu_owner=IDS,
        tpm_backends=some(st.just("emulator")),
        firmware_loaders=some(PATHS),
    )


MAPS = st.dictionaries(TEXT, NAMES, max_size=2)
OPTIONS = st.builds(
    MigrationOptions,
    map_storage=MAPS,
    map_network=MAPS,
    tls=st.sampled_from(Tls),
    mode=st.sampled_from(Mode),
    chain=maybe(st.sampled_from(Chain)),
    media=st.sampled_from(Media),
    format=maybe(st.sampled_from(["raw", "qcow2"])),
)
FACTS = st.builds(
    Facts,
    cpu=PROBES,
    peer=PROBES,
    tls=PROBES,
    data_path=PROBES,
    shared=st.dictionaries(st.sampled_from(["vda", "vdb", "sda"]), PROBES),
    files=st.dictionaries(PATHS, PROBES),
    occupied=st.dictionaries(st.sampled_from(["vda", "vdb", "sda"]), PROBES),
    room=st.dictionaries(NAMES, SIZES),
    reserved_memory=SIZES,
    reserved_room=st.dictionaries(NAMES, SIZES),
    arriving=few(NAMES),
    addresses=st.dictionaries(TEXT, PROBES),
    clock_offset=maybe(st.floats(-1e6, 1e6)),
    same_machine=SELDOM,
)
CLUSTERS = st.builds(Cluster, st.tuples(hosts("h1"), hosts("h2"), hosts("h3")), few(VMS))


Question = tuple[Vm, Host, Host, Cluster, MigrationOptions, Facts]


@st.composite
def questions(draw: st.DrawFn) -> Question:
    cluster = draw(CLUSTERS)
    vm = replace(draw(VMS), host="h1")
    source, target = cluster.hosts[0], cluster.hosts[1]
    return vm, source, target, cluster, draw(OPTIONS), draw(FACTS)


def run(question: Question) -> tuple[Finding, ...]:
    vm, source, target, cluster, options, facts = question
    return check(vm, source, target, cluster, options, facts)


@settings(max_examples=200, deadline=None)
@given(questions())
def test_it_never_raises_and_every_finding_is_complete(question: Question) -> None:
    for finding in run(question):
        assert finding.code
        assert finding.subject
        assert finding.message
        assert finding.remedy


@settings(max_examples=100, deadline=None)
@given(questions())
def test_equal_input_gives_equal_output_in_equal_order(question: Question) -> None:
    first = run(question)
    vm, source, target, cluster, options, facts = question
    # The same sets built the other way round: their order must not show.
    target = replace(
        target,
        machines=frozenset(sorted(target.machines, reverse=True)),
        cpu_features=frozenset(sorted(target.cpu_features, reverse=True)),
        pools=target.pools,
    )
    vm = replace(vm, pinned_cpus=frozenset(sorted(vm.pinned_cpus, reverse=True)))
    assert check(vm, source, target, cluster, options, facts) == first


@settings(max_examples=100, deadline=None)
@given(questions(), SIZES)
def test_more_free_memory_never_adds_a_finding(question: Question, more: int) -> None:
    vm, source, target, cluster, options, facts = question
    richer = replace(target, memory_free=target.memory_free + more)
    before = {(f.code, f.subject) for f in run(question)}
    after = {(f.code, f.subject) for f in check(vm, source, richer, cluster, options, facts)}
    assert after <= before


@settings(max_examples=100, deadline=None)
@given(questions(), SIZES)
def test_more_free_space_never_adds_a_blocker(question: Question, more: int) -> None:
    vm, source, target, cluster, options, facts = question
    pools = target.pools and tuple(replace(pool, available=pool.available + more) for pool in target.pools)
    roomy = replace(target, pools=pools)
    more_room = replace(facts, room={pool: room + more for pool, room in facts.room.items()})
    before = {(f.code, f.subject) for f in blockers(run(question))}
    after = {(f.code, f.subject) for f in blockers(check(vm, source, roomy, cluster, options, more_room))}
    assert after <= before


FITTING_DISKS = st.builds(
    make.disk,
    capacity=st.integers(1, 20 * GIB),
    allocation=maybe(st.integers(0, 10 * GIB)),
    cache=st.sampled_from(["default", "none", "writeback"]),
    format=st.sampled_from(["qcow2", "raw"]),
    owner=IDS,
)
FITTING_VMS = st.builds(
    make.vm,
    name=TEXT.filter(bool),
    memory=st.integers(1, 8 * GIB),
    vcpus=st.integers(1, 16),
    cpu_mode=maybe(st.sampled_from(["host-passthrough", "host-model", "custom"])),
    domain_type=st.sampled_from(["kvm", "qemu"]),
    disks=st.tuples(FITTING_DISKS) | st.tuples(FITTING_DISKS, st.builds(make.iso)),
    nics=few(st.sampled_from([make.nic(), make.nic(kind="network", source="lan"), make.nic(kind="user", source=None)])),
    graphics=few(st.builds(Graphics, st.just("vnc"), st.sampled_from([None, "0.0.0.0", "192.0.2.10"]))),
    tpm=maybe(st.just(Tpm("tpm-crb", "emulator"))),
    checkpoints=few(TEXT),
    pinned_cpus=some(st.integers(0, 7)),
    autostart=st.booleans(),
    persistent=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(FITTING_VMS, st.booleans())
def test_a_target_like_the_source_has_no_blockers(vm: Vm, is_shared: bool) -> None:
    source = make.host("h1")
    target = replace(source, entry=make.entry("h2"), hostname="h2.example", host_uuid="another")
    facts = make.facts(vm, target)
    if is_shared:
        facts = replace(facts, shared=dict.fromkeys(facts.shared, Probe(Answer.YES)))
    cluster = make.cluster((source, target), (vm,))
    assert blockers(check(vm, source, target, cluster, MigrationOptions(), facts)) == ()
