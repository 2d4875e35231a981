"""Two controllers without a common database: a VM belongs to one job at a time, and carries its claim while it does."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab import cold, domains, dying
from tests.lab.checking import another_controller, claimed
from tests.lab.command import Mudanza, Running
from tests.lab.test_cold_faults import PATHS, victim
from tests.lab.test_migrate import MakeGuest, assert_untouched, expire_leases, make_guest, slow

__all__ = ["make_guest"]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

TAGS = "https://mudanza.dev/xmlns/1"
STOPPED_LIMIT = 150.0
"""Seconds within which a controller must have come to where it is to be stopped."""


def doomed(by: Mudanza, when: str, which: str, *arguments: str, how: str = "STOP") -> Running:
    """Have a controller stop, or die, at a step; see ``dying``."""
    return by.start_argv([sys.executable, dying.__file__, how, when, which, *arguments, "-o", "json"])


def await_stopped(running: Running, what: str) -> None:
    """Wait for a controller that checks the move first, on a machine that has much else to do."""
    deadline = time.monotonic() + STOPPED_LIMIT
    while not running.is_stopped:
        assert time.monotonic() < deadline, f"still not stopped after {STOPPED_LIMIT:g} s: {what}"
        time.sleep(0.05)


@contextmanager
def stopped(by: Mudanza, when: str, which: str, *arguments: str) -> Iterator[Running]:
    """Have a controller stand still at a step while the block runs; it goes on afterwards."""
    running = doomed(by, when, which, *arguments)
    await_stopped(running, f"{when} {which}")
    try:
        yield running
    finally:
        running.send(signal.SIGCONT)


@pytest.fixture
def other(mudanza: Mudanza, tmp_path: Path) -> Mudanza:
    return another_controller(mudanza, tmp_path, {})


def test_a_claim_goes_where_the_vm_goes_and_ends_with_the_job(
    lab: Lab, mudanza: Mudanza, other: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("claimed")
    tag = ("--key", "m", "--live", "--config", "--set", "<mudanza><tag>db</tag></mudanza>")
    virsh(lab.cell("h1"), "metadata", "claimed", TAGS, *tag)
    with slow(lab, "h1", MIB):
        running = mudanza.start("migrate", "claimed", "--to", "h2", "-o", "json")
        running.until("copying memory")
        for host in ("h1", "h2"):
            assert claimed(lab, host, "claimed"), host
        (target,) = other("check", "claimed", "--to", "h2", "-o", "json", expect=3).data["targets"]
    said = {each["code"]: each["message"] for each in target["findings"]}
    assert "claims it since" in said["vm-claimed"]
    assert "job-running" in said
    running.end()
    assert guest.states() == {"h2": "running"}
    assert not claimed(lab, "h2", "claimed")
    for each in ("--live", "--config"):
        assert "<tag>db</tag>" in virsh(lab.cell("h2"), "metadata", "claimed", TAGS, each)
    other("migrate", "claimed", "--to", "h1")


def test_of_two_controllers_at_once_one_goes_on_at_the_most(
    lab: Lab, mudanza: Mudanza, other: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("wanted")
    with (
        stopped(mudanza, "begun", "claim", "migrate", "wanted", "--to", "h2") as one,
        stopped(other, "begun", "claim", "migrate", "wanted", "--to", "h3") as two,
    ):
        assert not claimed(lab, "h1", "wanted")
    codes = sorted((one.end(None).code, two.end(None).code))
    assert codes in ([0, 3], [3, 3])
    assert len(guest.states()) == 1
    (place,) = guest.states()
    assert (place == "h1") == (codes == [3, 3])
    assert not claimed(lab, place, "wanted")
    guest.verify()


def test_who_comes_late_steps_back(lab: Lab, mudanza: Mudanza, other: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("late")
    with stopped(mudanza, "after", "claim", "migrate", "late", "--to", "h2") as first:
        refused = other("migrate", "late", "--to", "h3", expect=3)
        assert "claims it since" in refused.err
    first.end(None)  # its hosts may have hung up while it stood still
    (place,) = guest.states()
    assert place in ("h1", "h2")
    assert not claimed(lab, place, "late")


def test_a_vm_that_changes_between_the_check_and_the_claim_is_not_touched(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("restless")
    with stopped(mudanza, "begun", "claim", "migrate", "restless", "--to", "h2") as running:
        virsh(lab.cell("h1"), "suspend", "restless")
    assert "is paused" in running.end(3).err
    virsh(lab.cell("h1"), "resume", "restless")
    assert_untouched(lab, guest)
    assert not claimed(lab, "h1", "restless")
    assert mudanza("jobs", "-o", "json").data[0]["state"] == "refused"


@pytest.mark.soak
def test_a_job_of_another_tool_that_begins_after_the_check_makes_the_move_fail(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("backed-up-meanwhile")
    cell = lab.cell("h1")
    backup = "<domainbackup mode='pull'><server transport='unix' socket='/run/backup.sock'/></domainbackup>"
    with stopped(mudanza, "after", "claim", "migrate", guest.name, "--to", "h2") as running:
        virsh(cell, "backup-begin", guest.name, "/dev/stdin", stdin=backup)
    ended = running.end(4)
    assert "backup" in ended.err or "state change lock" in ended.err
    assert "backup" in virsh(cell, "domjobinfo", guest.name).lower(), "which goes on"
    virsh(cell, "domjobabort", guest.name)
    assert_untouched(lab, guest)
    job = mudanza("jobs", "-o", "json").data[0]
    assert (job["state"], job["exit_code"]) == ("failed", 4)


def test_a_cold_move_is_claimed_at_both_hosts_until_it_has_ended(lab: Lab, mudanza: Mudanza, other: Mudanza) -> None:
    with victim(lab, mudanza, mib=4) as vm:
        with stopped(mudanza, "after", "define", "migrate", vm.uuid, "--to", "h2") as running:
            assert claimed(lab, "h1", vm.uuid)
            assert claimed(lab, "h2", vm.uuid)
            copies = [each for each in other("vms", "-o", "json").data if each["uuid"] == vm.uuid]
            assert [(each["host"], len(each["claims"])) for each in copies] == [("h1", 1), ("h2", 1)]
        running.end()
        vm.has_moved()
        assert not claimed(lab, "h2", vm.uuid)


@pytest.mark.soak
def test_what_was_taken_over_is_not_acted_upon_by_who_wakes_up(lab: Lab, mudanza: Mudanza, other: Mudanza) -> None:
    with victim(lab, mudanza, mib=4) as vm:
        with stopped(mudanza, "after", "compare", "migrate", vm.uuid, "--to", "h2") as sleeper:
            assert "--take-claim" in other("migrate", vm.uuid, "--to", "h3", expect=3).err
            other("migrate", vm.uuid, "--to", "h3", "--take-claim")
            assert vm.states == {"h3": "shut off"}
        sleeper.end(5)
        assert vm.states == {"h3": "shut off"}
        assert cold.sums(lab, "h3", PATHS) == vm.sums
        mudanza("job", "close", str(vm.job["id"]), "--yes")
        lab.cell("h2").run(["rm", "-f", "--", *PATHS])
        cold.refresh(lab)


@pytest.mark.soak
def test_the_same_journal_goes_on_with_its_own_claim(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("own")
    doomed(mudanza, "after", "claim", "migrate", "own", "--to", "h2", how="KILL").end(-signal.SIGKILL)
    assert claimed(lab, "h1", "own")
    expire_leases(mudanza)
    mudanza("job", "resume", str(mudanza("jobs", "-o", "json").data[0]["id"]), expect=4)
    assert_untouched(lab, guest)
    assert not claimed(lab, "h1", "own")
    mudanza("migrate", "own", "--to", "h2")
    assert not claimed(lab, "h2", "own")


@pytest.mark.parametrize(("running", "step"), [(True, "copy"), pytest.param(False, "compare", marks=pytest.mark.soak)])
def test_disks_that_move_within_a_host_are_claimed_too(
    lab: Lab, mudanza: Mudanza, other: Mudanza, running: bool, step: str
) -> None:
    path = f"{cold.IMAGES}/inside.qcow2"
    cold.image(lab, path, "64M", "write -q -P 0x71 0 4M")
    where = ("--to", "h1", "--map-storage", "default=fast")
    with cold.off(lab, "inside", domains.disk(path, "vda"), start=running) as uuid:
        with stopped(mudanza, "after", step, "migrate", uuid, *where) as moving:
            assert claimed(lab, "h1", uuid)
            assert "claims it since" in other("migrate", uuid, *where, expect=3).err
        moving.end()
        assert not claimed(lab, "h1", uuid)
