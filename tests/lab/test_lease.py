"""Controllers that sleep, die and come back, on real hosts: whoever lost a job touches nothing of it any more."""

from __future__ import annotations

import signal

import pytest

from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true
from tests.lab.test_jobs import left_behind
from tests.lab.test_migrate import MakeGuest, expire_leases, make_guest, slow, volumes

__all__ = ["make_guest"]

pytestmark = pytest.mark.lab

BIG = {"memory": 160 * MIB, "working_set": 32 * MIB}


def test_a_controller_that_wakes_after_a_takeover_does_nothing_any_more(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("sleeper", **BIG)
    with slow(lab, "h1", 2 * MIB):
        paused = mudanza.start("migrate", "sleeper", "--to", "h2", "-o", "json")
        paused.until("copying memory")
        paused.send(signal.SIGSTOP)
        await_true(lambda: paused.is_stopped, "it sleeps")
    expire_leases(mudanza)
    [job] = [job for job in mudanza("jobs", "--state", "abandoned", "-o", "json").data if job["vm_name"] == "sleeper"]
    assert mudanza("work", "--once", "-o", "json").report["target"] == "h2"
    assert guest.states() == {"h2": "running"}
    # What the sleeper would clean up next is somebody else's by now.
    mudanza("migrate", "sleeper", "--to", "h1")
    before = mudanza("job", "show", str(job["id"]), "-o", "json").data["steps"]
    paused.send(signal.SIGCONT)
    woken = paused.end(5)
    assert "taken over by another controller" in woken.err
    assert "step" in woken.err, "it says what it had begun"
    assert guest.states() == {"h1": "running"}
    assert "sleeper.qcow2" in volumes(lab, "h1")
    assert mudanza("job", "show", str(job["id"]), "-o", "json").data["steps"] == before


def test_a_queue_is_worked_off_and_what_was_left_behind_with_it(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    queued, behind = make_guest("queued"), make_guest("behind", **BIG)
    with slow(lab, "h1", MIB):
        left_behind(mudanza, "behind")
    number = mudanza("migrate", "queued", "--to", "h2", "--detach", "-o", "name").out.strip()
    assert f"mudanza job resume {number}" in mudanza("migrate", "queued", "--to", "h2", expect=3).err
    assert queued.states() == {"h1": "running"}
    done = mudanza("work", "--once", "-o", "json")
    assert {event["vm"] for event in done.events if event["event"] == "report"} == {"queued", "behind"}
    assert (queued.states(), behind.states()) == ({"h2": "running"}, {"h2": "running"})
    job = mudanza("job", "show", number, "-o", "json").data
    assert (job["kind"], job["state"], job["target"]) == ("live", "done", "h2")
    mudanza("migrate", "queued", "--to", "h2", "--detach")
    assert "already: nothing to do" in mudanza("work", "--once").err
    assert "nothing to do" in mudanza("work", "--once").err


def test_a_vm_whose_job_was_left_behind_is_taken_up_by_the_next_move(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("resumed", **BIG)
    with slow(lab, "h1", MIB):
        job = left_behind(mudanza, "resumed")
    said = mudanza("migrate", "resumed", "--to", "h2").err
    assert f"the controller of job {job} (h1 → h2) is gone: that is finished first" in said
    assert "is on h2 already: nothing to do" in said
    assert guest.states() == {"h2": "running"}
