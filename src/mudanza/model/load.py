"""How busy VMs and hosts have been over a window of time, as percentiles: never one single reading."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

LEAST_SAMPLES = 3
"""Fewer readings than these say nothing of how busy something is."""
LEAST_SPAN = 60.0
"""Seconds that readings have to cover to mean anything."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over the window: half of the time below the median, 95 % of it below ``p95``, never above the peak."""

    median: float = 0.0
    p95: float = 0.0
    peak: float = 0.0


def spread_of(values: Iterable[tuple[float, int]]) -> Spread:
    """Return the spread of values, each with how often it was read. Each figure is one of the values."""
    ordered = sorted(values)
    count = sum(often for _, often in ordered)
    if not count:
        return Spread()
    return Spread(_least(ordered, 0.5 * count), _least(ordered, 0.95 * count), ordered[-1][0])


def _least(ordered: Sequence[tuple[float, int]], rank: float) -> float:
    """Return the least value that so many readings do not exceed."""
    passed = 0
    for value, often in ordered:
        passed += often
        if passed >= math.ceil(rank):
            return value
    return ordered[-1][0]


@dataclass(frozen=True, slots=True)
class VmLoad:
    """What one VM has used. ``cpus`` in CPU-seconds per second, memory in bytes, rates in bytes per second."""

    uuid: str
    cpus: Spread
    memory: Spread
    """What it occupies of its host's memory (balloon and RSS), not what it was promised."""
    disk: Spread
    network: Spread
    samples: int
    """Readings that each of these figures was made of; a rate takes two looks at its counter."""
    span: float
    """Seconds from the first of them to the last."""
    steal: Spread = Spread()
    """Seconds per second that it would have run and had no CPU."""

    @property
    def means_something(self) -> bool:
        """Whether one may plan by it: enough readings over enough time, and none that cannot be (no QEMU lives in no
        memory)."""
        return _enough(self.samples, self.span) and self.memory.median > 0


@dataclass(frozen=True, slots=True)
class HostLoad:
    """What one host has used in all, whoever used it: our VMs and everybody else. Units as of a VM."""

    host: str
    cpus: Spread
    memory: Spread
    disk: Spread
    network: Spread
    samples: int
    span: float

    @property
    def means_something(self) -> bool:
        """Whether one may plan by it."""
        return _enough(self.samples, self.span) and self.memory.median > 0


def _enough(samples: int, span: float) -> bool:
    return samples >= LEAST_SAMPLES and span >= LEAST_SPAN


@dataclass(frozen=True, slots=True)
class Loads:
    """What is known of everybody: VMs by UUID, hosts by name. Whoever is missing has not been measured."""

    vms: Mapping[str, VmLoad] = field(default_factory=lambda: MappingProxyType({}))
    hosts: Mapping[str, HostLoad] = field(default_factory=lambda: MappingProxyType({}))
    source: str = "libvirt"
    """Where the figures come from: ``libvirt`` (our own readings), or a server's name."""
    told: tuple[str, ...] = ()
    """What whoever goes by these figures should know: what was missing, and of whom."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of everybody, for people."""

    window: float
    """Seconds until now that it is of."""
    loads: Loads
    names: Mapping[str, tuple[str, str]]
    """A VM's UUID → its name, and the host it was on."""
