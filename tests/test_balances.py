"""Who balances, and what waits for a yes, in the journal, on SQLite and on PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from mudanza.fleet.balancer import counting
from mudanza.fleet.minding import is_to_be_taken
from mudanza.journal.backup import back_up, restore
from mudanza.journal.balance import Balances, DutyHandle
from mudanza.journal.database import open_database
from mudanza.journal.errors import LeaseLostError
from mudanza.journal.inventory import Inventory
from mudanza.journal.plans import Plans
from mudanza.journal.schema import duty
from mudanza.model.balance import BALANCING, Round
from mudanza.model.carrying import MoveState, RunPolicy, RunState, Wish
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.plan import Goal, Plan
from tests.factories import entry
from tests.test_plans import move


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


def lose_duty(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(update(duty).values(lease_until=0.0))


def propose(engine: Engine, handle: DutyHandle) -> int:
    return Plans(engine).propose(
        Plan(Goal.BALANCE, "balanced", (move(1), move(2))), RunPolicy(), "ana", kind=BALANCING, under=handle
    )


def test_of_several_controllers_one_balances(engine: Engine) -> None:
    def take(_: int) -> bool:
        try:
            Balances(engine).take()
        except BlockedError:
            return False
        return True

    for _ in range(2):
        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(take, range(6))) == 1
        lose_duty(engine)
    found = Balances(engine).on_duty()
    assert found is not None
    assert not found.alive


def test_who_lets_go_need_not_be_waited_for(engine: Engine) -> None:
    Balances(engine).take().let_go()
    assert Balances(engine).take().epoch == 2


def test_rounds_are_read_as_they_were_written_by_whoever_made_them(engine: Engine) -> None:
    first = Balances(engine).take()
    first.note(Round("one move", asked=True, imbalance=0.2))
    lose_duty(engine)
    second = Balances(engine).take()
    second.note(Round("nothing to do", plan=3))
    with pytest.raises(LeaseLostError):
        first.note(Round("late"))
    with pytest.raises(LeaseLostError):
        first.let_go()
    found = Balances(engine).rounds(9)
    assert [(each.said, each.asked, each.imbalance, each.plan) for each in found] == [
        ("one move", True, 0.2, None),
        ("nothing to do", False, None, 3),
    ]
    assert [each.said for each in Balances(engine).rounds(1)] == ["nothing to do"]


def test_rounds_before_a_gap_do_not_count() -> None:
    def rounds(*ago: float) -> tuple[Round, ...]:
        return tuple(Round(f"{each}", ago=each) for each in ago)

    assert counting(rounds(900.0, 600.0, 300.0), 400.0) == rounds(900.0, 600.0, 300.0)
    assert counting(rounds(1500.0, 600.0, 300.0), 400.0) == rounds(600.0, 300.0)
    assert counting(rounds(900.0, 600.0), 400.0) == ()


def test_what_waits_for_a_yes_is_taken_by_nobody_and_keeps_nobody_away(engine: Engine) -> None:
    plans, handle = Plans(engine), Balances(engine).take()
    number = propose(engine, handle)
    run = plans.get(number)
    assert (run.state, run.abandoned, is_to_be_taken(run)) == (RunState.ASKED, True, False)
    other = plans.begin(Plan(Goal.DRAIN, "off", (move(1),)), RunPolicy(), "bo", kind="drain")
    with pytest.raises(BlockedError, match=f"part of plan {other.id}"):
        plans.approve(number, RunPolicy(), "bo")
    other.finish(RunState.DONE, "done", 0)
    plans.approve(number, RunPolicy(out=1), "bo")
    run = plans.get(number)
    assert (run.state, run.wish_by, run.policy.out, is_to_be_taken(run)) == (RunState.RUNNING, "bo", 1, True)
    with pytest.raises(UsageError, match="does not wait for a yes"):
        plans.approve(number, RunPolicy(), "bo")
    plans.withdraw(number, "too late", under=handle)
    assert plans.get(number).state is RunState.RUNNING, "what was approved is not withdrawn"


def test_what_was_declined_is_not_approved_nor_withdrawn(engine: Engine) -> None:
    plans, handle = Plans(engine), Balances(engine).take()
    number = propose(engine, handle)
    plans.wish(number, Wish.CANCEL, "bo")
    assert is_to_be_taken(plans.get(number))
    with pytest.raises(UsageError):
        plans.approve(number, RunPolicy(), "bo")
    plans.withdraw(number, "not needed", under=handle)
    assert plans.get(number).ended_at is None


def test_a_withdrawn_plan_is_no_failure_of_its_vms(engine: Engine) -> None:
    plans, handle = Plans(engine), Balances(engine).take()
    number = propose(engine, handle)
    plans.withdraw(number, "the world is not as it was", under=handle)
    run = plans.get(number)
    assert (run.state, run.outcome) == (RunState.WITHDRAWN, "the world is not as it was")
    assert {each.state for each in run.moves} == {MoveState.LEFT_OUT}
    assert plans.undone_within(BALANCING, 60.0) == {}


def test_whose_move_failed_or_was_declined_is_remembered_for_a_while(engine: Engine) -> None:
    plans, duty_of = Plans(engine), Balances(engine).take()
    begun = plans.begin(
        Plan(Goal.BALANCE, "x", (move(1), move(2), move(3))), RunPolicy(), "ana", kind=BALANCING, under=duty_of
    )
    begun.ended(1, MoveState.FAILED, "refused", 3)
    begun.ended(2, MoveState.LEFT_OUT, "cancelled by bo", None)
    begun.ended(3, MoveState.DONE, "", 0)
    assert plans.undone_within(BALANCING, 60.0) == {"u-vm1": "it did not get to h2 with plan 1: refused"}
    begun.finish(RunState.CANCELLED, "cancelled by bo", 4)
    assert plans.undone_within(BALANCING, 60.0).keys() == {"u-vm1", "u-vm2"}
    assert plans.undone_within(BALANCING, 0.0) == {}
    assert plans.undone_within("drain", 60.0) == {}


def test_a_backup_brings_the_rounds_and_no_lease(engine: Engine, tmp_path: Path) -> None:
    Inventory(engine).add_host(entry("h1"))
    held = Balances(engine).take()
    held.note(Round("nothing to do"))
    back_up(engine, tmp_path / "backup")
    restore(engine, tmp_path / "backup", force=True)
    with pytest.raises(LeaseLostError):
        held.note(Round("late"))
    assert [each.said for each in Balances(engine).rounds(9)] == ["nothing to do"]
    Balances(engine).take().note(Round("again"))
