"""What a file or device of a host contains, as digests: for comparing two hosts without carrying it to one of them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.ghost import disk_name, ghost
from mudanza.model.errors import MigrationFailedError
from mudanza.model.host import Host
from mudanza.model.units import MIB

CHUNK = 64 * MIB
PIECE = 4 * MIB
UNREAD = "not looked at"


@dataclass(frozen=True, slots=True)
class Digests:
    length: int
    chunks: tuple[str | None, ...]


def differing(a: Digests, b: Digests) -> tuple[tuple[int, int], ...]:
    ranges: list[tuple[int, int]] = []
    for n, (x, y) in enumerate(zip(a.chunks, b.chunks, strict=True)):
        if x != y:
            start = n * CHUNK
            length = min(CHUNK, a.length - start)
            if ranges and sum(ranges[-1]) == start:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
            else:
                ranges.append((start, length))
    return tuple(ranges)


class Contents(Protocol):
    way: str

    def digests(
        self,
        path: str,
        length: int,
        *,
        block: bool,
        chunks: Collection[int] | None = None,
        stop: threading.Event | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> Digests: ...


class PeekedContents:
    """Contents read through the controller, by whatever connection it has."""

    way = "through the controller, over libvirt"

    def __init__(self, host: HostConnection, about: Host) -> None:
        self._host, self._about = host, about

    def digests(
        self,
        path: str,
        length: int,
        *,
        block: bool,
        chunks: Collection[int] | None = None,
        stop: threading.Event | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> Digests:
        """Return the digests of a file. Raises HostUnreachableError, HypervisorError."""
        found: list[str | None] = []
        done = 0
        with ghost(self._host, self._about, [("block" if block else "file", path)]) as domain:
            for number in range(-(-length // CHUNK)):
                if chunks is not None and number not in chunks:
                    found.append(UNREAD)
                    continue
                end = min(length, (number + 1) * CHUNK)
                digest, zero = hashlib.sha256(), True
                for at in range(number * CHUNK, end, PIECE):
                    if stop is not None and stop.is_set():
                        raise MigrationFailedError("cancelled while it was read")
                    data = domain.ask(partial(_peek, name=domain.name, at=at, size=min(PIECE, end - at)), timeout=30.0)
                    zero = zero and data.count(0) == len(data)
                    digest.update(data)
                    done += len(data)
                    on_progress(done)
                found.append(None if zero else digest.hexdigest())
        return Digests(length, tuple(found))


def _peek(raw: Any, *, name: str, at: int, size: int) -> bytes:
    return bytes(raw.lookupByName(name).blockPeek(disk_name(0), at, size))


def contents_of(host: HostConnection, about: Host) -> Contents:
    """Return the way in which a host's files are read."""
    return PeekedContents(host, about)
