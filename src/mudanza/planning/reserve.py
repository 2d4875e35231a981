"""The reserve of N+k: would the VMs of any k hosts, or zones, find room on the others if those failed?

Each failure is packed VM by VM (``packing``), and what was found is kept: a move touches few failures, and only those
are packed anew. Where there are too many failures to go through them all, room is counted in slots of the size of the
largest VM: that may miss room, and never claims any that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from mudanza.planning.board import Board
from mudanza.planning.needs import MEMORY, copied_disks
from mudanza.planning.packing import Packed, pack
from mudanza.planning.problem import NOWHERE, Numbers, Problem

MOST_FAILURES = 2_000
"""Of several hosts at a time, so many cases are gone through; of single hosts, all."""

PLENTY = 1e18
"""What stands for no limit where slots are counted."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What fails together, in words and as hosts."""

    name: str
    hosts: frozenset[int]


@dataclass(frozen=True, slots=True)
class Shortage:
    """One failure after which not everybody would find room."""

    failure: Failure
    packed: Packed
    memory: float
    """Bytes that those need who find none."""


class Reserve:
    """Follows a board by its ``touched``. ``hosts``: those that take the VMs of others; else all that are open."""

    def __init__(self, board: Board, hosts: Numbers | None = None, *, spent: int = 0) -> None:
        """``spent``: how many of the k have failed, or been given up, already."""
        problem = board.problem
        self.board = board
        self.hosts = np.flatnonzero(problem.open) if hosts is None else hosts
        self.failures: list[Failure] = []
        self.slots = 0
        """Of so many lost hosts there are too many cases."""
        self._list_failures(max(0, problem.rules.survive_hosts - spent), max(0, problem.rules.survive_zones - spent))
        self._of_host: dict[int, set[int]] = {}
        for number, failure in enumerate(self.failures):
            for host in failure.hosts:
                self._of_host.setdefault(host, set()).add(number)
        self._zonal = any(row.zonal for row in problem.rows)
        self._disks_of: dict[int, bool] = {}
        self._packed = [Packed()] * len(self.failures)
        self._users: dict[int, set[int]] = {}
        self._short: dict[int, float] = {}
        self._follow(range(len(self.failures)))
        board.touched.clear()
        self._allowed = dict(self._short)
        self._slots_lacked = self._lacks_slots()

    def _list_failures(self, hosts: int, zones: int) -> None:
        problem = self.board.problem
        able = {int(host) for host in self.hosts} | {h for h, units in enumerate(self.board.on) if units}
        seen = sorted(host for host in able if problem.hosts[host].seen)
        if hosts > 1 and comb(len(seen), hosts) > MOST_FAILURES:
            self.slots = hosts
        elif hosts:
            for chosen in combinations(seen, min(hosts, len(seen))) if seen else ():
                names = " and ".join(problem.names[host] for host in chosen)
                self.failures.append(Failure(names, frozenset(chosen)))
        found = sorted(set(problem.zone[seen].tolist()) - {NOWHERE}) if zones else []
        for together in combinations(found, min(zones, len(found))) if found else ():
            names = " and ".join(f"zone {sorted(problem.rules.zones)[zone]}" for zone in together)
            members = frozenset(host for host in seen if problem.zone[host] in together)
            self.failures.append(Failure(names, members))

    # Asking.

    def keeps(self, unit: int, host: int) -> bool:
        """Whether after that move no failure would find less room than it found at first. The board is as before."""
        self._sync()
        board = self.board
        here = int(board.where[unit])
        board.move(unit, host)
        hosts = {host} if here == NOWHERE else {here, host}
        kept = all(self._shortage(packed) <= self._limit(n) for n, packed in self._anew(self._concerned(hosts)))
        kept = kept and (not self.slots or not self._lacks_slots() or self._slots_lacked)
        if here == NOWHERE:
            board.take(unit)
        else:
            board.move(unit, here)
        board.touched.clear()
        return kept

    def holds(self) -> bool:
        """Whether as things are no failure finds less room than it found at first."""
        self._sync()
        fine = all(short <= self._limit(number) for number, short in self._short.items())
        return fine and (not self.slots or not self._lacks_slots() or self._slots_lacked)

    def shortages(self) -> list[Shortage]:
        """Return every failure after which somebody would find no room."""
        self._sync()
        failed = ((self.failures[n], self._packed[n]) for n in sorted(self._short))
        return [Shortage(failure, packed, self._shortage(packed)) for failure, packed in failed]

    def is_worse_than(self, before: Reserve) -> bool:
        """Whether after some failure there is less room than there was before."""
        allowed = {each.failure.hosts: each.memory for each in before.shortages()}
        worse = any(each.memory > allowed.get(each.failure.hosts, 0.0) + 1 for each in self.shortages())
        return worse or (self.unproven and not before.unproven)

    def never(self) -> list[tuple[Failure, tuple[int, ...]]]:
        """Return who could be started nowhere else after a failure, however much room there were."""
        self._sync()
        found = zip(self.failures, self._packed, strict=True)
        return [(failure, packed.never) for failure, packed in found if packed.never]

    @property
    def unproven(self) -> bool:
        """Whether there are too many cases, and slots do not show that there is room."""
        return bool(self.slots) and self._lacks_slots()

    # Following.

    def _sync(self) -> None:
        touched = self.board.touched
        if touched:
            self._follow(self._concerned(touched))
            touched.clear()

    def _follow(self, numbers: Iterable[int]) -> None:
        for number, packed in list(self._anew(numbers)):
            for host in set(self._packed[number].places.values()):
                self._users.get(host, set()).discard(number)
            self._packed[number] = packed
            for host in set(packed.places.values()):
                self._users.setdefault(host, set()).add(number)
            if packed.left:
                self._short[number] = self._shortage(packed)
            else:
                self._short.pop(number, None)

    def _concerned(self, hosts: Iterable[int]) -> set[int]:
        """The failures for which it matters who is on these hosts."""
        zone = self.board.problem.zone
        near = set(hosts)
        found = set().union(*(self._of_host.get(host, set()) for host in near))
        if self._zonal:
            near |= set(np.flatnonzero(np.isin(zone, zone[list(near)]) & (zone != NOWHERE)).tolist())
        return found.union(*(self._users.get(host, set()) for host in near)) | self._short.keys()

    def _anew(self, numbers: Iterable[int]) -> Iterator[tuple[int, Packed]]:
        board = self.board
        for number in sorted(numbers):
            failed = self.failures[number].hosts
            lost = [u for h in sorted(failed) for u in sorted(board.on[h]) if not self._loses_its_disks(u)]
            first = int(np.searchsorted(self.hosts, max(failed)))  # each failure begins elsewhere: they share room less
            others = np.roll(self.hosts, -first)
            others = others[~np.isin(others, list(failed))]
            yield number, pack(board, lost, others, self._packed[number].places) if lost else Packed()

    def _loses_its_disks(self, unit: int) -> bool:
        """Whether it cannot be started elsewhere because an image lies on its host: no room would help it."""
        if unit not in self._disks_of:
            problem = self.board.problem
            vms = (problem.vms[vm] for vm in problem.units[unit])
            self._disks_of[unit] = any(copied_disks(v, problem.hosts[problem.host_number(v.host)]) for v in vms)
        return self._disks_of[unit]

    def _shortage(self, packed: Packed) -> float:
        return float(self.board.problem.need[list(packed.left), MEMORY].sum()) if packed.left else 0.0

    def _limit(self, number: int) -> float:
        return self._allowed.get(number, 0.0) + 1

    def _lacks_slots(self) -> bool:
        """Whether slots do not show room for the VMs of any so many hosts.

        A host takes as many VMs more as the largest one fits there; of whoever fails both its VMs and its own slots
        are to be found elsewhere. Where rules or classes say who may be where, nothing is shown.
        """
        if not self.slots:
            return False
        board, problem = self.board, self.board.problem
        placed = np.flatnonzero(board.where != NOWHERE)
        bound = (problem.blocked_by[placed] != len(problem.rows)).any() if problem.rows else False
        if bound or not problem.admit[np.unique(problem.kind[placed])][:, self.hosts].all():
            return True
        largest = np.maximum(problem.need[placed].max(axis=0, initial=0), 1)
        free = np.maximum(board.room[self.hosts] - board.used[self.hosts], 0)
        slots = (np.where(np.isfinite(free), free, PLENTY) // largest).min(axis=1)
        vms = np.array([len(board.on[host]) for host in self.hosts])
        return bool(np.sort(slots + vms)[::-1][: self.slots].sum() > slots.sum())


def reserve_of(board: Board, hosts: Numbers | None = None, *, spent: int = 0) -> Reserve | None:
    """Return the reserve that the rules want; None if they want none."""
    rules = board.problem.rules
    wanted = max(rules.survive_hosts, rules.survive_zones) - spent > 0
    return Reserve(board, hosts, spent=spent) if wanted else None


def reserve_in_words(reserve: Reserve) -> Iterator[str]:
    """Yield who would find no room after which failure, by name."""
    problem = reserve.board.problem
    for shortage in reserve.shortages()[:6]:
        none = "there is no room" if shortage.packed.sure else "no room was found"
        yield f"if {shortage.failure.name} failed, {none} for {_named(problem, shortage.packed.left)}"
    if (more := len(reserve.shortages()) - 6) > 0:
        yield f"and so it is with {more} more"
    for failure, units in reserve.never()[:6]:
        yield f"if {failure.name} failed, no other host could take {_named(problem, units)}, however much were free"
    if reserve.unproven:
        yield (
            f"of {reserve.slots} hosts at a time there are too many cases to go through, and it cannot be shown in "
            "general that their VMs would find room"
        )


def _named(problem: Problem, units: tuple[int, ...]) -> str:
    names = [problem.name_of(unit) for unit in units]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
