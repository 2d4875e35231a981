"""The moves of a plan in their order, one stage after the other where there is no safe way otherwise.

As a rule there is one stage. Where the plan and those that would follow it were made one (``lasting``), and that has no
safe order, or where moves had to get other targets, it is gone on from there: what would be planned next becomes the
next stage, until there is nothing to plan. A stage begins when the one before it has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mudanza.model.plan import Goal, PlannedMove
from mudanza.planning.applied import applied
from mudanza.planning.consolidating import hosts_counted_on
from mudanza.planning.lasting import FURTHER, where_all_are
from mudanza.planning.order import Schedule
from mudanza.planning.planner import Outcome
from mudanza.planning.repair import breaches
from mudanza.planning.reserve import Reserve, reserve_of
from mudanza.planning.timetable import ROUNDS, elsewhere, timed, timetable

Moves = tuple[PlannedMove, ...]
MovesOf = Callable[[Outcome], Moves]


def in_stages(outcome: Outcome, moves_of: MovesOf) -> tuple[Moves, float | None]:
    """Return the moves with their times, and when all are over. ``moves_of``: those that an outcome comes to."""
    moves, seconds = _in_order(outcome, moves_of)
    if outcome.ask is not None and (outcome.board.barred or outcome.staged):
        moves, seconds = _with_further_stages(outcome, moves_of, moves, seconds)
    outcome.broken_after = breaches(outcome.board)
    return moves, seconds


def _in_order(outcome: Outcome, moves_of: MovesOf) -> tuple[Moves, float | None]:
    """One stage. Moves without a safe way get other targets, or stay."""
    moves = moves_of(outcome)
    if outcome.request.goal is Goal.EVACUATE:
        return moves, None
    link = max([outcome.request.usual_link, *outcome.request.link.values()])
    for _ in range(ROUNDS):
        found = timetable(outcome, moves, link)
        stuck = {each.key for each in found.stuck}
        if not stuck and not _keep_reserve(outcome):
            return timed(moves, found), round(found.finish, 1) if moves else None
        if not stuck:
            return (), None
        if not _only_the_first_stage(outcome):
            elsewhere(outcome, [move for move in moves if str(move.number) in stuck])
        moves = moves_of(outcome)
    _keep_reserve(outcome)
    moves = moves_of(outcome)
    found = timetable(outcome, moves, link)
    return _what_can_be_done(outcome, moves, found), round(found.finish, 1)


def _only_the_first_stage(outcome: Outcome) -> bool:
    """Give up what was made one plan of several; return whether it was."""
    if outcome.first is None or outcome.staged:
        return False
    outcome.staged = True
    outcome.board.go_back(outcome.first)
    outcome.score.refresh()
    return True


def _with_further_stages(
    outcome: Outcome, moves_of: MovesOf, moves: Moves, seconds: float | None
) -> tuple[Moves, float | None]:
    """Add what would be planned next, until that is nothing. If that never comes, it stays at the first stage."""
    assert outcome.ask is not None
    world, legs, latest, ends, stages = outcome.problem.cluster, list(moves), moves, seconds or 0.0, [0]
    for _ in range(FURTHER):
        world = applied(world, {move.uuid: move.target for move in latest})
        latest, took = _in_order(outcome.ask(world), moves_of)
        if not latest:
            break
        before = tuple(range(stages[-1] + 1, len(legs) + 1))
        stages.append(len(legs))
        legs += [_later(move, stages[-1], before, ends) for move in latest]
        ends = round(ends + (took or 0.0), 1)
    else:
        return moves, seconds
    outcome.board.go_back(where_all_are(outcome, world))
    start = outcome.problem.start
    outcome.left = [unit for unit in outcome.left if outcome.board.where[unit] == start[unit]]
    outcome.score.refresh()
    return tuple(legs), ends if legs else None


def _later(move: PlannedMove, offset: int, before: tuple[int, ...], seconds: float) -> PlannedMove:
    """The move as one of a later stage: it waits for all of the stage before, and needs all of it to have been done."""
    after = (*before, *(number + offset for number in move.after))
    behind = (*before, *(number + offset for number in move.behind))
    start, finish = (None if at is None else round(at + seconds, 1) for at in (move.start, move.finish))
    return replace(move, number=move.number + offset, after=after, behind=behind, start=start, finish=finish)


def _keep_reserve(outcome: Outcome) -> bool:
    """Have nobody move where, with the moves for which there is a way, a failure would find less room than now; return
    whether that was so."""
    if not outcome.board.barred or outcome.request.goal not in (Goal.BALANCE, Goal.REPAIR, Goal.CONSOLIDATE):
        return False
    now, then = reserve_of(outcome.started), reserve_after(outcome)
    if now is None or then is None or not then.is_worse_than(now):
        return False
    outcome.board.go_back(outcome.problem.start)
    outcome.score.refresh()
    outcome.problem.notes.append(
        "nothing moves: for some moves there is no safe way, and the others alone would use up room that is kept for "
        "hosts that fail"
    )
    return True


def reserve_after(outcome: Outcome) -> Reserve | None:
    """The reserve once the plan is carried out; hosts that a consolidation has emptied are not counted on."""
    consolidated = outcome.request.goal is Goal.CONSOLIDATE
    return reserve_of(
        outcome.board, hosts_counted_on(outcome.board) if consolidated else np.flatnonzero(outcome.problem.open)
    )


def _what_can_be_done(outcome: Outcome, moves: Moves, found: Schedule) -> Moves:
    """The moves that have a safe way; the others are told of."""
    for each in found.stuck:
        move = moves[int(each.key) - 1]
        outcome.problem.notes.append(f"{move.vm} stays on {move.source}, there is no safe way: {each.why}")
        outcome.board.move(outcome.problem.unit_of(move.uuid), outcome.problem.host_number(move.source))
    return timed(moves, found)
