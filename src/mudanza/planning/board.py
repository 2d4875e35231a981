"""Where everybody is while a plan is being thought of, and who still fits where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mudanza.planning.problem import NOWHERE, Bools, Numbers, Problem

SLACK = 1e-9
"""What rounding may add to a sum of bytes, as a share of the room."""


class Guard(Protocol):
    """What may refuse a move although there is room and no rule against it: the reserve for failures."""

    def keeps(self, unit: int, host: int) -> bool:
        """Whether that move may be made; nothing is changed."""

    def holds(self) -> bool:
        """Whether all is well as things are now."""


class Board:
    """One arrangement. ``used`` (m x R), ``load`` (m x 4) and ``counts`` ((rows + 1) x m) follow every move."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        hosts = len(problem.hosts)
        self.where: Numbers = np.full(len(problem.units), NOWHERE, dtype=np.int64)
        self.used = np.zeros((hosts, problem.need.shape[1]))
        self.load = problem.base.copy()
        self.counts = problem.fixed.copy()
        self.leaving = np.zeros_like(problem.fixed)
        """(rows + 1) x m: who counts there until it has left, for rules hold on the way too."""
        self.barred: dict[int, set[int]] = {}
        """Unit → hosts that there is no safe way to."""
        self.on: list[set[int]] = [set() for _ in range(hosts)]
        self.room = problem.room.copy()
        self.open = problem.open.copy()
        self.ceiling: float | None = None
        """The share of its CPUs a host may come to use; None: nobody minds."""
        self.guard: Guard | None = None
        """What is asked before a move is made, beside ``may``; None: nobody."""
        self.touched: set[int] = set()
        """Hosts that somebody came to or left since the guard has looked."""
        self._none = len(problem.rows)
        self._zonal = np.array([row.zonal for row in problem.rows] + [False])
        self._counts_itself = _counts_itself(problem)
        finite = np.isfinite(problem.room).any(axis=0) & (problem.need > 0).any(axis=0)
        self._limits: Sequence[int] = np.flatnonzero(finite).tolist()
        placed = np.flatnonzero(problem.start != NOWHERE)
        np.add.at(self.used, problem.start[placed], problem.need[placed])
        np.add.at(self.load, problem.start[placed], problem.use[placed])
        for unit in placed.tolist():
            self._register(unit, int(problem.start[unit]), 1)
        self.scattered = _scattered(problem)
        """Unit that is nowhere, because its VMs are apart → the hosts that they are on until they are gathered."""
        for unit, hosts_of_it in self.scattered.items():
            for row in problem.adds[unit].tolist():
                for host in hosts_of_it if row != self._none else ():
                    self.leaving[row, self._reach(row, host)] += 1

    def _register(self, unit: int, host: int, sign: int) -> None:
        self.touched.add(host)
        self.where[unit] = host if sign > 0 else NOWHERE
        (self.on[host].add if sign > 0 else self.on[host].discard)(unit)
        for row in self.problem.adds[unit].tolist():
            if row != self._none:
                self.counts[row, self._reach(row, host)] += sign

    def _reach(self, row: int, host: int) -> int | Bools:
        """The hosts at which a member of the row on that host counts."""
        if not self._zonal[row]:
            return host
        zone = self.problem.zone
        return np.asarray((zone == zone[host]) & (zone != NOWHERE))

    def put(self, unit: int, host: int) -> None:
        """Place a unit that is nowhere."""
        self.used[host] += self.problem.need[unit]
        self.load[host] += self.problem.use[unit]
        self._register(unit, host, 1)
        self._linger(unit, host, -1)

    def take(self, unit: int) -> int:
        """Take a unit from its host, and return that."""
        host = int(self.where[unit])
        self.used[host] -= self.problem.need[unit]
        self.load[host] -= self.problem.use[unit]
        self._register(unit, host, -1)
        self._linger(unit, host, 1)
        return host

    def _linger(self, unit: int, host: int, sign: int) -> None:
        if host == self.problem.start[unit]:
            for row in self.problem.adds[unit].tolist():
                if row != self._none:
                    self.leaving[row, self._reach(row, host)] += sign

    def move(self, unit: int, host: int) -> None:
        """Place a unit elsewhere, wherever it is now."""
        if self.where[unit] != NOWHERE:
            self.take(unit)
        self.put(unit, host)

    def go_back(self, before: Numbers) -> None:
        """Put everybody where they were."""
        for unit in np.flatnonzero(self.where != before).tolist():
            if self.where[unit] != NOWHERE:
                self.take(unit)
            if before[unit] != NOWHERE:
                self.put(unit, int(before[unit]))

    def may(self, units: Numbers, hosts: Numbers) -> Bools:
        """Return (units x hosts) who may go where: another host, open, fitting, with room, and against no rule."""
        return self.allowed(units, hosts) & self.fits(units, hosts)

    def may_be_made(self, unit: int, host: int) -> bool:
        """Whether the guard lets a move be made that ``may`` be."""
        return self.guard is None or self.guard.keeps(unit, host)

    def is_safe(self) -> bool:
        """Whether the guard is content with things as they are."""
        return self.guard is None or self.guard.holds()

    def allowed(self, units: Numbers, hosts: Numbers) -> Bools:
        """The same without asking for room."""
        problem = self.problem
        ok = problem.admit[problem.kind[units]][:, hosts] & self.open[hosts]
        ok &= hosts != self.where[units][:, None]
        for column in range(problem.blocked_by.shape[1]):
            rows = problem.blocked_by[units, column]
            subject = np.flatnonzero(rows != self._none)
            if len(subject):
                others = self._others(units[subject], rows[subject], column, hosts)
                ok[subject] &= others + self._leavers(units[subject], rows[subject], column, hosts) <= 0
        if self.barred:
            for number, unit in enumerate(units.tolist()):
                if unit in self.barred:
                    ok[number, np.isin(hosts, list(self.barred[unit]))] = False
        return ok

    def _others(self, units: Numbers, rows: Numbers, column: int, hosts: Numbers) -> np.ndarray:
        """How many members of each unit's row are at each host, itself left out."""
        here = self.where[units]
        own = self._counts_itself[units, column] & (here != NOWHERE)
        return np.asarray(self.counts[rows][:, hosts] - (own[:, None] & self._reached(rows, here, hosts)))

    def _leavers(self, units: Numbers, rows: Numbers, column: int, hosts: Numbers) -> np.ndarray:
        """How many members of each unit's row are still to leave each host, itself left out."""
        home = self.problem.start[units]
        own = self._counts_itself[units, column] & (home != NOWHERE) & (home != self.where[units])
        leavers = self.leaving[rows][:, hosts] - (own[:, None] & self._reached(rows, home, hosts))
        for number, unit in enumerate(units.tolist() if self.scattered else ()):
            if unit in self.scattered and self._counts_itself[unit, column]:
                for host in self.scattered[unit]:
                    leavers[number] -= self._reached(rows[number : number + 1], np.array([host]), hosts)[0]
        return np.asarray(leavers)

    def _reached(self, rows: Numbers, places: Numbers, hosts: Numbers) -> Bools:
        """(rows x hosts) whether a member of each row, in its place, counts at each host."""
        zone = self.problem.zone
        zonal = (zone[hosts] == zone[places][:, None]) & (zone[hosts] != NOWHERE)
        return np.asarray(np.where(self._zonal[rows][:, None], zonal, hosts == places[:, None]))

    def fits(self, units: Numbers, hosts: Numbers) -> Bools:
        """Return (units x hosts) where there is room."""
        ok = np.ones((len(units), len(hosts)), dtype=np.bool_)
        for limit in self._limits:
            need = self.problem.need[units, limit][:, None]
            room = self.room[hosts, limit]
            ok &= (need <= room - self.used[hosts, limit] + SLACK * np.abs(room)) | (need == 0)
        if self.ceiling is not None:
            left = self.ceiling * self.problem.capacity[hosts, 0] - self.load[hosts, 0]
            ok &= self.problem.use[units, 0][:, None] <= left
        return ok

    def allowed_by_row(self, unit: int, column: int, host: int) -> bool:
        """Whether nobody of the row in that column keeps a unit off a host."""
        row = self.problem.blocked_by[unit, column]
        return bool(self._others(np.array([unit]), np.array([row]), column, np.array([host]))[0, 0] <= 0)

    def rows_broken(self, unit: int) -> list[int]:
        """Return the rows that a unit breaks where it is."""
        here = int(self.where[unit])
        if here == NOWHERE:
            return []
        host, units = np.array([here]), np.array([unit])
        broken = []
        for column, row in enumerate(self.problem.blocked_by[unit].tolist()):
            if row != self._none and self._others(units, np.array([row]), column, host)[0, 0] > 0:
                broken.append(row)
        return broken

    def neighbours_barred(self, unit: int) -> int:
        """Return how many are where a unit is and must not be there together with it."""
        here, units = np.array([self.where[unit]]), np.array([unit])
        rows = enumerate(self.problem.blocked_by[unit].tolist())
        found = (self._others(units, np.array([r]), c, here)[0, 0] for c, r in rows if r != self._none)
        return int(sum(max(0, count) for count in found))

    def excess(self) -> np.ndarray:
        """Return (m x R) by how much hosts are overfull."""
        return np.maximum(0, self.used - self.room * (1 + SLACK))


def _scattered(problem: Problem) -> dict[int, set[int]]:
    units = np.flatnonzero(problem.start == NOWHERE).tolist()
    return {
        unit: {problem.host_number(problem.vms[vm].host) for vm in problem.units[unit]}
        for unit in units
        if len(problem.units[unit]) > 1
    }


def _counts_itself(problem: Problem) -> Bools:
    """n x K: whether the row that keeps a unit away is one it counts in."""
    width = problem.blocked_by.shape[1]
    own = np.zeros((len(problem.units), width), dtype=np.bool_)
    for column in range(width):
        own[:, column] = (problem.adds == problem.blocked_by[:, column][:, None]).any(axis=1)
    return own
