"""What was moved a short while ago."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NOBODY: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Recent:
    """VM by UUID, and host that took or gave one by name → seconds since that ended."""

    vms: Mapping[str, float] = field(default_factory=lambda: NOBODY)
    hosts: Mapping[str, float] = field(default_factory=lambda: NOBODY)
