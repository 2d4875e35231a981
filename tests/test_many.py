"""Many calls with few threads: what hangs costs itself, and nobody else. In simulated time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar

from mudanza import clock
from mudanza.hypervisor.bounded import Deadline, for_many, one_by_one
from mudanza.hypervisor.twin.scheduler import Scheduler
from mudanza.hypervisor.twin.threads import Controller

Result = TypeVar("Result")
FOR_EVER = 10_000.0


def simulated(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return what comes of something, and how many simulated seconds it took."""
    scheduler = Scheduler(lambda _count: 0)
    found: list[tuple[Result, float]] = []

    def working() -> None:
        found.append((work(), scheduler.now))
        scheduler.halt()

    with clock.replaced_by(scheduler):
        scheduler.start(working, "work", Controller("here"))
        while not found:
            scheduler.advance()
        scheduler.close()
    return found[0]


def test_one_by_one_each_gives_what_it_returns_or_raises() -> None:
    def work(number: int) -> int:
        clock.sleep(1.0)
        if number == 1:
            raise ValueError("one")
        return number * 10

    outcomes, seconds = simulated(lambda: one_by_one(work, [0, 1, 2], timeout=2.0, deadline=Deadline(60)))
    assert (outcomes[0], outcomes[2]) == (0, 20)
    assert isinstance(outcomes[1], ValueError)
    assert seconds == 3.0


def test_one_that_hangs_costs_its_own_time_and_the_next_goes_on() -> None:
    called: list[int] = []

    def work(number: int) -> int:
        called.append(number)
        clock.sleep(FOR_EVER if number in (1, 2) else 1.5)
        return number

    outcomes, seconds = simulated(lambda: one_by_one(work, [0, 1, 2, 3], timeout=2.0, deadline=Deadline(60)))
    assert (outcomes[0], outcomes[3]) == (0, 3)
    assert isinstance(outcomes[1], TimeoutError)
    assert isinstance(outcomes[2], TimeoutError)
    assert called == [0, 1, 2, 3]
    assert seconds == 1.5 + 2.0 + 2.0 + 1.5


def test_after_the_deadline_nothing_more_is_called() -> None:
    called: list[int] = []

    def work(number: int) -> int:
        called.append(number)
        clock.sleep(2.0)
        return number

    outcomes, seconds = simulated(lambda: one_by_one(work, [0, 1, 2, 3], timeout=5.0, deadline=Deadline(3.0)))
    assert outcomes[0] == 0
    assert all(isinstance(each, TimeoutError) for each in outcomes[1:])
    assert called == [0, 1]
    assert seconds == 3.0


def test_no_more_than_that_many_run_at_once() -> None:
    running: list[int] = []
    most: list[int] = []

    def work(number: int) -> int:
        running.append(number)
        most.append(len(running))
        clock.sleep(1.0)
        running.remove(number)
        return number

    outcomes, seconds = simulated(lambda: for_many(work, range(10), at_once=3, patience=5.0, timeout=9.0))
    assert outcomes == list(range(10))
    assert max(most) == 3
    assert seconds == 4.0


def test_any_number_that_hangs_holds_up_no_other_for_longer_than_the_patience() -> None:
    begun: dict[int, float] = {}

    def work(number: int) -> int:
        begun[number] = clock.monotonic()
        if number < 20:
            clock.sleep(FOR_EVER)
        return number

    outcomes, _ = simulated(lambda: for_many(work, range(25), at_once=4, patience=1.0, timeout=20.0))
    assert all(isinstance(each, TimeoutError) for each in outcomes[:20])
    assert outcomes[20:] == [20, 21, 22, 23, 24]
    assert max(begun.values()) <= 20 / 4


def test_between_the_turns_of_two_there_is_a_gap() -> None:
    begun: list[float] = []

    def work(_number: int) -> None:
        begun.append(clock.monotonic())

    _, seconds = simulated(lambda: for_many(work, range(4), at_once=9, patience=5.0, timeout=9.0, gap=2.0))
    assert [round(after - before, 6) for before, after in itertools.pairwise(begun)] == [2.0, 2.0, 2.0]
    assert seconds == 6.0


def test_the_time_of_each_begins_with_its_turn() -> None:
    def work(number: int) -> int:
        clock.sleep(3.0)
        return number

    outcomes, seconds = simulated(lambda: for_many(work, range(6), at_once=2, patience=60.0, timeout=4.0))
    assert outcomes == list(range(6))
    assert seconds == 9.0
