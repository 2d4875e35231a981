"""A marker: a tiny file of a random name, made on a host through its libvirt and taken away again."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import libvirt
from lxml import etree

from mudanza import clock
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.own.directories import POOL_TIMEOUT, pool_on
from mudanza.hypervisor.own.throwaway import REMOVAL_TIMEOUT, Throwaway, throwaway_name
from mudanza.hypervisor.xml.resources import parse_volume
from mudanza.model.errors import MudanzaError
from mudanza.model.host import Host

MAKING_TIMEOUT = 15.0
"""Seconds that making a marker may take."""
MARKER_TIMEOUT = POOL_TIMEOUT + MAKING_TIMEOUT + 2 * REMOVAL_TIMEOUT
"""Seconds that making it and a pool for it and taking them away may take."""


class NoMarkerError(MudanzaError):
    """A marker could not be made."""


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker as it lies there."""

    path: str
    clock_offset: float | None
    """Its host's clock minus the controller's, in seconds; None where the host told no time."""
    clock_error: float
    """By how much that may be wrong, in seconds: half of the time it took to make it."""
    owner: tuple[int, int] | None = None
    """User and group that it belongs to, where its host told."""


@contextmanager
def marker(host: HostConnection, about: Host, directory: str) -> Iterator[Marker]:
    """Have a marker in a directory of the host while the block runs. Raises NoMarkerError.

    It is made in the pool on that directory, or else in a pool of our own, which is gone afterwards like the marker.
    """
    name = throwaway_name("marker")
    with ExitStack() as stack:
        try:
            pool = stack.enter_context(pool_on(host, about, directory))
            thing = stack.enter_context(Throwaway(host, name, partial(_delete, pool=pool)))
            made = thing.ask(lambda raw: _make(raw, pool, name, about.name), timeout=MAKING_TIMEOUT)
        except MudanzaError as error:
            raise NoMarkerError(f"no marker can be made in {directory}: {error}") from error
        yield made


def _make(raw: Any, pool: str, name: str, host: str) -> Marker:
    found = raw.storagePoolLookupByName(pool)
    before = clock.time()
    volume = _create(found, name)
    after = clock.time()
    told = parse_volume(volume.XMLDesc(0), host)
    middle = (before + after) / 2
    offset = None if told.changed_at is None else told.changed_at - middle
    return Marker(volume.path(), offset, (after - before) / 2, told.owner)


def _create(pool: Any, name: str) -> Any:
    try:
        return pool.createXML(_volume_xml(name, "raw"), 0)
    except libvirt.libvirtError as error:
        if error.get_int1() != errno.EPERM:
            raise
    # Where root is nobody (NFS), libvirt makes a raw file and then may not give it to root, but leaves an image to whom
    # it belongs.
    return pool.createXML(_volume_xml(name, "qcow2"), 0)


def _volume_xml(name: str, image_format: str) -> str:
    volume = etree.Element("volume")
    etree.SubElement(volume, "name").text = name
    etree.SubElement(volume, "capacity", unit="bytes").text = "512"
    etree.SubElement(volume, "allocation", unit="bytes").text = "0"
    target = etree.SubElement(volume, "target")
    etree.SubElement(target, "format", type=image_format)
    # Readable for all: where root is nobody, the other host must still be able to see it.
    etree.SubElement(etree.SubElement(target, "permissions"), "mode").text = "0644"
    return etree.tostring(volume, encoding="unicode")


def _delete(raw: Any, name: str, *, pool: str) -> None:
    raw.storagePoolLookupByName(pool).storageVolLookupByName(name).delete(0)
