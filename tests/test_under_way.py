"""Orders that are carried out beside the requests that began them: said as they go, once each, and known afterwards."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mudanza.journal.audit import Audit
from mudanza.journal.database import open_database
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.journal.requests import Request
from mudanza.model.access import Asker, Scope
from mudanza.model.errors import BlockedError, MigrationFailedError, UsageError
from mudanza.service import under_way
from mudanza.service.problems import NotReadyError, NotThereError, TooManyError
from mudanza.service.under_way import MOST, Order, State, UnderWay
from tests.timekeeping import set_clock

ANA, EVA = Asker("ana", frozenset({Scope.FAILOVER})), Asker("eva", frozenset({Scope.FAILOVER}))
ADMIN = Asker("root", frozenset({Scope.ADMIN}))
AWAIT = 30.0
"""Seconds that a thread may take to do what it has to do anyway."""


@pytest.fixture
def audit(database: str) -> Audit:
    return Audit(open_database(database))


@pytest.fixture
def orders() -> UnderWay:
    return UnderWay()


class Held:
    """Work that goes on until it is let go."""

    def __init__(
        self, orders: UnderWay, audit: Audit, key: str | None = None, command: tuple[str, ...] = ("x",)
    ) -> None:
        self.go, self.begun = threading.Event(), 0
        self.order = orders.begin(audit, ANA, command, self.work, key)

    def work(self, order: Order) -> dict[str, int]:
        self.begun += 1
        order.say("one")
        self.go.wait(AWAIT)
        order.say("two")
        return {"point": 7}

    def end(self, orders: UnderWay, audit: Audit) -> Order:
        self.go.set()
        return ended(orders, audit, self.order.number)


def ended(orders: UnderWay, audit: Audit, number: int) -> Order:
    over = threading.Event()
    for _ in range(int(AWAIT / 0.01)):
        found = orders.find(audit, ADMIN, number)
        if found.state is State.ENDED:
            return found
        over.wait(0.01)
    raise AssertionError(f"order {number} has not ended: {found}")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait for the end of what takes longer anyway."""
    monkeypatch.setattr(under_way, "AT_ONCE", 0.0)


def test_it_is_told_what_is_said_and_what_came_of_it(orders: UnderWay, audit: Audit, at_once: None) -> None:
    held = Held(orders, audit)
    assert held.order.told()["state"] == "running"
    assert orders.busy
    found = held.end(orders, audit)
    assert found.told()["said"] == ["one", "two"]
    assert found.told(1)["said"] == ["two"]
    assert (found.told(1)["heard"], found.result, found.problem) == (2, {"point": 7}, None)
    assert not orders.busy
    [told] = audit.since(None)
    assert (told.command, told.exit_code, told.who["user"]) == (("x",), 0, "ana")


def test_what_fails_at_once_is_known_at_once(orders: UnderWay, audit: Audit) -> None:
    def fail(order: Order) -> None:
        order.say("on the way")
        raise BlockedError("it lives", remedy="shut it down")

    found = orders.begin(audit, ANA, ("failover",), fail, None)
    found = ended(orders, audit, found.number)
    assert found.problem is not None
    assert (found.problem["status"], found.problem["remedy"], found.problem["said"]) == (
        409,
        "shut it down",
        ["on the way"],
    )
    assert audit.since(None)[0].exit_code == 3


def test_what_nobody_expected_is_told_without_its_words_and_logged(
    orders: UnderWay, audit: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_order: Order) -> None:
        raise ZeroDivisionError("secret of the inside")

    found = ended(orders, audit, orders.begin(audit, ANA, ("failover",), fail, None).number)
    assert found.problem is not None
    assert (found.problem["status"], found.problem["detail"]) == (500, "ZeroDivisionError")
    assert "secret" not in str(found.told())
    assert "secret of the inside" in caplog.text
    assert not orders.busy


def test_under_one_key_it_is_done_once(orders: UnderWay, audit: Audit, at_once: None) -> None:
    held = Held(orders, audit, "night")
    again = orders.begin(audit, ANA, ("x",), held.work, "night")
    assert again is held.order
    with pytest.raises(UsageError, match="order 1"):
        orders.begin(audit, ANA, ("y",), held.work, "night")
    other = Held(orders, audit, "day")
    assert other.order.number != held.order.number
    held.end(orders, audit), other.end(orders, audit)
    assert (held.begun, other.begun) == (1, 1)
    elsewhere = UnderWay()
    known = elsewhere.begin(audit, ANA, ("x",), held.work, "night")
    assert (known.number, known.state, known.result) == (held.order.number, State.ENDED, None)
    assert held.begun == 1


def test_another_daemon_knows_what_came_of_it(audit: Audit, at_once: None) -> None:
    here, there = UnderWay(), UnderWay()
    held = Held(here, audit)
    assert there.find(audit, ANA, held.order.number).state is State.LEFT
    held.end(here, audit)
    assert there.find(audit, ANA, held.order.number).state is State.ENDED

    def fail(_order: Order) -> None:
        raise MigrationFailedError("it could not be started")

    failed = ended(here, audit, here.begin(audit, ANA, ("failover",), fail, None).number)
    told = there.find(audit, ANA, failed.number).problem
    assert told is not None
    assert (told["detail"], told["exit_code"], told["status"]) == ("it could not be started", 4, 409)


