"""libvirt's records of a domain's snapshots and checkpoints: read, taken away and put back. No image is touched.

And new images that a running domain goes on in, without a record of libvirt's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import libvirt
from lxml import etree

from mudanza.hypervisor.connection import CALL_TIMEOUT, HostConnection
from mudanza.hypervisor.xml.parsing import parse
from mudanza.model.errors import HypervisorError

APART_TIMEOUT = 60.0
"""Seconds that having a domain write into new images may take: QEMU writes out first what it has on its way."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class SavedSnapshot:
    """One snapshot as libvirt describes it, with security info."""

    name: str
    xml: str
    current: bool = False


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """One checkpoint as libvirt describes it, with security info."""

    name: str
    xml: str


class Snapshots:
    """The snapshots and checkpoints of one host's domains. Every call raises HostUnreachableError or HypervisorError
    when it fails, and may be repeated."""

    def __init__(self, host: HostConnection) -> None:
        self._host = host

    def snapshots(self, uuid: str) -> tuple[SavedSnapshot, ...]:
        """Return the snapshots, parents before their children."""
        return self._of(uuid, lambda domain: tuple(map(_snapshot, _snapshots(domain))))

    def checkpoints(self, uuid: str) -> tuple[SavedCheckpoint, ...]:
        """Return the checkpoints, parents before their children."""
        return self._of(uuid, lambda domain: tuple(map(_checkpoint, _checkpoints(domain))))

    def forget(self, uuid: str, snapshots: Iterable[str]) -> None:
        """Have libvirt forget those snapshots, as it wants before a running domain migrates; checkpoints may stay.

        Children go first: taken away before them, a parent would leave them hanging on its own parent.
        """
        names = frozenset(snapshots)

        def forget(domain: Any) -> None:
            for snapshot in reversed(_snapshots(domain)):
                if snapshot.getName() in names:
                    snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)

        self._of(uuid, forget)

    def restore(
        self, uuid: str, snapshots: Sequence[SavedSnapshot], checkpoints: Sequence[SavedCheckpoint]
    ) -> dict[str, str]:
        """Tell libvirt of snapshots and checkpoints anew, parents before their children.

        Returns checkpoint → why, of those libvirt was not told of because a disk has lost its bitmap. It can tell
        only while the guest runs: of a paused one QEMU may not have read them yet, and then all count as whole.
        """
        for snapshot in snapshots:
            self._define_snapshot(uuid, snapshot)
        lost: dict[str, str] = {}
        for checkpoint in checkpoints:
            try:
                self._define_checkpoint(uuid, checkpoint)
            except HypervisorError as error:
                # One without its parent is refused as well, but as a wrong argument.
                if error.code != libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT and not lost:
                    raise
                lost[checkpoint.name] = error.reason
        return lost

    def set_apart(self, uuid: str, images: Mapping[str, str]) -> None:
        """Have a running domain write into new images from one instant on: disk → path, of qcow2 files that libvirt
        makes, each upon what the disk was before. All of them, or none; libvirt keeps no record of it."""

        def branch(domain: Any) -> None:
            flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
            flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
            _done(domain.snapshotCreateXML(apart_xml(domain.XMLDesc(0), images), flags))

        self._host.ask(lambda raw: branch(raw.lookupByUUIDString(uuid)), timeout=APART_TIMEOUT)

    def _define_snapshot(self, uuid: str, snapshot: SavedSnapshot) -> None:
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
        flags |= snapshot.current * libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
        self._of(uuid, lambda domain: _done(domain.snapshotCreateXML(snapshot.xml, flags)))

    def _define_checkpoint(self, uuid: str, checkpoint: SavedCheckpoint) -> None:
        def define(domain: Any) -> None:
            flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
            if domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
                flags |= libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE
            _done(domain.checkpointCreateXML(checkpoint.xml, flags))

        self._of(uuid, define)

    def _of(self, uuid: str, function: Callable[[Any], Result]) -> Result:
        return self._host.ask(lambda raw: function(raw.lookupByUUIDString(uuid)), timeout=CALL_TIMEOUT)


def apart_xml(definition: str, images: Mapping[str, str]) -> str:
    """Return libvirt's ``<domainsnapshot>`` that has these disks of a domain, and no others, go on in new images."""
    root = etree.Element("domainsnapshot")
    listed = etree.SubElement(root, "disks")
    for target in parse(definition, "source").iterfind("devices/disk/target"):
        name = target.get("dev", "")
        if name not in images:
            etree.SubElement(listed, "disk", name=name, snapshot="no")
            continue
        disk = etree.SubElement(listed, "disk", name=name, snapshot="external", type="file")
        etree.SubElement(disk, "driver", type="qcow2")
        etree.SubElement(disk, "source", file=images[name])
    return etree.tostring(root, encoding="unicode")


def _snapshots(domain: Any) -> list[Any]:
    return list(domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL))


def _checkpoints(domain: Any) -> list[Any]:
    return list(domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL))


def _snapshot(raw: Any) -> SavedSnapshot:
    xml = raw.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE)
    return SavedSnapshot(str(raw.getName()), str(xml), current=bool(raw.isCurrent()))


def _checkpoint(raw: Any) -> SavedCheckpoint:
    return SavedCheckpoint(str(raw.getName()), str(raw.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE)))


def _done(_result: object) -> None:
    """Drop what libvirt returns for success."""
