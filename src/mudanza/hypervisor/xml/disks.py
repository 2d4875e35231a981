"""From ``<disk>`` to ``Disk``."""

from __future__ import annotations

import posixpath

from lxml import etree

from mudanza.hypervisor.xml.parsing import attribute, every, first
from mudanza.model.vm import Backing, Disk

_SOURCE_ATTRIBUTE = {"file": "file", "block": "dev", "dir": "dir"}


def parse_disk(disk: etree._Element) -> Disk:
    """Read one ``<disk>``."""
    kind = disk.get("type") or "file"
    source = first(disk, "source")
    return Disk(
        target=attribute(disk, "target", "dev") or "",
        device=disk.get("device") or "disk",
        bus=attribute(disk, "target", "bus") or "",
        kind=kind,
        source=describe_source(kind, source),
        format=attribute(disk, "driver", "type") or "raw",
        cache=attribute(disk, "driver", "cache") or "default",
        readonly=first(disk, "readonly") is not None,
        shareable=first(disk, "shareable") is not None,
        backing=_chain(disk),
        pool=attribute(disk, "source", "pool"),
        volume=attribute(disk, "source", "volume"),
        secret=_secret(disk),
        iotune=first(disk, "iotune") is not None,
        transient=first(disk, "transient") is not None,
        mirror=first(disk, "mirror") is not None,
        encryption=attribute(disk, "encryption", "format") or attribute(disk, "source/encryption", "format"),
    )


def describe_source(kind: str, source: etree._Element | None) -> str | None:
    """Return where an image is: a path, ``pool/volume``, or ``protocol://host:port/name``."""
    if source is None:
        return None
    if kind in _SOURCE_ATTRIBUTE:
        return source.get(_SOURCE_ATTRIBUTE[kind]) or None
    if kind == "network":
        return _network_source(source)
    if kind == "volume":
        return f"{source.get('pool')}/{source.get('volume')}" if source.get("volume") else None
    if kind == "nvme":
        return f"nvme:{pci_address(first(source, 'address'))}/{source.get('namespace', '1')}"
    return source.get("path") or source.get("dev") or None


def pci_address(address: etree._Element | None) -> str:
    """Return a PCI address the way lspci writes it: ``0000:03:00.0``."""
    if address is None:
        return "unknown"
    parts = (int(address.get(name) or "0", 16) for name in ("domain", "bus", "slot", "function"))
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)


def _network_source(source: etree._Element) -> str:
    protocol, name = source.get("protocol", ""), source.get("name", "")
    hosts = [
        f"{host.get('name')}:{host.get('port')}" if host.get("port") else host.get("name") or host.get("socket") or ""
        for host in every(source, "host")
    ]
    return f"{protocol}://{','.join(hosts)}/{name.lstrip('/')}"


def _chain(disk: etree._Element) -> tuple[Backing, ...]:
    images: list[Backing] = []
    layer = first(disk, "backingStore")
    # The end of a chain that libvirt has followed is an empty <backingStore/>.
    while layer is not None:
        path = describe_source(layer.get("type") or "file", first(layer, "source"))
        if path is None:
            break
        images.append(Backing(image_path(path), attribute(layer, "format", "type") or "raw"))
        layer = first(layer, "backingStore")
    return tuple(images)


def image_path(path: str, named_by: str = "") -> str:
    """Return a path of an image in the one form that pools are compared with: no ``.`` in it, no doubled slash.

    A relative one counts from where the image lies that names it. ``..`` stays, for behind a symbolic link it leads
    elsewhere than it seems to, and what is no path of a file (a network disk) stays as it is.
    """
    whole = posixpath.join(posixpath.dirname(named_by), path)
    return whole if ".." in whole.split("/") or not posixpath.isabs(whole) else posixpath.normpath(whole)


def _secret(disk: etree._Element) -> str | None:
    for path in ("source/auth/secret", "auth/secret", "source/encryption/secret", "encryption/secret"):
        found = attribute(disk, path, "uuid") or attribute(disk, path, "usage")
        if found:
            return found
    return None
