"""What one host's libvirt keeps: domains with their records, and pools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import libvirt

from mudanza.hypervisor.twin import errors
from mudanza.hypervisor.twin.guests import Qemu

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.host import TwinHost
    from mudanza.hypervisor.twin.line import Line
    from mudanza.hypervisor.twin.migration import Migration

RUNNING, PAUSED, SHUTDOWN, SHUTOFF = (
    libvirt.VIR_DOMAIN_RUNNING,
    libvirt.VIR_DOMAIN_PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN,
    libvirt.VIR_DOMAIN_SHUTOFF,
)


@dataclass
class Pool:
    """A directory as a pool. libvirt lists what it has seen there, and remembers as what it was made."""

    name: str
    path: str
    uuid: str
    persistent: bool = True
    active: bool = True
    seen: dict[str, str] = field(default_factory=dict)
    """Volume → its format."""
    busy_until: float = 0.0
    """Until when a volume is being made in it, and nobody may look through it."""


@dataclass
class Record:
    """What libvirt knows of a snapshot or a checkpoint."""

    name: str
    xml: str
    parent: str = ""
    current: bool = False


@dataclass(eq=False)
class Domain:
    """What one host's libvirt knows of a VM."""

    host: TwinHost
    uuid: str
    name: str
    definition: str | None = None
    """As it starts next; None: it is transient."""
    live: str | None = None
    """As it runs; None: it is off."""
    state: int = SHUTOFF
    reason: int = 0
    autostart: bool = False
    number: int = -1
    qemu: Qemu | None = None
    starting: bool = False
    """Its QEMU is about to be there; that has the domain's lock too."""
    migration: Migration | None = None
    """The one that has the domain's lock."""
    completed: dict[str, int] = field(default_factory=dict)
    snapshots: list[Record] = field(default_factory=list)
    checkpoints: list[Record] = field(default_factory=list)
    resets: int = 0
    """How often its guest was reset."""
    owner: Line | None = None
    """Whose end is its end too (AUTODESTROY)."""

    @property
    def is_active(self) -> bool:
        """Whether it has a QEMU."""
        return self.qemu is not None

    @property
    def live_qemu(self) -> Qemu:
        """Its QEMU. Raises libvirtError where it is off."""
        if self.qemu is None:
            raise errors.not_running()
        return self.qemu

    def enter(self, state: int, reason: int) -> None:
        """Be in a state from now on."""
        self.state, self.reason = state, reason
