"""Files and the file systems they lie in: real bytes in chunks, and holes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mudanza.model.units import GIB, KIB

CHUNK = 64 * KIB
"""Bytes that are there or are a hole together."""
_QCOW2 = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQ")
_ZEROES = bytes(CHUNK)


class File:
    """One file; two paths or hosts that lead to it have the very same object."""

    def __init__(self, size: int, at: float, mode: int = 0o600) -> None:
        self.size = size
        self.mode = mode
        self.changed_at = at
        self._chunks: dict[int, bytes] = {}

    def read(self, start: int, length: int) -> bytes:
        """Return what is there, up to its end."""
        end, found = min(start + length, self.size), bytearray()
        while start < end:
            number, offset = divmod(start, CHUNK)
            piece = self._chunks.get(number, _ZEROES)[offset : offset + end - start]
            found += piece
            start += len(piece)
        return bytes(found)

    def write(self, start: int, data: bytes, at: float) -> None:
        """Put bytes there; it grows where they reach beyond its end."""
        self.changed_at = at
        self.size = max(self.size, start + len(data))
        while data:
            number, offset = divmod(start, CHUNK)
            piece = data[: CHUNK - offset]
            before = self._chunks.get(number, _ZEROES)
            self._chunks[number] = before[:offset] + piece + before[offset + len(piece) :]
            start, data = start + len(piece), data[len(piece) :]

    def copy(self, source: File, at: float, *, first: int = 0, upto: int | None = None) -> None:
        """Make these chunks, from ``first`` to before ``upto``, those of another file, holes being holes."""
        last = -(-max(source.size, self.size) // CHUNK) if upto is None else upto
        for number in range(first, last):
            if number in source._chunks:
                self._chunks[number] = source._chunks[number]
            else:
                self._chunks.pop(number, None)
        self.changed_at = at

    def runs(self, start: int, end: int) -> Iterator[tuple[bool, int]]:
        """Yield, from ``start`` on, whether there is a hole and how long it goes on so."""
        while start < end:
            number = start // CHUNK
            is_hole = number not in self._chunks
            stop = min((number + 1) * CHUNK, end)
            while stop < end and ((stop // CHUNK) not in self._chunks) == is_hole:
                stop = min(stop + CHUNK, end)
            yield is_hole, stop - start
            start = stop

    def differs(self, other: File, *, first: int = 0) -> bool:
        """Whether there is anything else in it than in another one, from a chunk on."""
        numbers = {n for n in (*self._chunks, *other._chunks) if n >= first}
        return any(self._chunks.get(n, _ZEROES) != other._chunks.get(n, _ZEROES) for n in numbers)

    @property
    def allocated(self) -> int:
        """Bytes that are no hole."""
        return len(self._chunks) * CHUNK

    @property
    def format(self) -> str:
        """What it looks like."""
        return "qcow2" if self.read(0, 4) == _QCOW2 else "raw"

    @property
    def virtual_size(self) -> int:
        """How large a guest would find it."""
        return int(_HEADER.unpack(self.read(0, _HEADER.size))[5]) if self.format == "qcow2" else self.size

    @property
    def backing(self) -> str:
        """The path of what it is built upon, as it names it; empty if it is upon nothing."""
        if self.format != "qcow2":
            return ""
        _, _, offset, length, _, _ = _HEADER.unpack(self.read(0, _HEADER.size))
        return self.read(offset, length).decode() if offset else ""

    def make_qcow2(self, virtual_size: int, backing: str, at: float) -> None:
        """Write the header of an empty image."""
        name = backing.encode()
        offset = 512 if name else 0
        self.write(0, _HEADER.pack(_QCOW2, 3, offset, len(name), 16, virtual_size), at)
        if name:
            self.write(offset, name, at)


class FileSystem:
    """Where files lie. It may be mounted on several hosts."""

    def __init__(self, capacity: int = 20 * GIB) -> None:
        self.capacity = capacity
        self.files: dict[str, File] = {}
        self.is_full = False

    @property
    def available(self) -> int:
        """Bytes that are free."""
        used = sum(file.allocated for file in self.files.values())
        return 0 if self.is_full else max(0, self.capacity - used)

    def names_in(self, directory: str) -> list[str]:
        """Return the names of the files in a directory."""
        prefix = directory.rstrip("/") + "/"
        return [
            path[len(prefix) :] for path in self.files if path.startswith(prefix) and "/" not in path[len(prefix) :]
        ]
