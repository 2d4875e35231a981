"""The simulation's own time and threads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

import pytest

from mudanza import clock
from mudanza.hypervisor.bounded import Task, for_each
from mudanza.hypervisor.twin.scheduler import Scheduler
from mudanza.hypervisor.twin.threads import Controller, SimulationError


@pytest.fixture
def sim() -> Iterator[Scheduler]:
    scheduler = Scheduler(Random(0).randrange)
    with clock.replaced_by(scheduler):
        yield scheduler
        scheduler.close()


def test_hours_pass_in_a_moment(sim: Scheduler) -> None:
    woken = []

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    for seconds in (7200.0, 60.0):
        sim.start(partial(sleep, seconds), f"{seconds}", Controller("c"))
    sim.advance()
    assert woken == [(60.0, 60.0), (7200.0, 7200.0)]


def test_a_call_that_takes_too_long_is_left_behind(sim: Scheduler) -> None:
    said: list[object] = []

    def call() -> None:
        slow = Task(lambda: clock.sleep(50))
        try:
            slow.wait(10)
        except TimeoutError as error:
            said.extend([str(error), clock.monotonic()])
        slow.wait(100)
        said.append(clock.monotonic())

    sim.start(call, "call", Controller("c"))
    sim.advance()
    assert said == ["no answer within 10 s", 10.0, 50.0]


def test_the_same_draws_give_the_same_run() -> None:
    def run(seed: int) -> list[int]:
        order: list[int] = []
        sim = Scheduler(Random(seed).randrange)
        with clock.replaced_by(sim):

            def work(n: int) -> None:
                for _ in range(5):
                    sim.point()
                    order.append(n)

            sim.start(lambda: for_each(work, range(4), workers=4, timeout=9), "all", Controller("c"))
            sim.advance()
            sim.close()
        return order

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_killed_controller_does_nothing_any_more(sim: Scheduler) -> None:
    controller, done = Controller("c"), []

    def work() -> None:
        try:
            Task(lambda: clock.sleep(5)).wait(99)
            done.append("went on")
        finally:
            clock.sleep(1)
            done.append("cleaned up")

    sim.start(work, "work", controller)
    sim.advance(seconds=2)
    sim.kill(controller)
    sim.advance()
    assert done == []
    assert not controller.threads


def test_a_stopped_controller_finds_its_waits_over_when_it_wakes(sim: Scheduler) -> None:
    controller, woken = Controller("c"), []

    def work() -> None:
        clock.sleep(5)
        woken.append(clock.monotonic())

    sim.start(work, "work", controller)
    sim.advance(seconds=1)
    sim.stop(controller, 60)
    sim.advance(seconds=30)
    assert woken == []
    sim.advance()
    assert woken == [61.0]


def test_what_waits_for_ever_is_named(sim: Scheduler) -> None:
    controller = Controller("c")
    sim.start(lambda: clock.new_event().wait(), "forlorn", controller)
    with pytest.raises(SimulationError, match="forlorn"):
        sim.advance()
    sim.kill(controller)


def test_whatever_a_thread_raises_reaches_the_owner(sim: Scheduler) -> None:
    sim.start(lambda: 1 / 0, "bad", Controller("c"))
    with pytest.raises(ZeroDivisionError):
        sim.advance()


def test_nobody_wakes_the_dead(sim: Scheduler) -> None:
    controller, event = Controller("c"), sim.new_event()

    def work() -> None:
        try:
            clock.sleep(5)
        finally:
            event.wait(1)

    sim.start(work, "work", controller)
    sim.advance(seconds=1)
    sim.kill(controller)
    sim.advance()
    event.set()
    sim.start(lambda: clock.sleep(1), "other", Controller("other"))
    sim.advance()
    assert sim.now == 2.0
