"""What a guest's data disk holds, read on the host: the heartbeat's ring and checksums.

The layout is the agent's (agent.c): a header sector, a ring of one-sector records, room for its disk writer.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mudanza.lab.cell import Cell
from mudanza.lab.process import LabError
from mudanza.model.units import MIB

SECTOR = 512
RING_LIMIT = 64 * MIB
"""No ring is larger, so that the header and this much behind it hold the whole of it."""
COPY_LIMIT = 300.0
"""Seconds to copy a disk's content out of its image."""

HEADER_MAGIC = b"MUDHEAD1"
RECORD_MAGIC = b"MUDBEAT1"
_HEADER = struct.Struct("<8sQQQQ")
_RECORD = struct.Struct("<8sQQQ")
_CRC = struct.Struct("<I")
_BLANK = bytes(SECTOR)


@dataclass(frozen=True, slots=True)
class Ring:
    """The heartbeat as the disk holds it."""

    boots: int
    capacity: int
    """Records the ring has room for."""
    last: int
    """The highest whole record's number; 0: none."""
    missing: tuple[int, ...]
    """Numbers that ought to be there and are not."""
    torn: tuple[int, ...]
    """Sectors of the ring that hold neither nothing nor a whole record of their place."""

    @property
    def first(self) -> int:
        """The lowest number that ought still to be there."""
        return max(1, self.last - self.capacity + 1)

    @property
    def whole(self) -> bool:
        """Whether every number is there."""
        return self.last > 0 and not self.missing and not self.torn


def parse_ring(disk: bytes) -> Ring:
    """Read the ring from the beginning of a disk. Raises LabError if the header is not whole or the ring cut short."""
    header = disk[:SECTOR]
    if not _is_whole(header, HEADER_MAGIC):
        raise LabError("the disk does not begin with a whole header of the lab's agent")
    _, boots, offset, capacity, _ = _HEADER.unpack_from(header)
    ring = memoryview(disk)[offset : offset + capacity * SECTOR]
    if len(ring) < capacity * SECTOR:
        raise LabError(f"the disk ends within the ring: {len(ring)} of {capacity * SECTOR} bytes are there")
    found: dict[int, int] = {}
    torn = []
    for slot in range(capacity):
        sector = bytes(ring[slot * SECTOR : (slot + 1) * SECTOR])
        if sector == _BLANK:
            continue
        _, seq, _, _ = _RECORD.unpack_from(sector)
        if _is_whole(sector, RECORD_MAGIC) and (seq - 1) % capacity == slot:
            found[slot] = seq
        else:
            torn.append(slot)
    last = max(found.values(), default=0)
    expected = range(max(1, last - capacity + 1), last + 1)
    missing = tuple(seq for seq in expected if found.get((seq - 1) % capacity) != seq)
    return Ring(boots=boots, capacity=capacity, last=last, missing=missing, torn=tuple(torn))


def read_ring(host: Cell, path: str, image_format: str) -> Ring:
    """Read the ring from an image on a host. The guest may run. Raises LabError when the image cannot be read."""
    with _content(host, path, image_format, count=RING_LIMIT // MIB + 1) as raw:
        return parse_ring(raw.read_bytes())


def disk_sum(host: Cell, path: str, image_format: str, offset: int = 0, length: int | None = None) -> int:
    """Return the CRC-32 of a part of a disk as the host finds it; the agent's ``sum`` is the same. Bytes.

    Raises LabError when the image cannot be read.
    """
    crc = 0
    with _content(host, path, image_format) as raw, raw.open("rb") as content:
        content.seek(offset)
        left = raw.stat().st_size - offset if length is None else length
        while left > 0 and (piece := content.read(min(left, MIB))):
            crc = zlib.crc32(piece, crc)
            left -= len(piece)
    if left:
        raise LabError(f"{path} ends {left} bytes before {offset} + {length}")
    return crc


def _is_whole(sector: bytes, magic: bytes) -> bool:
    body = sector[: -_CRC.size]
    return sector.startswith(magic) and _CRC.pack(zlib.crc32(body)) == sector[len(body) :]


@contextmanager
def _content(host: Cell, path: str, image_format: str, count: int | None = None) -> Iterator[Path]:
    """Copy a disk's content (or its first ``count`` MiB) out of its image, and yield the raw copy's path."""
    directory = host.run(["mktemp", "--directory"]).stdout.strip()
    # --force-share: a running QEMU holds the image, and we only read.
    kind = ["--force-share", "-f", image_format, "-O", "raw"]
    if count is None:
        copying = ["qemu-img", "convert", *kind, "--", path, f"{directory}/raw"]
    else:
        copying = ["qemu-img", "dd", *kind, f"bs={MIB}", f"count={count}", f"if={path}", f"of={directory}/raw"]
    try:
        host.run(copying, timeout=COPY_LIMIT)
        yield Path(f"/proc/{host.pid}/root{directory}/raw")
    finally:
        host.run(["rm", "-r", "--", directory])
