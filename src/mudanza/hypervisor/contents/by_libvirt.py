"""The contents of a host's files by libvirt alone: every byte that is no hole comes to the controller."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any

import libvirt

from mudanza import clock
from mudanza.hypervisor.attended import Attended, attend
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.contents.digests import CHUNK, SILENCE, Digester, Digests, Images, assembled, runs
from mudanza.hypervisor.own.directories import pool_on
from mudanza.hypervisor.own.ghost import disk_name, ghost
from mudanza.hypervisor.probing.files import file_lengths
from mudanza.model.errors import HypervisorError
from mudanza.model.host import Host
from mudanza.model.units import MIB

PEEK = 4 * MIB
"""Bytes that libvirt gives out in one answer."""
PEEK_TIMEOUT = 30.0
"""Seconds that one answer may take."""
PIECE = 256 * 1024
"""Bytes that a stream gives out at a time."""
_AT_HOLE = -3
"""What a stream returns before a hole."""

_log = logging.getLogger(__name__)


class LibvirtContents:
    """Reads through any connection to libvirt.

    Files come as sparse streams of volumes: holes cost nothing. What is no volume of a directory, or fits into one
    answer, is peeked at.
    """

    way = "through the controller, over libvirt"
    images: Images | None = None
    """libvirt gives out the bytes of a file, not what they mean."""

    def __init__(self, host: HostConnection, about: Host) -> None:
        self._host = host
        self._about = about

    def digests(
        self,
        path: str,
        length: int,
        *,
        block: bool,
        chunks: Collection[int] | None = None,
        stop: clock.Event | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> Digests:
        """See Contents."""
        return attend(
            lambda attended: self._read(attended, path, length, block, chunks),
            host=self._host.name,
            what=f"reading {path}",
            patience=SILENCE,
            stop=stop,
            on_progress=on_progress,
        )

    def write_out(self, path: str, *, stop: clock.Event | None = None) -> None:
        """See Contents. There is no way to tell a host so."""

    def close(self) -> None:
        """See Contents."""

    def _read(self, attended: Attended, path: str, length: int, block: bool, chunks: Collection[int] | None) -> Digests:
        there = self._length(path, block)
        end = min(length, there)
        found: dict[int, str | None] = {}
        for first, last in runs(chunks, end):
            attended.got_on()
            digester = Digester(first * CHUNK, min((last + 1) * CHUNK, end))
            streamed = not block and end > PEEK and self._stream(digester, attended, path)
            if not streamed:
                self._peek(digester, attended, path, block)
            found |= digester.found
        return assembled(found, end if block else there)

    def _length(self, path: str, block: bool) -> int:
        there = file_lengths(self._host, self._about, [path], frozenset([path] if block else []))[path]
        if there is None:
            raise HypervisorError(self._host.name, f"there is no {path}")
        return there

    def _stream(self, digester: Digester, attended: Attended, path: str) -> bool:
        """Read from a stream; return False where libvirt has none for this file."""
        return self._host.carry_out(lambda raw: self._stream_on(raw, digester, attended, path))

    def _stream_on(self, raw: Any, digester: Digester, attended: Attended, path: str) -> bool:
        stream = raw.newStream()
        try:
            self._begin(raw, stream, path, digester)
        except (libvirt.libvirtError, HypervisorError) as error:
            _log.info("%s on %s is peeked at, for it cannot be streamed: %s", path, self._host.name, error)
            return False
        try:
            self._receive(stream, digester, attended)
            stream.finish()
        except BaseException:
            with suppress(libvirt.libvirtError):  # it has broken off by itself then
                stream.abort()
            raise
        if digester.left:
            raise HypervisorError(self._host.name, f"{path} ended {digester.left} bytes early while it was read")
        return True

    def _begin(self, raw: Any, stream: Any, path: str, digester: Digester) -> None:
        """The pool may go when this returns: libvirt has opened the file."""
        directory, name = posixpath.split(path)
        with pool_on(self._host, self._about, directory) as pool:
            volume = _volume(raw.storagePoolLookupByName(pool), name)
            volume.download(stream, digester.position, digester.left, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)

    def _receive(self, stream: Any, digester: Digester, attended: Attended) -> None:
        while True:
            before = digester.position
            piece = stream.recvFlags(PIECE, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE)
            if piece == _AT_HOLE:
                digester.hole(stream.recvHole())
            elif piece:
                digester.data(piece)
            else:
                return
            attended.got_on(digester.position - before)

    def _peek(self, digester: Digester, attended: Attended, path: str, block: bool) -> None:
        with ghost(self._host, self._about, [("block" if block else "file", path)]) as domain:
            while digester.left:
                look = partial(_peek, name=domain.name, at=digester.position, size=min(PEEK, digester.left))
                piece = domain.ask(look, timeout=PEEK_TIMEOUT)
                digester.data(piece)
                attended.got_on(len(piece))


def _peek(raw: Any, *, name: str, at: int, size: int) -> bytes:
    return bytes(raw.lookupByName(name).blockPeek(disk_name(0), at, size))


def _volume(pool: Any, name: str) -> Any:
    with suppress(libvirt.libvirtError):
        return pool.storageVolLookupByName(name)
    pool.refresh(0)  # it came there behind libvirt's back
    return pool.storageVolLookupByName(name)
