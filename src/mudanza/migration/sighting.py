"""Asking one host what is with a VM."""

from __future__ import annotations

from mudanza.hypervisor.connections import Connections
from mudanza.model.errors import HostUnreachableError
from mudanza.model.migration import Side, Sighting

SIGHTING_TIMEOUT = 5.0
"""Seconds a host may take to say what it knows of a VM."""
UNSEEN_PATIENCE = 15.0
"""Seconds a host that does not answer is asked again, before what the other one says has to do: its libvirt may just be
restarted."""


def sight(connections: Connections, host: str, uuid: str) -> Sighting:
    """Return what one host says of a VM; a host that does not answer is UNSEEN."""
    try:
        return connections.domains(host).sighting(uuid, timeout=SIGHTING_TIMEOUT)
    except HostUnreachableError as error:
        return Sighting(Side.UNSEEN, reason=str(error))


def in_words(sighting: Sighting) -> str:
    """Return it as a person reads it."""
    if sighting.side is Side.PRESENT:
        return f"{sighting.state} ({sighting.reason})" if sighting.reason else str(sighting.state)
    return "no answer" if sighting.side is Side.UNSEEN else "no such VM"
