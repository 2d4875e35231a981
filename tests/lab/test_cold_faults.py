"""A switched-off VM is on its way, and something breaks: it is whole at the source, and a repeat brings it over.

What breaks at which moment is tried systematically in the crash matrix (test_matrix.py); here is what is told about it,
and what else a repeat has to cope with.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from mudanza.lab import faults
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab import cold, domains, dying
from tests.lab.command import Mudanza, Result, Running
from tests.lab.conftest import await_true
from tests.lab.test_migrate import expire_leases, slow

pytestmark = pytest.mark.lab

NAME = "freight"
PATHS = (f"{cold.IMAGES}/{NAME}.qcow2", f"{cold.IMAGES}/{NAME}.raw")
OURS = "mudanza-"
RATE = 8 * MIB
"""Bytes per second: slow enough that what happens on the way does."""
OFF = ("--mode", "cold", "--shutdown-limit", "1s", "--force-off")


@dataclass
class Victim:
    """A VM that moves from h1 to h2, a qcow2 and a raw file of no round length, and what becomes of it."""

    lab: Lab
    mudanza: Mudanza
    uuid: str
    sums: dict[str, str]

    def begin(self, *options: str) -> Running:
        """Begin to move it, and return while its files are carried."""
        running = self.mudanza.start("migrate", NAME, "--to", "h2", "-o", "json", *options)
        running.until_event(lambda event: event.get("disk_sent", 0) > 4 * MIB, "copying")
        return running

    def doomed(self, how: str, when: str, which: str, *options: str) -> Running:
        """Begin to move it with a controller that is killed or stopped then, see ``dying``."""
        argv = [sys.executable, dying.__file__, how, when, which, "migrate", NAME, "--to", "h2", "-o", "json", *options]
        return self.mudanza.start_argv(argv)

    def dies(self, when: str, which: str, *options: str) -> None:
        """Move it with a controller that is killed then."""
        self.doomed("KILL", when, which, *options).end(-signal.SIGKILL)

    @contextmanager
    def stopped(self, when: str, which: str) -> Iterator[Running]:
        """Begin to move it, and have its controller stand still at that step while the block runs."""
        running = self.doomed("STOP", when, which)
        await_true(lambda: running.is_stopped, f"{when} {which}")
        try:
            yield running
        finally:
            running.send(signal.SIGCONT)

    @property
    def job(self) -> dict[str, Any]:
        """Its newest job."""
        found: dict[str, Any] = next(
            job for job in self.mudanza("jobs", "-o", "json").data if job["vm_uuid"] == self.uuid
        )
        return found

    def resume(self, expect: int | None = 0) -> Result:
        expire_leases(self.mudanza)
        return self.mudanza("job", "resume", str(self.job["id"]), "-o", "json", expect=expect)

    @property
    def states(self) -> dict[str, str]:
        return dict(cold.states(self.lab, self.uuid))

    def is_at_source(self, state: str = "shut off") -> None:
        """It is at the source alone, as it was."""
        assert self.states == {"h1": state}
        assert cold.sums(self.lab, "h1", PATHS) == self.sums

    def has_moved(self, state: str = "shut off") -> None:
        """It is at the target alone, byte for byte, and nothing else of it is anywhere."""
        assert self.states == {"h2": state}
        assert cold.sums(self.lab, "h2", PATHS) == self.sums
        assert not files(self.lab, "h1")
        assert self.left_over() == []

    def has_nothing_at_target(self) -> None:
        assert files(self.lab, "h2") == set()
        assert self.left_over() == []

    def left_over(self) -> list[str]:
        """Return what of ours is on any host, once a command has looked there."""
        self.mudanza("check", NAME, "--to", "h1" if "h2" in self.states else "h2", expect=None)
        return [f"{host}: {name}" for host in ("h1", "h2") for name in ours(self.lab, host)]


def files(lab: Lab, host: str) -> set[str]:
    return {path for path in PATHS if cold.exists(lab, host, path)}


def ours(lab: Lab, host: str) -> list[str]:
    """Return the carriers, pools and overlays of ours on a host."""
    look = f"virsh list --all --name; virsh pool-list --all --name; ls {cold.IMAGES}"
    return [name for name in lab.cell(host).run(["sh", "-c", look]).stdout.split() if name.startswith(OURS)]


def carriers(lab: Lab, host: str) -> list[str]:
    return [name for name in virsh(lab.cell(host), "list", "--name").split() if name.startswith(f"{OURS}carrier-")]


@contextmanager
def victim(lab: Lab, mudanza: Mudanza, *, mib: int = 40, running: bool = False, more: str = "") -> Iterator[Victim]:
    qcow2, raw = PATHS
    cold.image(lab, qcow2, "1G", f"write -q -P 0x71 0 {mib}M", "write -q -P 0x72 600M 1M")
    lab.cell("h1").run(["sh", "-c", f"head --bytes={mib * MIB + 123} /dev/urandom >{raw}"])
    devices = domains.disk(qcow2, "vda") + domains.disk(raw, "vdb", "raw") + more
    sums = cold.sums(lab, "h1", PATHS)
    with cold.off(lab, NAME, devices, start=running) as uuid:
        if running:
            virsh(lab.cell("h1"), "resume", uuid)
        yield Victim(lab, mudanza, uuid, sums)


@pytest.fixture
def vm(lab: Lab, mudanza: Mudanza) -> Iterator[Victim]:
    with victim(lab, mudanza) as made:
        yield made


@pytest.fixture
def light(lab: Lab, mudanza: Mudanza) -> Iterator[Victim]:
    """One whose files need no time."""
    with victim(lab, mudanza, mib=4) as made:
        yield made


@contextmanager
def narrow(lab: Lab) -> Iterator[None]:
    """Have a slow wire at h1, and everything in its place in the end."""
    with slow(lab, "h1", RATE):
        yield


def message(result: Result) -> str:
    """Return all that an error said."""
    error = next(event for event in reversed(result.events) if event["event"] == "error")
    return " ".join(str(error[key]) for key in ("message", "vm_state", "remedy"))


def carried(vm: Victim) -> list[int]:
    """Return how many bytes each carrier brought that came through."""
    return [step["outcome"]["carried"] for step in vm.job["steps"] if "carried" in (step["outcome"] or {})]


@pytest.mark.soak
def test_a_cut_way(lab: Lab, vm: Victim) -> None:
    with narrow(lab):
        running = vm.begin()
        faults.cut(lab, "h2")
        try:
            ended = running.end(4)
        finally:
            faults.heal(lab, "h2")
        assert "h1 cannot reach h2 any more" in message(ended)
        assert "is kept for a repeat" in message(ended)
        vm.is_at_source()
    vm.resume()
    vm.has_moved()


@pytest.mark.soak
def test_a_full_target_is_given_up_for_another_pool(lab: Lab, vm: Victim, mudanza: Mudanza) -> None:
    with narrow(lab):
        running = vm.begin()
        faults.fill(lab, "h2")
    try:
        told = message(running.end(4))
        assert "No space left on device" in told
        assert "is kept for a repeat" in told
        vm.is_at_source()
        job = vm.job["id"]
        mudanza("migrate", NAME, "--to", "h2", "--map-storage", "default=fast")
    finally:
        faults.unfill(lab, "h2")
    assert vm.job["id"] == job, "it goes on with what is there"
    vm.has_nothing_at_target()
    there = [path.replace(cold.IMAGES, cold.FAST) for path in PATHS]
    assert list(cold.sums(lab, "h2", there).values()) == list(vm.sums.values())


@pytest.mark.soak
def test_giving_up_after_libvirt_was_restarted(lab: Lab, vm: Victim, mudanza: Mudanza) -> None:
    with narrow(lab):
        running = vm.begin()
        faults.kill_daemon(lab, "h1")
        faults.start_daemon(lab, "h1")
        assert "the connection was lost" in message(running.end(4))
    vm.is_at_source()
    mudanza("job", "cancel", str(vm.job["id"]))
    vm.has_nothing_at_target()
    mudanza("migrate", NAME, "--to", "h2")
    vm.has_moved()


def test_a_carrier_whose_controller_died(lab: Lab, vm: Victim, mudanza: Mudanza) -> None:
    with narrow(lab):
        running = vm.begin()
        running.send(signal.SIGKILL)
        running.end(-signal.SIGKILL)
        (carrier,) = carriers(lab, "h1")
        mudanza("check", NAME, "--to", "h2", expect=3)
        assert carriers(lab, "h1") == [carrier], "it is at work, and its job's to end"
        refused = mudanza("migrate", NAME, "--to", "h2", expect=3)
        assert f"job {vm.job['id']}" in refused.err
        expire_leases(mudanza)
        resumed = mudanza.start("job", "resume", str(vm.job["id"]), "-o", "json")
        resumed.until_event(lambda event: event.get("phase") == "copying")
        assert len(carriers(lab, "h1")) == 1
        assert carrier not in carriers(lab, "h1") + carriers(lab, "h2"), "two would write into one file"
    resumed.end()
    vm.has_moved()


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        pytest.param("started", "somebody started it meanwhile", marks=pytest.mark.soak),
        pytest.param("edited", "its definition at h1 has changed", marks=pytest.mark.soak),
        ("written", f"{PATHS[1]} was written to"),
    ],
)
def test_changed_behind_our_back(lab: Lab, light: Victim, mudanza: Mudanza, change: str, noticed: str) -> None:
    source = lab.cell("h1")
    light.dies("after", "define")
    match change:
        case "started":
            virsh(source, "start", "--paused", NAME)
        case "edited":
            virsh(source, "desc", "--config", NAME, "another one now")
        case "written":
            # More than one byte, which might have been there by chance.
            source.run(["sh", "-c", f"printf %s {NAME * 4} | dd of={PATHS[1]} bs=1 seek=5 conv=notrunc status=none"])
            light.sums = cold.sums(lab, "h1", PATHS)
    assert noticed in message(light.resume(4))
    light.is_at_source("paused" if change == "started" else "shut off")
    if change == "started":
        virsh(source, "destroy", NAME)
    if change == "edited":
        assert "mudanza migrate" in message(light.resume(4)), "what was decided upon is gone for good"
        mudanza("migrate", NAME, "--to", "h2")
    else:
        light.resume()
    light.has_moved()
    again = [4 * MIB] if change == "written" else []
    assert carried(light)[1:] == again, "only what differs is carried again"


def test_started_by_hand_and_interrupted(lab: Lab, vm: Victim) -> None:
    with narrow(lab):
        running = vm.begin()
        started = lab.cell("h1").run(["virsh", "start", "--paused", NAME], check=False)
        assert 'Failed to get "write" lock' in started.stderr, "QEMU keeps it from what a carrier has open"
        running.send(signal.SIGINT)
        told = message(running.end(4))
    assert "cancelled" in told
    vm.is_at_source()
    vm.has_nothing_at_target()


def test_cancelled_while_comparing(light: Victim, mudanza: Mudanza) -> None:
    with light.stopped("begun", "compare") as running:
        refused = mudanza("migrate", NAME, "--to", "h2", expect=3).err
        assert f"job {light.job['id']}" in refused or f"number {light.job['id']}" in refused
        mudanza("job", "cancel", str(light.job["id"]), "--no-wait")
    assert "cancelled on request of" in message(running.end(4))
    light.is_at_source()
    light.has_nothing_at_target()


def test_a_deadline(lab: Lab, vm: Victim) -> None:
    with narrow(lab):
        told = message(vm.begin("--deadline", "3s").end(4))
    assert "not done within the deadline of 3.0 s" in told
    vm.is_at_source()
    vm.has_nothing_at_target()


@pytest.mark.soak
def test_libvirt_restarted_while_comparing(lab: Lab, light: Victim) -> None:
    with light.stopped("begun", "compare") as running:
        faults.kill_daemon(lab, "h1")
        faults.start_daemon(lab, "h1")
    ended = running.end(None)
    assert ended.code in (0, 4), message(ended)
    if ended.code:
        light.is_at_source()
        light.resume()
    light.has_moved()


def test_it_does_not_start_there(lab: Lab, mudanza: Mudanza) -> None:
    source = lab.cell("h1")
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    with victim(lab, mudanza, mib=8, running=True, more=tpm) as vm:
        virsh(source, "autostart", NAME)
        virsh(source, "suspend", NAME)
        refused = mudanza("migrate", NAME, "--to", "h2", "--mode", "cold", expect=4).err
        assert "cannot be asked to shut down" in refused
        assert "--force-off" in refused
        assert vm.states == {"h1": "paused"}
        secrets = f"/var/lib/libvirt/swtpm/{vm.uuid}"
        before = source.run(["stat", "-c", "%i", secrets]).stdout
        vm.dies("after", "define", *OFF)
        with held_open(lab, "h2", PATHS[1]):
            told = message(vm.resume(4))
        assert "does not start on h2" in told
        vm.is_at_source("running")
        assert source.run(["stat", "-c", "%i", secrets]).stdout == before, "the TPM's state was never let go"
        assert NAME in virsh(source, "list", "--all", "--autostart", "--name")
        vm.resume()
        vm.has_moved("running")
        assert NAME in virsh(lab.cell("h2"), "list", "--all", "--autostart", "--name")


@pytest.mark.soak
def test_the_controller_dies_as_it_starts_there(lab: Lab, mudanza: Mudanza) -> None:
    with victim(lab, mudanza, mib=4, running=True) as vm:
        vm.dies("before", "start", *OFF)
        assert vm.states == {"h1": "shut off", "h2": "running"}
        vm.resume()
        vm.has_moved("running")


@contextmanager
def held_open(lab: Lab, host: str, path: str) -> Iterator[None]:
    """Have something keep QEMU from a file."""
    hold = 'qemu-io -f raw -c "sleep 3600000" "$1" >/dev/null 2>&1 & echo $!'
    pid = lab.cell(host).run(["sh", "-c", hold, "sh", path]).stdout.strip()
    try:
        yield
    finally:
        lab.cell(host).run(["kill", pid])
