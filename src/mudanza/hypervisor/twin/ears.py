"""Who is told of events, and events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import libvirt

from mudanza.hypervisor.twin.domain_handle import DomainHandle

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.domain import Domain
    from mudanza.hypervisor.twin.line import Line


@dataclass
class Ears:
    """What was registered, over which line."""

    known: dict[int, tuple[Line, Any, Callable[..., None], object]] = field(default_factory=dict)
    last: int = 0

    def register(self, line: Line, connect: Any, callback: Callable[..., None], opaque: object) -> int:
        """Have a callback called; return its number."""
        self.last += 1
        self.known[self.last] = line, connect, callback, opaque
        return self.last

    def forget(self, number: int) -> None:
        """Call it no more."""
        self.known.pop(number, None)

    def bark(self, domain: Domain) -> None:
        """A guest's watchdog has run out, and its action is *none*."""
        for line, connect, callback, opaque in list(self.known.values()):
            if line.host is domain.host and line.stands and line.host.answers:
                handle = DomainHandle(line, domain.uuid, domain.name)
                callback(connect, handle, libvirt.VIR_DOMAIN_EVENT_WATCHDOG_NONE, opaque)
