"""Plans in the journal, on SQLite and on PostgreSQL: who may begin their moves, and that each is begun once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from mudanza.journal.backup import back_up, restore
from mudanza.journal.database import open_database
from mudanza.journal.errors import LeaseLostError
from mudanza.journal.inventory import Inventory
from mudanza.journal.job import NewJob
from mudanza.journal.jobs import Jobs
from mudanza.journal.plans import PlanHandle, Plans
from mudanza.journal.protocol import QUEUED_MOVE
from mudanza.journal.schema import plan as plan_table
from mudanza.model.carrying import MoveState, Run, RunPolicy, RunState, Wish
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.plan import Goal, MoveMode, Plan, PlannedMove
from tests.factories import entry


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


def move(n: int, vm: str = "", after: tuple[int, ...] = ()) -> PlannedMove:
    name = vm or f"vm{n}"
    return PlannedMove(n, name, f"u-{name}", "h1", "h2", "it is busy", MoveMode.LIVE, 1, {"images": 2}, after=after)


def begin(engine: Engine, *moves: PlannedMove) -> PlanHandle:
    return Plans(engine).begin(Plan(Goal.BALANCE, "balanced", moves), RunPolicy(out=1), "ana", kind="apply")


def job_of(number: int) -> NewJob:
    return NewJob(QUEUED_MOVE, f"u-vm{number}", f"vm{number}", "h1", "h2", {"to": "h2"}, "ana")


def lose_lease(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(update(plan_table).values(lease_until=0.0))


def test_a_plan_is_read_as_it_was_written(engine: Engine) -> None:
    moves = (move(1), move(2, after=(1,)))
    found = Plans(engine).get(begin(engine, *moves).id)
    assert (found.kind, found.state, found.policy.out, found.abandoned) == ("apply", RunState.RUNNING, 1, False)
    assert tuple(each.about for each in found.moves) == moves
    assert found.plan.moves == moves
    assert found.moves[1].waits_for == (1,)
    with pytest.raises(UsageError, match="no plan 99"):
        Plans(engine).get(99)


def test_a_move_is_begun_once_whoever_tries(engine: Engine) -> None:
    handle = begin(engine, move(1), move(2))
    others = [PlanHandle(engine, handle.id, 1, "x", 0.0) for _ in range(4)]

    def try_it(each: PlanHandle) -> int | None:
        try:
            return each.put_down(1, job_of(1))
        except BlockedError:
            return None

    with ThreadPoolExecutor(4) as pool:
        numbers = [number for number in pool.map(try_it, others) if number is not None]
    assert len(numbers) == 1
    found = Plans(engine).get(handle.id).move(1)
    assert (found.state, found.job) == (MoveState.BEGUN, numbers[0])
    job = Jobs(engine).get(numbers[0])
    assert (job.plan, job.is_queued) == (handle.id, True)
    handle.ended(1, MoveState.DONE, "moved", 0)
    Jobs(engine).claim([job.id]).finish("done", "moved", 0)  # type: ignore[union-attr]
    with pytest.raises(BlockedError, match="begun already"):
        handle.put_down(1, job_of(1))
    assert len(Jobs(engine).latest(9)) == 1, "no job is left of what was refused"


def test_a_vm_with_a_job_of_its_own_keeps_its_move_from_beginning(engine: Engine) -> None:
    handle = begin(engine, move(1))
    Jobs(engine).put_down(job_of(1))
    with pytest.raises(BlockedError, match="another unfinished job"):
        handle.put_down(1, job_of(1))
    assert Plans(engine).get(handle.id).move(1).state is MoveState.WAITING


@pytest.mark.parametrize(
    "act",
    [
        lambda handle: handle.put_down(1, job_of(1)),
        lambda handle: handle.ended(1, MoveState.DONE, "", 0),
        lambda handle: handle.enter(RunState.PAUSED),
        lambda handle: handle.let_go(),
        lambda handle: handle.finish(RunState.DONE, "", 0),
    ],
)
def test_whoever_lost_a_plan_writes_nothing_into_it(engine: Engine, act: Callable[[PlanHandle], object]) -> None:
    plans, handle = Plans(engine), begin(engine, move(1))
    with pytest.raises(BlockedError, match="a controller that lives"):
        plans.take_over(handle.id)
    lose_lease(engine)
    assert plans.get(handle.id).abandoned
    plans.take_over(handle.id)
    before = plans.get(handle.id)
    with pytest.raises(LeaseLostError, match="taken over"):
        act(handle)
    after = plans.get(handle.id)
    assert [(each.state, each.job) for each in after.moves] == [(each.state, each.job) for each in before.moves]
    assert (after.state, after.ended_at) == (RunState.RUNNING, None)


def test_wishes_are_heard_until_it_is_cancelled(engine: Engine) -> None:
    plans, handle = Plans(engine), begin(engine, move(1))
    plans.wish(handle.id, Wish.PAUSE, "bo")
    assert plans.get(handle.id).wish is Wish.PAUSE
    plans.wish(handle.id, Wish.CANCEL, "bo")
    plans.wish(handle.id, Wish.GO_ON, "ana")
    found = plans.get(handle.id)
    assert (found.wish, found.wish_by) == (Wish.CANCEL, "bo")
    handle.finish(RunState.CANCELLED, "cancelled by bo", 4)
    with pytest.raises(UsageError, match="has ended already: cancelled by bo"):
        plans.wish(handle.id, Wish.PAUSE, "bo")
    with pytest.raises(UsageError, match="has ended"):
        plans.take_over(handle.id)


def test_a_vm_is_in_one_open_plan(engine: Engine) -> None:
    handle = begin(engine, move(1), move(2))
    with pytest.raises(BlockedError, match=f"'vm2' is part of plan {handle.id}"):
        begin(engine, move(1, "vm2"))
    handle.ended(2, MoveState.DONE, "moved", 0)
    assert begin(engine, move(1, "vm2")).id != handle.id


def test_a_move_that_is_made_again_comes_last(engine: Engine) -> None:
    plans, handle = Plans(engine), begin(engine, move(1), move(2))
    handle.ended(1, MoveState.FAILED, "no room", 3, again=move(1))
    states = [(each.n, each.about.vm, each.state) for each in plans.get(handle.id).moves]
    assert states == [
        (1, "vm1", MoveState.FAILED),
        (2, "vm2", MoveState.WAITING),
        (3, "vm1", MoveState.WAITING),
    ]


def test_who_is_away_is_remembered_with_the_home_it_had(engine: Engine) -> None:
    plans = Plans(engine)
    plans.leaves("u-1", "web", "h1", runs=True)
    plans.leaves("u-1", "web", "h2", runs=False)
    plans.leaves("u-2", "db", "h1", runs=False)
    assert plans.away_from("h1") == {"u-1": ("web", True), "u-2": ("db", False)}
    assert plans.away_from("h2") == {}
    plans.is_home("u-1")
    assert plans.away_from("h1").keys() == {"u-2"}


def test_plans_that_ended_long_ago_are_forgotten(engine: Engine) -> None:
    plans, handle = Plans(engine), begin(engine, move(1))
    open_one = begin(engine, move(1, "other"))
    handle.finish(RunState.DONE, "done", 0)
    assert plans.forget(3600.0) == 0
    assert plans.forget(-1.0) == 1
    assert [run.id for run in plans.latest(9)] == [open_one.id]


def test_a_restored_plan_belongs_to_nobody(engine: Engine, tmp_path: Path, database: str) -> None:
    Inventory(engine).add_host(entry("h1"))
    handle = begin(engine, move(1))
    Plans(engine).leaves("u-1", "web", "h1", runs=True)
    back_up(engine, tmp_path / "backup.db")
    lose_lease(engine)
    restore(engine, tmp_path / "backup.db", force=True)
    found: Run = Plans(engine).get(handle.id)
    assert found.abandoned
    assert found.epoch > 1000
    assert found.moves[0].about == move(1)
    assert Plans(engine).away_from("h1")
    with pytest.raises(LeaseLostError):
        handle.enter(RunState.RUNNING)
    assert begin(engine, move(1, "new")).id > handle.id


def test_a_host_is_closed_and_opened_and_keeps_what_was_learnt_of_it(engine: Engine) -> None:
    inventory = Inventory(engine)
    inventory.add_host(entry("h1"))
    inventory.set_maintenance("h1", on=True)
    assert inventory.host("h1").maintenance
    inventory.set_maintenance("h1", on=False)
    assert not inventory.host("h1").maintenance
    with pytest.raises(UsageError):
        inventory.set_maintenance("h9", on=True)
