"""A host's power: what is known of it, and what has become of each time that it was to be switched off or on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mudanza.model.errors import UsageError
from mudanza.model.watts import PowerModel

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class HostPower:
    """What the operator said of a host's power."""

    watts: PowerModel | None = None
    """What it draws; None: nobody knows."""
    mac: str | None = None
    """Where it hears Wake-on-LAN; None: nobody wakes it so."""
    keep_on: bool = False
    """Whether it is never switched off to save power: it serves storage, or something else."""

    def __post_init__(self) -> None:
        """Raise UsageError for an address that is none."""
        if self.mac is not None and not _MAC.fullmatch(self.mac):
            raise UsageError(f"{self.mac!r} is no MAC address", remedy="write it like 52:54:00:12:34:56")


class Wish(StrEnum):
    """What a host's power was to be."""

    OFF = "off"
    ON = "on"


class Standing(StrEnum):
    """What has become of a host's power, as the journal has it."""

    AWAKE = "awake"
    GOING_OFF = "shutting down"
    """It was told to shut down, or its controller died before it did."""
    ASLEEP = "asleep"
    """It was shut down on purpose, and seen off."""
    WAKING = "waking"
    """It was switched on, and has not shown yet that it is well."""

    @property
    def away(self) -> bool:
        """Whether nobody has to wonder that it does not answer."""
        return self is not Standing.AWAKE


@dataclass(frozen=True, slots=True)
class Switching:
    """One time that a host was to be switched off or on. Times in seconds since the epoch, by the database's clock."""

    id: int
    host: str
    wish: Wish
    asked_by: str
    at: float
    ended_at: float | None
    """None: it is under way, or its controller died over it."""
    done: bool
    said: str
    """What proves it, or why it was not done."""
    closed: bool
    """Whether the host was closed to newcomers already: then it stays so when it is woken."""

    @property
    def standing(self) -> Standing:
        """What the host is by this, if it was the last time."""
        if self.wish is Wish.OFF:
            if self.ended_at is None:
                return Standing.GOING_OFF
            return Standing.ASLEEP if self.done else Standing.AWAKE
        return Standing.AWAKE if self.done else Standing.WAKING


def away(last: Mapping[str, Switching]) -> Mapping[str, Standing]:
    """Return the hosts that do not have to answer, by the last switching of each."""
    return {host: each.standing for host, each in last.items() if each.standing.away}
