"""What can be done with a host's pools and volumes."""

from __future__ import annotations

from typing import Any

import libvirt

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.xml.resources import Volume, parse_volume
from mudanza.model.errors import HypervisorError

VOLUME_TIMEOUT = 120.0
"""Seconds that making or deleting a volume may take."""
REFRESH_TIMEOUT = 60.0
"""Seconds that looking through a whole pool may take."""


class Volumes:
    """The volumes of one host. Every call raises HostUnreachableError or HypervisorError when it fails."""

    def __init__(self, host: HostConnection) -> None:
        self._host = host

    def create(self, pool: str, xml: str) -> str:
        """Make a volume and return its path. Refused where one of that name exists."""
        return self._host.ask(lambda raw: _path(_pool(raw, pool).createXML(xml, 0)), timeout=VOLUME_TIMEOUT)

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

    def names(self, pool: str) -> frozenset[str]:
        """Return the names of the volumes a pool lists; files that came there behind its back need ``refresh``."""
        return self._host.ask(lambda raw: frozenset(_pool(raw, pool).listVolumes()))

    def refresh(self, pool: str) -> None:
        """Have libvirt look through a pool anew."""
        self._host.ask(lambda raw: _done(_pool(raw, pool).refresh(0)), timeout=REFRESH_TIMEOUT)


def _pool(raw: Any, name: str) -> Any:
    return raw.storagePoolLookupByName(name)


def _path(volume: Any) -> str:
    return str(volume.path())


def _whereabouts(volume: Any) -> tuple[str, str]:
    return str(volume.storagePoolLookupByVolume().name()), str(volume.name())


def _done(_result: object) -> None:
    """Drop what libvirt returns for success."""
