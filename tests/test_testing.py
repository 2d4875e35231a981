"""Whether replicas boot, tried on schedule: when, what is told of it, and what a controller has left in the middle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Engine, select

from mudanza import clock
from mudanza.journal.database import open_database
from mudanza.journal.protections import Protections
from mudanza.journal.schema import happening
from mudanza.model.errors import BlockedError, MigrationFailedError
from mudanza.model.protection import Protection, RestorePoint, Standing, Trial
from mudanza.operations import testing, trying
from mudanza.operations.testing import ENDS, BootTrials, is_left, outcome
from mudanza.protection.evidence import Compared
from mudanza.protection.trial import Report
from tests.test_protection_pages import protected
from tests.test_replicating import VALUES
from tests.timekeeping import set_clock

WEEK = 7 * 86400.0
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
DOMAIN = "<domain type='kvm'><name>db</name><uuid>u-1</uuid><os><type>hvm</type></os><devices>{}</devices></domain>"
REPORT = Report("db", "u-1", "h2", 3, 5.0, "db-test-3", "u-t", "none", 1.0, 9.0, up=False)


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


@pytest.fixture
def store(engine: Engine) -> Protections:
    made = Protections(engine)
    row = made.make({**VALUES, "test_every": WEEK, "test_limit": 60.0})
    made.add_point(row.id, RestorePoint(3, made.instant(), {}, DOMAIN.format(AGENT)), "c")
    return made


def due(store: Protections) -> Protection:
    return store.get(_due(store))


def _due(store: Protections) -> int:
    number = store.of("db").id
    store.change(number, tested_at=store.instant() - WEEK - 1)
    return number


def test_it_is_tried_when_the_last_time_is_too_long_ago() -> None:
    made = protected(10.0, test_every=WEEK, made_at=0.0, read_at=WEEK - 1)
    assert not made.is_to_be_tested
    late = replace(made, read_at=WEEK)
    assert late.is_to_be_tested
    for changes in (
        {"test_every": None},
        {"tested_at": 1.0},
        {"points": ()},
        {"epoch": 1},
        {"standing": Standing.FAILED_OVER},
        {"trial": Trial(1, "u", "t", "h2", 0.0)},
    ):
        assert not replace(late, **cast("Any", changes)).is_to_be_tested, changes


def test_what_came_of_it_is_said() -> None:
    assert outcome(REPORT, came=True, limit=60.0) == "boots: its guest answered after 9.0 s"
    assert "no guest agent" in outcome(replace(REPORT, answered=None), came=True, limit=30.0)
    with pytest.raises(MigrationFailedError, match="did not come up within 1 min"):
        outcome(replace(REPORT, answered=None), came=False, limit=60.0)
    with pytest.raises(MigrationFailedError, match=r"not as before .*: image vda"):
        outcome(replace(REPORT, compared=(Compared("image vda", "a", "b"),)), came=True, limit=60.0)


class Hosts:
    """What is tried there, and how that goes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Protections, *, answers: bool = True) -> None:
        self.done: list[str] = []
        self.store, self.answers = store, answers
        self.refuse: Callable[[], None] = lambda: None
        for name in ("begin", "await_agent", "runs", "end"):
            monkeypatch.setattr(trying, name, getattr(self, name))
        monkeypatch.setattr(testing, "refuse_replaced", lambda _means: None)

    def begin(self, _means: Any, _vm: str, *_: Any, on: str, **__: Any) -> Report:
        self.refuse()
        self.done.append("begin")
        self.store.begin_trial(self.store.of("db", on).id, Trial(3, "u-t", "db-test-3", on, 0.0))
        return REPORT

    def await_agent(self, *_: Any) -> bool:
        self.done.append("await")
        return self.answers

    def runs(self, *_: Any) -> bool:
        self.done.append("runs")
        return self.answers

    def end(self, _means: Any, _vm: str, _by: str, on: str) -> Report:
        self.done.append("end")
        self.store.end_trial(self.store.of("db", on).id)
        return REPORT if self.answers else replace(REPORT, answered=None)


