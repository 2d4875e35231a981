"""Plans carried out on simulated hosts by the product's own conductor, worker and moves: killed, paused, failing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from mudanza import clock
from mudanza.cli.carrying import elsewhere_of
from mudanza.cli.context import App
from mudanza.cli.output import Format
from mudanza.cli.watching import LineView
from mudanza.cli.work import Errand
from mudanza.fleet.minding import Minder
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.hypervisor.twin.threads import Controller
from mudanza.journal.plans import Plans
from mudanza.migration.worker import Worker
from mudanza.model.carrying import BRINGING_HOME, MoveState, OnFailure, Run, RunPolicy, RunState, Wish
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.plan import Goal, Plan
from mudanza.model.rules import Rules
from mudanza.operations.checking import arrivals_of
from mudanza.planning.homecoming import move_of, way_home
from mudanza.planning.pacing import paced
from tests.twin.fleet import Fleet
from tests.twin.scene import new_journal, scene_on

HOSTS = 3


class Crew:
    """VMs on three hosts, a plan, and controllers that are ``mudanza work``."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.plans = Plans(fleet.the.engine)
        self.scheduler = fleet.the.twin.scheduler
        self.leaves: dict[Controller, clock.Event] = {}

    def cluster(self) -> Cluster:
        found: Cluster = self.fleet.the.do(lambda: read_cluster(self.fleet.the.inventory.hosts()))
        return found

    def begin(
        self, goals: dict[str, str], policy: RunPolicy | None = None, kind: str = "apply", subject: str = ""
    ) -> int:
        """Put a plan down that moves VMs (by UUID) to hosts."""
        cluster = self.cluster()
        moves, stuck = paced(
            [
                move_of(cluster.find(uuid), cluster, to, "test", number=n)
                for n, (uuid, to) in enumerate(goals.items(), 1)
            ],
            cluster,
            Rules(),
        )
        assert not stuck
        self.fleet.goals = {uuid: self.fleet.places(uuid)[0] for uuid in self.fleet.vms} | goals
        return self.put_down(Plan(Goal.BALANCE, "test", moves), policy or RunPolicy(), kind, subject)

    def put_down(self, plan: Plan, policy: RunPolicy, kind: str, subject: str) -> int:
        def begin() -> int:
            handle = self.plans.begin(plan, policy, "ana", kind=kind, subject=subject)
            handle.let_go()
            return handle.id

        return int(self.fleet.the.do(begin))

    def start(self, name: str) -> Controller:
        """Start a controller that works on jobs and plans until it is told to leave."""
        settings = self.fleet.folder / f"{name}.toml"
        settings.write_text(f"database = {self.fleet.the.database!r}\n")
        controller, leave = Controller(name), clock.new_event()
        self.leaves[controller] = leave

        def work() -> None:
            app = App(settings, debug=False)
            said = self.fleet.said.append
            errand = Errand(app, arrivals_of(app), LineView(said), Format.TABLE, clock.new_event())
            minder = Minder(Plans(app.database), app.jobs, leave, said, elsewhere_of(app))
            clock.start_thread(minder.watch, "plans")
            try:
                Worker(app.jobs, errand.carry_out, 3, leave, said).run(once=False)
            finally:
                while minder.busy:
                    clock.sleep(1.0)
                app.database.dispose()

        self.scheduler.start(work, name, controller)
        return controller

    def end(self, controller: Controller) -> None:
        self.leaves[controller].set()
        self.fleet.advance_until(lambda: not controller.threads, f"{controller.name} ends")

    def until_ended(self, number: int) -> Run:
        self.fleet.advance_until(lambda: self.plans.get(number).ended_at is not None, "the plan ends")
        return self.plans.get(number)


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    journal = tmp_path / "mudanza.db"
    journal.write_bytes(new_journal())
    with scene_on(str(journal), Random(5).randrange, HOSTS) as the:
        the.twin.rate *= 8
        the.twin.strangers.add("stranger")
        yield Crew(Fleet(the, tmp_path))


def off_h1(crew: Crew) -> dict[str, str]:
    """Return goals for every VM on h1: the two other hosts in turn."""
    there = [uuid for uuid in crew.fleet.vms if crew.fleet.places(uuid) == ["h1"]]
    return {uuid: ("h2", "h3")[n % 2] for n, uuid in enumerate(there)}


