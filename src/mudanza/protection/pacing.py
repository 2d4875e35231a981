"""How fast a round reads what has changed: all at once takes least time, and a guest that writes much would notice it.

What a busy guest overwrites while a round is read from its QEMU is kept first, once for each part of the disk, and what
is read comes through the same QEMU, from the same disk. A guest of the lab that wrote as fast as it could got 62 % of
that done during a round of 2.5 s at full speed, and 89 % during one of 20 s; where what has changed was set aside
first, 63 % and 93 % (``scripts/bench dr --only writes``): that was two CPUs for the guest and all that carries.
"""

from __future__ import annotations

from dataclasses import dataclass

from mudanza.model.units import GIB, MIB

BUSY = 8.0 * MIB
"""Bytes per second that a guest writes, from where on its round takes its time."""
SHARE = 1 / 3
"""Of the time between two rounds one may take for the guest's sake."""
LONGEST = 60.0
"""Seconds that it may take so at the most."""
SLOWEST = 4 * MIB
"""Bytes per second that are read at the least: what takes no part of the guest's time need not take longer."""
FASTEST = 4 * GIB
"""Bytes per second, of which it need not be said any more that nothing is read faster."""
LONG = 10.0
"""Seconds from which on a round that is read from the guest's own QEMU takes long."""
ROOM = 0.5
"""Of the scratch that there may be so much may be full at the end: a guest does not always write alike."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a round's speed follows from."""

    every: float
    """Seconds between two rounds."""
    written: float
    """Bytes per second that the guest writes."""
    room: int
    """Bytes of scratch that the round may need."""
    cap: int | None
    """Bytes per second that somebody has allowed at the most; None: nobody has set any bound."""
    way: float | None = None
    """Bytes per second that went over the way last time; None: not known."""

    def sets_aside(self, changed: int | None) -> bool:
        """Whether so many bytes that have changed (None: not known) are set aside at the source before they are
        carried: where the guest would notice it otherwise, and there is room for all of it: pure."""
        if not changed or changed > self.room * ROOM:
            return False
        fastest = min(bound for bound in (self.way, self.cap, FASTEST) if bound is not None)
        return self.written >= BUSY or changed > fastest * LONG

    def rate(self, changed: int) -> int | None:
        """Return how many bytes per second are read of so many bytes that have changed; None: as fast as it goes: pure.

        A guest that writes much has its round take its time, as far as the next round is not held up, and the scratch
        suffices for what it overwrites meanwhile.
        """
        if self.written < BUSY:
            return self.cap
        seconds = min(self.every * SHARE, LONGEST, self.room * ROOM / self.written)
        own = max(int(changed / seconds), SLOWEST) if seconds > 0 else FASTEST
        bounds = [own] if own < FASTEST else []
        return min(bounds if self.cap is None else [*bounds, self.cap], default=None)
