"""From capabilities XML and domain capabilities XML to a ``Host``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lxml import etree

from mudanza.hypervisor.xml.parsing import every, first, integer, outer, parse, size, text, unit_bytes
from mudanza.model.host import Host, HugePages, NumaNode


def with_capabilities(host: Host, xml: str) -> Host:
    """Fill in what a host's capabilities say. Free huge pages are not among it.

    Raises HypervisorError for XML that cannot be read.
    """
    root = parse(xml, host.name)
    about = first(root, "host")
    cpu = first(about, "cpu")
    arch = text(cpu, "arch") or ""
    guests = [guest for guest in every(root, "guest/arch") if guest.get("name") == arch]
    cells = list(every(about, "topology/cells/cell"))
    return replace(
        host,
        host_uuid=text(about, "uuid") or "",
        arch=arch,
        cpu_model=text(cpu, "model") or "",
        cpu_vendor=text(cpu, "vendor") or "",
        cpu_features=frozenset(feature.get("name") or "" for feature in every(cpu, "feature")),
        cpu_xml="" if cpu is None else outer(cpu),
        domain_types=frozenset(kind.get("type") or "" for guest in guests for kind in every(guest, "domain")),
        machines=_machines(guests),
        hugepages=_hugepages(cells),
        nodes=tuple(_node(number, cell) for number, cell in enumerate(cells)),
        cpu_count_by_node=tuple(len(list(every(cell, "cpus/cpu"))) for cell in cells),
        memory_total=host.memory_total or sum(size(cell, "memory") or 0 for cell in cells),
        security_models=_security_models(about),
        qemu_owner=_qemu_owner(about),
        migration_transports=frozenset(
            (transport.text or "").strip()
            for transport in every(about, "migration_features/uri_transports/uri_transport")
        ),
    )


def with_domain_capabilities(host: Host, xml: str) -> Host:
    """Fill in what a host offers to its guests. Raises HypervisorError for XML that cannot be read."""
    root = parse(xml, host.name)
    tpm = first(root, "devices/tpm")
    return replace(
        host,
        firmware_loaders=frozenset((path.text or "").strip() for path in every(root, "os/loader/value")),
        tpm_backends=_choices(tpm, "backendModel"),
    )


@dataclass(frozen=True, slots=True)
class CpuModels:
    """The CPU models a hypervisor knows for one kind of guest."""

    usable: frozenset[str]
    unusable: frozenset[str]
    modes: frozenset[str]


def parse_cpu_models(xml: str, host: str) -> CpuModels:
    """Read the CPUs out of domain capabilities. Raises HypervisorError for XML that cannot be read."""
    modes = [mode for mode in every(parse(xml, host), "cpu/mode") if mode.get("supported") == "yes"]
    models = [model for mode in modes if mode.get("name") == "custom" for model in every(mode, "model")]
    return CpuModels(
        usable=frozenset((model.text or "").strip() for model in models if model.get("usable") != "no"),
        unusable=frozenset((model.text or "").strip() for model in models if model.get("usable") == "no"),
        modes=frozenset(mode.get("name") or "" for mode in modes),
    )


def _machines(guests: list[etree._Element]) -> frozenset[str]:
    machines = [machine for guest in guests for machine in guest.iter("machine")]
    named = [(machine.text or "").strip() for machine in machines]
    return frozenset(filter(None, [*named, *(machine.get("canonical") for machine in machines)]))


def _hugepages(cells: list[etree._Element]) -> tuple[HugePages, ...]:
    totals: dict[int, int] = {}
    for cell in cells:
        # The smallest size stands for ordinary memory.
        for pages in sorted(every(cell, "pages"), key=_page_bytes)[1:]:
            totals[_page_bytes(pages)] = totals.get(_page_bytes(pages), 0) + (integer(pages.text) or 0)
    return tuple(HugePages(page, total, free=0) for page, total in sorted(totals.items()))


def _node(number: int, cell: etree._Element) -> NumaNode:
    found = integer(cell.get("id"))
    return NumaNode(number if found is None else found, size(cell, "memory") or 0, 0, _hugepages([cell]))


def _page_bytes(pages: etree._Element) -> int:
    return (integer(pages.get("size")) or 0) * unit_bytes(pages.get("unit") or "KiB")


def _security_models(about: etree._Element | None) -> frozenset[str]:
    models = (text(model, "model") for model in every(about, "secmodel"))
    return frozenset(model for model in models if model and model != "none")


def _qemu_owner(about: etree._Element | None) -> tuple[int, int] | None:
    for model in every(about, "secmodel"):
        if text(model, "model") == "dac":
            # The label is "+user:+group"; the sign tells numbers from names.
            user, _, group = (text(model, "baselabel") or "").replace("+", "").partition(":")
            numbers = integer(user), integer(group)
            return (numbers[0], numbers[1]) if numbers[0] is not None and numbers[1] is not None else None
    return None


def _choices(device: etree._Element | None, enum: str) -> frozenset[str]:
    if device is None or device.get("supported") != "yes":
        return frozenset()
    return frozenset(
        (value.text or "").strip()
        for choice in every(device, "enum")
        if choice.get("name") == enum
        for value in every(choice, "value")
    )


def free_of(host: Host, free_pages: dict[int, int]) -> Host:
    """Fill in the free huge pages, by page size in bytes."""
    return replace(host, hugepages=tuple(replace(p, free=free_pages.get(p.size, 0)) for p in host.hugepages))
