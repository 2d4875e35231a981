"""What VMs are doing, who is there already and how hosts reach each other is found by the command, too.

Whatever is wrong with the VM itself is in ``test_check``, and so is what cannot be brought about in a lab.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from mudanza.hypervisor.reading.cluster import read_host
from mudanza.lab import faults
from mudanza.lab.cell import Cell
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.host import HostEntry
from mudanza.model.units import MIB
from tests.lab.checking import FAST, IMAGES, B, Case, Checker, Settings, W, another_controller, expect, make, refresh
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true
from tests.lab.domains import (
    FALLS_ASLEEP,
    MEMORY,
    OS,
    PANICS,
    WRITES,
    card,
    defined,
    disk,
    disks,
    domain_xml,
    mac,
    remove,
    write,
)
from tests.lab.troubles import called, moved_away

pytestmark = pytest.mark.lab

MONITORS = 6
READINGS = 15
NO_TLS = ("--tls", "off")

CRASHED = expect(("vm-crashed", B, "VM crashed", "panicked"))
ASLEEP = expect(("vm-suspended", B, "VM asleep", "suspended itself"))
STOPPED = expect(("vm-io-error", B, "VM stopped", "I/O error"))
HANGING = expect(("vm-unreadable", B, "VM hanging", "could not be asked"))
SAVED = expect(("managed-save", B, "VM saved", "saved on h1"))


def test_guests_that_got_into_trouble(lab: Lab, check: Checker) -> None:
    """Three boot sectors: one panics, one puts its machine to sleep, one writes to a disk that has no room left.

    One more guest hangs, and one was saved.
    """
    h1 = lab.cell("h1")
    guests = {
        "crashed": (f"{IMAGES}/crashed.raw", PANICS, "<panic model='isa'/>", "<on_crash>preserve</on_crash>"),
        "asleep": (f"{IMAGES}/asleep.raw", FALLS_ASLEEP, "", "<pm><suspend-to-mem enabled='yes'/></pm>"),
        "stopped": (f"{FAST}/stopped.raw", WRITES, "", ""),
    }
    with ExitStack() as stack:
        stack.callback(refresh, h1)
        for name, (path, sector, device, more) in guests.items():
            stack.callback(h1.run, ["rm", path])
            write(h1, path, sector)
            h1.run(["truncate", "--size=1M", path])
            xml = domain_xml(name, disk(path, "hda", "raw") + device, body=MEMORY + OS + more)
            stack.enter_context(defined(h1, xml, "start", "--paused"))
        stack.enter_context(defined(h1, domain_xml("saved"), "start", "--paused"))
        virsh(h1, "managedsave", "saved")
        refresh(h1)
        stack.callback(faults.unfill, lab, "h1", "fast")
        faults.fill(lab, "h1", "fast")
        for name in guests:
            virsh(h1, "resume", name)
        await_state(h1, "crashed", "crashed (panicked)")
        await_state(h1, "asleep", "pmsuspended")
        await_state(h1, "stopped", "paused (I/O error)")
        stack.enter_context(defined(h1, domain_xml("hanging"), "start"))
        stack.callback(faults.cont_qemu, lab, "h1", "hanging")
        faults.stop_qemu(lab, "h1", "hanging")
        check(
            Case("crashed", CRASHED),
            Case("asleep", ASLEEP),
            Case("stopped", STOPPED),
            Case("saved", SAVED),
            Case("hanging", HANGING),
        )


def await_state(cell: Cell, vm: str, state: str) -> None:
    await_true(lambda: state in virsh(cell, "domstate", "--reason", vm), f"{vm} is {state}")


BACKED_UP = expect(
    ("job-running", B, "VM backed-up", "backup"),
    ("checkpoints", W, "disk vda", "monday"),
)
MIRRORED = expect(
    ("block-job", B, "disk vda", "copies or commits"),
    ("vm-transient", W, "VM mirrored", "transient"),
    ("vm-paused", W, "VM mirrored", "paused (user)"),
)
MIRRORED_COLD = expect(
    ("block-job", B, "disk vda", "copies or commits"),
    ("vm-transient-cold", B, "VM mirrored", "transient"),
    ("vm-paused", W, "VM mirrored", "paused (user)"),
)
SAVING = expect(
    ("vm-unsettled", B, "VM saving", "paused (saving)"),
    ("job-running", B, "VM saving", "save"),
)


def test_guests_that_have_a_job(lab: Lab, check: Checker) -> None:
    h1 = lab.cell("h1")
    job = "<domainbackup mode='pull'><server transport='unix' socket='/run/backup.sock'/></domainbackup>"
    with ExitStack() as stack:
        stack.callback(refresh, h1)
        path = make(stack, h1, f"{IMAGES}/backed-up.qcow2")
        stack.enter_context(defined(h1, domain_xml("backed-up", disks(path)), "start"))
        virsh(h1, "checkpoint-create-as", "backed-up", "monday")
        virsh(h1, "backup-begin", "backed-up", "/dev/stdin", stdin=job)

        path = make(stack, h1, f"{IMAGES}/mirrored.qcow2")
        stack.callback(h1.run, ["rm", "--force", f"{IMAGES}/copy.qcow2"])
        stack.callback(remove, h1, "mirrored")
        virsh(h1, "create", "--paused", "/dev/stdin", stdin=domain_xml("mirrored", disks(path)))
        virsh(h1, "blockcopy", "mirrored", "vda", f"{IMAGES}/copy.qcow2")

        stack.enter_context(defined(h1, domain_xml("saving"), "start"))
        # The file is a pipe that nobody empties.
        stack.callback(h1.run, ["rm", "/run/pipe"])
        h1.run(["mkfifo", "/run/pipe"])
        stack.callback(end, h1.popen(["sh", "-c", "exec virsh save saving /run/pipe"]))
        stack.callback(end, h1.popen(["sh", "-c", "exec sleep infinity </run/pipe"]))
        await_state(h1, "saving", "paused (saving)")

        check(
            Case("backed-up", BACKED_UP, ("--format", "raw")),
            Case("mirrored", MIRRORED),
            Case("mirrored", MIRRORED_COLD, mode="cold"),
            Case("saving", SAVING),
        )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_a_guest_that_a_monitor_asks_for_figures_all_the_time(lab: Lab) -> None:
    """libvirt's figures are asked for without waiting, and a guest that answers somebody else has none to tell."""
    h1 = lab.cell("h1")
    ask = ["sh", "-c", "while :; do virsh --quiet domstats --block watched; done"]
    with ExitStack() as stack:
        path = make(stack, h1, f"{IMAGES}/watched.qcow2")
        stack.enter_context(defined(h1, domain_xml("watched", disks(path)), "start"))
        for _ in range(MONITORS):
            stack.callback(end, h1.popen(ask, stdout=subprocess.DEVNULL))
        for _ in range(READINGS):
            _, vms = read_host(HostEntry("h1", lab.uri("h1")))
            (watched,) = (vm for vm in vms if vm.name == "watched")
            assert watched.disks[0].capacity == 8 * MIB


