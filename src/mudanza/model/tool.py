"""A throw-away thing of ours on a host: a domain without a guest, a marker, an overlay, a pool to put them into."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tool:
    """One such thing."""

    host: str
    kind: str
    """``domain``, ``volume`` or ``pool``."""
    name: str
    pool: str
    """Of a volume: where it lies."""
    made_at: float
    """In seconds since the epoch, by the clock of whoever made it."""
    abandoned: bool
    """Nobody needs it any more; else it may be at work for another controller."""
