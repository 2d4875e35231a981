"""What a running VM shows of being alive: its counters, and whether its agent answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import libvirt
import libvirt_qemu
from lxml import etree

from mudanza.hypervisor.connection import HostConnection, Raw
from mudanza.hypervisor.states import state_name
from mudanza.hypervisor.xml.parsing import every, parse
from mudanza.model.pulse import Pulse, Voice
from mudanza.model.vm import VmState

AGENT_PATIENCE = 3
"""Seconds that an agent has to answer, and as many to listen at all."""
ASKING = 15.0
"""Seconds that all of it may take: an older libvirt gives an agent five seconds to listen, whatever it is told."""
AGENT = "org.qemu.guest_agent.0"
_PING = '{"execute": "guest-ping"}'
_SILENT = frozenset({libvirt.VIR_ERR_AGENT_UNRESPONSIVE, getattr(libvirt, "VIR_ERR_AGENT_COMMAND_TIMEOUT", -1)})
_GROUPS = ("STATE", "CPU_TOTAL", "VCPU", "INTERFACE", "BLOCK")


def read_pulse(host: HostConnection, uuid: str) -> Pulse | None:
    """Return one look at a VM; None: it does not run there. Raises HostUnreachableError, HypervisorError."""
    return host.ask(lambda raw: _read(raw, uuid, host.name), timeout=ASKING)


def agent_answers(host: HostConnection, uuid: str) -> Voice:
    """Ask a VM's agent whether it is there. Raises HostUnreachableError, HypervisorError."""
    return host.ask(lambda raw: _voice(raw.lookupByUUIDString(uuid), host.name), timeout=ASKING)


def _read(raw: Raw, uuid: str, host: str) -> Pulse | None:
    domain = raw.lookupByUUIDString(uuid)
    if not domain.isActive():
        return None
    groups = 0
    for name in _GROUPS:
        groups |= getattr(libvirt, f"VIR_DOMAIN_STATS_{name}")
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    [(_, figures)] = raw.domainListGetStats([domain], groups, flags)
    running = state_name(int(figures.get("state.state", -1))) in (VmState.RUNNING, VmState.BLOCKED)
    cpu = int(figures.get("cpu.time", 0))
    waited = sum(int(each) for name, each in figures.items() if name.startswith("vcpu.") and name.endswith(".delay"))
    return Pulse(
        run=domain.ID(),
        running=running,
        voice=_voice(domain, host) if running else Voice.UNKNOWN,
        cpu_seconds=(cpu + waited) / 1e9 if cpu > 0 else None,
        disk_bytes=_sum(figures, "block", ("rd.bytes", "wr.bytes")),
        sent_packets=_sum(figures, "net", ("tx.pkts",)),
    )


def _voice(domain: Any, host: str) -> Voice:
    if not _is_open(parse(domain.XMLDesc(0), host)):
        return Voice.NOT_THERE
    try:
        libvirt_qemu.qemuAgentCommand(domain, _PING, AGENT_PATIENCE, 0)
    except libvirt.libvirtError as error:
        return Voice.SILENT if error.get_error_code() in _SILENT else Voice.UNKNOWN
    return Voice.ANSWERS


def _is_open(definition: etree._Element) -> bool:
    """Whether somebody in the guest has the agent's channel open."""
    channels = (each for each in every(definition, "devices/channel/target") if each.get("name") == AGENT)
    return any(each.get("state") == "connected" for each in channels)


def _sum(figures: Mapping[str, Any], group: str, names: tuple[str, ...]) -> int | None:
    """Return the sum over all of a VM's devices; None where one of them is not told."""
    count = int(figures.get(f"{group}.count", -1))
    keys = [f"{group}.{number}.{name}" for number in range(count) for name in names]
    if count < 0 or (keys and not any(key in figures for key in keys)):
        return None
    return sum(int(figures.get(key, 0)) for key in keys)
