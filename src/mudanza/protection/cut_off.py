"""The definition of a VM's double for a test failover: another name and UUID, and nothing that leads out: pure.

Its cards hang on taps of their own that are on no bridge: they have a link, and nobody is at the other end; or on an
isolated network on which nobody but doubles is. What else
a definition has that reaches something of its host or of the network is taken away, or is the double's alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from lxml import etree

from mudanza.hypervisor.xml.parsing import parse
from mudanza.hypervisor.xml.wishes import WISHES_NAMESPACE, WISHES_PREFIX
from mudanza.model.errors import BlockedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lxml.etree import _Element as Element

NAMESPACE = "https://mudanza.dev/xmlns/trial/1"
"""Of what a double says of itself in its metadata: whose it is, and upon which point."""
NETWORK = "none: each card on a tap of its own that is on no bridge"
"""What its cards are connected to, in words."""
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_OF_A_CARD = frozenset({"model", "boot", "address", "rom", "acpi"})
"""What a card keeps."""
_LEADING_OUT = ("hostdev", "filesystem", "redirdev", "smartcard", "shmem", "lease", "vsock")
"""Devices that the double does without."""
_LINES = ("serial", "parallel", "console")


def double_of(
    definition: str,
    *,
    name: str,
    uuid: str,
    directory: str,
    about: tuple[str, int],
    networks: Mapping[str, str] | None = None,
) -> str:
    """Return the definition of a VM's double, whose disks are in place already.

    ``directory``: where its UEFI variables are; ``about``: the UUID of the VM, and the restore point; ``networks``: a
    network or bridge of the VM → an isolated network that doubles share. Raises BlockedError where the VM cannot be cut
    off.
    """
    root = parse(definition, "journal")
    if root.find(f"{{{_QEMU}}}commandline") is not None:
        raise BlockedError("its definition has options for QEMU of its own (qemu:commandline), which may lead anywhere")
    _rename(root, name, uuid)
    _tell(root, about)
    variables = root.find("os/nvram")
    if variables is not None:
        for child in list(variables):
            variables.remove(child)
        for key in ("type", "format"):
            variables.attrib.pop(key, "")
        variables.text = f"{directory}/variables.fd"
    devices = root.find("devices")
    if devices is not None:
        _cut_off(devices, uuid, networks or {})
        for floppy in devices.findall("disk[@device='floppy']"):
            if floppy.find("readonly") is None:
                _drop(floppy, "source")  # somebody else's there, perhaps, and it would be written to
        for backend in devices.findall("tpm/backend"):
            backend.attrib.pop("persistent_state", "")  # its state goes with it
    return etree.tostring(root, encoding="unicode")


def _rename(root: Element, name: str, uuid: str) -> None:
    for tag, text in (("name", name), ("uuid", uuid), ("title", name)):
        if (element := root.find(tag)) is not None:
            element.text = text
    if root.find("uuid") is None:
        etree.SubElement(root, "uuid").text = uuid
    root.attrib.pop("id", "")
    for entry in root.iterfind("sysinfo/system/entry[@name='uuid']"):
        entry.text = uuid  # libvirt wants it to be the domain's
    if (generation := root.find("genid")) is not None:
        generation.text = uuid


def _tell(root: Element, about: tuple[str, int]) -> None:
    """Have it say what it is; balance leaves it where it is."""
    for before in root.findall("metadata"):
        root.remove(before)
    metadata = etree.SubElement(root, "metadata")
    vm, point = about
    etree.SubElement(metadata, f"{{{NAMESPACE}}}double", {"of": vm, "point": str(point)}, nsmap={"trial": NAMESPACE})
    wishes = f"{{{WISHES_NAMESPACE}}}wishes"
    etree.SubElement(metadata, wishes, {"balance": "never"}, nsmap={WISHES_PREFIX: WISHES_NAMESPACE})


def _cut_off(devices: Element, uuid: str, networks: Mapping[str, str]) -> None:
    for number, card in enumerate(devices.findall("interface")):
        _apart(card, uuid, number, networks)
    for tag in _LEADING_OUT:
        for device in devices.findall(tag):
            devices.remove(device)
    for line in (device for tag in _LINES for device in devices.findall(tag)):
        line.set("type", "pty")
        line.attrib.pop("tty", "")
        _drop(line, "source", "log", "protocol")
    for channel in devices.findall("channel"):
        if channel.get("type") in ("unix", "spicevmc", "qemu-vdagent"):
            _drop(channel, "source", "log")
        else:
            devices.remove(channel)
    for source in devices.findall("rng"):
        if any(backend.get("model") == "egd" for backend in source.iterfind("backend")):
            devices.remove(source)
    for display in devices.findall("graphics"):
        for key in ("port", "tlsPort", "websocket", "socket"):
            display.attrib.pop(key, "")
        display.set("autoport", "yes")
        for listen in display.findall("listen[@type='socket']"):
            display.remove(listen)


def _apart(card: Element, uuid: str, number: int, networks: Mapping[str, str]) -> None:
    """Have a card hang on the isolated network that is named for it, else on a tap of its own."""
    source = card.find("source")
    names = {source.get(kind, "") for kind in ("network", "bridge")} if source is not None else set()
    shared = next((networks[name] for name in names if name in networks), None)
    card.attrib.clear()
    card.set("type", "ethernet" if shared is None else "network")
    for child in list(card):
        if child.tag not in _OF_A_CARD:
            card.remove(child)
    digits = hashlib.blake2s(f"{uuid} {number}".encode(), digest_size=3).hexdigest()
    address = ":".join(("52:54:00", digits[:2], digits[2:4], digits[4:]))
    card.insert(0, etree.Element("mac", address=address))
    if shared is not None:
        card.insert(1, etree.Element("source", network=shared))


def _drop(device: Element, *tags: str) -> None:
    for tag in tags:
        for child in device.findall(tag):
            device.remove(child)
