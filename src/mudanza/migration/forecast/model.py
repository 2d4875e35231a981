"""What is known before a move, and what is foreseen of it. Bytes, seconds, bytes per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from mudanza.migration.convergence import Budget
from mudanza.migration.forecast.dirtying import Dirtying
from mudanza.model.units import MIB, format_duration, format_rate, format_size

UNKNOWN_LINK = 112.0 * MIB
"""What a link is taken to carry that nobody has told of and no move has gone over: 1 Gbit/s, less its overhead."""
USUAL_SET_UP = 2.0
"""Seconds that a live move takes beside its data, where none of the pair has told: journal, volumes, libvirt's own
preparations, settling, cleaning up. Seen in the lab: 1.8 s."""
USUAL_SET_UP_COLD = 4.0
"""The same of a cold one; in the lab, with its guest shut down for it: 3.9 s."""
USUAL_SWITCHOVER = 0.1
"""Seconds the vCPUs stand still beside the last pages, where no move of the pair has told; in the lab 0.1 to 0.15."""
COMPARING = 200.0 * MIB
"""Bytes per second at which hosts read files to compare them, both at once."""


class Strategy(StrEnum):
    """By which means a VM gets across."""

    PRECOPY = "pre-copy"
    THROTTLED = "pre-copy, slowing the guest down"
    POSTCOPY_AFTER = "post-copy after one pass"
    POSTCOPY_NOW = "post-copy at once"
    COLD = "cold"


class Chance(StrEnum):
    """Whether a strategy comes to its end within the budget; see docs/forecast.md."""

    SURE = "sure"
    """Also if the guest dirties twice as much as was measured."""
    LIKELY = "likely"
    """As it was measured, but not at twice as much."""
    UNLIKELY = "unlikely"
    """Only if the guest dirties half as much as was measured."""
    NO = "no"
    """Not even then."""
    UNKNOWN = "unknown"
    """It would if the guest were calm; how much it dirties is not known."""


@dataclass(frozen=True, slots=True)
class Link:
    """What gets across, and how that is known."""

    rate: float
    why: str


@dataclass(frozen=True, slots=True)
class Streams:
    """By how many connections memory goes, and why."""

    connections: int = 1
    why: str = ""
    """Empty where nothing is known, or nothing is to be chosen."""
    rate: float | None = None
    """What they carry together; None: as much as one, for all that is known."""


ONE = Streams()


@dataclass(frozen=True, slots=True)
class Compressing:
    """Whether of pages that have changed again only what differs is sent, and why."""

    cache: int = 0
    """Bytes that the cache of pages gets at the source; 0: nothing is compressed."""
    why: str = ""
    """Empty where there was nothing to be chosen."""
    share: float | None = None
    """What part of their size such pages take; None: it was never tried, and is taken to gain nothing."""


PLAIN = Compressing()


@dataclass(frozen=True, slots=True)
class Habits:
    """What moves of a pair of hosts take beside their data, and how that is known."""

    set_up: float = USUAL_SET_UP
    set_up_cold: float = USUAL_SET_UP_COLD
    switchover: float = USUAL_SWITCHOVER
    moves: int = 0
    """Of how many live moves it was learnt; 0: as is usual..."""
    moves_cold: int = 0
    """...and of how many cold ones."""


@dataclass(frozen=True, slots=True)
class Known:
    """All that a forecast rests on."""

    link: Link
    budget: Budget
    running: bool = True
    cold: bool = False
    """It is to move switched off."""
    memory: float = 0.0
    """What it has now."""
    in_use: float = 0.0
    """What of it is not empty, as far as that is known."""
    memory_share: float = 1.0
    """How many times what the host tells that is: what earlier moves of the VM have taught."""
    dirtying: Dirtying | None = None
    """None: not known."""
    dirtying_from: str = "it was not measured"
    """How that is known, or why not."""
    computing: float | None = None
    """CPUs' worth that the guest computed meanwhile; None: not known."""
    streams: Streams = ONE
    """By how many connections its memory is to go; ``link`` is what they carry together..."""
    disk_link: float | None = None
    """...and this what the mirrors of its disks get, which go by one each; None: as much."""
    compressing: Compressing = PLAIN
    writes: float = 0.0
    """Bytes per second that the guest writes to disks that are copied."""
    disks: float = 0.0
    """What disks that are copied hold."""
    ahead: float = 0.0
    """What is brought ahead of a live move, or beside the disks of a cold one."""
    compared: bool = True
    """A cold move is compared before the source is let go."""
    habits: Habits = Habits()

    @property
    def floor(self) -> float:
        """Seconds below which no move can be: everything there is, once, over the link."""
        memory = self.in_use * (self.running and not self.cold) / self.link.rate
        return memory + (self.disks + self.ahead) / self.link_of_disks

    @property
    def link_of_disks(self) -> float:
        """What the copies of disks get across in a second, in bytes."""
        return self.link.rate if self.disk_link is None else self.disk_link


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one strategy would come to."""

    strategy: Strategy
    total: float
    """From the order to the end; of one that does not end until it is given up."""
    downtime: float | None
    """None: it does not end."""
    bytes: float
    chance: Chance
    outcome: str
    """In words: in how many passes, or why it is given up."""
    switchover: float = 0.0
    """What of the downtime goes to other things than the last pages."""

    @property
    def arrives(self) -> bool:
        """Whether the VM is at the target in the end."""
        return self.downtime is not None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a move will be like."""

    known: Known
    strategies: tuple[Prediction, ...]
    """Every way there is, whatever is allowed."""
    chosen: Prediction
    """What will be done with what is allowed."""
    why: str

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        chosen, link = self.chosen, f"a link of {format_rate(self.known.link.rate)} ({self.known.link.why})"
        if chosen.downtime is None:
            return f"it would be given up after about {format_duration(chosen.total)} over {link}: {self.why}"
        dark = f"dark for about {format_duration(chosen.downtime)}"
        amount = f"{format_size(chosen.bytes)} over {link}"
        by = self.known.streams
        several = f" by {by.connections} connections" if by.connections > 1 else ""
        packed = self.known.compressing if self.known.compressing.cache else PLAIN
        why = "; ".join(filter(None, (self.why, by.why if several else "", packed.why)))
        how = f"{chosen.strategy}{several}{', with xbzrle' if packed.cache else ''}"
        return f"about {format_duration(chosen.total)}, {dark}, {amount}: {how}, because {why}"

    def to_json(self) -> dict[str, Any]:
        """Return what the journal keeps of it."""
        chosen, known = self.chosen, self.known
        return {
            **asdict(chosen),
            "why": self.why,
            "link": asdict(known.link),
            "in_use": known.in_use,
            "memory_share": known.memory_share,
            "dirty_rate": known.dirtying.rate if known.dirtying else None,
            "working_set": known.dirtying.working_set if known.dirtying else None,
            "dirtying_from": known.dirtying_from,
            "computing": known.computing,
            "disks": known.disks + known.ahead,
            "streams": known.streams.connections,
            "streams_why": known.streams.why,
            "compression": asdict(known.compressing),
            "set_up": known.habits.set_up_cold if chosen.strategy is Strategy.COLD else known.habits.set_up,
        }


def outcome_beside(forecast: Mapping[str, Any]) -> str:
    """Return in words what the journal has of a forecast, to stand beside what came of it."""
    if forecast.get("downtime") is None:
        return f"to be given up after {format_duration(forecast['total'])}"
    return (
        f"{format_duration(forecast['total'])}, downtime {format_duration(forecast['downtime'])}, "
        f"{format_size(forecast['bytes'])}, {forecast['strategy']}"
    )
