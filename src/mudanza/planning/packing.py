"""Whether units that have lost their hosts find room on the others, each as a whole and with every hard rule.

A packing that is found is shown: every unit with its host. So room is never claimed that is not there. That there is
none is certain where all arrangements were gone through (``Packed.sure``); else it was not found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from mudanza.planning.board import SLACK, Board
from mudanza.planning.needs import MEMORY
from mudanza.planning.problem import NOWHERE, Bools, Numbers

NODES = 2_000
"""Places that are tried at the most where all arrangements are gone through."""
NEAR = 60
"""Hosts that are looked at first."""
SMALL_UNITS, SMALL_HOSTS = 24, 64
"""Up to so many units and hosts all arrangements are gone through where simpler ways find none."""

_NO_PLACES: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Packed:
    """Who would be where, and who nowhere."""

    places: Mapping[int, int] = field(default_factory=lambda: _NO_PLACES)
    """Unit → host."""
    left: tuple[int, ...] = ()
    """Units for which there is no room beside the others."""
    never: tuple[int, ...] = ()
    """Units that could go to none of the hosts even if it were empty."""
    sure: bool = True
    """Whether it is certain that not all of them find room, where some are left."""


def pack(board: Board, lost: Collection[int], hosts: Numbers, hints: Mapping[int, int] = _NO_PLACES) -> Packed:
    """Find places among ``hosts`` for units whose hosts are gone. ``hints``: where to look first, unit → host.

    Three ways, until one does: the first host with room, the one that is left with least, and, where that is little
    work, all of them. Of many hosts the first ``NEAR`` (and those of ``hints``) are looked at first.
    """
    problem = board.problem
    memory = problem.need[:, MEMORY]
    units = sorted(lost, key=lambda unit: (-memory[unit], unit))
    if len(hosts) > 2 * NEAR:
        others = hosts[NEAR:]
        few = np.concatenate([hosts[:NEAR], others[np.isin(others, list(hints.values()))]])
        found = _one_by_one(_Space(board, lost, few), units, hints, tightly=False)
        if len(found) == len(units):
            return Packed(found)
    never = tuple(unit for unit in sorted(lost) if not _could_ever(board, unit, hosts))
    units = [unit for unit in units if unit not in never]
    best: dict[int, int] = {}
    for tightly in (False, True):
        space = _Space(board, lost, hosts)
        found = _one_by_one(space, units, hints if not tightly else _NO_PLACES, tightly=tightly)
        if len(found) == len(units):
            return Packed(found, (), never)
        best = max(best, found, key=lambda each: sum(memory[unit] for unit in each))
    space = _Space(board, lost, hosts)
    sure = space.lacks(units)
    if not sure and len(units) <= SMALL_UNITS and len(hosts) <= SMALL_HOSTS:
        search = _Search(space, units)
        if search.place(0):
            return Packed(search.places, (), never)
        sure = search.left > 0
    return Packed(best, tuple(unit for unit in units if unit not in best), never, sure)


def _could_ever(board: Board, unit: int, hosts: Numbers) -> bool:
    problem = board.problem
    need, room = problem.need[unit], board.room[hosts]
    enough = ((need <= room + SLACK * np.abs(room)) | (need == 0)).all(axis=1)
    return bool((enough & problem.admit[problem.kind[unit]][hosts]).any())


class _Space:
    """What is free on hosts while units are put there one by one, and who must not be beside whom."""

    def __init__(self, board: Board, lost: Collection[int], hosts: Numbers) -> None:
        problem = self.problem = board.problem
        self.hosts = hosts
        self.index = {int(host): place for place, host in enumerate(hosts)}
        room = board.room[hosts]
        self.free = room - board.used[hosts] + SLACK * np.where(np.isfinite(room), np.abs(room), 0)
        self.zone = problem.zone[hosts]
        none = len(problem.rows)
        rows = {row for unit in lost for row in problem.blocked_by[unit].tolist() if row != none}
        self.counts = {row: board.counts[row][hosts].astype(np.int64) for row in sorted(rows)}
        for unit in lost:  # whoever is lost does not count where it was; that concerns these hosts by zones only
            here = int(board.where[unit])
            for row in self._rows_of(unit) if here != NOWHERE else ():
                if problem.rows[row].zonal and problem.zone[here] != NOWHERE:
                    self.counts[row] -= self.zone == problem.zone[here]

    def _rows_of(self, unit: int) -> list[int]:
        return [row for row in self.problem.adds[unit].tolist() if row in self.counts]

    def lacks(self, units: Sequence[int]) -> bool:
        """Whether all that is free together is less than they need: then no arrangement does."""
        need = self.problem.need[list(units)].sum(axis=0)
        return bool((need > np.maximum(self.free, 0).sum(axis=0) + 1).any())

    def fits(self, unit: int) -> Bools:
        """Return at which of the hosts there is room for it, and no rule against it."""
        need = self.problem.need[unit]
        ok = self.problem.admit[self.problem.kind[unit]][self.hosts].copy()
        ok &= ((need <= self.free) | (need == 0)).all(axis=1)
        for row in self.problem.blocked_by[unit].tolist():
            if row in self.counts:
                ok &= self.counts[row] <= 0
        return np.asarray(ok)

    def put(self, unit: int, place: int, sign: int = 1) -> None:
        """Put it there; -1: take it away again."""
        self.free[place] -= sign * self.problem.need[unit]
        for row in self._rows_of(unit):
            if not self.problem.rows[row].zonal:
                self.counts[row][place] += sign
            elif self.zone[place] != NOWHERE:
                self.counts[row][self.zone == self.zone[place]] += sign

    def tightest(self, places: Numbers, unit: int) -> Numbers:
        """Return places, the one that is left with least memory first."""
        left = self.free[places, MEMORY] - self.problem.need[unit, MEMORY]
        return np.asarray(places[np.argsort(left, kind="stable")])


def _one_by_one(space: _Space, units: Sequence[int], hints: Mapping[int, int], *, tightly: bool) -> dict[int, int]:
    found: dict[int, int] = {}
    for unit in units:
        places = np.flatnonzero(space.fits(unit))
        if not len(places):
            continue
        hinted = space.index.get(hints.get(unit, NOWHERE))
        if hinted is not None and hinted in places:
            place = hinted
        else:
            place = int(space.tightest(places, unit)[0] if tightly else places[0])
        space.put(unit, place)
        found[unit] = int(space.hosts[place])
    return found


class _Search:
    """Goes through all arrangements, those that leave least first, until one does or ``left`` is used up."""

    def __init__(self, space: _Space, units: Sequence[int]) -> None:
        self.places: dict[int, int] = {}
        self.left = NODES
        self._space, self._units = space, units
        kinds = sorted({int(space.problem.kind[unit]) for unit in units})
        self._admits = space.problem.admit[kinds][:, space.hosts]

    def place(self, depth: int) -> bool:
        """Whether the units from that one on find places."""
        if depth == len(self._units):
            return True
        unit, space = self._units[depth], self._space
        seen: set[tuple[bytes, ...]] = set()
        for place in space.tightest(np.flatnonzero(space.fits(unit)), unit).tolist():
            alike = self._alike(place)
            if alike in seen:
                continue
            seen.add(alike)
            if self.left <= 0:
                return False
            self.left -= 1
            space.put(unit, place)
            if self.place(depth + 1):
                self.places[unit] = int(space.hosts[place])
                return True
            space.put(unit, place, -1)
        return False

    def _alike(self, place: int) -> tuple[bytes, ...]:
        """Two hosts of which this is the same are as good as each other."""
        space = self._space
        counts = np.array([count[place] for count in space.counts.values()])
        zone = space.zone[place : place + 1] if space.counts else np.zeros(1)
        return space.free[place].tobytes(), self._admits[:, place].tobytes(), counts.tobytes(), zone.tobytes()
