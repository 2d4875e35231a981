"""Rules that are broken, and the fewest moves that mend them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mudanza.model.units import format_size
from mudanza.planning.board import Board
from mudanza.planning.imbalance import Imbalance
from mudanza.planning.needs import MEMORY, VCPUS
from mudanza.planning.placing import best_host, place
from mudanza.planning.problem import NOWHERE, Problem
from mudanza.planning.search import Terms, shift


@dataclass(frozen=True, slots=True)
class Breach:
    """One broken rule: where, in words, and whose move could mend it."""

    text: str
    units: tuple[int, ...]


def breaches(board: Board) -> list[Breach]:
    """Return every broken rule and limit."""
    return [*_scattered(board), *_misplaced(board), *_crowded(board), *_overfull(board)]


def _scattered(board: Board) -> Iterator[Breach]:
    for unit in np.flatnonzero(board.where == NOWHERE).tolist():
        if len(board.problem.units[unit]) > 1:
            yield Breach(f"{board.problem.name_of(unit)} are to be together, and are not", (unit,))


def _misplaced(board: Board) -> Iterator[Breach]:
    problem = board.problem
    placed = np.flatnonzero(board.where != NOWHERE)
    wrong = placed[~problem.ruled[problem.kind[placed], board.where[placed]]]
    for unit in wrong.tolist():
        yield Breach(f"{problem.name_of(unit)} must not be on {problem.names[board.where[unit]]}", (unit,))


def _crowded(board: Board) -> Iterator[Breach]:
    problem = board.problem
    together: dict[tuple[int, int], list[int]] = {}
    subject = np.flatnonzero((problem.blocked_by != len(problem.rows)).any(axis=1)) if problem.rows else np.array([])
    for unit in subject.astype(int).tolist():
        for row in board.rows_broken(unit):
            here = int(board.where[unit])
            place_number = int(problem.zone[here]) if problem.rows[row].zonal else here
            together.setdefault((row, place_number), []).append(unit)
    for (row, place_number), units in together.items():
        zonal = problem.rows[row].zonal
        where = f"zone {sorted(problem.rules.zones)[place_number]}" if zonal else problem.names[place_number]
        names = ", ".join(problem.name_of(unit) for unit in units)
        yield Breach(f"rule {problem.rows[row].name!r} is broken on {where} by {names}", tuple(units))


def _overfull(board: Board) -> Iterator[Breach]:
    problem, excess = board.problem, board.excess()
    for host in np.flatnonzero(excess[:, : VCPUS + 1].max(axis=1) > 0).tolist():
        if not problem.hosts[host].seen:
            continue
        if excess[host, MEMORY] > 0:
            what = (
                f"{format_size(board.used[host, MEMORY])} of memory are promised, "
                f"{format_size(max(0.0, board.room[host, MEMORY]))} may be"
            )
        else:
            what = f"{board.used[host, VCPUS]:.0f} vCPUs are promised, {board.room[host, VCPUS]:.0f} may be"
        yield Breach(f"on {problem.names[host]} {what}", tuple(sorted(board.on[host])))


def repair(board: Board, score: Imbalance, terms: Terms) -> list[Breach]:
    """Move as few units as mend what is broken; return what stays broken."""
    scattered = [unit for breach in _scattered(board) for unit in breach.units]
    place(board, score, scattered, terms)
    given_up: set[int] = set()
    while (unit := _most_in_the_way(board, terms, given_up)) is not None:
        host = best_host(board, score, unit, terms)
        if host is not None:
            shift(board, score, unit, host)
        elif place(board, score, [unit], terms):
            given_up.add(unit)
            continue
        given_up.clear()  # where one has left there may be room for another
    return breaches(board)


def _most_in_the_way(board: Board, terms: Terms, given_up: set[int]) -> int | None:
    """The unit whose move mends most; of equals the one that costs least."""
    problem = board.problem
    excess = board.excess()
    worth: dict[int, float] = {}
    for breach in _misplaced(board):
        worth[breach.units[0]] = worth.get(breach.units[0], 0.0) + 1
    for breach in _crowded(board):
        for unit in breach.units:
            worth[unit] = worth.get(unit, 0.0) + board.neighbours_barred(unit)
    for breach in _overfull(board):
        for unit in breach.units:
            worth[unit] = worth.get(unit, 0.0) + _relief(problem, excess, unit, int(board.where[unit]))
    able = [unit for unit in worth if worth[unit] > 0 and unit not in given_up and terms.movable[unit]]
    return min(able, key=lambda unit: (-round(worth[unit], 6), problem.travel[unit], unit), default=None)


def _relief(problem: Problem, excess: np.ndarray, unit: int, host: int) -> float:
    """What part of a host's excess goes with a unit, at most all of it."""
    relief = 0.0
    for limit in (MEMORY, VCPUS):
        if excess[host, limit] > 0:
            relief += min(1.0, problem.need[unit, limit] / excess[host, limit])
    return relief
