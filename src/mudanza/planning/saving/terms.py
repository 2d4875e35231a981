"""How careful saving is. The figures are round ones, and none of them was fitted to a trace."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mudanza.model.errors import UsageError


@dataclass(frozen=True, slots=True)
class Terms:
    """What a round of saving goes by. Shares of a host's CPUs; seconds; watt-hours."""

    ceiling: float = 0.9
    """A host gets a VM only where what it and its VMs used of late stays below, ``usual`` of the time."""
    usual: float = 0.9
    """The share of the readings looked at that count as usual."""
    unsure: float = 0.4
    """The ceiling is lowered by this share over the root of the number of readings: few of them know little."""
    relief: float = 1.0
    """From here on a host is too busy, and VMs leave it."""
    relieved: float = 0.95
    """How busy it may be after that."""
    least_on: float = 1800.0
    """For so long a host stays on once it was woken."""
    least_off: float = 600.0
    """For so long a host stays off once it was switched off, unless VMs need it."""
    horizon: float = 7200.0
    """For how long a host is taken to stay off, when it is asked whether emptying it pays."""
    move_price: float = 10.0
    """What one move has to save, in watt-hours over the horizon: it costs little power, and some peace."""
    most_refusals: int = 8
    """So many hosts that cannot be emptied are tried in one round."""
    reserve: int = 0
    """So many hosts, the largest of those in use, could fail and the others would have their CPUs' worth below full."""

    def __post_init__(self) -> None:
        """Raise UsageError for terms that contradict each other."""
        if not 0 < self.ceiling <= self.relief <= 1.0 or not 0 < self.relieved <= self.relief:
            raise UsageError("a host is full (ceiling) before it is too busy (relief), and that within its CPUs")

    def full_at(self, readings: int) -> float:
        """Return what the ceiling is where so many readings are known."""
        return self.ceiling * (1.0 - self.unsure / math.sqrt(max(readings, 1)))