UNFINISHED = expect(
    ("job-unfinished", B, "VM leaving", "job 1 of mudanza has not ended"),
    ("job-running", B, "VM leaving", "migration out"),
    ("uuid-running", B, "host h2", "paused"),
    ("volume-occupied", B, "disk vda", f"{IMAGES}/leaving.raw"),
)


CLAIMED = expect(("vm-claimed", B, "VM leaving", "claims it since"), *UNFINISHED[1:])


def test_a_move_that_goes_on_while_its_controller_is_dead(
    lab: Lab, check: Checker, mudanza: Mudanza, sound: str, tmp_path: Path
) -> None:
    own = another_controller(mudanza, tmp_path, {})
    h1, h2 = lab.cell("h1"), lab.cell("h2")
    path = f"{IMAGES}/leaving.raw"
    with ExitStack() as stack:
        stack.callback(refresh, h1, h2)
        stack.callback(h1.run, ["rm", path])
        h1.run(["dd", "if=/dev/urandom", f"of={path}", "bs=1M", "count=64", "status=none"])
        refresh(h1)
        uuid = stack.enter_context(defined(h1, domain_xml("leaving", disk(path, "vda", "raw")), "start"))
        stack.callback(h2.run, ["rm", "--force", path])
        stack.callback(remove, h2, uuid)
        moving = own.start("migrate", "leaving", "--to", "h2", "--bandwidth", "1MiB/s", "-o", "json")
        await_true(lambda: "migration" in virsh(h1, "domjobinfo", uuid), "the migration is on its way")
        moving.send(signal.SIGKILL)
        moving.end(-signal.SIGKILL)
        check(Case("leaving", UNFINISHED, by=own), Case("leaving", CLAIMED), files=False)
        (target,) = own("check", sound, "--to", "h2", "-o", "json").data["targets"]
        assert target["facts"]["arriving"] == ["leaving"]
        assert target["facts"]["reserved_memory"] >= 32 * MIB
        assert 64 * MIB <= target["facts"]["reserved_room"]["default"] < 65 * MIB
        virsh(h1, "domjobabort", uuid)
        await_true(lambda: uuid not in virsh(h2, "list", "--uuid"), "the migration is over")


