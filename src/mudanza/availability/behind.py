"""Which machine a device switches, as far as it can tell.

A fence agent tells so by an action *identify* of its own, in lines ``uuid=…`` and ``serial=…``; no agent of Debian's
has one. So BMCs are asked themselves: by Redfish, or by ``ipmitool`` (its ``mc guid``, and what the board's FRU says),
each with what the fence agent is told. A power strip knows of no machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mudanza.availability.fence_agents import Agents
from mudanza.availability.redfish import AGENT as REDFISH
from mudanza.availability.redfish import RedfishError
from mudanza.model.fencing import Device
from mudanza.model.machine import Machine, machine

IDENTIFY = "identify"
BY_REDFISH = "fence_redfish"
BY_IPMI = frozenset(
    {
        *("fence_ipmilan", "fence_ipmilanplus", "fence_idrac", "fence_imm"),
        *("fence_ilo3", "fence_ilo4", "fence_ilo5"),
    }
)
"""Agents that are ``fence_ipmilan`` under other names."""
_LANPLUS = BY_IPMI - {"fence_ipmilan"}
_GUID = re.compile(r"System GUID\s*:\s*([0-9a-fA-F-]{32,36})")
_SERIAL = re.compile(r"(?:Product|Chassis|Board) Serial\s*:\s*(.+)")
_TRUE = frozenset({"1", "yes", "on", "true"})
_NO_SESSION = "Unable to establish"
"""What ipmitool says where it cannot log in, or nobody answers: it need not be asked for more."""
_KEYS = ("hexadecimal_kg", "hexadecimal-kg")
"""A key of the BMC's, which ipmitool takes as an argument only."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a device says of the machine that it switches."""

    machine: Machine
    why_not: str = ""
    """Why it says nothing, in words."""


def machine_behind(agents: Agents, device: Device) -> Told:
    """Ask a device which machine it switches; nothing is switched. Raises UsageError where its agent, or a secret, is
    missing."""
    values = {**device.options, **agents.values(device)}
    if device.agent == REDFISH:
        return _by_redfish(agents, device, values)
    if IDENTIFY in agents.description(device.agent).actions:
        said = agents.ask(device, IDENTIFY)
        if said.fault:
            return Told(Machine(), f"{device.agent} does not say: it {said.fault}")
        lines = [line.partition("=") for line in said.text.splitlines()]
        return Told(
            machine(
                [value for key, _, value in lines if key.strip() == "uuid"],
                [value for key, _, value in lines if key.strip() == "serial"],
            )
        )
    if device.agent == BY_REDFISH:
        return _by_redfish(agents, device, as_redfish(values))
    if device.agent in BY_IPMI:
        return _by_ipmi(agents, device, values)
    return Told(Machine(), f"{device.agent} cannot tell which machine it switches")


def as_redfish(values: Mapping[str, str]) -> dict[str, str]:
    """Return what ``fence_redfish`` is told as our own Redfish is: pure. Whether a certificate is to be verified is no
    question here."""
    known = {"ip": "ip", "ipaddr": "ip", "ipport": "ipport", "username": "username", "login": "username"}
    known |= {"password": "password", "passwd": "password", "systems_uri": "system", "plug": "system"}
    return {known[key]: value for key, value in values.items() if key in known}


def _by_redfish(agents: Agents, device: Device, values: Mapping[str, str]) -> Told:
    try:
        with agents.redfish(device, values) as service:
            return Told(service.machine())
    except RedfishError as error:
        return Told(Machine(), f"Redfish does not say: {error}")


def _by_ipmi(agents: Agents, device: Device, values: Mapping[str, str]) -> Told:
    program = agents.program("ipmitool")
    if program is None:
        return Told(Machine(), "ipmitool, which would ask the BMC, is not on this machine")
    if "password" not in values and "passwd" not in values:
        return Told(Machine(), f"ipmitool would need the password, and {device.shown} has none as a secret")
    if any(key in values for key in _KEYS):
        return Told(Machine(), "ipmitool would need the BMC's own key as an argument, which everybody here could read")
    words = [program, *ipmi_words(device.agent, values)]
    password = {"IPMI_PASSWORD": values.get("password", values.get("passwd", ""))}
    guid = agents.run([*words, "mc", "guid"], password)
    unheard = guid.code is None or _NO_SESSION in guid.text
    fru = guid if unheard else agents.run([*words, "fru", "print", "0"], password)
    found = machine(_GUID.findall(guid.text), _SERIAL.findall(fru.text))
    return Told(found, "" if found else f"ipmitool does not say: it {guid.fault or fru.fault or 'knows neither'}")


def ipmi_words(agent: str, values: Mapping[str, str]) -> list[str]:
    """Return the arguments of ``ipmitool`` that stand for what ``fence_ipmilan`` is told, without the password, which
    goes by the environment: pure."""
    plus = values.get("lanplus", "1" if agent in _LANPLUS else "0").lower() in _TRUE
    known = {"ip": "-H", "ipaddr": "-H", "ipport": "-p", "username": "-U", "login": "-U", "cipher": "-C"}
    known |= {"privlvl": "-L", "auth": "-A", "ipmitool_timeout": "-N", "target": "-t"}
    words = ["-I", "lanplus" if plus else "lan", "-E"]
    for key, value in values.items():
        if key in known:
            words += [known[key], value.upper() if key == "privlvl" else value]
    return words