def assert_jobs_fit(crew: Crew, run: Run) -> None:
    """See that each move has one job, and began when what it waited for had ended."""
    jobs = [job for job in crew.fleet.the.jobs.latest(1000) if job.plan == run.id]
    assert sorted(job.id for job in jobs) == sorted(move.job for move in run.moves if move.job is not None)
    for move in run.moves:
        for before in move.waits_for:
            ended = run.move(before).ended_at
            assert move.began_at is None or (ended is not None and ended <= move.began_at)


def test_a_plan_is_carried_out_in_its_order(crew: Crew) -> None:
    crew.fleet.populate(12)
    number = crew.begin(off_h1(crew))
    controller = crew.start("one")
    run = crew.until_ended(number)
    crew.end(controller)
    assert (run.state, run.exit_code, run.outcome) == (RunState.DONE, 0, "4 of 4 VMs are where they were to go")
    assert_jobs_fit(crew, run)
    assert crew.fleet.faults() == []


@pytest.mark.parametrize("instant", ["after put_down", "after intend transfer", "after intend release source"])
def test_another_controller_goes_on_with_it(crew: Crew, instant: str) -> None:
    crew.fleet.populate(12)
    number = crew.begin(off_h1(crew))
    first = crew.start("first")
    if instant == "after put_down":
        crew.fleet.advance_until(lambda: crew.plans.get(number).count(MoveState.BEGUN) > 0, "something is begun")
    else:
        crew.fleet.advance_to(first, instant)
    crew.fleet.the.twin.kill(first)
    second = crew.start("second")
    run = crew.until_ended(number)
    crew.end(second)
    assert run.epoch > 2
    assert_jobs_fit(crew, run)
    assert {move.state for move in run.moves} <= {MoveState.DONE, MoveState.FAILED}
    for move in run.moves:  # what had not begun to move when its controller was lost is given up, as before
        if move.state is MoveState.FAILED:
            assert move.exit_code == 4
            crew.fleet.goals[move.about.uuid] = "h1"
    assert crew.fleet.faults() == []


def test_where_a_way_is_cut_a_host_is_emptied_another_way(crew: Crew) -> None:
    crew.fleet.populate(12)
    goals = dict.fromkeys(off_h1(crew), "h2")
    number = crew.begin(goals, RunPolicy(elsewhere=True), "drain", "h1")
    crew.fleet.the.twin.cut("h1", "h2")
    controller = crew.start("one")
    run = crew.until_ended(number)
    crew.end(controller)
    assert [move.state for move in run.moves] == [MoveState.FAILED] * 4 + [MoveState.DONE] * 4
    assert {move.about.target for move in run.moves[4:]} == {"h3"}
    assert all("it could not get to h2" in move.about.reason for move in run.moves[4:])
    assert run.exit_code == 0, "the host is empty, which was the aim"
    crew.fleet.goals |= dict.fromkeys(goals, "h3")
    assert crew.fleet.faults() == []


def test_where_one_fails_the_rest_is_left_out_if_that_was_asked(crew: Crew) -> None:
    crew.fleet.populate(12)
    goals = off_h1(crew)
    number = crew.begin(goals, RunPolicy(OnFailure.STOP, out=1))
    crew.fleet.the.twin.hosts["h2"].refuses_logins = True
    crew.fleet.the.twin.hosts["h3"].refuses_logins = True
    controller = crew.start("one")
    run = crew.until_ended(number)
    crew.end(controller)
    assert [move.state for move in run.moves] == [MoveState.FAILED] + [MoveState.LEFT_OUT] * 3
    assert all(crew.fleet.places(uuid) == ["h1"] for uuid in goals)


def test_a_pause_lets_what_is_under_way_end_and_begins_nothing(crew: Crew) -> None:
    crew.fleet.populate(12)
    number = crew.begin(off_h1(crew), RunPolicy(out=1))
    controller = crew.start("one")
    crew.fleet.advance_until(lambda: crew.plans.get(number).count(MoveState.BEGUN) > 0, "one is begun")
    waited = crew.plans.get(number).count(MoveState.WAITING)
    assert waited > 0
    crew.plans.wish(number, Wish.PAUSE, "bo")
    crew.fleet.advance_until(lambda: not crew.plans.get(number).count(MoveState.BEGUN), "it ends")
    crew.scheduler.advance(seconds=200.0)
    run = crew.plans.get(number)
    assert (run.state, run.count(MoveState.WAITING)) == (RunState.PAUSED, waited)
    crew.plans.wish(number, Wish.GO_ON, "bo")
    assert crew.until_ended(number).state is RunState.DONE
    crew.end(controller)
    assert crew.fleet.faults() == []


