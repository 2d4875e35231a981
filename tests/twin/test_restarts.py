"""VMs of a lost host started elsewhere on simulated hosts, by the product's own conductor, worker and restarts: each
once, whoever dies when, and none without proof."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from mudanza.journal.fences import Fences
from mudanza.journal.remembered import Definitions
from mudanza.journal.sightings import Sightings
from mudanza.model.carrying import MoveState, Run, RunPolicy, RunState
from mudanza.model.fencing import By
from mudanza.model.plan import Goal, MoveMode, Plan, PlannedMove
from tests.twin.fleet import Fleet
from tests.twin.scene import new_journal, scene_on
from tests.twin.test_plans import HOSTS, Crew

VMS = 4


class Loss:
    """VMs on h1, on storage that all hosts share; h1 dies."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.the = crew.fleet.the
        self.fences = Fences(self.the.engine)
        self.vms = {f"vm{n}": self.the.make_vm(f"vm{n}", "h1", shared=True) for n in range(VMS)}
        self.remember()

    def remember(self) -> None:
        """Look at all hosts, as the daemon does, and write down what is there."""
        cluster = self.crew.cluster()
        self.the.do(lambda: Sightings(self.the.engine).keep(cluster))

    def h1_dies(self, *, proven: bool = True) -> None:
        self.the.twin.hosts["h1"].power_off()
        if proven:
            self.prove("h1")

    def prove(self, host: str) -> None:
        def confirm() -> None:
            self.fences.ended(self.fences.begin(host, By.PERSON, "ana"), "ana has said so", proven=True)

        self.the.do(confirm)

    def apply(self) -> int:
        """Have all of them started on the other hosts in turn; return the plan's number."""
        moves = tuple(
            PlannedMove(n, name, uuid, "h1", ("h2", "h3")[n % 2], "h1 is lost", MoveMode.RESTART, 1, start=0.0)
            for n, (name, uuid) in enumerate(self.vms.items(), 1)
        )
        return self.crew.put_down(Plan(Goal.EVACUATE, "h1 is lost", moves, subject="h1"), RunPolicy(), "apply", "h1")

    def running(self) -> dict[str, list[str]]:
        return {name: self.the.twin.oracle.runs_on(uuid) for name, uuid in self.vms.items()}

    def assert_once(self, run: Run) -> None:
        """See that every VM runs where its move says that it does, and nowhere else, and never did."""
        self.the.twin.catch_up()
        wanted = {move.about.vm: [move.about.target] if move.state is MoveState.DONE else [] for move in run.moves}
        assert self.running() == wanted, [move.outcome for move in run.moves]
        assert [str(each) for each in self.the.twin.oracle.violations] == []


@pytest.fixture
def loss(tmp_path: Path) -> Iterator[Loss]:
    journal = tmp_path / "mudanza.db"
    journal.write_bytes(new_journal())
    with scene_on(str(journal), Random(5).randrange, HOSTS) as the:
        the.twin.strangers.add("stranger")
        yield Loss(Crew(Fleet(the, tmp_path)))


def carried_out(loss: Loss) -> Run:
    number = loss.apply()
    controller = loss.crew.start("one")
    run = loss.crew.until_ended(number)
    loss.crew.end(controller)
    return run


def test_all_run_elsewhere_once(loss: Loss) -> None:
    loss.h1_dies()
    run = carried_out(loss)
    assert (run.state, run.exit_code) == (RunState.DONE, 0)
    assert sorted(move.about.target for move in run.moves) == ["h2", "h2", "h3", "h3"]
    loss.assert_once(run)
    loss.the.twin.hosts["h1"].power_on()
    loss.crew.scheduler.advance(seconds=300.0)
    loss.assert_once(run)


def test_without_proof_nothing_is_started(loss: Loss) -> None:
    loss.h1_dies(proven=False)
    run = carried_out(loss)
    assert {(move.state, move.exit_code) for move in run.moves} == {(MoveState.FAILED, 3)}
    assert "nobody has shown that h1 is off" in run.moves[0].outcome
    loss.assert_once(run)
    assert all(loss.crew.fleet.places(uuid) == ["h1"] for uuid in loss.vms.values()), "nothing was defined"


