"""Reasons, summaries and figures in words."""

from __future__ import annotations

import numpy as np

from mudanza.model.plan import Goal
from mudanza.model.units import format_rate, format_size
from mudanza.planning.board import Board
from mudanza.planning.consolidating import in_use, lost_reserve
from mudanza.planning.eagerness import THRESHOLDS, least_gain
from mudanza.planning.needs import MEMORY, PAGES, VCPUS
from mudanza.planning.nodes import ON, PAGES_OF
from mudanza.planning.planner import Outcome
from mudanza.planning.problem import LOADS, NOWHERE, Problem
from mudanza.planning.search import net_gains


def amount(load: int, value: float) -> str:
    """Write a load in its unit."""
    if load == 0:
        return f"{value:.1f} CPUs"
    return format_size(value) if load == 1 else format_rate(value)


def need_in_words(dimension: str, value: float) -> str:
    """Write a need in its unit."""
    return f"{value:.0f} vCPUs" if dimension == "vCPUs" else format_size(value)


def lack_of_room(problem: Problem, board: Board, unit: int, host: int) -> list[str]:
    """Return what a host has too little of for a unit, in words and figures."""
    lacking = []
    for limit, dimension in enumerate(problem.dimensions):
        need, room = float(problem.need[unit, limit]), float(board.room[host, limit])
        used = float(board.used[host, limit])
        if need > 0 and need > room - used + 1e-9 * abs(room):
            free = need_in_words(dimension, max(0.0, room - used))
            whole = need_in_words(dimension, max(0.0, room))
            what = "" if limit == VCPUS else " of memory" if limit == MEMORY else f" of {_name(dimension)}"
            lacking.append(f"it needs {need_in_words(dimension, need)}{what}, and {free} of {whole} are left")
    if board.ceiling is not None:
        left = board.ceiling * problem.capacity[host, 0] - board.load[host, 0]
        if problem.use[unit, 0] > left:
            lacking.append(f"its CPUs would be used by more than {board.ceiling:.0%}")
    return lacking


def _name(dimension: str) -> str:
    if dimension.startswith(PAGES_OF):
        return f"huge pages of NUMA nodes {dimension.partition(ON)[2]}"
    return "huge pages" if dimension.startswith(PAGES) else dimension.removeprefix("room in ")


def share(board: Board, host: int, load: int) -> float:
    """Return a host's share of a load."""
    return float(board.load[host, load] / board.problem.capacity[host, load])


def heaviest_load(outcome: Outcome, host: int) -> int:
    """Return the load of which a host bears most beyond its share, as it was at the start."""
    started, score = outcome.started, outcome.score
    over = (started.load[host] / outcome.problem.capacity[host] - score.ideal) * score.weights
    return int(np.where(score.weights > 0, over, -np.inf).argmax())


def reason(outcome: Outcome, unit: int, target: int) -> str:
    """Return why a unit goes there."""
    problem, goal = outcome.problem, outcome.request.goal
    home = int(problem.start[unit])
    for breach in outcome.broken_before:
        if unit in breach.units:
            return f"{breach.text}; {_there(outcome, unit, target)}"
    if unit in outcome.must_move:
        why = {
            Goal.DRAIN: f"{outcome.request.subject} is to be empty",
            Goal.EVACUATE: f"{outcome.request.subject} is lost",
            Goal.PLACE: "it is to be placed",
        }[goal]
        return f"{why}; {_there(outcome, unit, target)}"
    if goal is Goal.CONSOLIDATE and home != NOWHERE and not outcome.board.on[home]:
        before, after = outcome.started, outcome.board
        return (
            f"{problem.names[home]} is to be empty; {problem.names[target]} has room: memory promised "
            f"{_promised(before, target)} → {_promised(after, target)}"
        )
    wishes = problem.wish[problem.wish_of[unit]]
    if home != NOWHERE and wishes[home] > wishes[target]:
        return f"a wish is granted on {problem.names[target]} that is not on {problem.names[home]}"
    if goal is Goal.BALANCE:
        return _for_balance(outcome, unit, home, target)
    return f"it gives way on {problem.names[home]} to one that has no other place; {_there(outcome, unit, target)}"


def _for_balance(outcome: Outcome, unit: int, home: int, target: int) -> str:
    problem, before, after = outcome.problem, outcome.started, outcome.board
    load = heaviest_load(outcome, home)
    use = float(problem.use[unit, load])
    back = net_gains(after, outcome.score, outcome.terms, np.array([unit]), np.array([home]))[0, 0]
    without = outcome.score.value
    if np.isfinite(back):
        gain = outcome.score.gains(np.array([unit]), np.array([home]))[0, 0] / outcome.score.hosts
        without = outcome.score.value - gain
    kind = "used" if problem.measured else "promised"
    text = (
        f"{problem.names[home]} has {share(before, home, load):.0%} of its {LOADS[load]} {kind}, "
        f"{problem.names[target]} {share(before, target, load):.0%}, "
        f"all hosts together {outcome.score.ideal[load]:.0%}; it takes {amount(load, use)} along: "
        f"{share(after, home, load):.0%} and {share(after, target, load):.0%} after the plan"
    )
    if without > outcome.score.value:
        text += f"; without this move the imbalance would be {without:.3f} instead of {outcome.score.value:.3f}"
    return text


