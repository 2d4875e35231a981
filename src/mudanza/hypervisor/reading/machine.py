"""Which machine a host is, by what its firmware says, and by which network cards it can be woken."""

from __future__ import annotations

import libvirt
from lxml import etree

from mudanza.hypervisor.connection import HostConnection, Raw
from mudanza.hypervisor.xml.parsing import every, first, parse, text
from mudanza.model.machine import Machine, machine

ASKING = 10.0
"""Seconds that a host may take to say what it is."""
_NOT_THERE = frozenset({libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_ERR_INTERNAL_ERROR})
"""What libvirt answers where it cannot tell: another hypervisor, no dmidecode, a board without SMBIOS."""


def read_machine(host: HostConnection) -> Machine:
    """Return what a host says of itself. libvirt tells the UUID that it goes by, which its settings may have changed
    (``host_uuid``), and, where it has dmidecode, what SMBIOS has. Raises HostUnreachableError, HypervisorError."""
    capabilities, sysinfo = host.ask(_ask, timeout=ASKING)
    return machine_of(capabilities, sysinfo, host.name)


def _ask(raw: Raw) -> tuple[str, str]:
    capabilities = str(raw.getCapabilities())
    try:
        return capabilities, str(raw.getSysinfo(0))
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _NOT_THERE:
            raise
        return capabilities, ""


def machine_of(capabilities: str, sysinfo: str, host: str) -> Machine:
    """Read it out of a host's capabilities and its sysinfo (empty: there is none). Raises HypervisorError."""
    uuids = [text(first(parse(capabilities, host), "host"), "uuid")]
    root = parse(sysinfo, host) if sysinfo else None
    if root is None:
        return machine(uuids, ())
    uuids += _entries(root, "system", "uuid")
    serials = [each for part in ("system", "chassis", "baseBoard") for each in _entries(root, part, "serial")]
    return machine(uuids, serials)


def _entries(root: etree._Element, part: str, name: str) -> list[str | None]:
    return [entry.text for entry in every(root, f"{part}/entry") if entry.get("name") == name]


def read_macs(host: HostConnection) -> frozenset[str] | None:
    """Return the addresses of a host's network cards, in small letters; None: it cannot tell. Raises
    HostUnreachableError, HypervisorError."""
    devices = host.ask(_cards, timeout=ASKING)
    if devices is None:
        return None
    found = [text(parse(xml, host.name), "capability/address") for xml in devices]
    return frozenset(each.lower() for each in found if each)


def _cards(raw: Raw) -> list[str] | None:
    try:
        found = raw.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET)
        return [str(device.XMLDesc(0)) for device in found]
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _NOT_THERE:
            raise
        return None
