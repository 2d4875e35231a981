"""What hosts draw, as their BMCs measure it by Redfish."""

from __future__ import annotations

from mudanza.availability.behind import BY_REDFISH, as_redfish
from mudanza.availability.fence_agents import Agents
from mudanza.availability.redfish import AGENT as REDFISH
from mudanza.model.fencing import Device

MEASURING = 20.0
"""Seconds that all BMCs together may take to say it."""


def speaks_redfish(device: Device) -> bool:
    """Whether a device is a BMC that is spoken to by Redfish."""
    return device.agent in (REDFISH, BY_REDFISH)


def watts_of(agents: Agents, device: Device) -> float | None:
    """Return what the machine behind a device draws now; None: it does not measure that. Raises RedfishError, and
    UsageError where a secret is missing."""
    values = {**device.options, **agents.values(device)}
    told = values if device.agent == REDFISH else as_redfish(values)
    with agents.redfish(device, told) as service:
        return service.watts()
