"""Is the machine that a device switches the host that it is said to be? A device that switches another one proves a
host off that runs, and kills one that nobody has complained of."""

from __future__ import annotations

from collections.abc import Callable

from mudanza.availability.behind import machine_behind
from mudanza.availability.fence_agents import Agents
from mudanza.model.errors import MudanzaError
from mudanza.model.fencing import Device
from mudanza.model.machine import Comparison, Machine, Verdict, compare

Identity = Callable[[str], Machine]
"""Returns what a host says of itself. Raises MudanzaError where it cannot be asked."""


def matched(agents: Agents, identity: Identity, host: str, device: Device) -> Comparison:
    """Compare what a host and its device say; nothing is switched. Raises UsageError where the device cannot be spoken
    to."""
    behind = machine_behind(agents, device)
    if behind.why_not:
        return Comparison(Verdict.UNKNOWN, behind.why_not)
    try:
        own = identity(host)
    except MudanzaError as error:
        return Comparison(Verdict.UNKNOWN, f"the host cannot be asked which machine it is: {error}")
    return compare(own, behind.machine)
