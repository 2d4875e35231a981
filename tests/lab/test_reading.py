"""Hosts and VMs as they are read, over every way in; a host that is down, slow or broken holds up no other."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mudanza
from mudanza.hypervisor.bounded import for_each
from mudanza.hypervisor.connection import MAX_LINES, HostConnection
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import read_cluster, read_host
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.lab import faults
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.cluster import Cluster
from mudanza.model.errors import HostUnreachableError
from mudanza.model.host import HostEntry, Network
from mudanza.model.units import GIB, MIB
from mudanza.model.vm import Backing, Snapshot, Vm, VmState
from tests.lab.conftest import await_true
from tests.lab.tiny import tiny, volume

pytestmark = pytest.mark.lab

BOUND = 3.0
"""Seconds a host gets in the tests of hosts that need longer."""
SLACK = 5.0
"""Seconds this machine may be late; a read that waits for the host takes far longer."""
STRANGE_NAMES = ("a;reboot", "$(id)", "--help", '">', "ñandú 駱駝", "<name>&amp;")
IMAGES = "/var/lib/libvirt/images"


def entries(lab: Lab, via: str = "unix") -> list[HostEntry]:
    return [HostEntry(name, lab.uri(name, via)) for name in lab.hosts]


def read(lab: Lab, timeout: float = 20.0) -> Cluster:
    return read_cluster(entries(lab), timeout=timeout)


def read_vm(lab: Lab, uuid: str) -> Vm:
    return read(lab).find(uuid)


@contextmanager
def stopped_daemon(lab: Lab, host: str) -> Iterator[None]:
    faults.stop_daemon(lab, host)
    try:
        yield
    finally:
        faults.cont_daemon(lab, host)


def test_a_host_says_what_it_is_and_has(lab: Lab) -> None:
    cluster = read(lab)
    assert [host.error for host in cluster.hosts] == [None, None, None]
    h1, h2 = cluster.host("h1"), cluster.host("h2")
    assert (h1.hostname, h1.arch, h1.daemon) == ("h1", "x86_64", "")
    assert h1.host_uuid != h2.host_uuid
    assert h1.libvirt_version >= 9_000_000
    assert h1.qemu_version >= 7_000_000
    assert {"pc", "q35"} <= h1.machines
    assert "qemu" in h1.domain_types
    assert h1.cpus >= 1
    assert sum(h1.cpu_count_by_node) == h1.cpus
    assert h1.cpu_model
    assert "sse2" in h1.cpu_features
    assert 0 < h1.memory_free <= h1.memory_total
    assert h1.qemu_owner == (0, 0)
    assert "tcp" in h1.migration_transports
    assert any(loader.endswith(".fd") for loader in h1.firmware_loaders)
    assert "emulator" in h1.tpm_backends


def test_a_host_says_what_it_offers(lab: Lab) -> None:
    h1 = read(lab).host("h1")
    pool = h1.pool_at(f"{IMAGES}/")
    assert pool is not None
    assert (pool.name, pool.kind, pool.active) == ("default", "dir", True)
    assert GIB < pool.available <= pool.capacity
    assert h1.network("lan") == Network("lan", True, "bridge", "br0")
    assert h1.network("green") is None
    assert h1.interfaces is not None
    assert {"br0", "lo"} <= h1.interfaces
    assert h1.nwfilters == frozenset()


def test_inactive_pools_and_networks_are_listed_as_such(lab: Lab) -> None:
    cell = lab.cell("h1")
    virsh(cell, "pool-define-as", "asleep", "dir", "--target", "/srv/asleep")
    virsh(cell, "net-define", "/dev/stdin", stdin="<network><name>asleep</name><portgroup name='red'/></network>")
    try:
        h1 = read(lab).host("h1")
    finally:
        virsh(cell, "pool-undefine", "asleep")
        virsh(cell, "net-undefine", "asleep")
    pool, network = h1.pool("asleep"), h1.network("asleep")
    assert pool is not None
    assert not pool.active
    assert h1.pool_at("/srv/asleep") is None
    assert network is not None
    assert (network.active, network.forward, network.portgroups) == (False, None, ("red",))


def test_secrets_count_only_with_a_value(lab: Lab) -> None:
    cell = lab.cell("h1")
    uuids = []
    for name in ("with", "without"):
        xml = f"<secret private='no'><usage type='ceph'><name>{name}</name></usage></secret>"
        virsh(cell, "secret-define", "/dev/stdin", stdin=xml)
    listed = [line.split() for line in virsh(cell, "secret-list").splitlines() if line.strip()]
    by_name = {words[2]: words[0] for words in listed}
    uuids = list(by_name.values())
    virsh(cell, "secret-set-value", by_name["with"], "--file", "/etc/hostname", "--plain")
    try:
        assert read(lab).host("h1").secrets == frozenset({"with", by_name["with"]})
    finally:
        for uuid in uuids:
            virsh(cell, "secret-undefine", uuid)


def test_vms_of_any_name_are_read_as_they_are_called(lab: Lab) -> None:
    made = [tiny(lab, name) for name in STRANGE_NAMES]
    uuids = [one.__enter__() for one in made]
    try:
        vms = {vm.uuid: vm for vm in read(lab).vms}
    finally:
        for one in made:
            one.__exit__(None, None, None)
    assert [vms[uuid].name for uuid in uuids] == list(STRANGE_NAMES)


def test_a_vm_that_is_off(lab: Lab) -> None:
    with (
        volume(lab, "base.qcow2", size=16 * MIB) as base,
        volume(lab, "top.qcow2", size=16 * MIB, backing=base) as path,
        tiny(lab, "off", disk=(path, "qcow2")) as uuid,
    ):
        virsh(lab.cell("h1"), "autostart", uuid)
        vm = read_vm(lab, uuid)
    assert (vm.state, vm.reason, vm.persistent, vm.autostart) == (VmState.SHUTOFF, "unknown", True, True)
    assert (vm.memory, vm.vcpus, vm.domain_type, vm.host) == (MIB, 1, "qemu", "h1")
    assert vm.xml == vm.inactive_xml
    (disk,) = vm.disks
    assert (disk.source, disk.pool, disk.volume) == (path, "default", "top.qcow2")
    assert (disk.capacity, disk.owner, disk.mode) == (16 * MIB, (0, 0), 0o600)
    assert disk.allocation is not None
    assert disk.allocation < MIB
    assert disk.backing == (Backing(base, "qcow2"),)


def test_an_image_outside_all_pools_has_its_size_too(lab: Lab) -> None:
    cell, path = lab.cell("h1"), "/srv/loose.img"
    cell.run(["truncate", "-s", "3M", "--", path])
    try:
        with tiny(lab, "loose", disk=(path, "raw")) as uuid:
            (disk,) = read_vm(lab, uuid).disks
    finally:
        cell.run(["rm", "--", path])
    assert (disk.capacity, disk.pool, disk.owner) == (3 * MIB, None, None)


def test_a_missing_image_leaves_its_sizes_open(lab: Lab) -> None:
    with tiny(lab, "missing", disk=("/srv/nowhere.img", "raw")) as uuid:
        vm = read_vm(lab, uuid)
    assert (vm.error, vm.disks[0].capacity) == (None, None)


def test_a_vm_that_runs(lab: Lab) -> None:
    with volume(lab, "run.qcow2", size=16 * MIB) as path, tiny(lab, "on", run=True, disk=(path, "qcow2")) as uuid:
        vm = read_vm(lab, uuid)
    assert (vm.state, vm.reason, vm.job, vm.error) == (VmState.PAUSED, "user", None, None)
    assert vm.xml != vm.inactive_xml
    assert vm.machine.startswith("pc-i440fx-")
    assert vm.memory_used is not None
    assert vm.memory_used > MIB
    assert vm.cpu_seconds is not None
    assert vm.cpu_mode == "custom"
    (disk,) = vm.disks
    assert (disk.capacity, disk.pool, disk.volume, disk.owner) == (16 * MIB, "default", "run.qcow2", (0, 0))
    assert disk.allocation is not None


def test_a_transient_vm_has_no_inactive_definition(lab: Lab) -> None:
    with tiny(lab, "passing", run=True) as uuid:
        virsh(lab.cell("h1"), "undefine", uuid)
        vm = read_vm(lab, uuid)
    assert (vm.persistent, vm.inactive_xml, vm.state) == (False, None, VmState.PAUSED)


def test_snapshots_checkpoints_and_a_saved_state(lab: Lab) -> None:
    cell = lab.cell("h1")
    with volume(lab, "snap.qcow2") as path, tiny(lab, "snap", disk=(path, "qcow2")) as uuid:
        virsh(cell, "snapshot-create-as", uuid, "one")
        virsh(cell, "snapshot-create-as", uuid, "two")
        snapshots = read_vm(lab, uuid).snapshots
        virsh(cell, "snapshot-delete", uuid, "two")
        virsh(cell, "snapshot-delete", uuid, "one")
        virsh(cell, "start", "--paused", uuid)
        virsh(cell, "checkpoint-create-as", uuid, "c1")
        checkpoints = read_vm(lab, uuid).checkpoints
        virsh(cell, "managedsave", uuid)
        saved = read_vm(lab, uuid)
    assert snapshots == (
        Snapshot("one", external=False, current=False, disks=frozenset({path})),
        Snapshot("two", external=False, current=True, parent="one", disks=frozenset({path})),
    )
    assert checkpoints == ("c1",)
    assert (saved.has_managed_save, saved.state, saved.reason) == (True, VmState.SHUTOFF, "saved")


def test_a_job_is_seen_whoever_started_it(lab: Lab) -> None:
    cell = lab.cell("h1")
    with volume(lab, "job.qcow2") as path, tiny(lab, "job", run=True, disk=(path, "qcow2")) as uuid:
        xml = "<domainbackup mode='pull'><server transport='unix' socket='/srv/backup.sock'/></domainbackup>"
        virsh(cell, "backup-begin", uuid, "/dev/stdin", stdin=xml)
        busy = read_vm(lab, uuid).job
        virsh(cell, "domjobabort", uuid)
        await_true(lambda: read_vm(lab, uuid).job is None, "the backup is over")
    assert busy == "backup"


def test_a_vm_whose_qemu_hangs_costs_the_others_nothing(lab: Lab) -> None:
    with tiny(lab, "hangs", run=True) as broken, tiny(lab, "fine", run=True) as fine:
        faults.stop_qemu(lab, "h1", broken)
        try:
            vms = {vm.uuid: vm for vm in read(lab, timeout=2 * BOUND).vms}
        finally:
            faults.cont_qemu(lab, "h1", broken)
    assert (vms[fine].error, vms[fine].memory_used is None) == (None, False)
    assert (vms[broken].name, vms[broken].state, vms[broken].memory) == ("hangs", VmState.PAUSED, MIB)
    assert "its QEMU could not be asked" in (vms[broken].error or "")


def test_a_definition_that_cannot_be_read_hides_no_other(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """No libvirt writes such a definition, so one of ours is made to fail."""

    def break_one(xml: str, **about: Any) -> Vm:
        if "<name>bad</name>" in xml:
            raise ValueError("what is this?")
        return parse_vm(xml, **about)

    monkeypatch.setattr("mudanza.hypervisor.reading.vms._parsed", break_one)
    with tiny(lab, "bad") as bad, tiny(lab, "good") as good:
        vms = {vm.uuid: vm for vm in read(lab).vms}
    assert vms[good].error is None
    assert (vms[bad].name, vms[bad].error) == ("bad", "its definition could not be read: what is this?")


def test_a_stopped_daemon_is_told_within_the_bound_and_holds_up_nobody(lab: Lab) -> None:
    with tiny(lab, "seen") as uuid, stopped_daemon(lab, "h3"):
        began = time.monotonic()
        cluster = read(lab, timeout=BOUND)
        took = time.monotonic() - began
    assert took < BOUND + SLACK
    assert f"within {BOUND:g} s" in (cluster.host("h3").error or "")
    assert [cluster.host(name).error for name in ("h1", "h2")] == [None, None]
    assert cluster.find(uuid).host == "h1"
    assert cluster.host("h3").pools == ()


def test_a_daemon_that_stops_answering_on_an_open_connection(lab: Lab) -> None:
    with Connections(entries(lab)) as connections:
        assert read_cluster(entries(lab), connections=connections).host("h3").seen
        with stopped_daemon(lab, "h3"):
            host, vms = read_host(entries(lab)[2], BOUND, connections=connections)
    assert not host.seen
    assert vms == ()


def test_a_host_that_hangs_costs_one_thread_however_often_it_is_asked(lab: Lab) -> None:
    with Connections(entries(lab)) as connections, stopped_daemon(lab, "h3"):
        before = threading.active_count()
        for _ in range(5):
            with pytest.raises(HostUnreachableError):
                connections.get("h3", timeout=0.2)
        assert threading.active_count() <= before + 1


def test_the_program_ends_though_a_host_hangs(lab: Lab) -> None:
    """Also with a connection left open, which is freed only at the very end."""
    script = """
