"""A VM's own wishes in its metadata, XML in, XML out: pure.

They have a namespace, and so an element, of their own: writing them disturbs neither tags nor claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lxml import etree

from mudanza.hypervisor.xml.parsing import first, outer
from mudanza.model.wishes import VmWishes, wishes_of

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

WISHES_NAMESPACE = "https://mudanza.dev/xmlns/wishes/1"
WISHES_PREFIX = "wishes"


def read_wishes(domain: Element) -> VmWishes | None:
    """Return the wishes in a domain's definition; None where it has none."""
    found = first(domain, f"metadata/{{{WISHES_NAMESPACE}}}wishes")
    if found is None:
        return None
    return wishes_of({str(name): str(text) for name, text in found.attrib.items()})


def wishes_xml(said: Mapping[str, str]) -> str:
    """Return the element as libvirt takes it for a domain's metadata: it adds the namespace itself."""
    return outer(etree.Element("wishes", dict(said)))
