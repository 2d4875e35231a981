"""Domain XML as libvirt hands it out: completed when it is defined, decorated while it runs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping

from lxml import etree

_CANONICAL = {None: "pc-i440fx-7.2", "pc": "pc-i440fx-7.2", "q35": "pc-q35-7.2"}
_UNITS = {"b": 1, "bytes": 1, "KiB": 1024, "k": 1024, "MiB": 1024**2, "M": 1024**2, "GiB": 1024**3, "G": 1024**3}
_BEFORE_DEVICES = (
    ("cpu", "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>"),
    ("clock", "<clock offset='utc'/>"),
    ("on_poweroff", "<on_poweroff>destroy</on_poweroff>"),
    ("on_reboot", "<on_reboot>restart</on_reboot>"),
    ("on_crash", "<on_crash>destroy</on_crash>"),
)


def completed(xml: str) -> etree._Element:
    """Return the definition with what libvirt adds to it, and without what belongs to a running guest."""
    root = etree.fromstring(xml)
    _drop(root, "id")
    if root.find("uuid") is None:
        key = etree.Element("uuid")
        key.text = str(uuid.uuid4())
        root.insert(1, key)
    _complete_memory(root)
    _complete_machine(root)
    devices = root.find("devices")
    if devices is None:
        devices = etree.SubElement(root, "devices")
    for tag, default in _BEFORE_DEVICES:
        if root.find(tag) is None:
            root.insert(root.index(devices), etree.fromstring(default))
    if devices.find("emulator") is None:
        devices.insert(0, etree.fromstring("<emulator>/usr/bin/qemu-system-x86_64</emulator>"))
    for stale in [*root.findall("seclabel"), *devices.findall("*/alias"), *devices.findall("disk/mirror")]:
        above = stale.getparent()
        if above is not None:
            above.remove(stale)
    for source in devices.iterfind("disk/source"):
        _drop(source, "index")
    return root


def uuid_of(xml: str) -> str:
    """Return the UUID in a definition, empty where there is none."""
    return etree.fromstring(xml).findtext("uuid") or ""


def _drop(element: etree._Element, name: str) -> None:
    if name in element.attrib:
        del element.attrib[name]


def _complete_machine(root: etree._Element) -> None:
    system, machine = root.find("os"), root.find("os/type")
    if system is not None and root.find("vcpu") is None:
        root.insert(root.index(system), etree.fromstring("<vcpu placement='static'>1</vcpu>"))
    if machine is not None:
        machine.set("machine", _CANONICAL.get(machine.get("machine"), machine.get("machine") or ""))
        machine.set("arch", machine.get("arch", "x86_64"))


def _complete_memory(root: etree._Element) -> None:
    memory = root.find("memory")
    if memory is None:
        return
    size = int(memory.text or "0") * _UNITS[memory.get("unit", "KiB")] // 1024
    memory.set("unit", "KiB")
    memory.text = str(size)
    if root.find("currentMemory") is None:
        current = etree.Element("currentMemory", unit="KiB")
        current.text = str(size)
        root.insert(root.index(memory) + 1, current)


def text(root: etree._Element) -> str:
    """Return it as it is handed out."""
    return etree.tostring(root, encoding="unicode")


def as_it_runs(xml: str, number: int, chain: Callable[[str], list[tuple[str, str]]], mirrors: Mapping[str, str]) -> str:
    """Return a definition as of a guest that runs. ``chain``: path → path and format of each image below it;
    ``mirrors``: disk → where a block job copies it to."""
    root = etree.fromstring(xml)
    root.set("id", str(number))
    for place, disk in enumerate(root.iterfind("devices/disk")):
        source, target = disk.find("source"), disk.find("target")
        if source is None or target is None:
            continue
        source.set("index", str(place + 1))
        _follow_chain(disk, source, chain)
        etree.SubElement(disk, "alias", name=f"disk{place}")
        if (path := mirrors.get(target.get("dev", ""))) is not None:
            mirror = etree.SubElement(disk, "mirror", type="file", job="copy")
            etree.SubElement(mirror, "source", file=path)
    label = etree.SubElement(root, "seclabel", type="dynamic", model="dac", relabel="yes")
    etree.SubElement(label, "label").text = "+0:+0"
    return text(root)


def as_another_takes_it(xml: str, chain: Callable[[str], list[tuple[str, str]]]) -> str:
    """Return a running guest's definition as a migration hands it over."""
    root = etree.fromstring(xml)
    for disk in root.iterfind("devices/disk"):
        source = disk.find("source")
        if source is not None:
            _follow_chain(disk, source, chain)
    return text(root)


def _follow_chain(disk: etree._Element, source: etree._Element, chain: Callable[[str], list[tuple[str, str]]]) -> None:
    if disk.find("backingStore") is not None:
        return
    above = disk
    for path, kind in chain(source.get("file") or source.get("dev") or ""):
        layer = etree.Element("backingStore", type="file")
        above.insert(0 if above is not disk else disk.index(source) + 1, layer)
        etree.SubElement(layer, "format", type=kind)
        etree.SubElement(layer, "source", file=path)
        above = layer
    end = etree.Element("backingStore")
    if above is disk:
        disk.insert(disk.index(source) + 1, end)
    else:
        above.append(end)


def disks(xml: str) -> list[dict[str, str]]:
    """Return target, path, format and what else matters of every disk that has a source."""
    found = []
    for disk in etree.fromstring(xml).iterfind("devices/disk"):
        source, target, driver = disk.find("source"), disk.find("target"), disk.find("driver")
        path = "" if source is None else source.get("file") or source.get("dev") or ""
        if not path or target is None:
            continue
        part = None if source is None else source.find("slices/slice")
        found.append(
            {
                "target": target.get("dev", ""),
                "path": path,
                "format": "raw" if driver is None else driver.get("type", "raw"),
                "readonly": "yes" if disk.find("readonly") is not None or disk.get("device") == "cdrom" else "",
                "shareable": "yes" if disk.find("shareable") is not None else "",
                "below": _below(disk),
                "start": "0" if part is None else part.get("offset", "0"),
                "length": "" if part is None else part.get("size", ""),
            }
        )
    return found


def _below(disk: etree._Element) -> str:
    source = disk.find("backingStore/source")
    return "" if source is None else source.get("file") or source.get("dev") or ""


def field(xml: str, path: str) -> str:
    """Return the text at a path."""
    return (etree.fromstring(xml).findtext(path) or "").strip()


def memory(xml: str) -> int:
    """Return how much memory a guest has, in bytes."""
    return int(field(xml, "memory") or "0") * 1024


def mac_addresses(xml: str) -> list[str]:
    """Return those of its cards."""
    return [mac.get("address", "") for mac in etree.fromstring(xml).iterfind("devices/interface/mac")]
