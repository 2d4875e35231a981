"""What a guest writes to its disks while its memory travels: the mirrors send it on, and libvirt's figures on the
migration stand still then (seen with libvirt 9.0), so that the mirrors themselves are asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW = 3.0
"""Seconds over which the rate is the mean."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """How far all mirrors together had come by when. Bytes, seconds."""

    marks: tuple[tuple[float, int], ...] = ()

    def after(self, at: float, amount: int) -> Mirrored:
        """Return it with one more look."""
        recent = tuple(mark for mark in self.marks if mark[0] >= at - WINDOW)
        return Mirrored((*recent, (at, amount)))

    @property
    def rate(self) -> float:
        """Bytes per second; 0 after a single look."""
        if not self.marks:
            return 0.0
        (begun, first), (ended, last) = self.marks[0], self.marks[-1]
        return max(last - first, 0) / (ended - begun) if ended > begun else 0.0
