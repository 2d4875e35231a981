"""Plans after which there is nothing to plan: it is gone on from where a plan leads until nothing is found any more.

Where a rule is broken, one plan opens what the next one finds: nobody goes where one that must be apart from it has
still to leave, and VMs that cannot be brought together now could be once others have gone. All of it becomes one plan;
its order has everybody wait for those it must not meet (``Transfer.behind``). Where no such order is safe, see
``stages``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mudanza.model.cluster import Cluster
from mudanza.model.plan import Goal
from mudanza.planning.applied import applied
from mudanza.planning.consolidating import hosts_counted_on
from mudanza.planning.problem import NOWHERE, Numbers
from mudanza.planning.reserve import reserve_of

if TYPE_CHECKING:
    from mudanza.planning.planner import Outcome

FURTHER = 10
"""So many further plans are looked at; if there is still something to do then, the first plan is left as it is."""


def go_on(outcome: Outcome, ask: Callable[[Cluster], Outcome], stop: Callable[[], bool]) -> None:
    """Have the plan lead to where it and those that would follow it lead. ``ask``: what would be planned for a
    cluster."""
    world, latest = outcome.problem.cluster, outcome
    for _ in range(FURTHER):
        places = _places(latest)
        if not places:
            break
        world = applied(world, places)
        latest = ask(world)
    if latest is outcome or _places(latest) or stop():
        return
    if _lead_to(outcome, where_all_are(outcome, world)) and latest.gathered and not outcome.gathered:
        outcome.problem.notes[:] = [note for note in outcome.problem.notes if "brought together now" not in note]


def _places(outcome: Outcome) -> dict[str, str]:
    """Who is elsewhere after the plan: UUID → host."""
    problem, where = outcome.problem, outcome.board.where
    moved = np.flatnonzero((where != problem.start) & (where != NOWHERE)).tolist()
    found = ((problem.vms[vm], problem.names[int(where[unit])]) for unit in moved for vm in problem.units[unit])
    return {vm.uuid: host for vm, host in found if vm.host != host}


def where_all_are(outcome: Outcome, world: Cluster) -> Numbers:
    """Return where each unit is in a world; those that are in no one place there as the board has them."""
    problem = outcome.problem
    hosts = {vm.uuid: vm.host for vm in world.vms}
    where: Numbers = outcome.board.where.copy()
    for unit, members in enumerate(problem.units):
        there = {problem.host_number(hosts[problem.vms[vm].uuid]) for vm in members}
        where[unit] = there.pop() if len(there) == 1 else where[unit]
    return where


def _lead_to(outcome: Outcome, wanted: Numbers) -> bool:
    """Put everybody there; if somebody could not go there straight from where they are, nothing has changed."""
    problem, board = outcome.problem, outcome.board
    before = board.where.copy()
    board.go_back(wanted)
    moved = np.flatnonzero((wanted != problem.start) & (wanted != NOWHERE))
    straight = problem.admit[problem.kind[moved], wanted[moved]].all()
    overfull = (board.excess() > outcome.started.excess() + 1).any()
    if not straight or overfull:
        board.go_back(before)
    elif outcome.request.goal is Goal.CONSOLIDATE:
        board.guard = reserve_of(board, hosts_counted_on(board))
    outcome.first = before
    outcome.left = [unit for unit in outcome.left if board.where[unit] in (NOWHERE, problem.start[unit])]
    outcome.score.refresh()
    return bool(straight and not overfull)
