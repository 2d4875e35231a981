"""Bytes of small files by way of the controller: what no carrier takes, or is not worth one."""

from __future__ import annotations

import posixpath
from typing import Any

import libvirt

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.own.directories import pool_on
from mudanza.hypervisor.own.ghost import disk_name, ghost
from mudanza.model.host import Host
from mudanza.model.units import MIB

MOST_BYTES = 4 * MIB
"""Bytes that libvirt gives out in one piece, and that are held in memory here."""
COPY_TIMEOUT = 60.0
"""Seconds that reading or writing them may take."""


def copy_bytes(
    source: HostConnection,
    here: Host,
    path: str,
    target: HostConnection,
    there: Host,
    path_there: str,
    *,
    start: int,
    length: int,
) -> None:
    """Copy up to MOST_BYTES of a file to the same place in a file that is there already. Raises what both raise."""
    write_bytes(target, there, path_there, start, read_bytes(source, here, path, start, length))


def read_bytes(host: HostConnection, about: Host, path: str, start: int, length: int) -> bytes:
    """Return up to MOST_BYTES of a file. Raises HostUnreachableError and HypervisorError, also past its end.

    Nothing but this file is opened.
    """
    with ghost(host, about, [("file", path)]) as domain:
        return domain.ask(
            lambda raw: bytes(raw.lookupByName(domain.name).blockPeek(disk_name(0), start, length)),
            timeout=COPY_TIMEOUT,
        )


def write_bytes(host: HostConnection, about: Host, path: str, start: int, data: bytes) -> None:
    """Write into a file that is there already, and is as long as before if the bytes fit into it.

    Raises HostUnreachableError and HypervisorError.
    """
    directory, name = posixpath.split(path)
    with pool_on(host, about, directory) as pool:
        host.ask(
            lambda raw: upload(raw, _volume(raw.storagePoolLookupByName(pool), name), start, data),
            timeout=COPY_TIMEOUT,
        )


def upload(raw: Any, volume: Any, start: int, data: bytes) -> None:
    """Write into a volume, whatever it means. Raises libvirtError."""
    stream = raw.newStream()
    try:
        volume.upload(stream, start, len(data))
        stream.sendAll(_next_piece, [data])
        stream.finish()
    except BaseException:
        _abort(stream)
        raise


def _abort(stream: Any) -> None:
    try:
        stream.abort()
    except libvirt.libvirtError:
        return  # it never began, or has broken off by itself


def _next_piece(_stream: object, most: int, left: list[bytes]) -> bytes:
    piece, left[0] = left[0][:most], left[0][most:]
    return piece


def _volume(pool: Any, name: str) -> Any:
    try:
        return pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
            raise
    pool.refresh(0)  # it came there behind libvirt's back
    return pool.storageVolLookupByName(name)
