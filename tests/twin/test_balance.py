"""Balance that goes on, on simulated hosts, by the product's own loop: measured, planned, carried out, and by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random

import pytest

from mudanza import clock
from mudanza.cli.balance import balancer_of, carrying_out, measuring
from mudanza.cli.context import App
from mudanza.cli.output import Format
from mudanza.cli.watching import LineView
from mudanza.cli.work import Errand
from mudanza.hypervisor.twin.threads import Controller
from mudanza.journal.balance import Balances
from mudanza.journal.errors import LeaseLostError
from mudanza.journal.plans import Plans
from mudanza.model.automation import Automation
from mudanza.model.balance import BALANCING, Round
from mudanza.model.carrying import MoveState, Run, RunPolicy, RunState, Wish
from mudanza.model.errors import BlockedError
from mudanza.model.plan import Goal, Plan
from mudanza.model.rules import Rules
from mudanza.operations.checking import arrivals_of
from tests.twin.fleet import Fleet, Vm
from tests.twin.scene import new_journal, scene_on

EVERY = 60.0
RULES = Rules(automation=Automation.AUTO, memory_weight=0.0, disk_weight=0.0, network_weight=0.0)


class House:
    """Three hosts of two CPUs, a hot VM and a warm one on one of them, and controllers that balance."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.plans = Plans(fleet.the.engine)
        self.balances = Balances(fleet.the.engine)
        self.stops: dict[Controller, clock.Event] = {}
        self.hot = self._vm("hot", "h1", 1.0)
        self.warm = self._vm("warm", "h1", 0.7)
        for n in (1, 2, 3):
            self._vm(f"calm{n}", f"h{n}", 0.1)

    def _vm(self, name: str, host: str, works: float) -> str:
        uuid = self.fleet.the.make_vm(name, host, shared=True)
        self.fleet.the.twin.works[uuid] = works
        self.fleet.vms[uuid] = Vm(name, uuid, shared=True, runs=True, autostart=False)
        self.fleet.goals[uuid] = host
        return uuid

    def rules(self, rules: Rules) -> None:
        self.fleet.the.do(lambda: self.fleet.the.inventory.put_rules(rules))

    def start(self, name: str) -> Controller:
        """Start a controller that is ``mudanza balance watch``."""
        settings = self.fleet.folder / f"{name}.toml"
        settings.write_text(f"database = {self.fleet.the.database!r}\n[load]\nevery = 15\n")
        controller, stop = Controller(name), clock.new_event()
        self.stops[controller] = stop

        def watch() -> None:
            app = App(settings, debug=False)
            said = self.fleet.said.append
            errand = Errand(app, arrivals_of(app), LineView(said), Format.TABLE, clock.new_event())
            try:
                with carrying_out(app, errand, stop, detach=False):
                    balancer_of(app, Format.TABLE).run(EVERY, stop, measuring(app))
            finally:
                app.database.dispose()

        self.fleet.the.twin.scheduler.start(watch, name, controller)
        return controller

    def end(self, controller: Controller) -> None:
        self.stops[controller].set()
        self.fleet.advance_until(lambda: not controller.threads, f"{controller.name} ends")

    def runs(self) -> list[Run]:
        return [run for run in self.plans.latest(100) if run.kind == BALANCING]

    def said(self) -> str:
        return "\n".join(each.said for each in self.balances.rounds(100))

    def until_rounds(self, count: int) -> None:
        before = len(self.balances.rounds(1000))
        self.fleet.advance_until(lambda: len(self.balances.rounds(1000)) >= before + count, "rounds are made")

    def spread(self) -> set[str]:
        return {*self.fleet.places(self.hot), *self.fleet.places(self.warm)}

    def settle_goals(self) -> None:
        self.fleet.goals = {uuid: self.fleet.places(uuid)[0] for uuid in self.fleet.vms}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    journal = tmp_path / "mudanza.db"
    journal.write_bytes(new_journal())
    with scene_on(str(journal), Random(5).randrange, 3) as the:
        the.twin.rate *= 8
        the.twin.strangers.add("stranger")
        found = House(Fleet(the, tmp_path))
        found.rules(RULES)
        yield found


def test_a_hot_host_is_relieved_once_and_then_left_alone(house: House) -> None:
    controller = house.start("one")
    house.fleet.advance_until(lambda: bool(house.runs()) and house.runs()[0].ended_at is not None, "it is balanced")
    [run] = house.runs()
    assert (run.state, run.exit_code) == (RunState.DONE, 0)
    assert len(house.spread()) == 2, "the hot one and the warm one are apart"
    assert "h1 has" in run.moves[0].about.reason
    assert "of its CPU used" in run.moves[0].about.reason
    house.until_rounds(15)
    house.end(controller)
    assert len(house.runs()) == 1
    assert "nothing to do" in house.balances.rounds(1)[0].said
    house.settle_goals()
    assert house.fleet.faults() == []


def test_nothing_is_moved_before_there_are_readings_or_by_advice(house: House) -> None:
    house.rules(replace(RULES, automation=Automation.ADVISE))
    controller = house.start("one")
    house.until_rounds(8)
    house.end(controller)
    assert house.runs() == []
    assert "balance is set to advise for it" in house.said()
    assert house.spread() == {"h1"}


