"""From a domain's XML to a ``Vm``. What the XML does not say (sizes, snapshots, jobs) is filled in by the reader."""

from __future__ import annotations

from lxml import etree

from mudanza.hypervisor.xml.activation import read_epoch
from mudanza.hypervisor.xml.claims import read_claims
from mudanza.hypervisor.xml.devices import parse_graphics, parse_nic, parse_tpm
from mudanza.hypervisor.xml.disks import parse_disk
from mudanza.hypervisor.xml.hostdevs import parse_host_devices
from mudanza.hypervisor.xml.parsing import (
    MUDANZA_NAMESPACE,
    attribute,
    every,
    first,
    integer,
    number_set,
    outer,
    parse,
    size,
    text,
    unit_bytes,
)
from mudanza.hypervisor.xml.wishes import read_wishes
from mudanza.model.vm import BoundMemory, Firmware, Vm, VmState

_TAG = f"metadata/{{{MUDANZA_NAMESPACE}}}mudanza/{{{MUDANZA_NAMESPACE}}}tag"
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_AGENT = "org.qemu.guest_agent.0"
_BOOT_FILES = ("os/kernel", "os/initrd", "os/dtb", "os/acpi/table")


def parse_vm(
    xml: str,
    *,
    host: str,
    state: VmState,
    reason: str = "unknown",
    persistent: bool = True,
    autostart: bool = False,
    inactive_xml: str | None = None,
) -> Vm:
    """Read a domain's definition: the live one while it runs, else the inactive one.

    Raises HypervisorError for XML that cannot be read.
    """
    root = parse(xml, host)
    devices = first(root, "devices")
    cpu = first(root, "cpu")
    return Vm(
        uuid=text(root, "uuid") or "",
        name=text(root, "name") or "",
        host=host,
        state=state,
        reason=reason,
        persistent=persistent,
        autostart=autostart,
        memory=size(root, "memory") or 0,
        vcpus=integer(attribute(root, "vcpu", "current") or text(root, "vcpu")) or 1,
        arch=attribute(root, "os/type", "arch") or "",
        machine=attribute(root, "os/type", "machine") or "",
        domain_type=root.get("type") or "",
        xml=xml,
        inactive_xml=inactive_xml,
        cpu_mode=_cpu_mode(cpu),
        cpu_xml=None if cpu is None else outer(cpu),
        cpu_required=_required(cpu),
        emulator=text(devices, "emulator"),
        disks=tuple(parse_disk(disk) for disk in every(devices, "disk")),
        nics=tuple(parse_nic(nic) for nic in every(devices, "interface")),
        host_devices=parse_host_devices(root),
        graphics=tuple(parse_graphics(display) for display in every(devices, "graphics")),
        firmware=_firmware(root),
        tpm=parse_tpm(first(devices, "tpm")),
        boot_files=_boot_files(root),
        hugepages=_hugepages(root),
        pinned_cpus=_pinned_cpus(root),
        numa_nodes=_numa_nodes(root),
        bound_memory=_bound_memory(root),
        memory_limit=size(root, "maxMemory"),
        memory_source=attribute(root, "memoryBacking/source", "type"),
        tsc_unfixed=_tsc_unfixed(root),
        launch_security=attribute(root, "launchSecurity", "type"),
        vsock_cid=_vsock_cid(devices),
        qemu_arguments=first(root, f"{_QEMU}commandline") is not None,
        guest_agent=any(port.get("name") == _AGENT for port in every(devices, "channel/target")),
        secrets=_secrets(devices),
        seclabels=_static_labels(root),
        claims=read_claims(root),
        epoch=read_epoch(root),
        tags=tuple(filter(None, ((tag.text or "").strip() for tag in every(root, _TAG)))),
        wishes=read_wishes(root),
        title=text(root, "title"),
    )


def _cpu_mode(cpu: etree._Element | None) -> str | None:
    if cpu is None:
        return None
    # A CPU with a model and no mode is libvirt's oldest spelling of "custom"; one with neither says nothing.
    return cpu.get("mode") or ("custom" if text(cpu, "model") else None)


