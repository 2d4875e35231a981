"""What rolls through the yard: transfers with where they are now, and the legs that they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mudanza.planning.order import Act, Transfer

PARKS = 2
"""How often one VM may be parked."""
MEMORY = ""
"""What stands for a host's memory where a pool's name would stand."""

HELD = "\n"
"""What comes before the name of anything else that is held like memory: no pool's name has it."""

Place = tuple[str, str]
"""A host and one of its pools, MEMORY, or HELD and a name."""


@dataclass(slots=True)
class Item:
    """A transfer on its way."""

    of: Transfer
    at: str
    to: str
    parks: int = 0
    resting: bool = False
    under_way: bool = False
    last: int | None = None
    """Its leg before."""

    @property
    def parked(self) -> bool:
        """Whether it is neither where it came from nor where it goes to."""
        return self.at != self.of.source

    def needs(self, target: str) -> Iterator[tuple[Place, int]]:
        """Yield what it would take of a host that it goes to."""
        if self.of.memory:
            yield (target, MEMORY), self.of.memory
        for name, size in self.of.holds.items():
            yield (target, HELD + name), size
        for pool, size in self.of.fills.items():
            yield (target, pool), size

    def gives(self) -> Iterator[tuple[Place, int]]:
        """Yield what it gives back where it is, once it has gone."""
        if self.of.memory and not self.resting:
            yield (self.at, MEMORY), self.of.memory
        for name, size in self.of.holds.items() if not self.resting else ():
            yield (self.at, HELD + name), size
        for pool, size in (self.of.fills if self.parked else self.of.frees).items():
            yield (self.at, pool), size


@dataclass(frozen=True, slots=True)
class Temper:
    """What goes first. Which one is quickest depends on the case: where hosts are nearly full, who makes room for most
    others; else what keeps the busiest link busy."""

    links: bool
    """Links first, except for what leaves hosts that are waited for; else always by who waits."""
    size: float = 0.0
    """How much longer moves come before shorter ones."""
    eager: float = 0.0
    """Up to which share of the hosts may be busy for VMs to be parked on idle links: near the end a few long chains of
    VMs that wait for each other would else keep everybody waiting."""


TEMPERS = (
    Temper(True),
    *(Temper(False, size, eager) for size, eager in ((8.0, 0.2), (2.0, 0.3), (4.0, 0.2), (12.0, 0.3))),
    *(Temper(False, size) for size in (2.0, 8.0, 4.0)),
    *(Temper(False, size, eager) for size, eager in ((8.0, 0.3), (6.0, 0.25))),
)
"""The first one is the best where there is room enough; the others are tried where it is not good enough."""


@dataclass(slots=True)
class Rolling:
    """A leg on its way, or one that has ended."""

    item: int
    act: Act
    source: str
    target: str
    start: float
    finish: float
    after: set[int] = field(default_factory=set)
    behind: set[int] = field(default_factory=set)
