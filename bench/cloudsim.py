"""CloudSim's own ways of placing VMs, to see whether our counting is theirs: an arrangement that stays, and its
placement by least power with a fixed threshold and the VM that is fastest to move (THR-MMT).

Which host a VM gets at the start is not published. Memory does not count: with it more hosts are needed than the
published energy has room for. The best fit comes nearest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.planetlab import Bools, Day, Floats, Numbers
from mudanza.model.errors import UsageError

NOWHERE = -1


def best_fit(day: Day, *, memory: bool = False) -> Numbers:
    """Return who is where at the start without migration: each on the host that has least left of what was promised."""
    return _placed(day, lambda vm, mips: mips - day.vm_mips[vm], memory=memory)


def least_power(day: Day, *, memory: bool = False) -> Numbers:
    """Return who is where at the start with migration: each where the draw rises least by all that it was promised."""
    curves = _Curves(day)
    idle = curves.at(np.zeros(day.hosts))
    return _placed(day, lambda vm, mips: curves.at(1 - (mips - day.vm_mips[vm]) / day.host_mips) - idle, memory=memory)


def _placed(day: Day, worse: Callable[[int, Floats], Floats], *, memory: bool) -> Numbers:
    mips, room = day.host_mips.copy(), day.host_memory.copy()
    place = np.full(len(day.wants), NOWHERE)
    for vm in range(len(place)):
        fits = (day.host_cpu >= day.vm_mips[vm]) & (mips >= day.vm_mips[vm])
        fits &= (room >= day.vm_memory[vm]) | (not memory)
        found = np.flatnonzero(fits)
        if not len(found):
            raise UsageError(f"VM {vm} of the trace fits onto no host at the start", remedy="take more hosts")
        host = int(found[np.argmin(worse(vm, mips)[found])])
        place[vm] = host
        mips[host] -= day.vm_mips[vm]
        room[host] -= day.vm_memory[vm]
    return place


class _Curves:
    def __init__(self, day: Day) -> None:
        self._watts = np.array([model.watts for model in day.models])

    def at(self, share: Floats) -> Floats:
        steps = self._watts.shape[1] - 1
        share = np.clip(share, 0, 1)
        step = np.minimum((share * steps).astype(np.int64), steps - 1)
        rows = np.arange(len(share))
        low, high = self._watts[rows, step], self._watts[rows, step + 1]
        found: Floats = low + (high - low) * (share * steps - step)
        return found


class ThresholdMmt:
    """THR-MMT: a host above the threshold sends away VMs with the least memory until it is below; then the least used
    hosts are emptied, one after the other, as long as all of their VMs find a place. By the last reading alone. A host
    that sleeps is woken where nobody else has room: so energy, overload and degradation come out as published."""

    def __init__(self, day: Day, threshold: float = 0.8) -> None:
        self._day = day
        self._threshold = threshold
        self._curves = _Curves(day)
        self._arrived = np.arange(len(day.wants))
        """Who came to a host earlier has a lower number: VMs of one size leave it in that order."""

    def __call__(self, reading: int, place: Numbers) -> Numbers:
        """Return where everybody is to be."""
        day = self._day
        self._wants = day.wants[:, reading]
        self._place = place.copy()
        self._asked = np.bincount(place, weights=self._wants, minlength=day.hosts)
        self._was = np.minimum(self._asked / day.host_mips, 1.0)
        self._drew = self._curves.at(self._was)
        over = self._asked / day.host_mips > self._threshold
        leaving = self._by_use([vm for host in np.flatnonzero(over).tolist() for vm in self._sent_off(host)])
        self._emptied: list[int] = []
        for vm in leaving:
            home = int(place[vm])
            target = self._target(vm, ~over)
            self._put(vm, home if target is None else target)
        self._underused(over)
        order = [*leaving, *(vm for vm in self._emptied if vm not in leaving)]
        moved = [vm for vm in order if self._place[vm] != place[vm]]
        self._arrived[moved] = self._arrived.max() + 1 + np.arange(len(moved))
        return self._place

    def _sent_off(self, host: int) -> list[int]:
        there = np.flatnonzero(self._place == host)
        gone = []
        for vm in there[np.lexsort((self._arrived[there], self._day.vm_memory[there]))].tolist():
            self._take(vm)
            gone.append(vm)
            if self._asked[host] / self._day.host_mips[host] <= self._threshold:
                break
        return gone

    def _underused(self, over: Bools) -> None:
        asleep = self._was == 0
        no_candidate, no_target = over | asleep, over | asleep
        while True:
            left = np.flatnonzero(~no_candidate & (self._was < 1))
            if not len(left):
                return
            host = int(left[np.argmin(self._was[left])])
            no_candidate[host] = no_target[host] = True
            there = np.flatnonzero(self._place == host).tolist()
            before = dict.fromkeys(there, host)
            targets: list[int] = []
            for vm in self._by_use(there):
                target = self._target(vm, ~no_target)
                if target is None:
                    for moved, home in before.items():
                        self._take(moved)
                        self._put(moved, home)
                    targets = []
                    break
                self._take(vm)
                self._put(vm, target)
                targets.append(target)
                self._emptied.append(vm)
            no_candidate[targets] = True

    def _by_use(self, vms: list[int]) -> list[int]:
        return sorted(vms, key=lambda vm: -self._wants[vm])

    def _target(self, vm: int, allowed: Bools) -> int | None:
        awake = self._least_rise(vm, allowed & (self._was > 0))
        return self._least_rise(vm, allowed) if awake is None else awake

    def _least_rise(self, vm: int, allowed: Bools) -> int | None:
        day, wants = self._day, self._wants[vm]
        after = self._asked + wants
        fits = allowed & (day.host_cpu >= wants) & (day.host_mips >= after)
        fits &= (self._was == 0) | (after / day.host_mips <= self._threshold)
        found = np.flatnonzero(fits)
        if not len(found):
            return None
        # What a host draws is known from before this round: whoever was given VMs in it looks dearer than it is.
        rises = self._curves.at(after / day.host_mips)[found] - self._drew[found]
        return int(found[np.argmin(rises)])

    def _take(self, vm: int) -> None:
        self._asked[self._place[vm]] -= self._wants[vm]
        self._place[vm] = NOWHERE

    def _put(self, vm: int, host: int) -> None:
        self._place[vm] = host
        self._asked[host] += self._wants[vm]
