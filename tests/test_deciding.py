"""What is to be begun next of a plan that is carried out, and how it has ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.fleet.conducting import fate_of, options_of
from mudanza.fleet.deciding import Decision, Fate, decide
from mudanza.fleet.minding import is_to_be_taken
from mudanza.fleet.outlook import seconds_left
from mudanza.model.carrying import MoveState, OnFailure, Run, RunMove, RunPolicy, RunState, Wish
from mudanza.model.migration import Mode
from mudanza.model.plan import Goal, MoveMode, Plan, PlannedMove

DONE, FAILED = Fate(True, 0, "moved"), Fate(True, 4, "it failed")
WAITING, BEGUN = MoveState.WAITING, MoveState.BEGUN


def move(
    n: int, source: str = "a", target: str = "b", after: tuple[int, ...] = (), vm: str = "", **more: Any
) -> RunMove:
    name = vm or f"v{n}"
    about = PlannedMove(n, name, f"u-{name}", source, target, "why", MoveMode.LIVE, 1, seconds=10.0, after=after)
    return RunMove(n, about, after, more.pop("state", WAITING), **more)


def run(*moves: RunMove, policy: RunPolicy | None = None, **more: Any) -> Run:
    usual = Run(
        id=1, kind="apply", subject="", plan=Plan(Goal.BALANCE, "balanced"), policy=policy or RunPolicy(),
        asked_by="ana", state=RunState.RUNNING, epoch=1, owner="x", started_at=0.0, ended_at=None, outcome="",
        exit_code=None, wish=None, wish_by=None, moves=moves, abandoned=False, read_at=100.0,
    )  # fmt: skip
    return replace(usual, **more)


def begun(n: int, job: int, **more: Any) -> RunMove:
    return move(n, state=BEGUN, job=job, began_at=95.0, **more)


def test_as_many_are_begun_as_may_be_under_way_and_none_before_what_it_waits_for() -> None:
    moves = [move(1), move(2), move(3), move(4, "c", "d"), move(5, "c", "e", after=(4,))]
    assert decide(run(*moves), {}).begin == (1, 2, 4)
    assert decide(run(*moves, policy=RunPolicy(total=2)), {}).begin == (1, 2)
    assert decide(run(*moves, policy=RunPolicy(into=1)), {}).begin == (1, 4)


def test_what_ended_makes_way_at_once() -> None:
    found = decide(run(begun(1, 7), move(2, "c", "a", after=(1,))), {7: DONE})
    assert [(each.n, each.state) for each in found.ended] == [(1, MoveState.DONE)]
    assert found.begin == (2,)


def test_what_waited_for_room_that_never_came_is_tried_all_the_same() -> None:
    assert decide(run(begun(1, 7), move(2, "c", "a", after=(1,))), {7: FAILED}).begin == (2,)


def test_a_vm_that_never_got_to_where_it_was_parked_does_not_go_on_from_there() -> None:
    found = decide(run(begun(1, 7, vm="v"), move(2, "b", "c", after=(1,), vm="v")), {7: FAILED})
    assert [(each.n, each.state) for each in found.ended] == [(1, MoveState.FAILED), (2, MoveState.LEFT_OUT)]
    assert found.end is not None
    assert (found.end.state, found.end.exit_code) == (RunState.FAILED, 4)


def test_where_one_fails_nothing_more_is_begun_if_that_was_asked() -> None:
    moves = (begun(1, 7), begun(2, 8, source="c", target="d"), move(3, "e", "f"))
    found = decide(run(*moves, policy=RunPolicy(OnFailure.STOP)), {7: FAILED, 8: Fate(False)})
    assert found.begin == ()
    assert [(each.n, each.state) for each in found.ended] == [(1, MoveState.FAILED), (3, MoveState.LEFT_OUT)]
    assert found.end is None, "one is under way"


def test_to_empty_a_host_a_vm_goes_to_another_one_once() -> None:
    policy = RunPolicy(elsewhere=True)
    found = decide(run(begun(1, 7), policy=policy), {7: Fate(True, 3, "no room")})
    again = found.ended[0].again
    assert again is not None
    assert (again.uuid, again.source, again.target) == ("u-v1", "a", "b")
    assert found.end is None
    failed = move(1, state=MoveState.FAILED, exit_code=3, outcome="no room")
    second = begun(2, 8, vm="v1", target="c")
    assert decide(run(failed, second, policy=policy), {8: FAILED}).ended[0].again is None
    end = decide(run(failed, second, policy=policy), {8: DONE}).end
    assert end is not None
    assert end.exit_code == 0, "it is off the host, which was the aim"


@pytest.mark.parametrize("code", [5, 6, 1])
def test_a_vm_that_a_person_must_look_at_is_sent_nowhere(code: int) -> None:
    found = decide(run(begun(1, 7), policy=RunPolicy(elsewhere=True)), {7: Fate(True, code, "look")})
    assert found.ended[0].again is None


def test_a_pause_begins_nothing_and_cancelling_ends_all() -> None:
    moves = (begun(1, 7), move(2, "c", "d"))
    assert decide(run(*moves, wish=Wish.PAUSE), {7: Fate(False)}) == Decision()
    found = decide(run(*moves, wish=Wish.CANCEL, wish_by="bo"), {7: Fate(False)})
    assert (found.cancel, found.begin, [each.n for each in found.ended]) == ((7,), (), [2])
    end = decide(run(*moves, wish=Wish.CANCEL, wish_by="bo"), {7: FAILED}).end
    assert end is not None
    assert (end.state, end.exit_code) == (RunState.CANCELLED, 4)


def test_the_end_says_how_many_got_there_and_why_not() -> None:
    end = decide(run(begun(1, 7), begun(2, 8, source="c")), {7: DONE, 8: Fate(True, 5, "look at it")}).end
    assert end is not None
    assert (end.state, end.exit_code) == (RunState.PARTLY, 7)
    assert end.outcome == "1 of 2 VMs are where they were to go; v2: look at it"
    nothing = decide(run(), {}).end
    assert nothing is not None
    assert nothing.exit_code == 0


def test_a_job_that_is_gone_from_the_journal_needs_a_person() -> None:
    assert decide(run(begun(1, 7)), {}).ended[0].exit_code == 5


@given(st.data(), st.integers(0, 2**32), st.sampled_from(OnFailure), st.booleans())
def test_it_always_ends_and_begins_every_move_once_at_most(
    data: st.DataObject, seed: int, on_failure: OnFailure, elsewhere: bool
) -> None:
    hosts = st.sampled_from("abcd")
    count = data.draw(st.integers(0, 8))
    moves = []
    for n in range(1, count + 1):
        after = tuple(sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=3)))) if n > 1 else ()
        moves.append(move(n, data.draw(hosts), data.draw(hosts), after))
    policy = RunPolicy(on_failure, 1, 1, 3, elsewhere=elsewhere)
    now, random, started = run(*moves, policy=policy), Random(seed), Counter[int]()
    for turn in range(100):
        fates = {
            each.job: random.choice([Fate(False), DONE, DONE, FAILED, Fate(True, 3, "no")])
            for each in now.moves
            if each.state is BEGUN and each.job is not None
        }
        found = decide(now, fates)
        ends = {each.n: each for each in found.ended}
        changed = [
            replace(each, state=ends[each.n].state, exit_code=ends[each.n].exit_code) if each.n in ends else each
            for each in now.moves
        ]
        for each in found.ended:
            if each.again is not None:
                changed.append(RunMove(len(changed) + 1, each.again, (), WAITING))
        changed = [
            replace(each, state=BEGUN, job=1000 * turn + each.n) if each.n in found.begin else each for each in changed
        ]
        started.update(found.begin)
        now = replace(now, moves=tuple(changed))
        under_way = [each for each in now.moves if each.state is BEGUN]
        assert len(under_way) <= 3
        assert max(Counter(each.about.source for each in under_way).values(), default=0) <= 1
        if found.end is not None:
            assert all(each.state.over for each in now.moves)
            assert (found.end.exit_code == 0) == all(
                [each for each in now.moves if each.about.uuid == uuid][-1].state is MoveState.DONE
                for uuid in {each.about.uuid for each in now.moves}
            )
            break
    else:
        pytest.fail("it never ends")
    assert max(started.values(), default=1) == 1


def test_what_is_left_is_foreseen_by_the_order_and_by_how_it_went_so_far() -> None:
    moves = (move(1), move(2), move(3), move(4, "b", "c", after=(3,)))
    assert seconds_left(run(*moves)) == 30.0
    done = move(1, state=MoveState.DONE, began_at=0.0, ended_at=20.0)
    assert seconds_left(run(done, *moves[1:])) == 40.0, "twice as slow as foreseen"
    assert seconds_left(run(begun(1, 7))) == 5.0
    assert seconds_left(run(done)) is None


def test_nobody_is_shut_down_but_those_who_may_be() -> None:
    cold = replace(move(1).about, mode=MoveMode.COLD)
    assert options_of(run(), RunMove(1, cold, (), WAITING)).mode is Mode.AUTO
    assert options_of(run(policy=RunPolicy(cold=("u-v1",))), RunMove(1, cold, (), WAITING)).mode is Mode.COLD
    assert options_of(run(), move(1)).mode is Mode.LIVE


def test_a_plan_that_was_paused_is_left_alone_until_somebody_wants_it() -> None:
    assert not is_to_be_taken(run())
    assert is_to_be_taken(run(abandoned=True))
    assert not is_to_be_taken(run(abandoned=True, wish=Wish.PAUSE))
    assert not is_to_be_taken(run(abandoned=True, state=RunState.PAUSED, wish=Wish.PAUSE))
    assert is_to_be_taken(run(abandoned=True, state=RunState.PAUSED, wish=Wish.GO_ON))


def test_a_plan_whose_time_has_not_come_is_left_alone() -> None:
    early = RunPolicy(not_before=101.0)
    assert not is_to_be_taken(run(move(1), abandoned=True, policy=early))
    assert is_to_be_taken(run(move(1), abandoned=True, policy=early, wish=Wish.CANCEL))
    assert is_to_be_taken(run(begun(1, 7), abandoned=True, policy=early)), "what is under way is to be noted"


def test_nothing_is_begun_before_its_time_or_outside_its_windows() -> None:
    moves = (move(1),)
    assert decide(run(*moves, policy=RunPolicy(not_before=101.0)), {}).begin == ()
    assert decide(run(*moves, policy=RunPolicy(not_before=100.0)), {}).begin == (1,)
    hour = datetime.fromtimestamp(100.0).astimezone().hour
    now, later = f"{hour:02}:00-{hour + 1:02}:00", f"{(hour + 2) % 24:02}:00-{(hour + 2) % 24:02}:30"
    assert decide(run(*moves, policy=RunPolicy(windows=(later,))), {}).begin == ()
    assert decide(run(*moves, policy=RunPolicy(windows=(later, now))), {}).begin == (1,)


def test_policies_go_round() -> None:
    policy = RunPolicy(OnFailure.STOP, 1, 3, 5, True, "h1", 7.0, ("22:00-06:00",), ("u",), {"mode": "live"})
    assert RunPolicy.from_data(policy.as_data() | {"later": 1}) == policy
    assert callable(fate_of)


def test_nobody_goes_where_one_has_not_left_that_it_must_not_meet() -> None:
    """What waited for room is begun all the same; what a rule keeps apart is not, nor what in turn waits for it."""

    def behind(n: int, other: int) -> RunMove:
        waiting = move(n, "c", "a", after=(other,))
        return replace(waiting, about=replace(waiting.about, behind=(other,)))

    found = decide(run(begun(1, 7), behind(2, 1), move(3, "d", "a", after=(1,))), {7: FAILED})
    assert found.begin == (3,)
    assert [(each.n, each.state) for each in found.ended] == [(1, MoveState.FAILED), (2, MoveState.LEFT_OUT)]
    assert found.ended[1].outcome == "a rule keeps it apart from v1, which has not left a"
    assert decide(run(begun(1, 7), behind(2, 1)), {7: DONE}).begin == (2,)
