"""Overlays: empty qcow2 files of our own over files that others have open, and that we must not write to.

A disk that can be migrated is one that can be written. What a carrier writes, which is nothing, would go to the
overlay. It has to lie there as long as the carrier does: QEMU opens it anew when a migration ends.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import libvirt
from lxml import etree

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.own.directories import pool_on
from mudanza.hypervisor.own.throwaway import gone_is_fine, throwaway_name
from mudanza.hypervisor.xml.resources import parse_volume
from mudanza.model.errors import HypervisorError
from mudanza.model.host import Host
from mudanza.model.units import KIB
from mudanza.preflight.mapping import FILE_POOLS

OVERLAYS_TIMEOUT = 30.0
"""Seconds that making or deleting those of one carrier may take."""


def make_overlays(host: HostConnection, about: Host, beside: str | None, sizes: Sequence[int]) -> tuple[str, ...]:
    """Make as many overlays of these sizes (bytes) and return their paths.

    They lie in one directory: that of the file ``beside`` or, where nothing can be made in it, that of a pool.
    Raises HostUnreachableError and HypervisorError, also for sizes below 200 KiB that are not whole KiB.
    """
    pools = [pool.path for pool in about.pools or () if pool.active and pool.kind in FILE_POOLS and pool.path]
    places = list(dict.fromkeys([posixpath.dirname(beside), *pools] if beside else pools))
    failures = []
    for place in places:
        try:
            with pool_on(host, about, place) as pool:
                made = _made(host, pool, sizes)
                if not _is_lost_to_qemu(host, about, pool, made[0]):
                    return made
                host.ask(partial(_delete_all, pool=pool, names=list(map(posixpath.basename, made))))
                failures.append(f"in {place}: root is nobody there, and QEMU could not open it")
        except HypervisorError as error:
            failures.append(f"in {place}: {error.reason}")
    raise HypervisorError(
        about.name, f"no overlay could be made ({'; '.join(failures) or 'it has no active pool of files'})"
    )


def delete_overlays(host: HostConnection, about: Host, paths: Sequence[str]) -> None:
    """Delete those of one carrier, as far as they are there. Raises HostUnreachableError and HypervisorError."""
    if not paths:
        return
    names = [posixpath.basename(path) for path in paths]
    with pool_on(host, about, posixpath.dirname(paths[0])) as pool:
        host.ask(lambda raw: _delete_all(raw, pool, names), timeout=OVERLAYS_TIMEOUT)


def _made(host: HostConnection, pool: str, sizes: Sequence[int]) -> tuple[str, ...]:
    return host.ask(lambda raw: _make_all(raw, pool, sizes), timeout=OVERLAYS_TIMEOUT)


def _is_lost_to_qemu(host: HostConnection, about: Host, pool: str, path: str) -> bool:
    """Whether what libvirt made belongs to another user than root, which may give nothing away then, and QEMU is not
    root either."""
    name = posixpath.basename(path)
    told = host.ask(lambda raw: str(raw.storagePoolLookupByName(pool).storageVolLookupByName(name).XMLDesc(0)))
    owner = parse_volume(told, about.name).owner
    return bool(owner and owner[0] and about.qemu_owner and about.qemu_owner[0])


def _make_all(raw: Any, pool: str, sizes: Sequence[int]) -> tuple[str, ...]:
    names = [throwaway_name("overlay") for _ in sizes]
    found = raw.storagePoolLookupByName(pool)
    try:
        return tuple(_make(found, name, size) for name, size in zip(names, sizes, strict=True))
    except libvirt.libvirtError:
        with suppress(libvirt.libvirtError):  # else they are swept up some day
            _delete_all(raw, pool, names)
        raise


def _make(pool: Any, name: str, size: int) -> str:
    rest = size % KIB
    volume = pool.createXML(_volume_xml(name, size - rest), 0)
    if rest:  # libvirt makes images of whole KiB only, and then lets them grow by sectors
        volume.resize(size, 0)
    return str(volume.path())


def _delete_all(raw: Any, pool: str, names: Sequence[str]) -> None:
    found = raw.storagePoolLookupByName(pool)
    for name in names:
        with gone_is_fine():
            found.storageVolLookupByName(name).delete(0)


def _volume_xml(name: str, size: int) -> str:
    """Nothing is named in it that it stands on: that is told to QEMU alone."""
    volume = etree.Element("volume")
    etree.SubElement(volume, "name").text = name
    etree.SubElement(volume, "capacity", unit="bytes").text = str(size)
    etree.SubElement(volume, "allocation", unit="bytes").text = "0"
    etree.SubElement(etree.SubElement(volume, "target"), "format", type="qcow2")
    return etree.tostring(volume, encoding="unicode")