def test_two_that_fit_one_by_one_do_not_both_go(lab: Lab, mudanza: Mudanza) -> None:
    h1, h2 = lab.cell("h1"), lab.cell("h2")
    with ExitStack() as stack:
        stack.callback(refresh, h1, h2)
        for name in ("one", "two"):
            path = f"{FAST}/{name}.raw"
            stack.callback(h2.run, ["rm", "--force", path])
            stack.callback(h1.run, ["rm", "--force", path])
            h1.run(["fallocate", "--length", "40M", path])
            uuid = stack.enter_context(defined(h1, domain_xml(name, disk(path, "vda", "raw")), "start"))
            stack.callback(remove, h2, uuid)
        refresh(h1)
        stack.callback(faults.unfill, lab, "h2", "fast")
        faults.fill(lab, "h2", "fast", leave=50 * MIB)  # libvirt counts 16 MiB more, which are root's
        stack.callback(lab.set_uplink, "h1", None)
        lab.set_uplink("h1", 8 * MIB)  # so that the first one is on its way still when the other one is judged
        moving = mudanza("migrate", "one", "two", "--to", "h2", "--parallel", "2", "-o", "json", expect=7)
    (refused,) = (event for event in moving.events if event["event"] == "error")
    (finding,) = (each for each in refused["findings"] if each["level"] == B)
    (moved,) = {"one", "two"} - {refused["vm"]}
    assert finding["code"] == "pool-space"
    assert f"40 MiB for VMs on their way there ({moved})" in finding["message"]


SNAPSHOT = """<domainsnapshot><name>before</name><creationTime>1700000000</creationTime><state>shutoff</state>
  <memory snapshot='no'/><disks><disk name='vda' snapshot='internal'/></disks>
  <domain type='qemu'><name>newcomer</name><uuid>{uuid}</uuid><memory>32768</memory>
  <os><type>hvm</type></os><devices><disk type='file'><driver type='qcow2'/><source file='{path}'/>
  <target dev='vda'/></disk></devices></domain></domainsnapshot>"""
CROWDED = expect(
    ("snapshots", B, "disk vda", "before"),
    ("cpu-pin-taken", W, "host h2", "resident is pinned to CPUs 0 there"),
    ("mac-duplicate", W, f"network card {mac(1)}", "resident on h2"),
    ("display-port", B, "display vnc", "port 5990"),
)
KNOWN_THERE = expect(
    ("uuid-elsewhere", W, "host h3", "h3 lists twin too"),
    ("uuid-stale", B, "host h2", "h2 lists twin already (shut off)"),
    ("name-taken", B, "host h2", "another VM on h2 has the name twin"),
)
RUNS_THERE = expect(("uuid-running", B, "host h2", "may be running twice"))
THERE_ALREADY = expect(("target-is-source", B, "host h1", "sound is on h1 already"))


def test_what_others_have_and_who_is_there_already(lab: Lab, check: Checker, sound: str) -> None:
    h1, h2, h3 = (lab.cell(host) for host in lab.hosts)
    display = "<graphics type='vnc' autoport='no' port='5990' listen='127.0.0.1'/>"
    devices = card("network", 1, "<source network='lan'/>", "<rom enabled='no'/>") + display
    pinned = f"{MEMORY}<vcpu cpuset='0'>1</vcpu>{OS}"
    twin, double = str(uuid4()), str(uuid4())
    with (
        image_of(h1, f"{IMAGES}/newcomer.qcow2") as path,
        defined(h2, domain_xml("resident", devices, body=pinned), "start"),
        defined(h1, domain_xml("newcomer", devices + disks(path), body=pinned), "start") as newcomer,
        defined(h1, domain_xml("twin", uuid=twin), "start"),
        defined(h3, domain_xml("twin-of-old", uuid=twin)),
        defined(h2, domain_xml("twin")),
        defined(h2, domain_xml("twin-once", uuid=twin)),
        defined(h1, domain_xml("double", uuid=double), "start"),
        defined(h2, domain_xml("double", uuid=double), "start"),
    ):
        before = SNAPSHOT.format(uuid=newcomer, path=path)
        virsh(h1, "snapshot-create", newcomer, "/dev/stdin", "--redefine", stdin=before)
        check(
            Case("newcomer", CROWDED),
            Case("twin", KNOWN_THERE),
            Case("double", RUNS_THERE),
            Case(double, RUNS_THERE),
            Case(sound, THERE_ALREADY, to="h1"),
        )


