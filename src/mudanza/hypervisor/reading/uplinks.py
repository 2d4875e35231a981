"""Whether a host's guests are joined to the world outside: the links that its bridges hang on, as libvirt tells."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import libvirt

from mudanza.hypervisor.connection import HostConnection, Raw
from mudanza.hypervisor.xml.uplinks import uplinks_of

ASKING = 5.0
"""Seconds that a host may take to tell."""
_OF_GUESTS = ("vnet", "macvtap", "tap")
"""How the names of guests' ends begin: there may be hundreds, and none leads outside."""


def read_uplinks(host: HostConnection, named: Collection[str] = ()) -> Mapping[str, bool]:
    """Return for each bridge and network device of a host that leads outside whether it carries anything.

    ``named``: ports that lead outside though the kernel has made them up (veth, Open vSwitch). Raises
    HostUnreachableError, and HypervisorError where its libvirt has no driver for interfaces or devices.
    """
    interfaces, devices = host.ask(_ask, timeout=ASKING)
    return uplinks_of(interfaces, devices, named, host.name)


def _ask(raw: Raw) -> tuple[list[str], list[str]]:
    interfaces = [
        str(each.XMLDesc(0))
        for each in raw.listAllInterfaces()  # to libvirt a bridge without carrier is inactive
        if not each.name().startswith(_OF_GUESTS)
    ]
    devices = [
        str(each.XMLDesc(0))
        for each in raw.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET)
        if not each.name().startswith(tuple(f"net_{name}" for name in _OF_GUESTS))
    ]
    return interfaces, devices
