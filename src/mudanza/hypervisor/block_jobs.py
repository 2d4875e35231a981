"""Block copies: disks of an active domain that are mirrored to another place on the same host, and may move there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.xml.parsing import parse

COPY_TIMEOUT = 20.0
"""Seconds QEMU may take to open the new place."""
PIVOT_TIMEOUT = 20.0
"""Seconds that changing over to the new place, or giving it up, may take: what is on its way is written first. Less
than a controller owns its job for."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """A block job on one disk. ``path``: where it copies to."""

    path: str
    ready: bool
    """Both places hold the same, and whatever the guest writes goes to both."""


class BlockJobs:
    """The block jobs of one host's domains. Every call raises HostUnreachableError or HypervisorError when it fails."""

    def __init__(self, host: HostConnection) -> None:
        self._host = host

    def copy(self, uuid: str, disk: str, place: str, *, bandwidth: int | None = None) -> None:
        """Begin to copy a disk, chain and all, into an image that exists. ``place``: its XML, as of a ``<disk>``.

        ``bandwidth`` in bytes per second. The copy goes on without us, and ends when its QEMU does.
        """
        parameters = {libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: bandwidth} if bandwidth else {}
        # Without TRANSIENT_JOB libvirt refuses to copy disks of a VM that has a definition.
        flags = libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
        self._of(uuid, lambda domain: domain.blockCopy(disk, place, parameters, flags), COPY_TIMEOUT)

    def pivot(self, uuid: str, disk: str) -> None:
        """Have the VM use the new place of a disk from now on, in its definition too. Refused before it is ready."""
        flags = libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT
        self._of(uuid, lambda domain: domain.blockJobAbort(disk, flags), PIVOT_TIMEOUT)

    def abort(self, uuid: str, disk: str) -> None:
        """Give a copy up; the VM uses the old place as before."""
        self._of(uuid, lambda domain: domain.blockJobAbort(disk), PIVOT_TIMEOUT)

    def _of(self, uuid: str, call: Any, timeout: float) -> None:
        self._host.ask(lambda raw: _done(call(raw.lookupByUUIDString(uuid))), timeout=timeout)


def mirrors(xml: str) -> Mapping[str, Mirror]:
    """Return the block jobs that a live definition tells of, by the target name of their disks."""
    found = {}
    for disk in parse(xml, "source").iterfind("devices/disk"):
        target, mirror = disk.find("target"), disk.find("mirror")
        if target is None or mirror is None:
            continue
        source = mirror.find("source")
        place = source if source is not None else mirror
        path = place.get("file") or place.get("dev") or ""
        found[target.get("dev", "")] = Mirror(path, mirror.get("ready") == "yes")
    return found


def place_xml(path: str, image_format: str) -> str:
    """Return a place for ``BlockJobs.copy``: a file or device that holds an image of that format and no chain."""
    is_block = path.startswith("/dev/")
    disk = etree.Element("disk", type="block" if is_block else "file", device="disk")
    etree.SubElement(disk, "driver", name="qemu", type=image_format)
    etree.SubElement(disk, "source", {"dev" if is_block else "file": path})
    etree.SubElement(disk, "backingStore")
    return etree.tostring(disk, encoding="unicode")


def _done(_result: object) -> None:
    """Drop what libvirt returns for success."""