import sys
from mudanza.hypervisor.connection import open_host
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.model.host import HostEntry
entry = HostEntry("h3", sys.argv[1])
kept = open_host(entry)
print("open", flush=True)
sys.stdin.readline()
print(read_cluster([entry], timeout=1).hosts[0].error)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, lab.uri("h3")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "open\n"
        with stopped_daemon(lab, "h3"):
            said, _ = program.communicate("go\n", timeout=1 + 2 + 2 * SLACK)
    assert program.returncode == 0
    assert said.startswith("no connection to ")


def test_a_dead_host_is_told_and_comes_back(lab: Lab) -> None:
    with Connections(entries(lab)) as connections:
        assert connections.get("h3").answers()
        faults.kill_host(lab, "h3")
        try:
            dead = read_cluster(entries(lab), connections=connections)
        finally:
            faults.boot_host(lab, "h3")
        assert not dead.host("h3").seen
        assert dead.host("h1").seen
        assert read_cluster(entries(lab), timeout=20, connections=connections).host("h3").seen


FROM_THE_SEAT = """
import sys
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.model.host import HostEntry
entries = [HostEntry(str(number), uri) for number, uri in enumerate(sys.argv[2:])]
for host in read_cluster(entries, timeout=float(sys.argv[1])).hosts:
    print(host.hostname if host.seen else host.error, host.encrypted, sep="|")
"""


