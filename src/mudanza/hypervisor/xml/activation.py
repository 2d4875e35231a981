"""What a protected VM's metadata says of its protection, XML in, XML out: pure.

Its *activation epoch* goes up whenever it comes up elsewhere by failover: of two copies the one of the lower epoch is
stale. And whether its host started it when it booted, which is switched off for as long as it is protected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxml import etree

from mudanza.hypervisor.xml.parsing import first, integer, outer, parse

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

NAMESPACE = "https://mudanza.dev/xmlns/activation/1"
PREFIX = "activation"


def activation_xml(epoch: int, *, autostart: bool) -> str:
    """Return the element as libvirt takes it for a domain's metadata: it adds the namespace itself."""
    return outer(etree.Element("activation", _attributes(epoch, autostart=autostart)))


def epoch_of(definition: str) -> int:
    """Return a definition's epoch; 0: it has never come up by failover. Raises HypervisorError for what is no XML."""
    return read_epoch(parse(definition, "source"))


def read_epoch(domain: Element) -> int:
    """Return the same of a definition that has been read already."""
    found = first(domain, f"metadata/{{{NAMESPACE}}}activation")
    return (integer(found.get("epoch")) or 0) if found is not None else 0


def wishes_autostart(definition: str) -> bool:
    """Whether a definition says that its host is to start it when it boots, once it is protected no more."""
    found = first(parse(definition, "source"), f"metadata/{{{NAMESPACE}}}activation")
    return found is not None and found.get("autostart") == "yes"


def with_epoch(definition: str, epoch: int, *, autostart: bool) -> str:
    """Return a definition that says so. Raises HypervisorError for what is no XML."""
    root = parse(definition, "source")
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.SubElement(root, "metadata")
    for before in metadata.findall(f"{{{NAMESPACE}}}activation"):
        metadata.remove(before)
    attributes = _attributes(epoch, autostart=autostart)
    etree.SubElement(metadata, f"{{{NAMESPACE}}}activation", attributes, nsmap={PREFIX: NAMESPACE})
    return outer(root)


def _attributes(epoch: int, *, autostart: bool) -> dict[str, str]:
    return {"epoch": str(epoch), "autostart": "yes" if autostart else "no"}
