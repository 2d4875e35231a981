"""When a transfer is given up, what is said of one that stands still, and how the source is asked about the way."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.migration.steering import CUT_OFF, Situation, Steering, is_wish, reason_to_stop, standstill
from mudanza.migration.way import ASK_AFTER, ASK_AGAIN, LOGIN_LIMIT, Traffic, Way
from mudanza.model.errors import HostUnreachableError
from mudanza.model.migration import Answer, Probe
from mudanza.model.units import format_duration

HELD_TO = Steering("h1", "h2", max_downtime=0.3, deadline=None, no_progress=300.0)
LIBVIRT_GIVES_UP = 25.0
"""Seconds without an answer from the target after which libvirt may end the mirrors by itself."""


@pytest.mark.parametrize(
    ("now", "held_to", "reason"),
    [
        (Situation(10.0), HELD_TO, ""),
        (Situation(10.0, asked_to_stop=True), HELD_TO, "cancelled on request"),
        (Situation(61.0), replace(HELD_TO, deadline=60.0), "not done within the deadline of 1 min 0 s"),
        (Situation(59.0), replace(HELD_TO, deadline=60.0), ""),
        # What a controller before us took counts.
        (Situation(0.0), replace(HELD_TO, deadline=60.0, spent=61.0), "not done within the deadline of 1 min 0 s"),
        (Situation(99.0, still_for=20.0, reach=Answer.NO), HELD_TO, "for 20.0 s and h1 cannot reach h2 any more"),
        (Situation(99.0, still_for=3.0, reach=Answer.NO), HELD_TO, ""),
        (Situation(99.0, still_for=99.0, reach=Answer.YES), HELD_TO, ""),
        (Situation(99.0, still_for=99.0, reach=Answer.UNKNOWN), HELD_TO, ""),
        (Situation(99.0, still_for=99.0), HELD_TO, ""),
        (Situation(99.0, still_for=5.1, stopped=True), HELD_TO, "the guest stood still for the switchover"),
        (Situation(99.0, still_for=4.9, stopped=True), HELD_TO, ""),
        (Situation(99.0, still_for=19.0, stopped=True), replace(HELD_TO, max_downtime=10.0), ""),
        (Situation(999.0, no_nearer_for=301.0), HELD_TO, "came no nearer to its end for 5 min 0 s"),
    ],
)
def test_reasons_to_stop(now: Situation, held_to: Steering, reason: str) -> None:
    found = reason_to_stop(now, held_to)
    assert reason in found
    assert bool(found) == bool(reason)


def test_only_what_somebody_wanted_is_a_wish() -> None:
    late = reason_to_stop(Situation(9.0), replace(HELD_TO, deadline=1.0))
    cut = reason_to_stop(Situation(99.0, still_for=99.0, reach=Answer.NO), HELD_TO)
    asked = reason_to_stop(Situation(1.0, asked_to_stop=True), HELD_TO)
    assert [is_wish(why) for why in (late, asked, f"{asked} of ana", cut, "")] == [True, True, True, False, False]


@given(st.builds(Situation, st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 290), st.sampled_from([None, *Answer])))
def test_nothing_but_a_source_that_says_no_ends_a_standstill_early(now: Situation) -> None:
    assert bool(reason_to_stop(now, HELD_TO)) == (now.reach is Answer.NO and now.still_for >= CUT_OFF)


def test_the_decision_falls_before_libvirt_hangs() -> None:
    assert max(CUT_OFF, ASK_AFTER + LOGIN_LIMIT) < LIBVIRT_GIVES_UP


@pytest.mark.parametrize(
    ("reach", "words"),
    [(None, "the way from h1 to h2 may be cut"), (Answer.UNKNOWN, "may be cut"), (Answer.NO, "h1 cannot reach h2"),
     (Answer.YES, "though h1 reaches the libvirt of h2")],
)  # fmt: skip
def test_a_standstill_in_words(reach: Answer | None, words: str) -> None:
    found = standstill(Situation(60.0, still_for=12.0, reach=reach), HELD_TO)
    assert found.startswith(f"nothing has moved for {format_duration(12.0)}: ")
    assert words in found


class Source:
    """A source that answers when it is told to."""

    def __init__(self, *answers: Answer | HostUnreachableError) -> None:
        self._answers = list(answers)
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self) -> Probe:
        self.asked += 1
        self.may_answer.wait(10)
        answer = self._answers.pop(0)
        if isinstance(answer, HostUnreachableError):
            raise answer
        return Probe(answer)


def answer_of(way: Way, elapsed: float, still_for: float) -> Answer | None:
    """Let a question under way end, and return what is known then."""
    way.reach(elapsed, still_for)
    if way._question is not None:
        way._question._ended.wait(5)
    return way.reach(elapsed, still_for)


def test_nobody_is_asked_as_long_as_things_move() -> None:
    source = Source()
    way = Way(source)
    assert [way.reach(at, ASK_AFTER - 1) for at in (1.0, 10.0, 100.0)] == [None, None, None]
    assert source.asked == 0


def test_the_answer_stands_until_it_is_asked_again_or_things_move() -> None:
    source = Source(Answer.YES, Answer.NO)
    way = Way(source)
    assert answer_of(way, 10.0, ASK_AFTER) is Answer.YES
    assert way.reach(10.0 + ASK_AGAIN - 1, 20.0) is Answer.YES
    assert source.asked == 1
    assert answer_of(way, 10.0 + ASK_AGAIN, 30.0) is Answer.NO
    assert way.reach(50.0, 0.0) is None


def test_a_login_that_hangs_is_none() -> None:
    source = Source(Answer.YES)
    source.may_answer.clear()
    way = Way(source)
    assert [way.reach(at, 60.0) for at in (10.0, 10.0 + LOGIN_LIMIT - 1)] == [None, None]
    assert way.reach(10.0 + LOGIN_LIMIT, 60.0) is Answer.NO
    source.may_answer.set()
    assert answer_of(way, 11.0 + LOGIN_LIMIT, 60.0) is Answer.YES
    assert source.asked == 1


def test_a_source_that_cannot_be_asked_has_not_said_no() -> None:
    assert answer_of(Way(Source(HostUnreachableError("h1", "gone"))), 10.0, 60.0) is Answer.UNKNOWN


def test_a_full_link_is_not_a_cut_one() -> None:
    """One of several transfers gets nothing through, and no login either, while others do."""
    now, traffic, source = time.monotonic(), Traffic(), Source(Answer.YES)
    source.may_answer.clear()
    starved, lively = Way(source, traffic=traffic), Way(Source(), traffic=traffic)
    assert lively.reach(10.0, 0.1) is None
    assert starved.reach(10.0, 60.0) is Answer.YES
    traffic._at = now - ASK_AFTER  # nothing moves any more
    assert [starved.reach(at, 60.0) for at in (20.0, 20.0 + LOGIN_LIMIT)] == [None, Answer.NO]
    source.may_answer.set()


def test_questions_are_rare() -> None:
    source = Source(*[Answer.UNKNOWN] * 20)
    way = Way(source)
    times = []
    for second in range(120):
        before = source.asked
        answer_of(way, float(second), 60.0)
        if source.asked > before:
            times.append(second)
    assert len(times) > 1
    assert all(later - earlier >= ASK_AGAIN for earlier, later in pairwise(times))