def test_a_host_that_answers_is_not_dead_whatever_is_proven(loss: Loss) -> None:
    loss.prove("h1")
    number = loss.apply()
    controller = loss.crew.start("one")
    run = loss.crew.until_ended(number)
    loss.crew.end(controller)
    assert {move.exit_code for move in run.moves} == {3}
    assert loss.fences.proof_of("h1") is None, "it was seen alive"
    assert loss.running() == {name: ["h1"] for name in loss.vms}
    assert [str(each) for each in loss.the.twin.oracle.violations] == []


@pytest.mark.parametrize(
    "instant",
    ["after note prove", "before intend define", "after intend define", "before intend start", "after intend start"],
)
def test_another_controller_goes_on(loss: Loss, instant: str) -> None:
    loss.h1_dies()
    number = loss.apply()
    first = loss.crew.start("first")
    loss.crew.fleet.advance_to(first, instant)
    loss.the.twin.kill(first)
    second = loss.crew.start("second")
    run = loss.crew.until_ended(number)
    loss.crew.end(second)
    assert run.count(MoveState.DONE) >= VMS - 3, "three were begun at the most when the first one died"
    assert {move.exit_code for move in run.moves if move.state is MoveState.FAILED} <= {4}
    loss.assert_once(run)
    for move in run.moves:  # what was taken back is nowhere
        if move.state is MoveState.FAILED:
            assert loss.crew.fleet.places(move.about.uuid) == ["h1"]


def test_one_that_sleeps_through_its_lease_starts_nothing_more(loss: Loss) -> None:
    loss.h1_dies()
    number = loss.apply()
    sleeper = loss.crew.start("sleeper")
    loss.crew.fleet.advance_to(sleeper, "after intend define")
    loss.crew.scheduler.stop(sleeper, 900.0)
    heir = loss.crew.start("heir")
    run = loss.crew.until_ended(number)
    loss.crew.scheduler.advance(seconds=1200.0)
    for controller in (sleeper, heir):
        loss.crew.end(controller)
    loss.assert_once(run)


def test_a_vm_that_may_be_on_a_third_host_is_not_started(loss: Loss) -> None:
    loss.h1_dies()
    loss.the.twin.hosts["h3"].power_off()
    run = carried_out(loss)
    to_h2 = [move for move in run.moves if move.about.target == "h2"]
    assert {move.exit_code for move in to_h2} == {3}
    assert "h3 could not be asked, and is not proven off" in to_h2[0].outcome
    loss.assert_once(run)


def test_a_third_host_that_is_proven_off_stands_in_nobodys_way(loss: Loss) -> None:
    loss.h1_dies()
    loss.the.twin.hosts["h3"].power_off()
    loss.prove("h3")
    run = carried_out(loss)
    assert {move.state for move in run.moves if move.about.target == "h2"} == {MoveState.DONE}
    loss.assert_once(run)


def test_what_somebody_has_started_elsewhere_is_left_alone(loss: Loss) -> None:
    loss.h1_dies()
    uuid = loss.vms["vm0"]
    definition = Definitions(loss.the.engine).of([uuid])[uuid].definition

    def by_hand() -> None:
        line = loss.the.twin.open("qemu+tls://h2/system")
        line.defineXML(definition).create()
        line.close()

    loss.the.do(by_hand)
    run = carried_out(loss)
    assert loss.running()["vm0"] == ["h2"]
    [move] = [move for move in run.moves if move.about.vm == "vm0"]
    assert move.exit_code == 3
    assert [str(each) for each in loss.the.twin.oracle.violations] == []


def test_a_vm_whose_definition_nobody_remembers_is_left_out(loss: Loss) -> None:
    loss.vms["late"] = loss.the.make_vm("late", "h1", shared=True)
    loss.h1_dies()
    run = carried_out(loss)
    [move] = [move for move in run.moves if move.about.vm == "late"]
    assert (move.exit_code, "nobody remembers the definition" in move.outcome) == (3, True)
    assert run.count(MoveState.DONE) == VMS
    loss.assert_once(run)