def test_cancelling_leaves_every_vm_whole_where_it_is(crew: Crew) -> None:
    crew.fleet.the.twin.rate /= 64
    crew.fleet.populate(12)
    goals = off_h1(crew)
    number = crew.begin(goals)
    controller = crew.start("one")
    crew.fleet.advance_to(controller, "after intend transfer")
    crew.plans.wish(number, Wish.CANCEL, "bo")
    run = crew.until_ended(number)
    crew.end(controller)
    assert run.state is RunState.CANCELLED
    assert "cancelled by bo" in run.outcome
    for move in run.moves:
        if move.state is not MoveState.DONE:
            crew.fleet.goals[move.about.uuid] = "h1"
    assert run.count(MoveState.LEFT_OUT, MoveState.FAILED) > 0
    assert crew.fleet.faults() == []


def test_a_vm_that_somebody_has_moved_meanwhile_is_left_alone(crew: Crew) -> None:
    crew.fleet.populate(3)
    [uuid] = off_h1(crew)
    number = crew.begin({uuid: "h2"})
    crew.fleet.ask_for(uuid, "h3")
    first = crew.fleet.start("by hand")
    crew.fleet.advance_until(lambda: not crew.fleet.the.jobs.unfinished(), "it is moved by hand")
    crew.fleet.end(first)
    controller = crew.start("one")
    run = crew.until_ended(number)
    crew.end(controller)
    assert (run.exit_code, run.moves[0].state) == (3, MoveState.FAILED)
    assert "is on h3, and its plan is to move it from h1" in run.moves[0].outcome
    assert crew.fleet.places(uuid) == ["h3"]


def test_a_plan_waits_for_its_time(crew: Crew) -> None:
    crew.fleet.populate(12)
    later = crew.scheduler.time() + 600.0
    number = crew.begin(off_h1(crew), RunPolicy(not_before=later))
    controller = crew.start("one")
    crew.scheduler.advance(seconds=500.0)
    assert crew.plans.get(number).count(MoveState.WAITING) == 4
    run = crew.until_ended(number)
    crew.end(controller)
    assert run.exit_code == 0
    assert all(move.began_at is not None and move.began_at >= later for move in run.moves)


def test_two_plans_do_not_share_a_vm(crew: Crew) -> None:
    crew.fleet.populate(3)
    [uuid] = off_h1(crew)
    number = crew.begin({uuid: "h2"})
    with pytest.raises(BlockedError, match=f"part of plan {number}"):
        crew.begin({uuid: "h3"})


def test_who_left_for_maintenance_comes_home(crew: Crew) -> None:
    crew.fleet.populate(12)
    goals = off_h1(crew)
    policy = RunPolicy(elsewhere=True, comes_home="h1")
    number = crew.begin(goals, policy, "maintenance enter", "h1")
    controller = crew.start("one")
    assert crew.until_ended(number).exit_code == 0
    away = crew.plans.away_from("h1")
    assert away.keys() == goals.keys()
    cluster = crew.cluster()
    assert not cluster.vms_on("h1")
    plan = way_home(cluster, Rules(), "h1", {uuid: name for uuid, (name, _) in away.items()})
    assert {move.target for move in plan.moves} == {"h1"}
    crew.fleet.goals |= dict.fromkeys(goals, "h1")
    back = crew.put_down(plan, RunPolicy(), BRINGING_HOME, "h1")
    assert crew.until_ended(back).exit_code == 0
    crew.end(controller)
    assert crew.plans.away_from("h1") == {}
    assert crew.fleet.faults() == []


def test_a_plan_that_was_taken_over_is_begun_nowhere_twice(crew: Crew) -> None:
    crew.fleet.populate(12)
    number = crew.begin(off_h1(crew), RunPolicy(out=1))
    sleeper = crew.start("sleeper")
    crew.fleet.advance_until(lambda: crew.plans.get(number).count(MoveState.BEGUN) > 0, "one is begun")
    crew.scheduler.stop(sleeper, 600.0)
    heir = crew.start("heir")
    run = crew.until_ended(number)
    crew.scheduler.advance(seconds=900.0)
    for controller in (sleeper, heir):
        crew.end(controller)
    assert_jobs_fit(crew, run)
    assert crew.fleet.stale == []
    assert replace(run, read_at=0.0) == replace(crew.plans.get(number), read_at=0.0), "nobody adds to it afterwards"
