"""A VM's snapshots and checkpoints as the target is told of them: pure, XML in, XML out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mudanza.hypervisor.xml.parsing import outer, parse
from mudanza.migration.destination import reconnect

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

_DEFINITIONS = ("domain", "inactiveDomain")
"""What a snapshot keeps of the domain: as it ran, and as it would have started next."""
_NAMED_IN_TEXT = ("nvram", "kernel", "initrd", "dtb")


def moved(xml: str, places: Mapping[str, str], nics: Mapping[str, str]) -> str:
    """Return the XML of a snapshot or checkpoint with every file where it lies at the target.

    ``places``: path at the source → path at the target; what is not in it keeps its path. ``nics``: MAC address →
    network, bridge or device at the target. Raises HypervisorError for what is not XML.
    """
    root = parse(xml, "source")
    for source in root.iter("source"):
        _relocate(source, places)
    for memory in root.iterfind("memory"):
        if (path := places.get(memory.get("file", ""))) is not None:
            memory.set("file", path)
    for element in root.iter(*_NAMED_IN_TEXT):
        if (path := places.get((element.text or "").strip())) is not None:
            element.text = path
    for definition in root.iterchildren(*_DEFINITIONS):
        reconnect(definition, nics)
    return outer(root)


def memory_files(xml: str) -> tuple[str, ...]:
    """Return the files that hold a snapshot's memory: one for an external snapshot of a running VM, else none.

    Raises HypervisorError for what is not XML.
    """
    found = (memory.get("file", "") for memory in parse(xml, "source").iterfind("memory"))
    return tuple(path for path in found if path)


def _relocate(source: Element, places: Mapping[str, str]) -> None:
    for key in ("file", "dev"):
        before = source.get(key, "")
        path = places.get(before)
        if path is None:
            continue
        if _is_device(path) == _is_device(before):
            source.set(key, path)
        else:
            _change_kind(source, key, path)


def _change_kind(source: Element, key: str, path: str) -> None:
    """A file that becomes a device, or the other way round, is another type of disk."""
    kind, name = ("block", "dev") if _is_device(path) else ("file", "file")
    del source.attrib[key]
    source.set(name, path)
    image = source.getparent()
    if image is not None and image.get("type") is not None:
        image.set("type", kind)


def _is_device(path: str) -> bool:
    return path.startswith("/dev/")