def test_somebody_elses_is_not_there(orders: UnderWay, audit: Audit, at_once: None) -> None:
    held = Held(orders, audit)
    audit.asked({"user": "ana", "tty": "pts/1"}, ["migrate"])
    for other in (orders, UnderWay()):
        with pytest.raises(NotThereError):
            other.find(audit, EVA, held.order.number)
        with pytest.raises(NotThereError):
            other.find(audit, Asker("east", frozenset({Scope.ADMIN}), frozenset({"h1"})), held.order.number)
        assert other.find(audit, ADMIN, held.order.number).number == held.order.number
        with pytest.raises(NotThereError, match="no order 2"):
            other.find(audit, ANA, 2)
    held.end(orders, audit)


def test_no_more_than_so_many_at_one_time_and_the_rest_is_not_even_asked(
    orders: UnderWay, audit: Audit, at_once: None
) -> None:
    held = [Held(orders, audit) for _ in range(MOST)]
    with pytest.raises(TooManyError):
        Held(orders, audit)
    assert len(audit.since(None)) == MOST
    for each in held:
        each.end(orders, audit)
    Held(orders, audit).end(orders, audit)


def test_a_daemon_that_ends_waits_for_what_was_begun_and_begins_nothing_more(
    orders: UnderWay, audit: Audit, at_once: None
) -> None:
    held = Held(orders, audit)
    assert not orders.wound_up()
    with pytest.raises(NotReadyError):
        Held(orders, audit)
    assert len(audit.since(None)) == 1
    held.end(orders, audit).told()
    assert orders.wound_up()


def test_one_that_heeds_it_begins_nothing_more(orders: UnderWay, audit: Audit, at_once: None) -> None:
    def work(order: Order) -> str:
        while not (order.stop_by or order.leaving):
            threading.Event().wait(0.01)
        return order.stop_by or "left"

    first = orders.begin(audit, ANA, ("rolling",), work, None, may_stop=True)
    first.stop("eva")
    first.stop("ana")
    assert ended(orders, audit, first.number).result == "eva"
    with pytest.raises(BlockedError, match="is ended"):
        first.stop("ana")
    second = orders.begin(audit, ANA, ("rolling",), work, None, may_stop=True)
    assert second.told()["may_stop"] is True
    orders.wound_up()
    assert ended(orders, audit, second.number).result == "left"


def test_one_that_does_not_heed_it_is_not_stopped(orders: UnderWay, audit: Audit, at_once: None) -> None:
    held = Held(orders, audit)
    with pytest.raises(BlockedError, match="brought to its end in any case"):
        held.order.stop("eva")
    assert (held.order.stop_by, held.order.told()["may_stop"]) == ("", False)
    held.end(orders, audit)
    with pytest.raises(BlockedError, match="is left"):
        Order(7, ("rolling",), "ana", State.LEFT, may_stop=True).stop("eva")


def test_what_says_too_much_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "MOST_SAID", 3)
    order = Order(7, ("rolling",), "ana")
    for n in range(9):
        order.say(str(n))
    assert order.said == ["0", "1", "… and more, which is left out"]


def test_what_has_ended_long_ago_is_forgotten_but_by_the_audit(
    orders: UnderWay, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_way, "REMEMBERED", 2)
    numbers = [
        ended(orders, audit, orders.begin(audit, ANA, ("x",), lambda _: 1, None).number).number for _ in range(4)
    ]
    results: list[Any] = [orders.find(audit, ANA, number).result for number in numbers]
    assert results == [None, None, 1, 1]


def test_a_key_is_one_thing_whatever_is_made_under_it(database: str) -> None:
    engine = open_database(database)
    jobs, audit = Jobs(engine), Audit(engine)
    jobs.put_down(NewJob("move", "u", "web", "h1", "h2", {}, "ana"), Request("ana", "k", "abc"))
    with pytest.raises(UsageError, match="job 1"):
        audit.asked_once({"user": "ana"}, ["x"], Request("ana", "k", "order abc"))
    assert audit.since(None) == ()


def test_an_audit_row_is_found_by_its_number(audit: Audit) -> None:
    first, second = audit.asked({"user": "ana"}, ["a"]), audit.asked({"user": "eva"}, ["b"])
    audit.ended(first, 4, "no")
    found = audit.get(first)
    assert found == audit.since(None)[0]
    assert found is not None
    assert (found.exit_code, found.outcome) == (4, "no")
    other = audit.get(second)
    assert other is not None
    assert other.exit_code is None
    assert audit.get(99) is None


def test_a_daemon_that_ends_lets_whoever_follows_an_order_hear_of_its_end(orders: UnderWay, audit: Audit) -> None:
    with set_clock() as time:
        told = orders.begin(audit, ANA, ("x",), lambda _: 1, None)
        ended(orders, audit, told.number)
        assert not orders.wound_up(), "nobody has looked yet"
        assert told.told()["state"] == "ended"
        assert orders.wound_up()
        untold = UnderWay()
        ended(untold, audit, untold.begin(audit, ANA, ("x",), lambda _: 1, None).number)
        assert not untold.wound_up()
        time.pass_time(under_way.TOLD_WITHIN + 0.1)
        assert untold.wound_up(), "and does not wait for ever"