@contextmanager
def image_of(cell: Cell, path: str) -> Iterator[str]:
    with ExitStack() as stack:
        stack.callback(refresh, cell)
        make(stack, cell, path)
        refresh(cell)
        yield path


CLOSED = expect(
    ("target-maintenance", B, "host closed", "in maintenance"),
    ("peer-uri-missing", B, "host closed", "on the controller only"),
)
NO_LOGIN = expect(("peer-unreachable", B, "host wrong-port", "Connection refused"))
NO_WAY = expect(("data-path", B, "host nowhere", "No route to host"))
ONE_MACHINE = expect(("same-machine", B, "host twin", "one and the same machine"))
NO_CERTIFICATE = expect(("peer-unreachable", B, "host h2", "Unable to read TLS confirmation"))


@pytest.fixture(scope="module")
def own(mudanza: Mudanza, tmp_path_factory: pytest.TempPathFactory) -> Mudanza:
    names: dict[str, Settings] = {
        "closed": {"maintenance": True, "peer_uri": None},
        "nowhere": {"migration_address": "10.77.0.99"},
        "wrong-port": {},
        "named": {"migration_address": None},
        "clear": {"peer_uri": "qemu+tcp://h2/system"},
    }
    return another_controller(mudanza, tmp_path_factory.mktemp("own"), names)


def test_hosts_that_cannot_reach_each_other(lab: Lab, check: Checker, sound: str, own: Mudanza) -> None:
    own("host", "edit", "wrong-port", "--peer-uri", "qemu+tls://h2:1/system")
    check(
        Case(sound, CLOSED, NO_TLS, to="closed", by=own),
        Case(sound, NO_LOGIN, NO_TLS, to="wrong-port", by=own),
        Case(sound, NO_WAY, NO_TLS, to="nowhere", by=own),
    )
    own("host", "add", "twin", lab.uri("h1"))
    with moved_away(lab.cell("h1"), "/etc/pki/libvirt/clientcert.pem"):
        check(Case(sound, NO_CERTIFICATE, NO_TLS), Case(sound, ONE_MACHINE, to="twin", by=own))
    own("host", "remove", "twin")


LOCALHOST = expect(("migration-address", B, "host named", "calls itself localhost"))
SAME_NAME = LOCALHOST + expect(("hostname-same", B, "host named", "call themselves localhost"))


def test_hosts_that_call_themselves_localhost(lab: Lab, check: Checker, sound: str, own: Mudanza) -> None:
    with called(lab, "h2", "localhost"):
        check(Case(sound, LOCALHOST, NO_TLS, to="named", by=own))
        with called(lab, "h1", "localhost"):
            check(Case(sound, SAME_NAME, NO_TLS, to="named", by=own))


TLS_REQUIRED = expect(
    ("tls-required", B, "host clear", "not set up"),
    ("peer-in-the-clear", W, "host clear", "qemu+tcp://h2/system"),
)
TLS_WANTED = expect(("tls-missing", W, "host clear", "not set up"))


def test_tls_that_does_not_work(lab: Lab, check: Checker, sound: str, own: Mudanza) -> None:
    with moved_away(lab.cell("h2"), "/etc/pki/qemu"):
        check(
            Case(sound, TLS_REQUIRED, ("--tls", "require"), to="clear", by=own),
            Case(sound, TLS_WANTED, to="clear", by=own),
        )


DOWN = expect(("target-unreachable", B, "host h3", "could not be read"))
UNSEEN = expect(("host-unseen", W, "host h3", "whether it runs sound too"))
FAULTS = [
    (faults.kill_daemon, faults.start_daemon),
    (faults.stop_daemon, faults.cont_daemon),
    (faults.kill_host, faults.boot_host),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0].__name__)
def test_a_target_that_is_down(
    lab: Lab, check: Checker, sound: str, own: Mudanza, fault: tuple[Callable[..., None], ...]
) -> None:
    broken, mended = fault
    broken(lab, "h3")
    try:
        elsewhere = Case(sound, UNSEEN, to="h2", by=own, mode="cold")
        check(Case(sound, DOWN, to="h3", by=own), elsewhere, dead=["h3"])
    finally:
        mended(lab, "h3")
