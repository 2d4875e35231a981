"""Throw-away domains: how a host is asked what no call asks, without touching any VM of its owner.

A *ghost* is a definition without a guest, made for one question and taken away after it. Its name carries the time
it was made, so that what a killed controller left behind can be told and swept up.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import libvirt
from lxml import etree

from mudanza.model.host import Host

STALE_AFTER = 3600.0
"""Seconds after which a throw-away domain can only be a leftover: no question takes that long."""

_NAME = re.compile(r"mudanza-(?:probe|rehearsal)-([0-9a-f]{8})-[0-9a-f]{8}")


def throwaway_name(purpose: str) -> str:
    """Return a name no other domain has; ``purpose`` is ``probe`` or ``rehearsal``."""
    return f"mudanza-{purpose}-{int(time.time()):08x}-{secrets.token_hex(4)}"


def is_throwaway(name: str) -> bool:
    """Whether a domain is one of ours and young enough to be at work."""
    age = _age(name)
    return age is not None and age < STALE_AFTER


def _age(name: str) -> float | None:
    match = _NAME.fullmatch(name)
    return abs(time.time() - int(match[1], 16)) if match else None


def sweep(raw: Any) -> None:
    """Take away the throw-away domains that a controller has left behind."""
    for domain in raw.listAllDomains():
        age = _age(domain.name())
        if age is not None and age >= STALE_AFTER:
            remove(domain)


def remove(domain: Any) -> None:
    """End a throw-away domain and its definition, whichever of them there is."""
    for step in (domain.destroy, domain.undefine):
        try:
            step()
        except libvirt.libvirtError as error:
            # Not running, or transient and therefore gone already: then there was nothing to do.
            if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                raise


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
def ghost(raw: Any, host: Host, disks: Sequence[tuple[str, str]] = ()) -> Iterator[Any]:
    """Define a throw-away domain that never starts, and take it away again. Raises libvirtError."""
    kind = "kvm" if "kvm" in host.domain_types else "qemu"
    domain = raw.defineXML(domain_xml(throwaway_name("probe"), kind, host.arch, disks=disks))
    try:
        yield domain
    finally:
        domain.undefine()
