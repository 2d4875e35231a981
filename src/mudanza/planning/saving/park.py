"""Hosts that are on, what their VMs used of late, and who would fit beside whom.

Not percentiles of single VMs are added up: what VMs used at the same time is, and of that the usual is taken. VMs whose
busy times differ share a host so, and those that are busy together do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mudanza.model.watts import PowerModel
from mudanza.planning.problem import Bools, Floats, Numbers
from mudanza.planning.saving.terms import Terms

TYPICAL = 0.7
"""The share of its CPUs that a host which is used well has in use, where memory allows it."""


class Park:
    """An arrangement that can be changed. Hosts and VMs are numbers; CPUs in any one unit, memory in any one."""

    def __init__(
        self,
        capacity: Floats,
        models: Sequence[PowerModel],
        on: Bools,
        place: Numbers,
        recent: Floats,
        memory: tuple[Floats, Floats] | None = None,
        fixed: Bools | None = None,
        asleep: Bools | None = None,
    ) -> None:
        """``recent``: what each VM used in each of the last readings, the newest last (VMs x readings); ``memory``:
        what hosts have and what VMs need; None: nobody looks. ``fixed``: hosts that are never emptied; ``asleep``:
        hosts that are off and may be woken."""
        self.capacity = capacity
        self.models = models
        self.on = on.copy()
        self.place = place.copy()
        self.recent = recent
        hosts = len(capacity)
        self.fixed = np.zeros(hosts, dtype=np.bool_) if fixed is None else fixed
        self.asleep = ~on if asleep is None else asleep.copy()
        self.sums = np.zeros((hosts, recent.shape[1]))
        np.add.at(self.sums, place, recent)
        self.room: Floats = np.full(hosts, np.inf) if memory is None else memory[0]
        self.needs: Floats = np.zeros(len(place)) if memory is None else memory[1]
        self.held = np.bincount(place, weights=self.needs, minlength=hosts)
        self.per_work = self._per_work()
        """What hosts draw for each part of all that is wanted: comparable among hosts."""

    @property
    def readings(self) -> int:
        """How many readings are known."""
        return int(self.recent.shape[1])

    def _per_work(self) -> Floats:
        wanted = max(float(self.recent.mean(axis=1).sum()), 1e-9)
        bears = TYPICAL * self.capacity / wanted
        if (total := float(self.needs.sum())) > 0:
            bears = np.minimum(bears, self.room / total)
        shares = bears * wanted / self.capacity
        draws = np.array([model.at(share) for model, share in zip(self.models, shares.tolist(), strict=True)])
        found: Floats = draws / np.maximum(bears, 1e-9)
        return found

    def on_host(self, host: int) -> Numbers:
        """Return the VMs there."""
        return np.flatnonzero(self.place == host)

    def move(self, vm: int, host: int) -> None:
        """Have a VM elsewhere."""
        before = self.place[vm]
        self.sums[before] -= self.recent[vm]
        self.sums[host] += self.recent[vm]
        self.held[before] -= self.needs[vm]
        self.held[host] += self.needs[vm]
        self.place[vm] = host

    def go_back(self, place: Numbers) -> None:
        """Have everybody where they were."""
        for vm in np.flatnonzero(self.place != place).tolist():
            self.move(vm, int(place[vm]))

    def usual(self, sums: Floats, terms: Terms) -> Floats:
        """Return what hosts that used so much in each reading usually use, and at least what they do now."""
        rank = min(int(np.ceil(terms.usual * self.readings)), self.readings) - 1
        return np.maximum(np.partition(sums, rank, axis=1)[:, rank], sums[:, -1])

    def fitting(self, vm: int, hosts: Numbers, terms: Terms) -> tuple[Numbers, Floats]:
        """Return those of the hosts that a VM fits onto, and how full they would be: of CPU as usual, or of memory."""
        hosts = hosts[self.held[hosts] + self.needs[vm] <= self.room[hosts]]
        if not len(hosts):
            return hosts, np.zeros(0)
        share = self.usual(self.sums[hosts] + self.recent[vm], terms) / self.capacity[hosts]
        fits = share <= terms.full_at(self.readings)
        held = (self.held[hosts] + self.needs[vm]) / np.maximum(self.room[hosts], 1e-9)
        return hosts[fits], np.maximum(share, held)[fits]
