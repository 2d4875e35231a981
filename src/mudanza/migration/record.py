"""What a job must remember to be finished by whoever finds it: the first thing written into the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class CopiedDisk:
    """A disk that is copied: where it lies at the source and where it will lie. Bytes."""

    target: str
    source_path: str
    source_pool: str | None
    source_volume: str | None
    pool: str
    volume: str
    path: str
    size: int
    removable: bool
    """Whether the source's volume may be deleted after the move."""
    seen_by_both: bool
    """The source's file is one that other hosts see too."""


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """One migration as it was decided."""

    uuid: str
    name: str
    source: str
    target: str
    was_paused: bool
    persistent: bool
    autostart: bool
    keep_source: bool
    tls: bool
    xml: str = field(repr=False)
    """Our own copy of the live definition."""
    inactive_xml: str | None = field(repr=False)
    disks: tuple[CopiedDisk, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as what the journal stores."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MoveRecord:
        """Read it back from the journal."""
        fields = dict(stored)
        fields["disks"] = tuple(CopiedDisk(**disk) for disk in fields["disks"])
        fields["warnings"] = tuple(fields["warnings"])
        return cls(**fields)
