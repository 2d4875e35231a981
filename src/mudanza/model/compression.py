"""Sending of pages that have changed again only what differs (QEMU's xbzrle): what of it a move tells. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

PAYS = 0.5
"""The most of its size that a page which has changed again may take on its way for compression to be worth its cache
and its computing."""
ENOUGH = 1024
"""Pages sent so from which on their share means something."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """What xbzrle has come to so far. Bytes."""

    cache: int
    """What its cache of pages may take at the source."""
    pages: int = 0
    """Pages that were in the cache when they were sent again."""
    bytes: int = 0
    """What these took on their way."""
    misses: int = 0
    """Pages that were not in it, and went whole: each one once, as a rule, for that is how the cache is filled."""
    overflows: int = 0
    """Pages that had changed so much that they went whole, of ``pages``."""
    page_size: int = 4096

    @property
    def share(self) -> float | None:
        """What part of their size those pages took; None as long as there were none."""
        return self.bytes / (self.pages * self.page_size) if self.pages else None

    @property
    def pays(self) -> bool:
        """Whether pages that have changed again take so much less that it is worth it."""
        return self.share is not None and self.share <= PAYS

    def to_json(self, *, arrived: bool) -> dict[str, Any]:
        """Return what the journal keeps of it; ``arrived``: the move came to its end by pre-copy."""
        return {"method": "xbzrle", **asdict(self), "share": self.share, "paid_off": arrived and self.pays}


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of compression when a VM was last moved with it."""

    share: float | None
    """What part of their size pages that had changed again took; None: there were none."""
    paid_off: bool

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Tried:
        """Read what ``Compressed.to_json`` returned."""
        return cls(stored.get("share"), bool(stored.get("paid_off")))
