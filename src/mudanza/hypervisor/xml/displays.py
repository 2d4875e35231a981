"""A running guest's displays, and how one gets at them from the host itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from lxml import etree

from mudanza.hypervisor.xml.parsing import every, first, integer, parse


@dataclass(frozen=True, slots=True)
class Display:
    """One display, as its guest runs now."""

    number: int
    """Which of the guest's, as libvirt counts them."""
    kind: str
    """``vnc``, ``spice``, ``sdl``, ``egl-headless``…"""
    address: str | None = None
    """The address it listens at."""
    port: int | None = None
    socket: str | None = None
    """The UNIX socket that it listens at in place of an address."""
    password: str | None = field(default=None, repr=False)


def parse_displays(text: str, host: str) -> tuple[Display, ...]:
    """Read them out of a domain's XML. Raises HypervisorError for what is no XML."""
    devices = first(parse(text, host), "devices")
    return tuple(_display(number, each) for number, each in enumerate(every(devices, "graphics")))


def _display(number: int, found: etree._Element) -> Display:
    listens = list(every(found, "listen"))
    addresses = [each.get("address") for each in listens if each.get("address")]
    sockets = [each.get("socket") for each in listens if each.get("socket")]
    port = integer(found.get("port"))
    return Display(
        number=number,
        kind=found.get("type") or "",
        address=addresses[0] if addresses else found.get("listen") or None,
        port=port if port and port > 0 else None,
        socket=sockets[0] if sockets else found.get("socket") or None,
        password=found.get("passwd") or None,
    )
