"""Finding better places: steepest descent over the whole cluster, then exchanges of two. Same input, same result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mudanza.planning.board import Board
from mudanza.planning.imbalance import Imbalance
from mudanza.planning.problem import NOWHERE, Bools, Floats, Numbers

WHOLE = 250_000
"""Up to so many pairs of a unit and a host all of them are looked at for each step."""
SOURCES, TARGETS = 24, 96
"""Of more: the hosts that bear most, and those that bear least, at each look."""
SWAP_SOURCES, SWAP_HOSTS = 8, 400
"""Exchanges are tried from the most loaded hosts, in clusters of up to so many hosts."""

GRAIN = 1e-9
"""A gain below it is none."""

Stop = Callable[[], bool]


def never() -> bool:
    """Take all the time it takes."""
    return False


@dataclass(slots=True)
class Terms:
    """What a move has to earn, times the hosts, as ``Imbalance.gains`` has it."""

    movable: Bools
    price: Floats
    """n: what it costs to have a unit moved at all."""
    minimum: float
    """What it must gain beyond that."""
    wish: float = 0.0
    """What one granted wish is worth."""

    @property
    def least(self) -> float:
        """The minimum, and never so little that it could be the grain of floating-point sums: then it would not end."""
        return max(self.minimum, GRAIN)


def net_gains(board: Board, score: Imbalance, terms: Terms, units: Numbers, hosts: Numbers) -> Floats:
    """Return (units x hosts) what is left of each gain; minus infinity where a unit may not go."""
    problem = board.problem
    here = board.where[units]
    gain = score.gains(units, hosts)
    if terms.wish and problem.wish.any():
        wishes = problem.wish[problem.wish_of[units]]
        there = np.where(here == NOWHERE, 0, wishes[np.arange(len(units)), here])
        gain += terms.wish * (there[:, None] - wishes[:, hosts])
    home = problem.start[units]
    away = (here != home) & (here != NOWHERE)
    gain -= terms.price[units][:, None] * ((hosts != home[:, None]).astype(np.float64) - away[:, None])
    gain[~board.may(units, hosts)] = -np.inf
    return gain


def descend(board: Board, score: Imbalance, terms: Terms, stop: Stop = never) -> None:
    """Take the best move again and again until none earns enough."""
    units = np.flatnonzero(terms.movable & (board.where != NOWHERE))
    hosts = np.flatnonzero(board.open)
    if not len(units) or not len(hosts):
        return
    if len(units) * len(hosts) <= WHOLE:
        _descend_whole(board, score, terms, units, hosts, stop)
    else:
        _descend_by_parts(board, score, terms, hosts, stop)
    score.refresh()


def _descend_whole(board: Board, score: Imbalance, terms: Terms, units: Numbers, hosts: Numbers, stop: Stop) -> None:
    while not stop():
        gain = net_gains(board, score, terms, units, hosts)
        while True:
            best = int(gain.argmax())
            if gain.flat[best] <= terms.least:
                return
            row, column = divmod(best, len(hosts))
            unit, host = int(units[row]), int(hosts[column])
            if board.may_be_made(unit, host):
                break
            gain.flat[best] = -np.inf
        shift(board, score, unit, host)


def _descend_by_parts(board: Board, score: Imbalance, terms: Terms, hosts: Numbers, stop: Stop) -> None:
    """The hosts that bear most against those that bear least; a host that yields nothing is left until it changes."""
    done = np.zeros(len(board.problem.hosts), dtype=np.bool_)
    moved_since = False
    while not stop():
        strain = score.strain()
        strain[done] = 0
        sources = _first(-strain, np.flatnonzero(strain > 0), SOURCES)
        if not len(sources):
            if not moved_since:
                return
            done[:] = False
            moved_since = False
            continue
        units = np.array([u for h in sources.tolist() for u in sorted(board.on[h]) if terms.movable[u]], dtype=np.int64)
        targets = _first(score.slack(), hosts, TARGETS)
        gain = net_gains(board, score, terms, units, targets) if len(units) else np.zeros((0, len(targets)))
        worth = gain.max(axis=1, initial=-np.inf) > terms.least
        yielding = set(board.where[units[worth]].tolist())
        done[[host for host in sources.tolist() if host not in yielding]] = True
        touched = _best_of(board, score, terms, units[worth], targets, gain[worth])
        moved_since = moved_since or bool(touched)
        done[list(touched)] = False


def _best_of(board: Board, score: Imbalance, terms: Terms, units: Numbers, targets: Numbers, gain: Floats) -> set[int]:
    """Take the best moves of one look, no two of which touch one host; return the hosts touched."""
    touched: set[int] = set()
    gain = gain.copy()
    for row in np.argsort(-gain.max(axis=1, initial=-np.inf), kind="stable").tolist():
        unit = int(units[row])
        here = int(board.where[unit])
        if here in touched:
            continue
        column = int(gain[row].argmax())
        host = int(targets[column])
        if gain[row, column] <= terms.least or host in touched or not _may(board, unit, host):
            continue
        if not board.may_be_made(unit, host):
            continue
        shift(board, score, unit, host)
        touched |= {here, host}
        gain[:, column] = -np.inf
    return touched


def _first(key: Floats, among: Numbers, count: int) -> Numbers:
    """The so many of least key, in order; equal ones by number."""
    if len(among) > count:
        among = among[np.argpartition(key[among], count)[:count]]
    return among[np.lexsort((among, key[among]))]


def exchange(board: Board, score: Imbalance, terms: Terms, stop: Stop = never) -> None:
    """Let two units change places as long as that earns twice what one move must."""
    if len(board.problem.hosts) > SWAP_HOSTS:
        return
    while not stop():
        strain = score.strain()
        sources = _first(-strain, np.flatnonzero(strain > 0), SWAP_SOURCES)
        if not any(_exchange_at(board, score, terms, int(host)) for host in sources):
            return


def _exchange_at(board: Board, score: Imbalance, terms: Terms, source: int) -> bool:
    mine = np.array(sorted(u for u in board.on[source] if terms.movable[u]), dtype=np.int64)
    others = np.flatnonzero(terms.movable & (board.where != NOWHERE) & (board.where != source))
    others = others[board.open[board.where[others]]]
    if not len(mine) or not len(others):
        return False
    gain = score.swap_gains(mine, others)
    gain -= _price_away(board, terms, mine, board.where[others])
    gain -= _price_away(board, terms, others, np.array([source])).T
    order = np.argsort(-gain, axis=None, kind="stable")[:50]
    for place in order.tolist():
        row, column = divmod(place, len(others))
        if gain[row, column] <= 2 * terms.least:
            return False
        if swap(board, score, int(mine[row]), int(others[column])):
            return True
    return False


def _price_away(board: Board, terms: Terms, units: Numbers, hosts: Numbers) -> Floats:
    """(units x hosts) what going there costs, less what being away costs already."""
    home, here = board.problem.start[units], board.where[units]
    return np.asarray(terms.price[units][:, None] * ((hosts != home[:, None]) * 1.0 - (here != home)[:, None]))


def swap(board: Board, score: Imbalance, unit: int, other: int) -> bool:
    """Exchange two units if both may be where the other is; else leave them."""
    here, there = board.take(unit), board.take(other)
    if _may(board, unit, there):
        board.put(unit, there)
        if _may(board, other, here):
            board.put(other, here)
            if board.is_safe():
                score.moved(here, there)
                return True
            board.take(other)
        board.take(unit)
    board.put(unit, here)
    board.put(other, there)
    return False


def _may(board: Board, unit: int, host: int) -> bool:
    return bool(board.may(np.array([unit]), np.array([host]))[0, 0])


def shift(board: Board, score: Imbalance, unit: int, host: int) -> None:
    """Move a unit, and tell the score."""
    here = int(board.where[unit])
    board.move(unit, host)
    score.moved(*((host,) if here == NOWHERE else (here, host)))


def take_back(board: Board, score: Imbalance, terms: Terms, kept: frozenset[int] = frozenset()) -> None:
    """Undo moves that, all others made, no longer earn what they must. ``kept``: units that had to move."""
    problem = board.problem
    away = np.flatnonzero((board.where != problem.start) & (problem.start != NOWHERE) & (board.where != NOWHERE))
    for unit in sorted(away.tolist(), key=lambda each: (-terms.price[each], each)):
        home = int(problem.start[unit])
        if unit in kept or not board.open[home] or not _may(board, unit, home):
            continue
        gain = net_gains(board, score, terms, np.array([unit]), np.array([home]))[0, 0]
        if gain > -terms.minimum and board.may_be_made(unit, home):
            shift(board, score, unit, home)
