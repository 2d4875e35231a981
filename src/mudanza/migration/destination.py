"""The definition a VM gets at its destination, and the volumes made for it there: pure, XML in, XML out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lxml import etree

from mudanza.hypervisor.xml.parsing import parse
from mudanza.model.errors import MudanzaError
from mudanza.model.vm import Backing
from mudanza.preflight.mapping import DiskPlan

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

# What a volume keeps of its source besides size and format; the rest (owner, path, allocation) is the destination's.
_QCOW2_TRAITS = ("compat", "features", "clusterSize")


def _read(xml: str) -> Element:
    return parse(xml, "source")


def _text(root: Element) -> str:
    return etree.tostring(root, encoding="unicode")


def destination_xml(xml: str, disks: Sequence[DiskPlan], nics: Mapping[str, str]) -> str:
    """Return the domain XML with disks and NICs pointing at what the destination has.

    ``nics`` maps a NIC's MAC address to the name of its network, bridge or device at the destination.
    """
    root = _read(xml)
    plans = {plan.target: plan for plan in disks}
    for disk in root.iterfind("devices/disk"):
        target = disk.find("target")
        plan = plans.get(target.get("dev", "")) if target is not None else None
        if plan is not None and plan.action == "copy":
            _point_at(disk, plan)
        elif plan is not None and plan.action == "eject":
            _empty(disk)
    reconnect(root, nics)
    return _text(root)


def reconnect(domain: Element, nics: Mapping[str, str]) -> None:
    """Point the NICs of a domain at what the destination has; see ``destination_xml``."""
    for nic in domain.iterfind("devices/interface"):
        mac = nic.find("mac")
        wanted = nics.get(mac.get("address", "")) if mac is not None else None
        if wanted is not None:
            _reconnect(nic, wanted)


def with_places_of(definition: str, saved: str) -> str:
    """Return the definition of a saved memory with disks and NICs pointing where those of ``definition`` do."""
    root, there = _read(saved), _read(definition)
    for kind, name in (("disk", "target/@dev"), ("interface", "mac/@address")):
        found = {device.xpath(f"string({name})"): device for device in there.iterfind(f"devices/{kind}")}
        for device in root.iterfind(f"devices/{kind}"):
            if (model := found.get(device.xpath(f"string({name})"))) is not None:
                _fill_as(device, model)
    return _text(root)


def _fill_as(device: Element, model: Element) -> None:
    device.set("type", model.get("type", ""))
    _empty(device)
    device.extend(copy.deepcopy(source) for source in model.iterfind("source"))
    driver, wanted = device.find("driver"), model.find("driver")
    if driver is not None and wanted is not None and (kind := wanted.get("type")):
        driver.set("type", kind)


def disk_sources(xml: str) -> Mapping[str, tuple[str, ...]]:
    """Return what each drive of a domain is filled with, by the guest's name for it."""
    names = ("file", "dev", "pool", "volume", "protocol", "name")
    return {
        target.get("dev", ""): tuple(source.get(name, "") for name in names) if source is not None else ()
        for disk in _read(xml).iterfind("devices/disk")
        if (target := disk.find("target")) is not None
        for source in (disk.find("source"),)
    }


def _point_at(disk: Element, plan: DiskPlan) -> None:
    source = disk.find("source")
    if source is None:
        raise MudanzaError(f"disk {plan.target} has no source to replace")
    kind = "block" if plan.pool_is_block else "file"
    # An image copied live is flattened, and a chain or a mirror of the source means nothing at the destination.
    for stale in ("backingStore", "mirror"):
        for element in disk.findall(stale):
            disk.remove(element)
    for name in ("file", "dev", "pool", "volume", "mode", "startupPolicy", "index"):
        _drop(source, name)
    disk.set("type", kind)
    source.set("file" if kind == "file" else "dev", plan.path)
    driver = disk.find("driver")
    if driver is not None:
        driver.set("type", plan.format)


def _empty(drive: Element) -> None:
    for name in ("source", "backingStore"):
        for element in drive.findall(name):
            drive.remove(element)


def _drop(element: Element, name: str) -> None:
    if name in element.attrib:
        del element.attrib[name]


def _reconnect(nic: Element, wanted: str) -> None:
    source = nic.find("source")
    if source is None:
        return
    key = {"network": "network", "bridge": "bridge", "direct": "dev"}.get(nic.get("type", ""))
    if key is None or source.get(key) == wanted:
        return
    source.set(key, wanted)
    # What libvirt noted of the source's port does not exist over there.
    for name in ("portid", "bridge" if key != "bridge" else "network"):
        _drop(source, name)


def volume_xml(plan: DiskPlan, source_volume: str | None, below: Backing | None = None) -> str:
    """Return the XML of the empty volume that a disk will be copied into.

    ``source_volume`` is the XML of the volume it comes from, where the source could tell: a qcow2 file keeps its
    version, features and cluster size. Of one outside all pools nothing is known: its copy gets version 3. ``below``:
    the image at the target that it is built upon.
    """
    root = etree.Element("volume")
    etree.SubElement(root, "name").text = plan.volume
    etree.SubElement(root, "capacity", unit="bytes").text = str(plan.size)
    # Of a logical volume with less than all its space libvirt makes an LVM snapshot that breaks when it has filled up.
    etree.SubElement(root, "allocation", unit="bytes").text = str(plan.size if plan.pool_is_block else 0)
    target = etree.SubElement(root, "target")
    etree.SubElement(target, "format", type=plan.format)
    if plan.format == "qcow2":
        target.extend(_qcow2_traits(source_volume))
    if below is not None:
        backing = etree.SubElement(root, "backingStore")
        etree.SubElement(backing, "path").text = below.path
        etree.SubElement(backing, "format", type=below.format)
    return _text(root)


def _qcow2_traits(source_volume: str | None) -> Iterable[Element]:
    if source_volume is None:
        # Not told, libvirt makes qcow2 version 2, which can hold no dirty bitmap.
        compat = etree.Element("compat")
        compat.text = "1.1"
        return [compat]
    found = (_read(source_volume).find(f"target/{trait}") for trait in _QCOW2_TRAITS)
    return [element for element in found if element is not None]
