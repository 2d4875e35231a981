"""Throw-away domains: how a host is asked what no call asks, without touching any VM of its owner.

A *ghost* is a definition without a guest, made for one question and taken away after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lxml import etree

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.own.throwaway import Throwaway, remove_domain, throwaway_name
from mudanza.model.host import Host

GHOST_TIMEOUT = 10.0
"""Seconds that defining one may take."""


def domain_xml(
    name: str,
    domain_type: str,
    arch: str,
    *,
    machine: str | None = None,
    disks: Sequence[tuple[str, str]] = (),
    listen: str | None = None,
) -> str:
    """Return the smallest domain there is. ``disks``: kind (``file`` or ``block``) and path of each; ``listen``: the
    address of a display.

    The format of disks is given as raw, so that nothing is read into them.
    """
    root = etree.Element("domain", type=domain_type)
    etree.SubElement(root, "name").text = name
    etree.SubElement(root, "memory", unit="MiB").text = "1"
    etree.SubElement(root, "vcpu").text = "1"
    kind = etree.SubElement(etree.SubElement(root, "os"), "type", arch=arch)
    kind.text = "hvm"
    if machine is not None:
        kind.set("machine", machine)
    devices = etree.SubElement(root, "devices")
    etree.SubElement(devices, "controller", type="usb", model="none")
    etree.SubElement(devices, "memballoon", model="none")
    if listen is not None:
        etree.SubElement(devices, "graphics", type="vnc", autoport="yes", listen=listen)
    for number, (source_kind, path) in enumerate(disks):
        disk = etree.SubElement(devices, "disk", type=source_kind, device="disk")
        etree.SubElement(disk, "driver", name="qemu", type="raw")
        etree.SubElement(disk, "source", {"dev" if source_kind == "block" else "file": path})
        etree.SubElement(disk, "target", dev=disk_name(number), bus="scsi")
    return etree.tostring(root, encoding="unicode")


def disk_name(number: int) -> str:
    """Return the target name of the ghost's nth disk: ``sda``, ``sdb``… ``sdaa``."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"sd{letters}"


@contextmanager
def ghost(host: HostConnection, about: Host, disks: Sequence[tuple[str, str]] = ()) -> Iterator[Throwaway]:
    """Have a domain that never starts, while the block runs. Raises HostUnreachableError and HypervisorError."""
    kind = "kvm" if "kvm" in about.domain_types else "qemu"
    name = throwaway_name("probe")
    xml = domain_xml(name, kind, about.arch, disks=disks)
    with Throwaway(host, name, remove_domain) as domain:
        domain.ask(lambda raw: _define(raw, xml), timeout=GHOST_TIMEOUT)
        yield domain


def _define(raw: Any, xml: str) -> None:
    raw.defineXML(xml)