def _required(cpu: etree._Element | None) -> frozenset[str]:
    named = every(cpu, "feature")
    return frozenset(f.get("name") or "" for f in named if f.get("policy", "require") in ("require", "force"))


def _firmware(root: etree._Element) -> Firmware | None:
    loader = text(root, "os/loader")
    nvram = text(root, "os/nvram") or attribute(root, "os/nvram/source", "file")
    template = attribute(root, "os/nvram", "template")
    return Firmware(loader, nvram, template) if loader or nvram or template else None


def _boot_files(root: etree._Element) -> tuple[str, ...]:
    named = [(found.text or "").strip() for path in _BOOT_FILES for found in every(root, path)]
    handed_over = [entry.get("file", "") for entry in every(root, "sysinfo/entry")]
    return tuple(dict.fromkeys(filter(None, [*named, *handed_over])))


def _hugepages(root: etree._Element) -> tuple[int, ...]:
    asked = first(root, "memoryBacking/hugepages")
    if asked is None:
        return ()
    pages = [(integer(page.get("size")) or 0) * unit_bytes(page.get("unit") or "KiB") for page in every(asked, "page")]
    return tuple(pages) or (0,)


def _pinned_cpus(root: etree._Element) -> frozenset[int]:
    pins = [
        pin.get("cpuset")
        for kind in ("vcpupin", "emulatorpin", "iothreadpin")
        for pin in every(root, f"cputune/{kind}")
    ]
    return frozenset().union(*(number_set(cpus) for cpus in [attribute(root, "vcpu", "cpuset"), *pins]))


def _numa_nodes(root: etree._Element) -> frozenset[int]:
    bound = [memory.get("nodeset") for kind in ("memory", "memnode") for memory in every(root, f"numatune/{kind}")]
    return frozenset().union(*(number_set(nodes) for nodes in bound))


def _bound_memory(root: etree._Element) -> tuple[BoundMemory, ...]:
    """Read what must come from certain nodes: cells of the guest by their own nodes, the rest by those of all of it."""
    pages = tuple(sorted(set(_hugepages(root))))
    cells = {cell.get("id") or str(n): _cell_bytes(cell) for n, cell in enumerate(every(root, "cpu/numa/cell"))}
    parts = [(_must_nodes(node), cells.pop(node.get("cellid") or "", 0)) for node in every(root, "numatune/memnode")]
    rest = sum(cells.values()) if parts else size(root, "memory") or 0
    parts.append((_must_nodes(first(root, "numatune/memory")), rest))
    return tuple(BoundMemory(nodes, amount, pages) for nodes, amount in parts if nodes and amount)


def _cell_bytes(cell: etree._Element) -> int:
    return (integer(cell.get("memory")) or 0) * unit_bytes(cell.get("unit") or "KiB")


def _must_nodes(binding: etree._Element | None) -> frozenset[int]:
    """Return the nodes that memory may come from; empty: from all, should these not have enough."""
    if binding is None or binding.get("mode", "strict") not in ("strict", "restrictive"):
        return frozenset()
    return number_set(binding.get("nodeset"))


def _tsc_unfixed(root: etree._Element) -> bool:
    invariant = any(
        feature.get("name") == "invtsc" and feature.get("policy", "require") in ("require", "force")
        for feature in every(root, "cpu/feature")
    )
    fixed = any(timer.get("name") == "tsc" and timer.get("frequency") for timer in every(root, "clock/timer"))
    return invariant and not fixed


def _vsock_cid(devices: etree._Element | None) -> int | None:
    if attribute(devices, "vsock/cid", "auto") == "yes":
        return None
    return integer(attribute(devices, "vsock/cid", "address"))


def _secrets(devices: etree._Element | None) -> tuple[str, ...]:
    if devices is None:
        return ()
    named = [secret.get("uuid") or secret.get("usage") or "" for secret in devices.iter("secret")]
    for_tpm = [encryption.get("secret", "") for encryption in every(devices, "tpm/backend/encryption")]
    return tuple(dict.fromkeys(filter(None, [*named, *for_tpm])))


def _static_labels(root: etree._Element) -> tuple[str, ...]:
    return tuple(
        label.get("model", "")
        for label in every(root, "seclabel")
        if label.get("type") == "static" and label.get("model")
    )
