"""What switches a host's power, what it answers, and the proof that a host is off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from mudanza.model.machine import Verdict

_NOTHING: Mapping[str, str] = MappingProxyType({})


class Order(StrEnum):
    """What a device is told, by the names that fence agents have for it."""

    OFF = "off"
    ON = "on"
    STATUS = "status"


class Power(StrEnum):
    """What a device says of its host's power."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class By(StrEnum):
    """Who says that a host is off."""

    DEVICES = "devices"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class Device:
    """Something that switches a host's power, or one of its power supplies."""

    name: str
    """The name that the operator gave it; once on its host."""
    agent: str
    """The program that speaks to it: ``fence_ipmilan``…"""
    level: int = 1
    """Levels are tried in their order, the lowest first; within one, every device must prove off."""
    options: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """By the agent's own names. Nothing secret."""
    secrets: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """Option → name of the file, in the controller's directory of secrets, that has its value."""

    @property
    def shown(self) -> str:
        """What it is called in sentences."""
        return f"{self.name} ({self.agent})"


@dataclass(frozen=True, slots=True)
class Reply:
    """How a device's agent ended."""

    device: str
    order: Order
    code: int | None
    """Its exit code; None: it took too long, or could not be run."""
    said: str = ""
    """The last line of what it said."""

    @property
    def done(self) -> bool:
        """Whether it says that what was ordered is done. Of a status: that there is one."""
        return self.power is not Power.UNKNOWN if self.order is Order.STATUS else self.code == 0

    @property
    def power(self) -> Power:
        """What a status says: agents exit with 0 for on, 2 for off; anything else is no answer, nor is that of an off,
        which proves nothing."""
        if self.order is not Order.STATUS:
            return Power.UNKNOWN
        return {0: Power.ON, 2: Power.OFF}.get(-1 if self.code is None else self.code, Power.UNKNOWN)


@dataclass(frozen=True, slots=True)
class DeviceTest:
    """What a host's device said when it was asked last, nothing being switched."""

    host: str
    device: str
    at: float
    """When, by the database's clock: seconds since the epoch."""
    ago: float
    """How many seconds ago that was when it was read."""
    fault: str
    """Why nothing could be proven by it, in words; empty: it answers as it should."""


@dataclass(frozen=True, slots=True)
class Match:
    """Whether what a device switches is the host that it is said to be."""

    host: str
    device: str
    at: float
    """When that was found out, by the database's clock: seconds since the epoch."""
    verdict: Verdict
    said: str
    """By what it is known, or why not."""
    asked_by: str = ""
    """Whose word it is that it is the host, where nothing tells; empty: nobody's."""

    @property
    def in_words(self) -> str:
        """What is known, in words."""
        match self.verdict:
            case Verdict.SAME:
                return f"the host's: {self.said}"
            case Verdict.OTHER:
                return f"ANOTHER MACHINE: {self.said}"
        return f"not compared, by {self.asked_by}: {self.said}" if self.asked_by else f"not compared: {self.said}"


@dataclass(frozen=True, slots=True)
class Fencing:
    """One time that somebody wanted a host proven off. Times in seconds since the epoch, by the database's clock."""

    id: int
    host: str
    by: By
    asked_by: str
    at: float
    ended_at: float | None
    """None: it is under way, or its controller died over it."""
    proven: bool
    said: str
    """What proves it, or why nothing does."""
    void_at: float | None
    """Since when it proves nothing any more."""
    void_because: str
    silent: float | None = None
    """Seconds for which nothing of the host had answered when it was taken for dead; None: somebody asked for it."""

    @property
    def holds(self) -> bool:
        """Whether it proves that the host is off."""
        return self.proven and self.ended_at is not None and self.void_at is None
