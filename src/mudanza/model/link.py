"""What gets across between two hosts, as somebody measured it."""

from __future__ import annotations

from dataclasses import dataclass

from mudanza.model.units import format_duration


@dataclass(frozen=True, slots=True)
class MeasuredLink:
    """What one connection carried, and several side by side. Bytes per second."""

    one: float
    several: float
    connections: int
    """How many those several were."""
    age: float = 0.0
    """Seconds since."""

    @property
    def when(self) -> str:
        """When that was, in words."""
        return f"measured {format_duration(self.age)} ago" if self.age >= 1.0 else "measured just now"
