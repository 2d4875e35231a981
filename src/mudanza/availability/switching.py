"""Whether a host that was told to shut down is off, and whether one that was woken is well: pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mudanza.model.fencing import Device, Power, Reply
from mudanza.model.finding import Finding, Level
from mudanza.model.host import Host


def seen_off(devices: Sequence[Device], replies: Sequence[Reply]) -> str:
    """Return in words which devices show that a host is off by itself: all of some level; empty: none do.

    Outlets go on giving power to a machine that has shut down, so that not every level can say so.
    """
    off = {reply.device for reply in replies if reply.power is Power.OFF}
    for level in sorted({device.level for device in devices}):
        there = [device for device in devices if device.level == level]
        if all(device.name in off for device in there):
            return f"shut down, and then found off: {', '.join(device.shown for device in there)}"
    return ""


def unfit(host: Host, before: Host | None, findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return why a host that was woken gets no VMs yet; empty: it is well. ``before``: as it was last seen;
    ``findings``: what the doctor says of it."""
    if not host.seen:
        return (f"it was not seen: {host.error}",)
    why = [finding.message for finding in findings if finding.level is Level.BLOCKER]
    if host.pools is None:
        why.append("its storage cannot be asked")
    active = {pool.name for pool in host.pools or () if pool.active}
    missing = [
        pool.name for pool in (before.pools if before else None) or () if pool.active and pool.name not in active
    ]
    if missing:
        why.append(f"its pools {', '.join(missing)} are not active, and were before")
    return tuple(why)
