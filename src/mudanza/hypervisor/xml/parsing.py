"""Reading XML that others wrote: no entities, no network, no document types."""

from __future__ import annotations

from collections.abc import Iterator

from lxml import etree

from mudanza.model.errors import HypervisorError

MUDANZA_NAMESPACE = "https://mudanza.dev/xmlns/1"
"""What mudanza keeps in a domain's ``<metadata>`` is in this namespace."""

_BINARY = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


def parse(text: str, host: str) -> etree._Element:
    """Return the root element. Raises HypervisorError for what is not XML or declares a document type."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise HypervisorError(host, f"its libvirt sent XML that cannot be read: {error}") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise HypervisorError(host, "XML with a document type (DOCTYPE) is refused")
    return root


def first(element: etree._Element | None, path: str) -> etree._Element | None:
    """Return the first element at a path of plain names (``a/b/c``), None if there is none."""
    return None if element is None else element.find(path)


def every(element: etree._Element | None, path: str) -> Iterator[etree._Element]:
    """Yield the elements at a path of plain names."""
    return iter(()) if element is None else iter(element.findall(path))


def text(element: etree._Element | None, path: str) -> str | None:
    """Return the text of the first element at a path as it is, for names may end with a blank; None where it is
    missing or empty."""
    found = first(element, path)
    return found.text or None if found is not None else None


def attribute(element: etree._Element | None, path: str, name: str) -> str | None:
    """Return an attribute of the first element at a path, None where it is missing or empty."""
    found = first(element, path)
    return found.get(name) or None if found is not None else None


def size(element: etree._Element | None, path: str, *, default_unit: str = "KiB") -> int | None:
    """Return a size in bytes; ``unit`` as libvirt writes it. None where it is missing or no number."""
    found = first(element, path)
    if found is None:
        return None
    number = integer(found.text)
    return None if number is None else number * unit_bytes(found.get("unit") or default_unit)


def unit_bytes(unit: str) -> int:
    """Return how many bytes one of libvirt's units has: ``KiB`` and ``k`` are 1024, ``KB`` is 1000."""
    lowered = unit.lower()
    if lowered in ("b", "byte", "bytes"):
        return 1
    power = _BINARY.get(lowered[0], 0)
    return int((1000 if lowered.endswith("b") and not lowered.endswith("ib") else 1024) ** power)


def integer(value: str | None) -> int | None:
    """Return a whole number, decimal or ``0x…``; None for anything else."""
    digits = (value or "").strip()
    try:
        return int(digits, 16 if digits.startswith("0x") else 10)
    except ValueError:
        return None


def number_set(value: str | None) -> frozenset[int]:
    """Read libvirt's sets of numbers, such as ``0-3,^2,8``."""
    chosen: set[int] = set()
    for piece in filter(None, (part.strip() for part in (value or "").split(","))):
        low, _, high = piece.lstrip("^").partition("-")
        numbers = range(int(low), int(high or low) + 1)
        chosen = chosen - set(numbers) if piece.startswith("^") else chosen | set(numbers)
    return frozenset(chosen)


def outer(element: etree._Element) -> str:
    """Return an element with all it contains as text."""
    return etree.tostring(element, encoding="unicode", with_tail=False)
