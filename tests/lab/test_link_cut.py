"""The wire between two hosts is pulled while a guest is on its way: that is noticed soon, and the guest runs on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest
from mudanza.lab.lab import Lab
from mudanza.lab.watch import Watch
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.test_migrate import expire_leases

pytestmark = pytest.mark.lab

GIVEN_UP_WITHIN = 60.0
"""Seconds after which a transfer over a cut link must be over; the kernel alone would take 15 minutes."""
FELT = 2.0
"""Seconds a guest may stand still for it at most; on a busy machine emulated guests stutter, too."""


@pytest.fixture
def guest(lab: Lab) -> Iterator[Guest]:
    """A guest with enough disk and memory to be caught in either phase."""
    made = create_guest(
        lab, GuestSpec("cutoff", memory=192 * MIB, disk=64 * MIB, beat=0.05, working_set=96 * MIB, write_rate=8 * MIB)
    )
    yield made
    made.remove()


@contextmanager
def narrow(lab: Lab, rate: int) -> Iterator[None]:
    """Have a narrow wire at h1, and h2's wire in its place in the end."""
    lab.set_uplink("h1", rate)
    try:
        yield
    finally:
        faults.heal(lab, "h2")
        lab.set_uplink("h1", None)


@pytest.mark.parametrize("phase", [pytest.param("copying disks", marks=pytest.mark.soak), "copying memory"])
def test_a_cut_is_noticed_and_the_guest_runs_on(lab: Lab, mudanza: Mudanza, guest: Guest, phase: str) -> None:
    with narrow(lab, 4 * MIB):
        running = mudanza.start("migrate", "cutoff", "--to", "h2", "-o", "json")
        begun = running.until(phase)
        with Watch(lab, guest.address) as watch:
            faults.cut(lab, "h2")
            ended = running.end(4)
        events = ended.events
        still = [event for event in events if event.get("still_for")]
        assert "the way from h1 to h2 may be cut" in still[0]["outlook"]
        assert all(event["eta"] is None for event in still), "nothing is promised while nothing moves"
        error = events[-1]
        assert "h1 cannot reach h2 any more" in error["message"]
        assert error["exit_code"] == 4
        cancelling = next(event for event in events if event.get("cancelling"))
        assert cancelling["outlook"].startswith("cancelling: nothing has moved for ")
        assert ended.events[-1]["at"] - begun["at"] < GIVEN_UP_WITHIN
        assert watch.series.every_beat_arrived, watch.series
        assert watch.series.longest_dark < FELT, watch.series
        assert guest.states()["h1"] == "running"
        job = mudanza("jobs", "-o", "json").data[0]
        decided = [step["intent"]["why"] for step in job["steps"] if step["name"] == "cancel"]
        assert len(decided) == 1
        assert decided[0] in job["outcome"]


@pytest.mark.soak
def test_the_reason_outlives_the_controller(lab: Lab, mudanza: Mudanza, guest: Guest) -> None:
    with narrow(lab, 4 * MIB):
        running = mudanza.start("migrate", "cutoff", "--to", "h2", "-o", "json")
        running.until("copying memory")
        faults.cut(lab, "h2")
        running.until_event(lambda event: bool(event.get("cancelling")))
        running.send(signal.SIGKILL)
        running.end(-signal.SIGKILL)
        faults.heal(lab, "h2")
        expire_leases(mudanza)
        job = str(mudanza("jobs", "-o", "json").data[0]["id"])
        ended = mudanza("job", "resume", job, expect=4)
    assert "h1 cannot reach h2 any more" in ended.err
    assert "h1 cannot reach h2 any more" in mudanza("job", "show", job).out
    assert guest.states() == {"h1": "running"}
    guest.await_answer()


@pytest.mark.soak
def test_a_resumed_job_keeps_its_deadline(lab: Lab, mudanza: Mudanza, guest: Guest) -> None:
    with narrow(lab, 4 * MIB):
        running = mudanza.start("migrate", "cutoff", "--to", "h2", "--deadline", "30s", "-o", "json")
        running.until("copying memory")
        lab.set_uplink("h1", MIB)  # now it cannot be done in time any more
        running.send(signal.SIGKILL)
        running.end(-signal.SIGKILL)
        expire_leases(mudanza)
        job = str(mudanza("jobs", "-o", "json").data[0]["id"])
        ended = mudanza("job", "resume", job, expect=4)
    assert "not done within the deadline of 30.0 s" in ended.err
    assert "mudanza check" not in ended.err, "nothing stands in its way"
    assert guest.states() == {"h1": "running"}
