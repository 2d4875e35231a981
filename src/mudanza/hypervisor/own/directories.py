"""Any directory of a host as a storage pool, which libvirt needs to make or delete a file there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lxml import etree

from mudanza import clock
from mudanza.hypervisor.bounded import Deadline
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.own.throwaway import Throwaway, sweep_markers, throwaway_name
from mudanza.model.errors import HypervisorError
from mudanza.model.host import Host
from mudanza.preflight.mapping import FILE_POOLS

POOL_TIMEOUT = 15.0
"""Seconds that putting a pool on a directory may take, with a look through it."""
OTHERS_TIMEOUT = 10.0
"""Seconds that others who work in the same directory may keep us waiting: libvirt lets one pool have it at a time."""
_AGAIN = 0.1
_OTHERS_POOL = "conflict with pool: 'mudanza-"


@contextmanager
def pool_on(host: HostConnection, about: Host, directory: str) -> Iterator[str]:
    """Have the name of a pool on a directory while the block runs: the one there is, or else one of our own.

    Ours is gone afterwards; what was made in it stays. It is to be a short block, for nobody else can work there
    meanwhile. Raises HostUnreachableError and HypervisorError.
    """
    standing = about.pool_at(directory)
    if standing is not None and standing.kind in FILE_POOLS:
        yield standing.name
        return
    name = throwaway_name("probe")
    xml = _pool_xml(name, directory)
    with Throwaway(host, name, _end_pool) as pool:
        _when_others_are_gone(lambda: pool.ask(lambda raw: _put_pool(raw, xml), timeout=POOL_TIMEOUT))
        yield name


def _when_others_are_gone(put: Callable[[], None]) -> None:
    deadline = Deadline(OTHERS_TIMEOUT)
    while True:
        try:
            return put()
        except HypervisorError as error:
            if _OTHERS_POOL not in error.reason or not deadline.left:
                raise
        clock.sleep(_AGAIN)


def _put_pool(raw: Any, xml: str) -> None:
    sweep_markers(raw.storagePoolCreateXML(xml, 0))


def _end_pool(raw: Any, name: str) -> None:
    """End a transient pool, which libvirt calls to destroy it; nothing in its directory is touched."""
    raw.storagePoolLookupByName(name).destroy()


def _pool_xml(name: str, directory: str) -> str:
    pool = etree.Element("pool", type="dir")
    etree.SubElement(pool, "name").text = name
    etree.SubElement(etree.SubElement(pool, "target"), "path").text = directory
    return etree.tostring(pool, encoding="unicode")
