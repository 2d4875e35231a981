"""How far apart the clocks of two hosts are, by the time each of them writes on a marker."""

from __future__ import annotations

from mudanza.hypervisor.bounded import all_of
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.own.marker import MARKER_TIMEOUT, NoMarkerError, marker
from mudanza.model.host import Host

# A network file system's times may be its server's.
_LOCAL_POOLS = ("dir", "fs")
CLOCK_TIMEOUT = MARKER_TIMEOUT
"""Seconds that both hosts may take, side by side: most find a pool at once."""
_TOLERABLE_ERROR = 0.5
"""Seconds: a host that takes longer to make a file leaves its clock too uncertain to speak of."""


def probe_clock(source: HostConnection, target: HostConnection, here: Host, there: Host) -> float | None:
    """Return the target's clock minus the source's, in seconds; None where it cannot be measured.

    It may be wrong by half the time each host takes to make a file, usually a few milliseconds.
    """
    offsets = all_of([lambda: _offset(source, here), lambda: _offset(target, there)], timeout=CLOCK_TIMEOUT)
    ahead, behind = offsets[1], offsets[0]
    if isinstance(ahead, float) and isinstance(behind, float):
        return ahead - behind
    return None


def _offset(host: HostConnection, about: Host) -> float | None:
    """Return a host's clock minus the controller's."""
    for pool in about.pools or ():
        if pool.active and pool.path and pool.kind in _LOCAL_POOLS:
            try:
                with marker(host, about, pool.path) as made:
                    return made.clock_offset if made.clock_error <= _TOLERABLE_ERROR else None
            except NoMarkerError:
                # A full or read-only pool: another one may do.
                continue
    return None
