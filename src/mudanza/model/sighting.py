"""What was on a host when it was last seen."""

from __future__ import annotations

from dataclasses import dataclass

from mudanza.model.host import Host
from mudanza.model.vm import Vm


@dataclass(frozen=True, slots=True)
class Sighting:
    """One host and its VMs, as they were then. Definitions are left out, for they contain secrets."""

    at: float
    """When, by the database's clock: seconds since the epoch."""
    host: Host
    vms: tuple[Vm, ...]
