"""What a host's bridges hang on, read out of what its libvirt says of interfaces and network devices."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from lxml import etree

from mudanza.hypervisor.xml.parsing import every, first, parse, text

_DEAD = frozenset({"down", "lowerlayerdown", "notpresent"})
"""States of a link that carry nothing; of one whose driver tells no state nothing is concluded."""
_OF_SEVERAL = frozenset({"bond", "vlan"})
"""Kinds of interfaces that lead outside though the kernel makes them up."""


def uplinks_of(
    interfaces: Iterable[str], devices: Iterable[str], named: Collection[str], host: str
) -> Mapping[str, bool]:
    """Return whether each bridge of a host, and each device that cards may hang on by themselves, is joined to the
    world outside. One that leads nowhere is left out.

    An uplink is a bridge's port that is a real device, a bond or a VLAN, or is ``named``. Of several one is enough.
    Raises HypervisorError.
    """
    real = dict(_real_devices(devices, host))
    found = dict(real)
    for xml in interfaces:
        root = parse(xml, host)
        name, kind = root.get("name") or "", root.get("type")
        if kind in _OF_SEVERAL or (kind == "ethernet" and name in named):
            found[name] = _carries(root)
        for bridge in every(root, "bridge"):
            ports = [each for each in every(bridge, "interface") if _is_uplink(each, real, named)]
            if ports:
                found[name] = any(real.get(each.get("name") or "", True) and _carries(each) for each in ports)
    return found


def _real_devices(devices: Iterable[str], host: str) -> Iterator[tuple[str, bool]]:
    """Yield each network device that is not made up by the kernel, and whether its link is up."""
    for xml in devices:
        root = parse(xml, host)
        card = first(root, "capability")
        path, name = text(root, "path") or "", text(card, "interface")
        if card is not None and name and "/devices/virtual/" not in path and text(root, "parent") != "computer":
            yield name, _carries(card)


def _is_uplink(port: etree._Element, real: Collection[str], named: Collection[str]) -> bool:
    name = port.get("name") or ""
    return name in real or name in named or port.get("type") in _OF_SEVERAL


def _carries(element: etree._Element) -> bool:
    link = first(element, "link")
    return link is None or link.get("state") not in _DEAD