def read_from_the_seat(lab: Lab, *uris: str, timeout: float = 20.0) -> list[list[str]]:
    """Read hosts as a controller does that has nothing but the network."""
    source = str(Path(mudanza.__file__).parents[1])
    seat = lab.cell("controller")
    done = seat.run([sys.executable, "-c", FROM_THE_SEAT, str(timeout), *uris], env={"PYTHONPATH": source})
    return [line.rsplit("|", 1) for line in done.stdout.splitlines()]


def test_every_way_in(lab: Lab) -> None:
    uris = [lab.uri("h1", "tls"), lab.uri("h2", "ssh"), lab.uri("h3", "tcp")]
    assert read_from_the_seat(lab, *uris) == [["h1", "True"], ["h2", "True"], ["h3", "False"]]


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("qemu+ssh://nobody@h1/system", id="ssh-no-such-login"),
        pytest.param("qemu+ssh://root@10.77.0.99/system", id="ssh-no-such-host"),
        pytest.param("qemu+libssh2://root@h1/system", id="libssh2-unknown-host-key"),
        pytest.param("qemu+tls://h1:1/system", id="tls-nobody-listens"),
        pytest.param("qemu+tls://10.77.0.11:16509/system", id="tls-where-there-is-none"),
    ],
)
def test_a_way_in_that_does_not_work_is_told_and_never_prompts(lab: Lab, uri: str) -> None:
    ((said, _),) = read_from_the_seat(lab, uri)
    assert said.startswith(f"cannot connect to {uri}: ")


