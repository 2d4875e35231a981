"""Forecasts learn from what came of earlier moves, and tell how well they came true."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.journal.database import open_database
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.journal.reports import reports
from mudanza.migration.forecast.accuracy import accuracy, percentile
from mudanza.migration.forecast.dirtying import Dirtying
from mudanza.migration.forecast.learning import (
    LEAP,
    Past,
    dirtying_before,
    habits_of,
    link_of,
    memory_share,
    steady_mean,
)
from mudanza.migration.forecast.measuring import past_of
from mudanza.migration.forecast.model import UNKNOWN_LINK, USUAL_SET_UP
from mudanza.model.units import MIB
from tests.program import Program


def moved(  # a live move of 100 MiB in 10 s over 20 MiB/s, foreseen as it was
    *, bandwidth: int | None = None, kind: str = "live", forecast: dict[str, Any] | None = None, **changes: Any
) -> Past:
    foreseen = {
        "strategy": "pre-copy",
        "total": 10.0,
        "downtime": 0.2,
        "switchover": 0.1,
        "bytes": 100 * MIB,
        "disks": 0,
    }
    report = {
        "moving_time": 10.0,
        "total_time": 11.0,
        "downtime": 0.2,
        "memory_bytes": 100 * MIB,
        "disk_bytes": 0,
        "rate": 15.0 * MIB,
        "memory_rate": 20.0 * MIB,
        "postcopy_time": None,
        "forecast": {**foreseen, **(forecast or {})},
    }
    return Past(kind, "a", "h1", "h2", bandwidth, {**report, **changes})


def test_a_link_is_learnt_then_told_then_taken_for_granted() -> None:
    assert link_of((), None, None).rate == UNKNOWN_LINK
    assert "not known" in link_of((), None, None).why
    assert link_of((), None, 50.0).rate == 50
    learnt = link_of((moved(), moved()), None, 50.0)
    assert learnt.rate == pytest.approx(20 * MIB)
    assert learnt.why == "learnt from 2 moves"
    assert link_of((moved(),), 10 * MIB, None).rate == 10 * MIB
    assert link_of((), 10 * MIB, None).rate == 10 * MIB


def test_a_way_that_nothing_has_gone_is_taken_for_as_good_as_the_way_back() -> None:
    link = link_of((moved(memory_bytes=1),), None, 50.0, back=(moved(),))
    assert link.rate == pytest.approx(20 * MIB)
    assert link.why == "learnt from 1 move the other way"
    assert link_of((moved(memory_rate=30.0 * MIB),), None, None, back=(moved(),)).rate == pytest.approx(30 * MIB)


def test_what_says_nothing_of_the_link_is_not_learnt_from() -> None:
    limited = moved(bandwidth=21 * MIB)
    small = moved(memory_bytes=1 * MIB)
    within = moved(kind="relocate")
    assert link_of((limited, small, within), None, None).rate == UNKNOWN_LINK
    assert link_of((moved(bandwidth=200 * MIB),), None, None).rate == pytest.approx(20 * MIB)
    older = moved(memory_rate=None)
    assert link_of((older,), None, None).rate == pytest.approx(15 * MIB), "reports from before it was kept"


def test_what_a_move_takes_beside_its_data_is_learnt() -> None:
    habits = habits_of((moved(moving_time=8.0), moved(moving_time=8.0), moved(kind="cold", moving_time=12.0)))
    assert habits.set_up == pytest.approx(3.0)
    assert habits.set_up_cold == pytest.approx(7.0)
    assert habits.switchover == pytest.approx(0.1)
    assert (habits.moves, habits.moves_cold) == (2, 1)
    assert habits_of(()).set_up == USUAL_SET_UP


def test_how_much_of_its_memory_travels_is_learnt_of_each_vm() -> None:
    assert memory_share((moved(memory_bytes=50 * MIB),), "a") == pytest.approx(0.5)
    assert memory_share((moved(memory_bytes=50 * MIB, forecast={"memory_share": 0.5}),), "a") == pytest.approx(0.25)
    assert memory_share((moved(memory_bytes=50 * MIB),), "b") == 1.0
    otherwise = moved(memory_bytes=50 * MIB, postcopy_time=1.0)
    assert memory_share((otherwise,), "a") == 1.0, "it went otherwise than was foreseen"


SEEN = {"dirtying_from": "sampled over 1.0 s", "dirty_rate": 5.0 * MIB, "working_set": 64.0 * MIB, "computing": 0.1}


def test_what_a_guest_was_seen_to_dirty_holds_while_it_computes_as_much() -> None:
    known = dirtying_before([replace(moved(forecast=SEEN), ago=60.0)], "a", 0.12)
    assert known is not None
    assert known == (Dirtying(5.0 * MIB, 64.0 * MIB), "as 1 min 0 s ago, when it computed as much")


@pytest.mark.parametrize(
    ("past", "vm", "computing"),
    [
        pytest.param(replace(moved(forecast=SEEN), ago=60.0), "a", 0.5, id="it computes more now"),
        pytest.param(
            replace(moved(forecast={**SEEN, "computing": 0.9}), ago=60.0), "a", 0.1, id="it computes less now"
        ),
        pytest.param(replace(moved(forecast=SEEN), ago=60.0), "a", None, id="nobody knows what it computes"),
        pytest.param(replace(moved(forecast={**SEEN, "computing": None}), ago=60.0), "a", 0.1, id="nobody knew then"),
        pytest.param(replace(moved(forecast=SEEN), ago=60.0), "b", 0.1, id="it is another guest"),
        pytest.param(replace(moved(forecast=SEEN), ago=3601.0), "a", 0.1, id="it is long ago"),
        pytest.param(
            replace(moved(forecast={**SEEN, "dirtying_from": "as 60 s ago, when it computed as much"}), ago=60.0),
            "a",
            0.1,
            id="it was not seen then either",
        ),
        pytest.param(moved(), "a", 0.1, id="an older version wrote it"),
    ],
)
def test_it_does_not_where(past: Past, vm: str, computing: float | None) -> None:
    assert dirtying_before([past], vm, computing) is None


def test_the_newest_time_it_was_seen_counts() -> None:
    old = replace(moved(forecast={**SEEN, "dirty_rate": 1.0 * MIB}), ago=900.0)
    new = replace(moved(forecast=SEEN), ago=60.0)
    known = dirtying_before([old, new], "a", 0.1)
    assert known is not None
    assert known[0].rate == 5.0 * MIB


def test_an_outlier_moves_the_mean_little_and_a_change_at_once() -> None:
    assert steady_mean([]) is None
    assert steady_mean([100, 100, 5]) == pytest.approx(100 * LEAP**-0.4)
    assert steady_mean([100, 100, 10, 10]) == pytest.approx(10)


@given(st.lists(st.floats(1, 1000), min_size=1))
def test_the_mean_lies_among_its_values(values: list[float]) -> None:
    mean = steady_mean(values)
    assert mean is not None
    assert min(values) * 0.999 <= mean <= max(values) * 1.001


def test_accuracy_of_a_history_made_by_hand() -> None:
    history = [
        moved(moving_time=10.0),  # as foreseen
        moved(moving_time=8.0, downtime=0.4),  # 25 % too long, a factor of 2
        moved(moving_time=20.0, downtime=0.1, postcopy_time=3.0),  # 50 % too short, and by post-copy
        Past("live", "a", "h2", "h1", None, {"moving_time": 5.0, "forecast": None}),  # from before forecasts
    ]
    overall, pair = accuracy(history)
    assert (overall.pair, overall.moves, pair.pair) == ("all", 3, "h1 → h2")
    assert overall.total_median == pytest.approx(0.25)
    assert overall.total_p90 == pytest.approx(0.5)
    assert overall.downtime_median == pytest.approx(2.0)
    assert overall.as_foreseen == 2
    assert accuracy(history[3:]) == ()


def test_a_downtime_that_nobody_measured_is_no_error() -> None:
    (overall, _) = accuracy([moved(downtime=None)])
    assert overall.downtime_median is None


def test_percentiles() -> None:
    assert percentile([3, 1, 2], 0.9) == 3
    assert percentile(list(range(1, 11)), 0.9) == 9


def test_the_journal_gives_what_went_well_of_a_pair(database: str) -> None:
    engine = open_database(database)
    jobs = Jobs(engine)
    for vm, target, code in (("a", "h2", 0), ("b", "h2", 4), ("c", "h3", 0)):
        handle = jobs.begin(NewJob("live", vm, vm, "h1", target, {"bandwidth": 7}, "me"))
        handle.finish("done", "", code, dict(moved().report))
    assert [each.vm_uuid for each in reports(engine, 9)] == ["c", "a"]
    (found,) = reports(engine, 9, source="h1", target="h2")
    assert past_of(found).bandwidth == 7
    assert past_of(found).forecast["total"] == 10.0


def test_the_command_prints_it(mudanza: Program) -> None:
    assert mudanza("forecast", "--accuracy").stderr.strip() == "no move has been foreseen yet"
    jobs = Jobs(open_database(str(mudanza.config.parent / "state" / "mudanza.db")))
    handle = jobs.begin(NewJob("live", "a", "a", "h1", "h2", {}, "me"))
    handle.finish("done", "", 0, dict(moved(moving_time=8.0).report))
    told = mudanza("forecast", "--accuracy").stdout
    assert "25%" in told
    assert "1 of 1" in told
    assert json.loads(mudanza("forecast", "--accuracy", "-o", "json").stdout)[0]["total_median"] == 0.25
