"""Does a guest hang? Pure. Its agent alone does not say: one that is stopped is silent, too, and so is one whose guest
has much to do. A guest hangs that has been heard before in the same run, whose agent has its channel open and is
silent, and that does nothing else: it reads and writes nothing, sends nothing, and its CPUs idle as no system does, or
one of them does not come to an end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mudanza.model.pulse import Pulse, Voice
from mudanza.model.units import format_duration

IDLE = 0.05
"""Of one CPU: below it, nothing runs. A system that idles wakes now and then, and writes and sends besides."""
SPINNING = 0.9
"""Of one CPU: from it on, one does not come to an end."""


@dataclass(frozen=True, slots=True)
class Listened:
    """What is known of a guest after some looks. Seconds of the looks' clock."""

    pulse: Pulse
    at: float
    heard: bool
    """Whether its agent has answered in this run."""
    since: float | None = None
    """Since when it has been silent, and has done nothing else; None: it is not so."""


def listen(before: Listened | None, pulse: Pulse, at: float) -> Listened:
    """Return what is known of a guest after one more look. ``before``: None: it was not looked at yet."""
    if before is None or before.pulse.run != pulse.run:
        return Listened(pulse, at, pulse.voice is Voice.ANSWERS)
    now = replace(before, pulse=pulse, at=at, since=None)
    if not pulse.running:
        return now
    if pulse.voice is Voice.ANSWERS:
        return replace(now, heard=True)
    if pulse.voice is not Voice.SILENT or not before.heard or not _still(before, pulse, at):
        return now
    return replace(now, since=before.at if before.since is None else before.since)


def _still(before: Listened, pulse: Pulse, at: float) -> bool:
    """Whether nothing was done between two looks; what libvirt does not tell may have been something."""
    last, span = before.pulse, at - before.at
    if last.cpu_seconds is None or pulse.cpu_seconds is None or None in (pulse.disk_bytes, pulse.sent_packets):
        return False
    if span <= 0 or not last.running:
        return False
    if (last.disk_bytes, last.sent_packets) != (pulse.disk_bytes, pulse.sent_packets):
        return False
    busy = (pulse.cpu_seconds - last.cpu_seconds) / span
    return busy < IDLE or busy >= SPINNING


def hangs(known: Listened, after: float) -> str:
    """Return why a guest is taken to hang that has done nothing for so many seconds; empty: it is not."""
    if known.since is None or known.at - known.since < after:
        return ""
    lasted = format_duration(known.at - known.since)
    return f"its agent is silent, and it has read, written and sent nothing, for {lasted}"
