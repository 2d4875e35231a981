"""A guest's clock over a move: what it has lost is told, and set right where that is worth it and sure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.journal.database import open_database
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.migration.guest_clock import WORTH, ClockWatch, in_words, worth_setting
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.vm import VmState
from tests import factories as make
from tests.timekeeping import SetClock, set_clock

EPOCH = 1_800_000_000.0


class Agent:
    """A guest's agent at a host, whose guest's clock is off by so much."""

    host = "h2"

    def __init__(self, clock: SetClock, behind: float = 0.0, failing: Exception | None = None) -> None:
        self._clock = clock
        self._behind = behind
        self._failing = failing
        self.told: list[float] = []

    def guest_time(self, uuid: str, *, timeout: float) -> float:
        if self._failing:
            raise self._failing
        return EPOCH + self._clock.monotonic() - self._behind

    def set_guest_time(self, uuid: str, time: float, *, timeout: float) -> None:
        self.told.append(time)
        self._behind = EPOCH + self._clock.monotonic() - time


@pytest.fixture
def clock() -> Iterator[SetClock]:
    with set_clock() as own:
        yield own


@pytest.fixture
def handle(clock: SetClock, tmp_path: Path) -> JobHandle:
    """A job whose lease runs by the same clock as the guests."""
    jobs = Jobs(open_database(str(tmp_path / "journal.db")))
    return jobs.begin(NewJob("live", "u-1", "db", "h1", "h2", {}, "ana@laptop"))


def moved(handle: JobHandle, source: Agent, target: Agent, **about: Any) -> Any:
    watch = ClockWatch(cast(Domains, source), make.vm(**{"guest_agent": True, **about}))
    return watch.end(cast(Domains, target), handle)


def test_one_that_is_behind_is_set_to_what_it_would_have_been(clock: SetClock, handle: JobHandle) -> None:
    there = Agent(clock, behind=0.4 + 3.0)
    found = moved(handle, Agent(clock, behind=3.0), there)  # it was 3 s behind before, which is its own affair
    assert found.drift == pytest.approx(-0.4)
    assert found.left == pytest.approx(0.0, abs=1e-6)
    assert there.told == [pytest.approx(EPOCH + clock.monotonic() - 3.0)]
    assert found.words == "400 ms behind; set by its agent, right to the millisecond"


@pytest.mark.parametrize("behind", [0.0, 0.03, -0.5])
def test_one_that_is_hardly_behind_or_ahead_is_left(clock: SetClock, handle: JobHandle, behind: float) -> None:
    there = Agent(clock, behind=behind)
    found = moved(handle, Agent(clock), there)
    assert (found.drift, found.left, there.told) == (pytest.approx(-behind), None, [])


def test_what_may_be_no_more_than_a_slow_answer_is_not_set() -> None:
    assert worth_setting(-0.2, 0.1)
    assert not worth_setting(-0.2, 0.2 - WORTH)
    assert not worth_setting(0.2, 0.0)
    assert in_words(-0.3) == "300 ms behind"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (HypervisorError("h2", "Guest agent is not responding"), "does not answer (Guest agent is not responding)"),
        (HostUnreachableError("h2", "no answer within 5 s"), "its agent does not answer"),
    ],
)
def test_an_agent_that_does_not_answer_is_no_error(
    clock: SetClock, handle: JobHandle, error: Exception, words: str
) -> None:
    for source, target in (
        (Agent(clock, failing=error), Agent(clock)),
        (Agent(clock), Agent(clock, failing=error)),
    ):
        found = moved(handle, source, target)
        assert found.words.endswith(words)
        assert (found.drift, target.told) == (None, [])


def test_a_guest_without_one_is_not_asked(clock: SetClock, handle: JobHandle) -> None:
    nobody = Agent(clock, failing=AssertionError("it was asked"))
    assert moved(handle, nobody, nobody, guest_agent=False).words == "not looked at: it has no guest agent"


def test_the_definition_says_whether_there_is_one() -> None:
    def has_one(name: str) -> bool:
        channel = f"<channel type='unix'><target type='virtio' name='{name}'/></channel>"
        xml = f"<domain type='kvm'><name>db</name><uuid>u</uuid><devices>{channel}</devices></domain>"
        return parse_vm(xml, host="h1", state=VmState.RUNNING).guest_agent

    assert has_one("org.qemu.guest_agent.0")
    assert not has_one("com.redhat.spice.0")
