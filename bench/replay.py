"""A day of CPU use replayed over hosts that are on or off, counted as CloudSim 3 counts it.

Figures are comparable with published ones only where the same is counted. So, as there: a host with nothing to do
draws nothing; what a host draws goes in a straight line from one reading to the next; a VM on its way counts in full
where it leaves and for a tenth where it comes; all moves of a round run at once, each as long as its memory takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.planetlab import EVERY, PER_SECOND, Day, Floats, Numbers

Policy = Callable[[int, Numbers], Numbers]
"""(reading, where everybody is) → where everybody is to be; places of hosts."""
ON_THE_WAY = 0.1
"""What a move takes from its VM, and what of it the target bears meanwhile."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a day came to."""

    kwh: float
    moves: int
    full: float
    """The share of active hosts found with more wanted than they have, reading by reading, before anybody relieved them
    (as CloudSim's SLATAH, the time at 100 % CPU)."""
    degraded: float
    """The share of all work wanted that VMs did not get because they were on their way."""
    host_hours: float
    """Hours that hosts were on, all together."""
    most_on: int
    short_of_memory: int
    """Times (reading by host) that VMs together had more memory than their host."""


def replay(day: Day, start: Numbers, policy: Policy) -> Counted:
    """Replay a day from an arrangement on; the policy is asked at each reading but the last one."""
    place = start.copy()
    ledger = _Ledger(day)
    for reading in range(1, day.readings):
        ledger.interval(reading - 1, place)
        if reading < day.readings - 1:
            wanted = policy(reading, place)
            ledger.move(reading, place, wanted)
            place = wanted.copy()
    return ledger.counted()


class _Ledger:
    """Adds up. An interval goes from one reading to the next; moves lie at its beginning."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._curves = np.array([model.watts for model in day.models])
        self._joules = self._full = self._readings = self._lost = self._host_seconds = 0.0
        self._moves = self._most_on = self._tight = 0
        self._coming: tuple[Numbers, Numbers] | None = None
        """VMs on their way, and where they come from; ``interval`` begins with them."""

    def move(self, reading: int, place: Numbers, wanted: Numbers) -> None:
        moved = np.flatnonzero(place != wanted)
        self._moves += len(moved)
        takes = self._day.vm_memory[moved] / PER_SECOND
        self._lost += float((self._day.wants[moved, reading] * takes).sum()) * ON_THE_WAY
        self._coming = (moved, place[moved])

    def interval(self, reading: int, place: Numbers) -> None:
        """Count what lies between a reading and the next, with everybody in their places after the moves."""
        day = self._day
        moved, sources = self._coming if self._coming is not None else (np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._coming = None
        lasts = day.vm_memory[moved] / PER_SECOND
        edges = [0.0, *np.unique(lasts).tolist(), EVERY]
        for number, (begin, end) in enumerate(pairwise(edges)):
            away = lasts >= end - 1e-9 if number < len(edges) - 2 else np.zeros(len(moved), bool)
            now = place.copy()
            now[moved[away]] = sources[away]
            self._stretch(reading, begin, end, now, (moved[away], place[moved[away]]))
        # What the next reading finds, before anybody does something about it.
        loads = np.bincount(place, weights=day.wants[:, reading + 1], minlength=day.hosts)
        self._full += float(((loads > day.host_mips) & (loads > 0)).sum())
        self._readings += float((loads > 0).sum())
        self._most_on = max(self._most_on, len(np.unique(place)))
        held = np.bincount(place, weights=day.vm_memory, minlength=day.hosts)
        self._tight += int((held > day.host_memory).sum())

    def _stretch(self, reading: int, begin: float, end: float, place: Numbers, coming: tuple[Numbers, Numbers]) -> None:
        day, seconds = self._day, end - begin
        first, last = (day.wants[:, reading + each] for each in (0, 1))
        at_begin, at_end = (first + (last - first) * at / EVERY for at in (begin, end))
        used, later = (self._used(place, wants, coming) for wants in (at_begin, at_end))
        draws = (self._watts(used) + self._watts(later)) / 2
        self._joules += float(draws[used > 0].sum()) * seconds
        self._host_seconds += len(np.unique(place)) * seconds

    def _used(self, place: Numbers, wants: Floats, coming: tuple[Numbers, Numbers]) -> Floats:
        """Return the shares of their CPUs that hosts have in use."""
        here = np.bincount(place, weights=wants, minlength=self._day.hosts)
        to_come = np.bincount(coming[1], weights=wants[coming[0]], minlength=self._day.hosts)
        share: Floats = np.minimum((here + ON_THE_WAY * to_come) / self._day.host_mips, 1.0)
        return share

    def _watts(self, used: Floats) -> Floats:
        steps = self._curves.shape[1] - 1
        step = np.minimum((used * steps).astype(np.int64), steps - 1)
        hosts = np.arange(len(used))
        low, high = self._curves[hosts, step], self._curves[hosts, step + 1]
        found: Floats = low + (high - low) * (used * steps - step)
        return found

    def counted(self) -> Counted:
        wanted = float((self._day.wants[:, :-1] + self._day.wants[:, 1:]).sum()) / 2 * EVERY
        return Counted(
            kwh=self._joules / 3.6e6,
            moves=self._moves,
            full=self._full / max(self._readings, 1.0),
            degraded=self._lost / max(wanted, 1.0),
            host_hours=self._host_seconds / 3600.0,
            most_on=self._most_on,
            short_of_memory=self._tight,
        )
