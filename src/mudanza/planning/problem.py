"""The cluster in figures: what each VM needs and uses, what each host has, who may be where. Arrays, one row each.

A *unit* is what moves as one: a VM, or VMs that a rule wants together. Units are rows ``n``, hosts columns ``m``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.rules import Rules
from mudanza.model.vm import Vm

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Counts = NDArray[np.int16]
Bools = NDArray[np.bool_]

NOWHERE = -1
"""The place of a unit whose VMs are apart, or whose host is gone."""
LOADS = ("CPU", "memory", "disk", "network")


@dataclass(frozen=True, slots=True)
class Row:
    """A group of units of which a host (or zone) takes at most one; with ``other`` it stands for, of two groups."""

    name: str
    zonal: bool = False


@dataclass(slots=True)
class Problem:
    """Everything a search looks at. Only ``planning`` writes it, while it is made."""

    cluster: Cluster
    rules: Rules
    hosts: Sequence[Host]
    vms: Sequence[Vm]
    units: Sequence[tuple[int, ...]]
    """The VMs of each unit, by number."""
    start: Numbers
    """n: where each unit is; NOWHERE if it is in no one place."""
    dimensions: Sequence[str]
    """What ``need`` and ``room`` count, R of them, in words."""
    need: Floats
    """n x R"""
    room: Floats
    """m x R"""
    use: Floats
    """n x 4: what each unit uses of CPUs, memory, disk and network (see LOADS)."""
    base: Floats
    """m x 4: what others than our VMs use."""
    capacity: Floats
    """m x 4"""
    kind: Numbers
    """n: which row of ``admit`` is a unit's."""
    admit: Bools
    """kinds x m: may it go there, by what both are and by rules of VMs and hosts?"""
    ruled: Bools
    """kinds x m: may it be there, by rules of VMs and hosts alone?"""
    wish: Floats
    """wishes x m: how many wishes are not granted there."""
    wish_of: Numbers
    rows: Sequence[Row]
    adds: Numbers
    """n x K: the rows a unit counts in; len(rows) stands for none."""
    blocked_by: Numbers
    """n x K: the rows whose members must not be where it goes."""
    fixed: Counts
    """(rows + 1) x m: who counts there and is no unit."""
    zone: Numbers
    """m: the zone of each host, NOWHERE for none."""
    travel: Floats
    """n: bytes that cross the network when it moves."""
    movable: Bools
    """n: whether plans of the operator's wish (balance, consolidate) may move it."""
    stuck: Mapping[int, str]
    """Unit → why nothing moves it now."""
    ignored: Mapping[int, str]
    """Unit → why such plans leave it alone, though something could move it."""
    open: Bools
    """m: whether the host takes newcomers."""
    measured: bool
    """Whether ``use`` was measured, rather than promised."""
    notes: list[str] = field(default_factory=list)
    names: list[str] = field(init=False)
    """The hosts' names, in order."""
    _numbers: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [host.name for host in self.hosts]
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def host_number(self, name: str) -> int:
        """Return a host's number. Raises UsageError for one that is not known."""
        found = self._numbers.get(name)
        return self.hosts.index(self.cluster.host(name)) if found is None else found

    def unit_of(self, uuid: str) -> int:
        """Return the number of the unit a VM belongs to; raises KeyError."""
        for number, members in enumerate(self.units):
            if any(self.vms[vm].uuid == uuid for vm in members):
                return number
        raise KeyError(uuid)

    def name_of(self, unit: int) -> str:
        """Return what a unit is called in words."""
        return " and ".join(self.vms[vm].name for vm in self.units[unit])
