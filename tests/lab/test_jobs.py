"""A job that one process runs, seen, cancelled and closed from another one."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza, Running
from tests.lab.conftest import await_true
from tests.lab.test_migrate import MakeGuest, assert_untouched, expire_leases, make_guest, slow, volumes

__all__ = ["make_guest"]

pytestmark = pytest.mark.lab

BIG = {"memory": 256 * MIB, "working_set": 96 * MIB}


def jobs(mudanza: Mudanza) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = mudanza("jobs", "-o", "json").data
    return found


def started(mudanza: Mudanza, guest: str) -> tuple[Running, str]:
    """Begin to move a guest to h2 and return while its memory is copied, with the number of the job."""
    running = mudanza.start("migrate", guest, "--to", "h2", "-o", "json")
    running.until("copying memory")
    return running, str(jobs(mudanza)[0]["id"])


def left_behind(mudanza: Mudanza, guest: str) -> str:
    """Return the number of a job whose controller died while memory was copied."""
    running, job = started(mudanza, guest)
    running.send(signal.SIGKILL)
    running.end(-signal.SIGKILL)
    expire_leases(mudanza)
    return job


@pytest.mark.soak
def test_another_process_cancels_one_of_two(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    unwanted, wanted = make_guest("unwanted", **BIG), make_guest("wanted")
    with slow(lab, "h1", 4 * MIB):
        running = mudanza.start("migrate", "unwanted", "wanted", "--to", "h2", "-o", "json")
        await_true(lambda: [job["state"] for job in jobs(mudanza)[:2]] == ["transferring"] * 2, "both are on their way")
        job = next(job for job in jobs(mudanza) if job["vm_name"] == "unwanted")
        refused = mudanza("host", "remove", "h2", expect=3)
        assert "mudanza job cancel" in refused.err
        cancelled = mudanza("job", "cancel", str(job["id"]), "-o", "json").events[-1]
        ended = running.end(7)
    assert cancelled["event"] == "cancelled"
    error = next(event for event in ended.events if event["event"] == "error")
    assert error["vm"] == "unwanted"
    assert "cancelled on request of" in error["message"]
    known = jobs(mudanza)
    steps = next(entry for entry in known if entry["id"] == job["id"])["steps"]
    assert next(step for step in steps if step["name"] == "transfer")["ended_at"]
    assert_untouched(lab, unwanted)
    assert wanted.states() == {"h2": "running"}
    assert mudanza("job", "cancel", str(job["id"])).code == 0
    moved = next(entry for entry in known if entry["vm_name"] == "wanted")
    assert "move it back" in mudanza("job", "cancel", str(moved["id"]), expect=3).err


def test_a_job_of_a_dead_controller_is_cancelled_all_the_same(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("unminded", **BIG)
    with slow(lab, "h1", MIB):
        job = left_behind(mudanza, "unminded")
        assert f"mudanza job resume {job}" in mudanza("job", "watch", job, expect=5).err
        mudanza("job", "cancel", job)
    assert_untouched(lab, guest)


def test_a_watcher_sees_what_the_controller_sees(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("watched", **BIG)
    with slow(lab, "h1", 4 * MIB):
        running, job = started(mudanza, "watched")
        watching = mudanza.start("job", "watch", job, "-o", "json")
        seen = watching.until("copying memory")
    assert seen["way"] == "h1 → h2"
    assert 0 < seen["memory_remaining"] <= seen["memory_total"]
    left = mudanza.start("job", "watch", job, "-o", "json")
    left.send(signal.SIGINT)
    left.end(None)
    report, watched = running.end().report, watching.end().report
    assert {**watched, "at": 0} == {**report, "at": 0}
    assert guest.states() == {"h2": "running"}


@pytest.mark.soak
def test_closing_touches_nothing(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("closed", **BIG)
    with slow(lab, "h1", MIB):
        running, job = started(mudanza, "closed")
        assert "controller that lives" in mudanza("job", "close", job, "--yes", expect=3).err
        running.send(signal.SIGKILL)
        running.end(-signal.SIGKILL)
        expire_leases(mudanza)
        mudanza("job", "close", job, "--yes")
        assert "migration out" in mudanza("vms", "--host", "h1").out, "libvirt carries it on"
        virsh(lab.cell("h1"), "domjobabort", guest.uuid)
    await_true(lambda: guest.states() == {"h1": "running"}, "it stays where it was")
    assert "closed.qcow2" in volumes(lab, "h2")
    mudanza("job", "resume", job)
    assert "closed.qcow2" in volumes(lab, "h2"), "a closed job is over"
    virsh(lab.cell("h2"), "vol-delete", "--pool", "default", "closed.qcow2")
    mudanza("migrate", "closed", "--to", "h2")
