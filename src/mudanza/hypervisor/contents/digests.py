"""What a file contains, in digests short enough to be compared from afar: one for each chunk of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from mudanza import clock
from mudanza.model.errors import HypervisorError
from mudanza.model.units import MIB

CHUNK = 64 * MIB
"""Bytes that share a digest: as little as that is carried again where two files differ."""
SILENCE = 60.0
"""Seconds a host may go without getting on; reading one chunk from a slow disk takes part of them."""
UNREAD = "not looked at"
"""Stands where a chunk's digest would, and is none."""
_ZEROES = memoryview(bytes(MIB))

Range = tuple[int, int]
"""Where it starts and how long it is, in bytes."""


@dataclass(frozen=True, slots=True)
class Digests:
    """What one file contains."""

    length: int
    """In bytes. A device that is longer than what was asked for counts as so long."""
    chunks: tuple[str | None, ...]
    """For each chunk its SHA-256 in hex, None where it is nothing but zeroes (written or not), or UNREAD."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One image of a disk: the disk itself, or one that it is built upon. Its format is known and never guessed."""

    path: str
    format: str
    is_block: bool = False


IMAGE_FORMATS = frozenset({"raw", "qcow2"})
"""Formats of images whose content can be read."""


def is_readable(layers: Sequence[Layer]) -> bool:
    """Whether it can be read what a guest finds on a disk of these layers, the top first.

    An image inside a device is left out: what it is built upon cannot be looked up beforehand.
    """
    return all(layer.format in IMAGE_FORMATS and not (layer.is_block and layer.format != "raw") for layer in layers)


class UnreadableError(HypervisorError):
    """Whoever reads there may not read this one."""


class Images(Protocol):
    """A way to read what guests find on the disks of one host, whatever the format of their images."""

    def image_digests(
        self,
        layers: Sequence[Layer],
        length: int,
        *,
        chunks: Collection[int] | None = None,
        stop: clock.Event | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> Digests:
        """Read the content of a disk that is made of these images, the top first, and return its digests.

        Of the same content in another format they are the same. Nothing below the last layer is read, whatever that
        one names. Everything else is as with ``Contents.digests``. Raises UnreadableError where it may not be read.
        """


class Contents(Protocol):
    """A way to read the files of one host."""

    way: str
    """Where the reading is done and by what, in words for the report."""
    images: Images | None
    """How to read what guests find on disks; None where that cannot be done this way."""

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
        """Read the first ``length`` bytes of a file, or of a device (``block``), and return their digests.

        ``chunks``: the numbers of those that are looked at; None: all. ``on_progress`` gets the bytes done, holes
        included. Raises MigrationFailedError within about a second of ``stop``, HostUnreachableError when the host
        is gone or does not get on, HypervisorError when it cannot read the file.
        """

    def write_out(self, path: str, *, stop: clock.Event | None = None) -> None:
        """Have the host write to its disk what its memory holds of a file, where it can be told to; raises the same."""

    def close(self) -> None:
        """Read no more: end the connection, if it took one. Repeatable."""


def differing(a: Digests, b: Digests) -> tuple[Range, ...]:
    """Return the ranges that have to be copied from ``a`` to ``b`` for both to be the same, neighbours as one.

    What lies beyond the end of ``a`` is to be cut off from ``b``. Chunks that were not looked at on either side are
    not among them. Raises ValueError for one that was looked at on one side only: nothing can be said of it.
    """
    longest = max(a.length, b.length)
    ranges: list[Range] = []
    for number in range(chunk_count(longest)):
        if _same(a, b, number):
            continue
        start, size = number * CHUNK, chunk_size(number, longest)
        if ranges and sum(ranges[-1]) == start:
            start, size = ranges[-1][0], ranges.pop()[1] + size
        ranges.append((start, size))
    return tuple(ranges)


def _same(a: Digests, b: Digests, number: int) -> bool:
    if chunk_size(number, a.length) != chunk_size(number, b.length):
        return False
    mine, theirs = a.chunks[number], b.chunks[number]
    if (mine == UNREAD) != (theirs == UNREAD):
        raise ValueError(f"chunk {number} was read on one side only")
    return mine == theirs


def chunk_count(length: int) -> int:
    """Return how many chunks so many bytes are."""
    return -(-length // CHUNK)


def chunk_size(number: int, length: int) -> int:
    """Return the size in bytes of a chunk of a file that is so long; 0 beyond its end."""
    return max(0, min(CHUNK, length - number * CHUNK))


def runs(chunks: Collection[int] | None, length: int) -> list[tuple[int, int]]:
    """Return the first and the last of each unbroken run of chunk numbers; None: of all that so many bytes have."""
    count = chunk_count(length)
    if chunks is None:
        return [(0, count - 1)] if count else []
    found: list[tuple[int, int]] = []
    for number in sorted(set(chunks).intersection(range(count))):
        first = found.pop()[0] if found and found[-1][1] == number - 1 else number
        found.append((first, number))
    return found


def assembled(found: dict[int, str | None], length: int) -> Digests:
    """Return the digests of a file that is so long; chunks that were not found were not looked at."""
    return Digests(length, tuple(found.get(number, UNREAD) for number in range(chunk_count(length))))


def meaning(digest: str, size: int) -> str | None:
    """Return a chunk's digest as it stands in Digests: None where it is the one of so many zeroes."""
    return None if digest == _digest_of_zeroes(size) else digest


@cache
def _digest_of_zeroes(size: int) -> str:
    digest = hashlib.sha256()
    for piece in _zeroes(size):
        digest.update(piece)
    return digest.hexdigest()


def _zeroes(size: int) -> Iterable[memoryview]:
    while size:
        piece = _ZEROES[:size]
        size -= len(piece)
        yield piece


class Digester:
    """Makes digests of bytes and holes as they come, from the start of a chunk on."""

    def __init__(self, start: int, end: int) -> None:
        self.position = start
        self.found: dict[int, str | None] = {}
        self._end = end
        self._begin_chunk()

    def data(self, piece: bytes) -> None:
        """Take bytes that were read. Raises ValueError beyond the end, like ``hole``."""
        rest = memoryview(piece)
        while rest:
            part = rest[: self._room()]
            self._catch_up()
            self._digest.update(part)
            self._read = True
            self._advance(len(part))
            rest = rest[len(part) :]

    def hole(self, size: int) -> None:
        """Take a hole. One that fills a chunk costs nothing."""
        while size:
            part = min(size, self._room())
            self._skipped += part
            self._advance(part)
            size -= part

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return self._end - self.position

    def _begin_chunk(self) -> None:
        self._digest = hashlib.sha256()
        self._read = False
        self._skipped = 0

    def _room(self) -> int:
        if self.left <= 0:
            raise ValueError(f"more came than the {self._end} bytes that were asked for")
        return min(self.left, CHUNK - self.position % CHUNK)

    def _catch_up(self) -> None:
        for piece in _zeroes(self._skipped):
            self._digest.update(piece)
        self._skipped = 0

    def _advance(self, size: int) -> None:
        self.position += size
        if self.position % CHUNK == 0 or self.left == 0:
            number = (self.position - 1) // CHUNK
            self.found[number] = self._chunk_digest(self.position - number * CHUNK)
            self._begin_chunk()

    def _chunk_digest(self, size: int) -> str | None:
        if not self._read:
            return None
        self._catch_up()
        return meaning(self._digest.hexdigest(), size)
