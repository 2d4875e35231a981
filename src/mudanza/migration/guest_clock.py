"""The guest's wall clock over a live move: it stands while the vCPUs do, and is behind by that much afterwards.

It is compared with this controller's monotonic clock before and after the move, and no other: neither the hosts' clocks
nor ours need to be right. Where it has fallen behind, the guest's agent sets it forward to what it would have been.
"""

from __future__ import annotations

from dataclasses import dataclass

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.domains import Domains
from mudanza.journal.jobs import JobHandle
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.units import format_duration
from mudanza.model.vm import Vm

WORTH = 0.05
"""Seconds behind from which on a guest's clock is set: less is what it keeps right by itself (NTP)."""
AGENT_LIMIT = 5.0
"""Seconds that a guest's agent may take to answer. libvirt gives up one that does not after about as long."""
SET_LIMIT = 15.0
"""Seconds that it may take to set the clock: it sets the hardware's, too."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A guest's clock against ours. Seconds."""

    ahead: float
    """The guest's time less our monotonic one."""
    doubt: float
    """By how much that may be wrong."""


@dataclass(frozen=True, slots=True)
class ClockReport:
    """What became of a guest's clock. Seconds, less than 0: behind; None: not measured."""

    drift: float | None = None
    """After the move, against what it would have been."""
    left: float | None = None
    """The same once it was set; None: it was not."""
    words: str = ""
    """What there is to be said of it; empty: nothing."""


class ClockWatch:
    """One guest's clock over its move: read at once, while others go on, and again at its ``end``."""

    def __init__(self, source: Domains, vm: Vm) -> None:
        self._uuid = vm.uuid
        self._before = Task(lambda: read(source, vm.uuid)) if vm.guest_agent else None

    def end(self, target: Domains, handle: JobHandle) -> ClockReport:
        """Read it again where the guest is now, and set it where it has fallen behind.

        Nothing that goes wrong with it is an error. Raises LeaseLostError.
        """
        if self._before is None:
            return ClockReport(words="not looked at: it has no guest agent")
        try:
            before = self._before.wait(AGENT_LIMIT)
            after = read(target, self._uuid)
        except (HypervisorError, HostUnreachableError, TimeoutError) as error:
            return ClockReport(words=f"not looked at: {why_not(error)}")
        drift = after.ahead - before.ahead
        if not worth_setting(drift, before.doubt + after.doubt):
            return ClockReport(drift, words=in_words(drift))
        return self._set(target, handle, before, drift)

    def _set(self, target: Domains, handle: JobHandle, before: Reading, drift: float) -> ClockReport:
        def act() -> None:
            target.set_guest_time(self._uuid, clock.monotonic() + before.ahead, timeout=SET_LIMIT)

        try:
            handle.perform("set clock", {"host": target.host, "behind": -drift}, act)
            left = read(target, self._uuid).ahead - before.ahead
        except (HypervisorError, HostUnreachableError) as error:
            return ClockReport(drift, words=f"{in_words(drift)}, and could not be set by its agent: {error}")
        return ClockReport(drift, left, f"{in_words(drift)}; set by its agent, {in_words(left)}")


def read(domains: Domains, uuid: str) -> Reading:
    """Ask a guest's agent for the time. Raises HypervisorError, HostUnreachableError."""
    asked = clock.monotonic()
    told = domains.guest_time(uuid, timeout=AGENT_LIMIT)
    answered = clock.monotonic()
    return Reading(told - (asked + answered) / 2, (answered - asked) / 2)


def worth_setting(drift: float, doubt: float) -> bool:
    """Whether a clock is surely so far behind that it is to be set. It is never set back: what has happened for a guest
    does not happen again."""
    return drift + doubt < -WORTH


def in_words(drift: float) -> str:
    """Return how a clock stands against what it would have been."""
    if abs(drift) < 0.001:
        return "right to the millisecond"
    return f"{format_duration(abs(drift))} {'behind' if drift < 0 else 'ahead'}"


def why_not(error: Exception) -> str:
    """Return why a guest's clock was not looked at."""
    return f"its agent does not answer{f' ({error.reason})' if isinstance(error, HypervisorError) else ''}"