def _there(outcome: Outcome, unit: int, target: int) -> str:
    """Why there, among those that may take it."""
    problem, board = outcome.problem, outcome.board
    hosts = np.flatnonzero(problem.open)
    others = int(board.may(np.array([unit]), hosts).sum())
    name = problem.names[target]
    best = (
        f"of {others + 1} hosts that can take it, {name} leaves the load most even"
        if others
        else (f"{name} is the only host that can take it")
    )
    return f"{best}: memory promised there {_promised(outcome.started, target)} → {_promised(board, target)}"


def _promised(board: Board, host: int) -> str:
    room = float(board.room[host, MEMORY])
    return f"{board.used[host, MEMORY] / room:.0%}" if room > 0 else "more than there is"


def summary(outcome: Outcome, moves: int) -> str:
    """Return the one sentence of the plan."""
    return _SUMMARIES[outcome.request.goal](outcome, moves) + _still_broken(outcome)


def _still_broken(outcome: Outcome) -> str:
    broken = len(outcome.broken_after)
    if not broken or outcome.request.goal not in (Goal.BALANCE, Goal.REPAIR, Goal.CONSOLIDATE):
        return ""
    return f"; {broken} broken {'rule stays' if broken == 1 else 'rules stay'} broken, see the notes"


def _balance(outcome: Outcome, moves: int) -> str:
    level = outcome.problem.rules.level
    threshold = THRESHOLDS[level]
    now, then = outcome.before, outcome.score.value
    if moves:
        mended = len(outcome.broken_before) - len(outcome.broken_after)
        rules = f", {mended} broken {'rule' if mended == 1 else 'rules'} mended" if mended > 0 else ""
        return f"{_count(moves)}: imbalance {now:.3f} → {then:.3f}{rules}"
    if outcome.enough:
        rules = "" if outcome.broken_after else " and no rule is broken"
        return (
            f"nothing to do: the imbalance is {now:.3f}, which level {level} leaves alone (up to {threshold:g}),{rules}"
        ).rstrip(",")
    if not outcome.terms.movable.any():
        return f"nothing can be done: the imbalance is {now:.3f}, and no VM may be moved now"
    least = least_gain(outcome.problem.rules, outcome.score.hosts) / outcome.score.hosts
    return (
        f"nothing to do: the imbalance is {now:.3f}, and there is no move that would lower it by {least:.3f} "
        f"beyond what it costs, as level {level} wants"
    )


def _consolidate(outcome: Outcome, moves: int) -> str:
    before, after = len(in_use(outcome.started)), len(in_use(outcome.board))
    if not moves:
        rules = outcome.problem.rules
        lost = lost_reserve(outcome.board, in_use(outcome.board)[:-1])
        why = f": with fewer {lost}" if lost else ""
        if not lost and (rules.survive_hosts or rules.survive_zones):
            why = " and have room if some of them failed"
        return f"nothing to do: the VMs cannot do with fewer than the {before} hosts they are on{why}"
    return f"{_count(moves)}: {before} → {after} hosts in use"


def _clear(outcome: Outcome, moves: int) -> str:
    host = outcome.request.subject
    if not outcome.must_move and not outcome.problem.stuck:
        return f"nothing to do: no VM is on {host}"
    if outcome.left and outcome.request.goal is Goal.EVACUATE:
        return f"{_count(moves)}; {_vms(len(outcome.left))} of {host} could not be started elsewhere"
    if outcome.left:
        return f"{_count(moves)}, and {host} is not empty then: {_vms(len(outcome.left))} cannot leave it"
    verb = "is empty" if outcome.request.goal is Goal.DRAIN else "is not needed"
    return f"{_count(moves)}, then {host} {verb}"


def _place(outcome: Outcome, moves: int) -> str:
    name = outcome.problem.name_of(next(iter(outcome.must_move)))
    if not moves:
        return f"no host can take {name}"
    return f"{name} goes to {outcome.problem.names[int(outcome.board.where[next(iter(outcome.must_move))])]}"


def _repair(outcome: Outcome, moves: int) -> str:
    if not outcome.broken_before and not moves:
        return "nothing to do: no rule is broken"
    if not moves:
        return "nothing can be done"
    return f"{_count(moves)}: {len(outcome.broken_before)} broken → {len(outcome.broken_after)}"


def _count(moves: int) -> str:
    return "no move" if not moves else "one move" if moves == 1 else f"{moves} moves"


def _vms(count: int) -> str:
    return "one VM" if count == 1 else f"{count} VMs"


_SUMMARIES = {
    Goal.BALANCE: _balance,
    Goal.CONSOLIDATE: _consolidate,
    Goal.DRAIN: _clear,
    Goal.EVACUATE: _clear,
    Goal.PLACE: _place,
    Goal.REPAIR: _repair,
}
