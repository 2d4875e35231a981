"""A protection as a picture 1000 wide: its restore points on a strip of time that ends now. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mudanza.model.protection import Protection, RestorePoint

WIDTH = 980.0
LEFT = 10.0
SPARE = 1.08
"""How much longer the strip is than what is shown on it."""
INTERVALS = 3
"""Of how many it is at least, so that it shows whether a point is too old."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One restore point."""

    point: RestorePoint
    x: float
    age: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Strip:
    """The points, the oldest first. Seconds."""

    dots: tuple[Dot, ...]
    due: float
    """Where the interval begins that the newest point should be in."""
    late: float
    """Where that begins beyond which it is late."""
    span: float


def strip(protection: Protection, late_after: float) -> Strip:
    """Return it; ``late_after``: the age of the newest point from which on it is late, in seconds."""
    ages = [max(protection.read_at - point.taken_at, 0.0) for point in protection.points]
    span = max([*ages, INTERVALS * protection.every, late_after]) * SPARE

    def across(age: float) -> float:
        return LEFT + WIDTH * (1 - age / span)

    dots = tuple(Dot(point, across(age), age) for point, age in zip(protection.points, ages, strict=True))
    return Strip(dots, across(protection.every), across(late_after), span)
