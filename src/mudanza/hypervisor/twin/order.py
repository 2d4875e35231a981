"""What a migration is asked for, and how far it can have come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import libvirt


class Phase(IntEnum):
    """How far it has come."""

    BEGIN = 0
    PREPARED = 1
    """There is an incoming QEMU at the target."""
    DISKS = 2
    MEMORY = 3
    STOPPED = 4
    """The vCPUs are stopped at the source."""
    HANDED_OVER = 5
    """All of it is at the target, and stands still on both hosts."""
    FINISHING = 6
    """The target lets it run."""
    CONFIRMED = 7


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    uri: str
    parameters: Mapping[str, Any]
    flags: int

    def has(self, name: str) -> bool:
        """Whether a flag is among it."""
        return bool(self.flags & int(getattr(libvirt, f"VIR_MIGRATE_{name}")))

    @property
    def disks(self) -> Sequence[str]:
        """The disks that are copied."""
        found = self.parameters.get("migrate_disks", ())
        return [found] if isinstance(found, str) else list(found)
