"""When each move begins and ends; and other targets for moves to which there is no safe way.

It ends: each round bars at least one more unit from one more host, and there are finitely many of both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mudanza.model.plan import PlannedMove
from mudanza.planning.needs import MEMORY, POOL, held, promised
from mudanza.planning.order import Act, Room, Schedule, Transfer, schedule
from mudanza.planning.placing import place
from mudanza.planning.planner import Outcome
from mudanza.planning.problem import NOWHERE, Problem

ROUNDS = 20
"""So many times other targets are chosen, before those that have no safe way stay where they are."""


def timetable(outcome: Outcome, moves: Sequence[PlannedMove], link: float) -> Schedule:
    """Return the order of these moves. ``link``: bytes per second that a host sends and takes at the most."""
    vms = {vm.uuid: vm for vm in outcome.problem.vms}
    places = zip(moves, _parkings(outcome, moves), _predecessors(outcome, moves), strict=True)
    names = outcome.problem.dimensions
    transfers = [_transfer(move, parking, behind, held(vms[move.uuid], names)) for move, parking, behind in places]
    return schedule(transfers, _rooms(outcome, moves, link), outcome.request.limits)


def _transfer(move: PlannedMove, parking: frozenset[str], behind: frozenset[str], holds: Mapping[str, int]) -> Transfer:
    seconds = move.seconds or 0.0
    return Transfer(
        key=str(move.number),
        source=move.source,
        target=move.target,
        seconds=seconds,
        memory=move.memory,
        rate=move.bytes / seconds if seconds else 0.0,
        fills=move.disks,
        frees=move.freed,
        holds=holds,
        parking=parking,
        behind=behind,
    )


def _parkings(outcome: Outcome, moves: Sequence[PlannedMove]) -> list[frozenset[str]]:
    """Where each VM might be parked: open hosts that it fits and on which no rule is broken, before, then or after."""
    problem = outcome.problem
    by_kind: dict[int, frozenset[str]] = {}
    unit_of = {problem.vms[vm].uuid: unit for unit, members in enumerate(problem.units) for vm in members}
    parkings = []
    for move in moves:
        unit = unit_of[move.uuid]
        kind = int(problem.kind[unit])
        if kind not in by_kind:
            by_kind[kind] = frozenset(problem.names[h] for h in np.flatnonzero(problem.admit[kind] & problem.open))
        has_rules = (problem.blocked_by[unit] != len(problem.rows)).any() or len(problem.units[unit]) > 1
        parkings.append(frozenset() if has_rules else by_kind[kind])
    return parkings


def _predecessors(outcome: Outcome, moves: Sequence[PlannedMove]) -> list[frozenset[str]]:
    """Who must have left before each may come: those of its rules' rows that are where it goes, and leave."""
    problem = outcome.problem
    none = len(problem.rows)
    unit_of = {problem.vms[vm].uuid: unit for unit, members in enumerate(problem.units) for vm in members}
    leaving: dict[int, list[tuple[int, int, str]]] = {}
    for move in moves:
        unit, source = unit_of[move.uuid], problem.host_number(move.source)
        for row in problem.adds[unit].tolist():
            leaving.setdefault(row, []).append((unit, source, str(move.number)))
    found = []
    for move in moves:
        unit, target = unit_of[move.uuid], problem.host_number(move.target)
        found.append(
            frozenset(
                key
                for row in problem.blocked_by[unit].tolist()
                for other, source, key in (leaving.get(row, ()) if row != none else ())
                if other != unit and _reaches(problem, row, source, target)
            )
        )
    return found


def _reaches(problem: Problem, row: int, one: int, other: int) -> bool:
    """Whether two who count in a row meet there, one on each of two hosts."""
    zone = problem.zone
    return one == other or (problem.rows[row].zonal and zone[one] == zone[other] != NOWHERE)


