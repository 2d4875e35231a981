"""Which drives a VM has at a restore point, and which of them it comes up with: pure, but for looking what is there.

A point has the disks that the VM wrote to as it ran, whatever its definition says of its next start. What else is in a
drive, such as a CD, is not carried: it is there, too, or the drive comes up empty.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from lxml import etree

from mudanza.hypervisor.shell import HostShell
from mudanza.hypervisor.volumes import Volumes
from mudanza.hypervisor.xml.parsing import parse
from mudanza.migration.destination import destination_xml
from mudanza.model.vm import Disk, Vm, VmState
from mudanza.preflight.mapping import DiskPlan
from mudanza.protection import scripts

_REMOVABLE = ("cdrom", "floppy")
_OF_THIS_RUN = ("address", "alias", "backingStore", "mirror")
"""What a running VM says of a disk that its next start need not keep."""


def as_what_it_is(disk: Disk) -> Disk:
    """Return a disk that is named as a volume of a pool as the file or device that it is, where that is known: pure."""
    if disk.kind != "volume" or disk.source is None or not disk.source.startswith("/"):
        return disk
    return replace(disk, kind="block" if disk.source.startswith("/dev/") else "file")


def is_written_to(disk: Disk) -> bool:
    """Whether what the guest writes to a disk is to be there when the VM comes up elsewhere: pure."""
    return disk.device not in _REMOVABLE and not disk.readonly and not disk.transient


def as_it_ran(definition: str, live: str, carried: Collection[str]) -> str:
    """Return a VM's definition with all the disks that a point has, by the guest's names for them: one that was plugged
    in for this run only is in the running VM's alone: pure."""
    root = parse(definition, "source")
    missing = set(carried) - {target for target, _ in _drives(root)}
    devices = root.find("devices")
    if not missing or devices is None:
        return definition
    for target, drive in _drives(parse(live, "source")):
        if target in missing:
            added = copy.deepcopy(drive)
            for child in [child for child in added if child.tag in _OF_THIS_RUN]:
                added.remove(child)
            devices.append(added)
    return etree.tostring(root, encoding="unicode")


def without_others(definition: str, carried: Collection[str]) -> str:
    """Return a definition without the disks the guest would write to that a point does not have: they were not there as
    the VM ran, and what lies under their paths elsewhere is somebody else's. A disk that was a part of a file is by now
    a whole image: pure."""
    root = parse(definition, "journal")
    for target, drive in _drives(root):
        kept = drive.get("device", "disk") in _REMOVABLE or _is_left_out(drive)
        parent, source = drive.getparent(), drive.find("source")
        if target in carried and source is not None:
            for part in source.findall("slices"):
                source.remove(part)
        if target not in carried and not kept and parent is not None:
            parent.remove(drive)
    return etree.tostring(root, encoding="unicode")


@dataclass(frozen=True, slots=True)
class Media:
    """What is in a VM's drives that can be taken out, by the guest's names for these."""

    files: Mapping[str, str]
    """Drive → path."""
    volumes: Mapping[str, tuple[str, str]]
    """Drive → pool, and what it is called there."""


def media_of(definition: str) -> Media:
    """Return what is in a VM's drives that can be taken out: pure."""
    files, volumes = dict[str, str](), dict[str, tuple[str, str]]()
    for target, drive in _drives(parse(definition, "journal")):
        source = drive.find("source")
        if drive.get("device") not in _REMOVABLE or source is None:
            continue
        path, volume = source.get("file") or source.get("dev"), source.get("volume")
        if path:
            files[target] = path
        elif volume:
            volumes[target] = (source.get("pool", ""), volume)
    return Media(files, volumes)


def missing_media(there: HostShell, volumes: Volumes, definition: str) -> Mapping[str, str]:
    """Return those of a VM's media that are not at a host: drive → what was in it. Raises HypervisorError,
    HostUnreachableError."""
    media, found = media_of(definition), dict[str, str]()
    if media.files:
        paths = {"paths": "\n".join(media.files.values())}
        answers = there.run(scripts.INODES, paths, what="looking for what is in its drives")
        for (drive, path), words in zip(media.files.items(), answers, strict=True):
            if words[1] == scripts.UNKNOWN:
                found[drive] = path
    for drive, (pool, name) in media.volumes.items():
        if not volumes.has(pool, name):
            found[drive] = f"{pool}/{name}"
    return found


def ejected(definition: str, drives: Collection[str]) -> str:
    """Return a definition with these drives empty: pure."""
    plans = [DiskPlan(target, "eject", "it is not there") for target in drives]
    return destination_xml(definition, plans, {}) if plans else definition


def in_words(missing: Mapping[str, str], definition: str, host: str) -> str:
    """Return what is told of a VM that runs at a host where these media are not, and of its disks that are the host's
    own, for they are not carried; empty: nothing: pure."""
    told = [f"its drive {drive} is empty: {host} has no {path}" for drive, path in missing.items()]
    for target, drive in _drives(parse(definition, "journal")):
        if drive.get("device", "disk") not in _REMOVABLE and _is_left_out(drive):
            told.append(f"its disk {target} is what {host} has there, for it is not carried")
    return "; ".join(told)


def left_out(vm: Vm, to: str) -> Iterator[str]:
    """Yield in words what of a VM's drives is not carried, and what comes of it at that host: pure."""
    for disk in vm.disks:
        if disk.source is None or is_written_to(disk):
            continue
        if disk.device in _REMOVABLE:
            yield (
                f"! {vm.name}: what is in its drive {disk.target} is not carried: it comes up with that empty where "
                f"{to} has no {disk.source}"
            )
        else:
            why = "read-only" if disk.readonly else "transient"
            yield (
                f"! {vm.name}: {disk.target} is {why}, and not carried: it cannot come up without {disk.source} "
                f"at {to}, which has to be the same there"
            )
    if vm.state is not VmState.SHUTOFF and vm.inactive_xml:
        there = {disk.target for disk in vm.disks}
        for target, _ in _drives(parse(vm.inactive_xml, vm.host)):
            if target not in there:
                yield f"! {vm.name}: {target} of its definition is not carried before it runs with it (start it anew)"


def _is_left_out(drive: etree._Element) -> bool:
    return any(drive.find(tag) is not None for tag in ("readonly", "transient"))


def _drives(root: etree._Element) -> list[tuple[str, etree._Element]]:
    return [(str(drive.xpath("string(target/@dev)")), drive) for drive in root.iterfind("devices/disk")]
