"""What a host draws from the wall, idle and busy, and what that comes to over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mudanza.model.errors import UsageError

HOUR = 3600.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class PowerModel:
    """What a host draws at shares of its CPUs that lie equally far apart, the first idle, the last with all in use.

    Watts. Two of them are a straight line, which is what most people know; a published measurement (SPECpower) has
    eleven.
    """

    watts: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise UsageError for what no host can draw."""
        if len(self.watts) < 2 or any(not 0 <= each < 1e6 for each in self.watts):
            raise UsageError("what a host draws takes two figures in watts and more: idle, ..., all its CPUs in use")
        if list(self.watts) != sorted(self.watts):
            raise UsageError("a host does not draw less when it does more: its watts must not fall from idle to peak")

    @property
    def idle(self) -> float:
        """Watts while it is on and does nothing."""
        return self.watts[0]

    @property
    def peak(self) -> float:
        """Watts with all of its CPUs in use."""
        return self.watts[-1]

    def at(self, share: float) -> float:
        """Return the watts while so much of its CPUs is in use, from 0 to 1."""
        place = min(max(share, 0.0), 1.0) * (len(self.watts) - 1)
        step = min(int(place), len(self.watts) - 2)
        return self.watts[step] + (self.watts[step + 1] - self.watts[step]) * (place - step)


def straight(idle: float, peak: float) -> PowerModel:
    """Return the model of a host of which only these two are known. Raises UsageError."""
    return PowerModel((idle, peak))


def kilowatt_hours(watts: Sequence[float], seconds: float) -> float:
    """Return what hosts that draw so much take in so long."""
    return sum(watts) * seconds / HOUR / 1000.0