def _rooms(outcome: Outcome, moves: Sequence[PlannedMove], link: float) -> dict[str, Room]:
    """What hosts have left now: those that moves touch, and those that somebody could be parked on."""
    problem, board = outcome.problem, outcome.started
    touched = {host for move in moves for host in (move.source, move.target)}
    scattered: Counter[tuple[str, str]] = Counter()
    for unit in board.scattered:
        for vm in (problem.vms[number] for number in problem.units[unit]):
            taken = {"memory": promised(vm)} | held(vm, problem.dimensions)
            scattered.update({(vm.host, name): size for name, size in taken.items()})
    limited = [(column, name) for column, name in enumerate(problem.dimensions) if not name.startswith(POOL)]
    rooms = {}
    for number, host in enumerate(problem.hosts):
        if host.name in touched or problem.open[number]:
            free = {
                name: math.floor(board.room[number, column] - board.used[number, column]) - scattered[host.name, name]
                for column, name in limited
                if math.isfinite(board.room[number, column])
            }
            pools = {pool.name: pool.available for pool in host.pools or ()}
            memory = free.pop(problem.dimensions[MEMORY])
            rooms[host.name] = Room(memory, pools, link, link, free)
    return rooms


def timed(moves: Sequence[PlannedMove], found: Schedule) -> tuple[PlannedMove, ...]:
    """Return the moves in their order with their times; one that is parked on the way as two."""
    by_key = {str(move.number): move for move in moves}
    legs = []
    for number, leg in enumerate(found.legs, start=1):
        move = by_key[leg.key]
        why = move.reason
        if leg.act is Act.PARK:
            why = f"it is parked there to make room for others, on its way to {move.target}: {why}"
        legs.append(
            replace(
                move,
                number=number,
                source=leg.source,
                target=leg.target,
                reason=why,
                start=round(leg.start, 1),
                finish=round(leg.finish, 1),
                after=tuple(sorted(earlier + 1 for earlier in leg.after)),
                behind=tuple(sorted(earlier + 1 for earlier in leg.behind)),
            )
        )
    return tuple(legs)


def elsewhere(outcome: Outcome, stuck: Sequence[PlannedMove]) -> None:
    """Choose other targets for moves that have no safe way; those that need not move stay."""
    problem, board = outcome.problem, outcome.board
    must = [unit for unit in _units(outcome, stuck) if _has_to_move(outcome, unit)]
    for unit in _units(outcome, stuck):
        target = int(board.where[unit])
        if target != NOWHERE and target != problem.start[unit]:
            board.barred.setdefault(unit, set()).add(target)
            must += _send_home(outcome, unit)
    outcome.score.refresh()
    again = [unit for unit in dict.fromkeys(must) if board.where[unit] == problem.start[unit]]
    left = place(board, outcome.score, again, outcome.terms)
    outcome.left = sorted({*outcome.left, *(unit for unit in left if unit in outcome.must_move)})
    outcome.score.refresh()


def _units(outcome: Outcome, moves: Sequence[PlannedMove]) -> list[int]:
    return list(dict.fromkeys(outcome.problem.unit_of(move.uuid) for move in moves))


def _has_to_move(outcome: Outcome, unit: int) -> bool:
    return unit in outcome.must_move or any(unit in breach.units for breach in outcome.broken_before)


def _send_home(outcome: Outcome, unit: int) -> list[int]:
    """Put a unit back where it is now, and those that have come into its room as well; return who of them must move."""
    problem, board = outcome.problem, outcome.board
    home = int(problem.start[unit])
    if home == NOWHERE or board.where[unit] == home:
        return []
    board.move(unit, home)
    displaced = []
    while (board.excess()[home] > outcome.started.excess()[home] + 1).any():
        others = [each for each in board.on[home] if problem.start[each] not in (home, NOWHERE)]
        if not others:
            break
        other = max(others, key=lambda each: (problem.need[each, MEMORY], each))
        displaced += [other] if _has_to_move(outcome, other) else []
        displaced += _send_home(outcome, other)
    return displaced