def boot_trials(engine: Engine, said: list[str]) -> BootTrials:
    means = cast("Any", SimpleNamespace(database=engine))
    return BootTrials(means, "ana", said.append, lambda error: said.append(f"! {error}"))


def told_of(engine: Engine) -> list[str]:
    with engine.begin() as connection:
        return [row.kind for row in connection.execute(select(happening))]


def test_one_that_boots_is_told_and_written_down(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, said = Hosts(monkeypatch, store), list[str]()
    tried = boot_trials(engine, said)
    assert tried.turn(clock.new_event()) == [], "it was protected just now"
    due(store)
    assert tried.turn(clock.new_event()) == [0]
    assert hosts.done == ["begin", "await", "end"]
    found = store.of("db")
    assert said == [found.tested] == ["db at h2: restore point 3 boots: its guest answered after 9.0 s"]
    assert found.tested_at is not None
    assert found.read_at - found.tested_at < 3600
    assert told_of(engine) == []
    assert boot_trials(engine, said).turn(clock.new_event()) == []


def test_one_that_does_not_is_told_to_others(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, said = Hosts(monkeypatch, store, answers=False), list[str]()
    due(store)
    assert boot_trials(engine, said).turn(clock.new_event()) == [4]
    assert hosts.done[-1] == "end"
    assert "did not come up within 1 min" in store.of("db").tested
    assert told_of(engine) == ["protection.test-failed"]


def test_what_is_refused_once_is_tried_again_before_it_is_told(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, said = Hosts(monkeypatch, store), list[str]()

    def refuse() -> None:
        raise BlockedError("points are being thinned")

    hosts.refuse = refuse
    with set_clock() as time:
        tried, number = boot_trials(engine, said), _due(store)
        assert tried.turn(clock.new_event()) == [3]
        assert (store.get(number).tested, told_of(engine)) == ("", [])
        store.change(number, tested_at=store.instant() - WEEK - 1)
        assert tried.turn(clock.new_event()) == []
        time.pass_time(301.0)
        assert tried.turn(clock.new_event()) == [3]
    assert (store.get(number).tested, told_of(engine)) == ("points are being thinned", ["protection.test-failed"])


def test_a_daemon_that_ends_takes_its_double_away_and_knows_nothing(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, said, stop = Hosts(monkeypatch, store, answers=False), list[str](), clock.new_event()
    before = due(store).tested_at

    def await_agent(*_: Any) -> bool:
        stop.set()
        return False

    monkeypatch.setattr(trying, "await_agent", await_agent)
    assert boot_trials(engine, said).turn(stop) == [0]
    assert hosts.done == ["begin", "end"]
    assert (store.of("db").tested_at, said, told_of(engine)) == (before, [], [])


def test_what_a_controller_has_left_is_taken_away_once_it_should_have_been(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, said, number = Hosts(monkeypatch, store), list[str](), store.of("db").id
    store.begin_trial(number, Trial(3, "u-t", "db-test-3", "h2", 0.0))
    assert boot_trials(engine, said).turn(clock.new_event()) == [], "a person wants it to be up"
    store.tell_trial(number, **{ENDS: 660.0})
    assert not is_left(store.get(number))
    store.tell_trial(number, **{ENDS: -1.0})
    assert is_left(store.get(number))
    assert boot_trials(engine, said).turn(clock.new_event()) == [0]
    assert hosts.done == ["end"]
    assert "which a controller had left, is taken away from h2" in said[0]


def test_a_guest_without_an_agent_has_to_run(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing, "RUNS", 0.0)
    hosts, said = Hosts(monkeypatch, store), list[str]()
    store.add_point(store.of("db").id, RestorePoint(4, store.instant(), {}, DOMAIN.format("")), "c")
    due(store)
    assert boot_trials(engine, said).turn(clock.new_event()) == [0]
    assert hosts.done == ["begin", "runs", "end"]