def test_another_controller_stands_by_and_goes_on_where_the_first_is_killed(house: House) -> None:
    house.fleet.the.twin.rate /= 16
    first = house.start("first")
    house.until_rounds(1)
    second = house.start("second")
    house.fleet.advance_to(first, "after intend transfer")
    house.fleet.the.twin.scheduler.advance(seconds=4.0)  # its memory is on the way, and goes on without it
    house.fleet.the.twin.kill(first)
    house.fleet.advance_until(lambda: house.runs()[0].ended_at is not None, "the other one goes on")
    house.until_rounds(10)
    house.end(second)
    [run] = house.runs()
    job = house.fleet.the.jobs.get(run.moves[0].job or 0)
    assert (run.state, job.state, job.epoch > 2) == (RunState.DONE, "done", True), "another one brought it to its end"
    assert len(house.spread()) == 2
    house.settle_goals()
    assert house.fleet.faults() == []


def test_one_that_slept_through_its_lease_begins_nothing(house: House) -> None:
    first = house.fleet.the.do(house.balances.take)
    other = Balances(house.fleet.the.engine)
    with pytest.raises(BlockedError, match="balanced by another controller"):
        house.fleet.the.do(other.take)
    house.fleet.the.twin.scheduler.advance(seconds=100.0)
    second = house.fleet.the.do(other.take)
    begin = {"kind": BALANCING, "under": first}
    for late in (
        lambda: house.plans.begin(Plan(Goal.BALANCE, "late"), RunPolicy(), "ana", **begin),
        lambda: house.plans.propose(Plan(Goal.BALANCE, "late"), RunPolicy(), "ana", **begin),
        lambda: first.note(Round("late")),
    ):
        with pytest.raises(LeaseLostError):
            house.fleet.the.do(late)
    assert (house.runs(), house.balances.rounds(9)) == ([], ())
    house.fleet.the.do(lambda: second.note(Round("in time")))
    assert [each.said for each in house.balances.rounds(9)] == ["in time"]


def test_a_proposal_waits_and_is_carried_out_after_a_yes(house: House) -> None:
    house.rules(replace(RULES, automation=Automation.MANUAL))
    controller = house.start("one")
    house.fleet.advance_until(lambda: bool(house.runs()), "it proposes")
    house.until_rounds(5)
    [run] = house.runs()
    assert (run.state, run.count(MoveState.WAITING)) == (RunState.ASKED, len(run.moves))
    assert f"plan {run.id} waits for a yes" in house.balances.rounds(1)[0].said
    assert house.spread() == {"h1"}
    house.fleet.the.do(lambda: house.plans.approve(run.id, run.policy, "bo"))
    house.fleet.advance_until(lambda: house.runs()[0].ended_at is not None, "it is carried out")
    house.end(controller)
    assert house.runs()[0].state is RunState.DONE
    assert len(house.spread()) == 2


def test_a_proposal_that_is_declined_is_not_made_again_at_once(house: House) -> None:
    house.rules(replace(RULES, automation=Automation.MANUAL))
    controller = house.start("one")
    house.fleet.advance_until(lambda: bool(house.runs()), "it proposes")
    house.plans.wish(house.runs()[0].id, Wish.CANCEL, "bo")
    house.fleet.advance_until(lambda: house.runs()[0].state is RunState.CANCELLED, "it is heard")
    declined = house.runs()[0]
    house.until_rounds(6)
    house.end(controller)
    moved = {move.about.uuid for move in declined.moves}
    assert all(not moved & {move.about.uuid for move in run.moves} for run in house.runs()[:-1])
    assert "left alone for now" in house.said() or len(house.runs()) > 1
    assert house.spread() == {"h1"}


def test_a_move_that_fails_is_told_and_not_tried_again_at_once(house: House) -> None:
    for name in ("h2", "h3"):
        house.fleet.the.twin.cut("h1", name)
    controller = house.start("one")
    house.fleet.advance_until(lambda: bool(house.runs()) and house.runs()[0].ended_at is not None, "it fails")
    house.until_rounds(6)
    house.end(controller)
    tried = [move.about.uuid for run in house.runs() for move in run.moves]
    assert len(tried) == len(set(tried)), "each VM is tried once within its rest"
    assert all(move.state is MoveState.FAILED for run in house.runs() for move in run.moves)
    assert "left alone for now" in house.said()
    assert house.spread() == {"h1"}


def test_moves_are_begun_within_windows_only(house: House) -> None:
    now = datetime.fromtimestamp(house.fleet.the.twin.scheduler.time()).astimezone()
    opens = (now.hour * 60 + now.minute + 45) % 1440
    closes = (opens + 600) % 1440
    window = f"{opens // 60:02}:{opens % 60:02}-{closes // 60:02}:{closes % 60:02}"
    house.rules(replace(RULES, windows=(window,)))
    controller = house.start("one")
    began = house.fleet.the.twin.scheduler.time()
    house.fleet.advance_until(lambda: bool(house.runs()), "the window opens")
    assert house.runs()[0].started_at - began > 44 * 60
    assert f"moves are begun between {window} only" in house.said()
    house.fleet.advance_until(lambda: house.runs()[0].ended_at is not None, "it is carried out")
    house.end(controller)
    assert len(house.spread()) == 2
