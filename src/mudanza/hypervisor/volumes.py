"""What can be done with a host's pools and volumes."""

from __future__ import annotations

import struct
from typing import Any

import libvirt

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.streams import upload
from mudanza.hypervisor.xml.parsing import attribute, parse
from mudanza.hypervisor.xml.resources import Volume, parse_volume
from mudanza.model.errors import HypervisorError
from mudanza.model.units import KIB

VOLUME_TIMEOUT = 120.0
"""Seconds that making or deleting a volume may take."""
REFRESH_TIMEOUT = 60.0
"""Seconds that looking through a whole pool may take."""
_NOT_THERE = (libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_OPERATION_INVALID)
"""What libvirt says of a volume or a pool that it does not have, or that is not active."""


class Volumes:
    """The volumes of one host. Every call raises HostUnreachableError or HypervisorError when it fails."""

    def __init__(self, host: HostConnection) -> None:
        self._host = host

    def create(self, pool: str, xml: str) -> str:
        """Make a volume and return its path, or make none. Refused where one of that name exists.

        libvirt makes qcow2 images in whole KiB, and QEMU mirrors into one of exactly the same size only.
        """
        exact = size_in_header(xml)
        return self._host.ask(lambda raw: _created(raw, pool, xml, exact), timeout=VOLUME_TIMEOUT)

    def delete(self, pool: str, name: str) -> None:
        """Delete a volume and what it holds."""
        self._host.ask(
            lambda raw: _done(_pool(raw, pool).storageVolLookupByName(name).delete(0)), timeout=VOLUME_TIMEOUT
        )

    def describe(self, pool: str, name: str) -> str:
        """Return a volume's XML."""
        return self._host.ask(lambda raw: str(_pool(raw, pool).storageVolLookupByName(name).XMLDesc(0)))

    def read(self, pool: str, name: str) -> Volume:
        """Return a volume's sizes, format, owner and times."""
        return parse_volume(self.describe(pool, name), self._host.name)

    def find(self, path: str) -> tuple[str, str] | None:
        """Return the pool and the name of the volume at a path; None where no active pool lists it."""
        try:
            return self._host.ask(lambda raw: _whereabouts(raw.storageVolLookupByPath(path)))
        except HypervisorError as error:
            if error.code == libvirt.VIR_ERR_NO_STORAGE_VOL:
                return None
            raise

    def has(self, pool: str, name: str) -> bool:
        """Whether a pool is there and active, and lists that volume: what a domain needs that names it so."""
        try:
            self.describe(pool, name)
        except HypervisorError as error:
            if error.code in _NOT_THERE:
                return False
            raise
        return True

    def names(self, pool: str) -> frozenset[str]:
        """Return the names of the volumes a pool lists; files that came there behind its back need ``refresh``."""
        return self._host.ask(lambda raw: frozenset(_pool(raw, pool).listVolumes()))

    def refresh(self, pool: str) -> None:
        """Have libvirt look through a pool anew."""
        self._host.ask(lambda raw: _done(_pool(raw, pool).refresh(0)), timeout=REFRESH_TIMEOUT)


def _created(raw: Any, pool: str, xml: str, exact: tuple[int, bytes] | None) -> str:
    volume = _pool(raw, pool).createXML(xml, 0)
    if exact is not None:
        try:
            upload(raw, volume, *exact)
        except libvirt.libvirtError:
            volume.delete(0)
            raise
    return _path(volume)


def size_in_header(xml: str) -> tuple[int, bytes] | None:
    """Return what to write, and where, into the image that libvirt makes of a volume's XML, so that it becomes as large
    as was asked for; None where it does.

    The size in bytes is at byte 24 of a qcow2 file, big-endian (QEMU's docs/interop/qcow2.txt). It only gets smaller,
    within the cluster that it ends in.
    """
    volume = parse(xml, "volume")
    size = int(volume.findtext("capacity", "0"))
    is_qcow2 = attribute(volume, "target/format", "type") == "qcow2"
    return (24, struct.pack(">Q", size)) if is_qcow2 and size % KIB else None


def _pool(raw: Any, name: str) -> Any:
    return raw.storagePoolLookupByName(name)


def _path(volume: Any) -> str:
    return str(volume.path())


def _whereabouts(volume: Any) -> tuple[str, str]:
    return str(volume.storagePoolLookupByVolume().name()), str(volume.name())


def _done(_result: object) -> None:
    """Drop what libvirt returns for success."""
