"""Guests' CPUs, XML in, XML out: what a host offers, and a definition with another CPU. Pure.

The CPU that a definition had before stands in its metadata, in an element of its own: whatever defines the new CPU
keeps the old one in the same instant, and it goes where the VM goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lxml import etree

from mudanza.hypervisor.xml.parsing import every, first, outer, parse, text

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

FORMER_NAMESPACE = "https://mudanza.dev/xmlns/cpu/1"
_FORMER = f"{{{FORMER_NAMESPACE}}}former"
_KEPT = ("topology", "cache", "maxphysaddr", "numa")
"""What of a ``<cpu>`` is about its shape and not about what it can do."""
NO_CPU = "hypervisor's default"
"""What stands for a definition that said nothing of its CPU."""


def offered_cpu(capabilities: str, host: str) -> str:
    """Return, out of domain capabilities, the ``<cpu>`` that ``host-model`` stands for; empty where there is none.

    Raises HypervisorError for XML that cannot be read.
    """
    for mode in every(parse(capabilities, host), "cpu/mode"):
        if mode.get("name") == "host-model" and mode.get("supported") == "yes":
            mode.tag = "cpu"
            mode.attrib.clear()
            return outer(mode)
    return ""


def model_of(cpu: str, host: str) -> tuple[str, str]:
    """Return a CPU's model and vendor, each empty where it is not said. Raises HypervisorError."""
    root = parse(cpu, host)
    return text(root, "model") or "", text(root, "vendor") or ""


def features_of(cpu: str, host: str) -> frozenset[str]:
    """Return the features of a CPU that has been expanded. Raises HypervisorError."""
    named = every(parse(cpu, host), "feature")
    return frozenset(f.get("name") or "" for f in named if f.get("policy") not in ("disable", "forbid"))


def with_cpu(definition: str, cpu: str, host: str) -> str:
    """Return a definition with that CPU, the old one's topology and NUMA cells, and the old one kept in its metadata.

    One that is kept there already stays: it is the one from before the first change. Raises HypervisorError.
    """
    root, new = parse(definition, host), parse(cpu, host)
    old = first(root, "cpu")
    _keep(root, old)
    if old is not None:
        for name in _KEPT:
            for part in list(every(old, name)):
                new.append(part)
    _put(root, old, new)
    return outer(root)


def with_former_cpu(definition: str, host: str) -> str | None:
    """Return a definition with the CPU it had before, None where none is kept. Raises HypervisorError."""
    root = parse(definition, host)
    kept = first(root, f"metadata/{_FORMER}")
    if kept is None:
        return None
    was = (kept.text or "").strip()
    _put(root, first(root, "cpu"), None if was == NO_CPU else parse(was, host))
    metadata = first(root, "metadata")
    if metadata is not None:
        metadata.remove(kept)
        if not len(metadata):
            root.remove(metadata)
    return outer(root)


def keeps_former(definition: str, host: str) -> bool:
    """Whether a definition keeps a CPU that it had before. Raises HypervisorError."""
    return first(parse(definition, host), f"metadata/{_FORMER}") is not None


def same_cpu(definition: str, cpu: str, host: str) -> bool:
    """Whether a definition asks for that CPU: the model, and each feature by its policy. Raises HypervisorError."""
    mine = first(parse(definition, host), "cpu")
    return mine is not None and _asked(mine) == _asked(parse(cpu, host))


def _asked(cpu: Element) -> tuple[str, frozenset[tuple[str, str]]]:
    features = frozenset((f.get("name") or "", f.get("policy") or "require") for f in every(cpu, "feature"))
    return text(cpu, "model") or "", features


def _keep(root: Element, old: Element | None) -> None:
    metadata = first(root, "metadata")
    if metadata is None:
        metadata = etree.Element("metadata")
        root.insert(0, metadata)
    if first(metadata, _FORMER) is None:
        kept = etree.SubElement(metadata, _FORMER, nsmap={"cpu": FORMER_NAMESPACE})
        kept.text = NO_CPU if old is None else outer(old)


def _put(root: Element, old: Element | None, new: Element | None) -> None:
    if old is not None:
        place = root.index(old)
        root.remove(old)
    else:
        devices = first(root, "devices")
        place = len(root) if devices is None else root.index(devices)
    if new is not None:
        root.insert(place, new)