def test_a_host_behind_a_cut_cable_is_told_within_the_bound(lab: Lab) -> None:
    faults.cut(lab, "h3")
    try:
        said = read_from_the_seat(lab, lab.uri("h3", "tls"), lab.uri("h1", "tls"), timeout=BOUND)
    finally:
        faults.heal(lab, "h3")
    assert said[0][0].startswith("no connection to ")
    assert said[1] == ["h1", "True"]


def test_a_connection_that_was_lost_is_opened_anew(lab: Lab) -> None:
    with Connections(entries(lab)) as connections:
        kept = connections.get("h2")
        assert kept.answers()
        faults.kill_daemon(lab, "h2")
        try:
            assert not read_cluster(entries(lab), connections=connections).host("h2").seen
            assert not kept.answers()
        finally:
            faults.start_daemon(lab, "h2")
        assert read_cluster(entries(lab), timeout=20, connections=connections).host("h2").seen
        assert kept.answers()


def test_calls_that_hang_turn_further_ones_away(lab: Lab) -> None:
    with Connections(entries(lab)) as connections:
        host = connections.get("h3")
        with stopped_daemon(lab, "h3"):
            for _ in range(MAX_LINES):
                with pytest.raises(HostUnreachableError, match=r"libvirt did not answer within 0\.1 s"):
                    host.ask(lambda raw: raw.getLibVersion(), timeout=0.1)
            assert calls_under_way() == MAX_LINES
            with pytest.raises(HostUnreachableError):
                host.ask(lambda raw: raw.getLibVersion(), timeout=0.1)
            await_true(lambda: calls_under_way() == MAX_LINES, "the last call has been given up")
        await_true(host.answers, "the host answers again")


def calls_under_way() -> int:
    return sum(thread.name.startswith("mudanza-call-") for thread in threading.enumerate())


def test_what_nobody_waits_for_any_more_is_not_begun(lab: Lab) -> None:
    done: list[str] = []
    host = HostConnection(entries(lab)[2])
    with stopped_daemon(lab, "h3"), pytest.raises(HostUnreachableError):
        host.ask(lambda raw: done.append("late"), timeout=0.5)
    await_true(lambda: calls_under_way() == 0, "the way to the host is open, too late")
    host.close()
    assert not done


def test_several_calls_at_once(lab: Lab) -> None:
    with Connections(entries(lab)) as connections:
        host = connections.get("h1")
        answers = for_each(
            lambda _: host.ask(lambda raw: str(raw.getHostname())), list(range(40)), workers=6, timeout=20
        )
    assert answers == ["h1"] * 40


def test_a_closed_connection_says_so(lab: Lab) -> None:
    with Connections(entries(lab)) as connections:
        host = connections.get("h1")
    with pytest.raises(HostUnreachableError, match="the connection is closed"):
        host.ask(lambda raw: raw.getHostname())
