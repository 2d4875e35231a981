"""A marker: a tiny file of a random name, made on a host through its libvirt and taken away again."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lxml import etree

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.resource_xml import parse_volume
from mudanza.model.errors import MudanzaError
from mudanza.model.host import Host

MARKER_TIMEOUT = 15.0
"""Seconds that making or deleting a marker may take, with a look through its directory."""
_log = logging.getLogger(__name__)

FILE_POOLS = frozenset({"dir", "fs", "netfs"})


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


@contextmanager
def marker(host: HostConnection, about: Host, directory: str) -> Iterator[Marker]:
    """Have a marker in a directory of the host while the block runs. Raises NoMarkerError.

    It is made in the pool on that directory, or else in a pool of our own, which is gone afterwards like the marker.
    """
    name = f"mudanza-marker-{secrets.token_hex(16)}"
    with _pool_on(host, about, directory) as pool:
        try:
            made = host.ask(lambda raw: _make(raw, pool, name, about.name), timeout=MARKER_TIMEOUT)
        except MudanzaError as error:
            raise NoMarkerError(f"no marker can be made in {directory}: {error}") from error
        try:
            yield made
        finally:
            _take_away(host, pool, name, made.path)


def _make(raw: Any, pool: str, name: str, host: str) -> Marker:
    found = raw.storagePoolLookupByName(pool)
    before = time.time()
    volume = found.createXML(_volume_xml(name), 0)
    after = time.time()
    changed_at = parse_volume(volume.XMLDesc(0), host).changed_at
    middle = (before + after) / 2
    return Marker(volume.path(), None if changed_at is None else changed_at - middle, (after - before) / 2)


def _volume_xml(name: str) -> str:
    volume = etree.Element("volume")
    etree.SubElement(volume, "name").text = name
    etree.SubElement(volume, "capacity", unit="bytes").text = "512"
    etree.SubElement(volume, "allocation", unit="bytes").text = "0"
    target = etree.SubElement(volume, "target")
    etree.SubElement(target, "format", type="raw")
    # Readable for all: where root is nobody (NFS), the other host must still be able to see it.
    etree.SubElement(etree.SubElement(target, "permissions"), "mode").text = "0644"
    return etree.tostring(volume, encoding="unicode")


def _take_away(host: HostConnection, pool: str, name: str, path: str) -> None:
    try:
        host.ask(lambda raw: _volume(raw, pool, name).delete(0), timeout=MARKER_TIMEOUT)
    except MudanzaError as error:
        # What was found out by it holds all the same.
        _log.warning("the marker %s on %s could not be deleted, delete it by hand: %s", path, host.name, error)


def _volume(raw: Any, pool: str, name: str) -> Any:
    return raw.storagePoolLookupByName(pool).storageVolLookupByName(name)


@contextmanager
def _pool_on(host: HostConnection, about: Host, directory: str) -> Iterator[str]:
    standing = about.pool_at(directory)
    if standing is not None and standing.kind in FILE_POOLS:
        yield standing.name
        return
    name = f"mudanza-probe-{secrets.token_hex(8)}"
    try:
        host.ask(
            lambda raw: str(raw.storagePoolCreateXML(_pool_xml(name, directory), 0).name()), timeout=MARKER_TIMEOUT
        )
    except MudanzaError as error:
        raise NoMarkerError(f"no pool can be put on {directory}: {error}") from error
    try:
        yield name
    finally:
        _end_pool(host, name)


def _end_pool(host: HostConnection, name: str) -> None:
    """End a transient pool, which libvirt calls to destroy it; nothing in its directory is touched."""
    try:
        host.ask(lambda raw: raw.storagePoolLookupByName(name).destroy(), timeout=MARKER_TIMEOUT)
    except MudanzaError as error:
        _log.warning("the pool %s on %s could not be ended, end it by hand: %s", name, host.name, error)


def _pool_xml(name: str, directory: str) -> str:
    pool = etree.Element("pool", type="dir")
    etree.SubElement(pool, "name").text = name
    etree.SubElement(etree.SubElement(pool, "target"), "path").text = directory
    return etree.tostring(pool, encoding="unicode")
