"""The name of its backing image in a qcow2 file: pure, for a chain whose files lie elsewhere at the target.

The format is described in QEMU's docs/interop/qcow2.txt: big-endian, version at byte 4, backing_file_offset at 8,
backing_file_size at 16, cluster_bits at 20, virtual size at 24, header_length at 100 (version 3; else it is 72). After
the header come extensions: type, length, data up to a multiple of 8 bytes. The name lies in the first cluster and is at
most 1023 bytes long.
"""

from __future__ import annotations

import struct

MAGIC = b"QFI\xfb"
LONGEST_NAME = 1023
HEAD = 64 * 1024
"""Bytes of a file that hold header and name: one cluster of the usual size."""

_VERSION_2 = 2
_V2_HEADER = 72
_V3_HEADER = 104
_BACKING_FORMAT = 0xE2792ACA

Patch = tuple[int, bytes]
"""Where to write, and what."""


class NoRoomError(Exception):
    """The new name does not fit where the old one stands."""


def backing_name(head: bytes) -> str | None:
    """Return the backing image a file names; None if it is no qcow2 file or names none."""
    if head[:4] != MAGIC or len(head) < 24:
        return None
    offset, size = struct.unpack(">QI", head[8:20])
    if not offset or not size or offset + size > len(head):
        return None
    return head[offset : offset + size].decode("utf-8", "surrogateescape")


def backing_format(head: bytes) -> bytes | None:
    """Return the format of the backing image as a file names it; None if it does not, or is no qcow2 file."""
    if head[:4] != MAGIC or len(head) < _V3_HEADER:
        return None
    version = struct.unpack(">I", head[4:8])[0]
    at = struct.unpack(">I", head[100:104])[0] if version > _VERSION_2 else _V2_HEADER
    while at + 8 <= len(head):
        kind, size = struct.unpack(">II", head[at : at + 8])
        if kind == _BACKING_FORMAT:
            return head[at + 8 : at + 8 + size]
        if kind == 0:
            return None
        at += 8 + -(-size // 8) * 8
    return None


def virtual_size(head: bytes) -> int | None:
    """Return how many bytes a guest finds in a qcow2 file; None if it is none."""
    return struct.unpack(">Q", head[24:32])[0] if head[:4] == MAGIC and len(head) >= _V2_HEADER else None


def renamed(head: bytes, name: str) -> tuple[Patch, ...]:
    """Return what to write so that a file which names a backing image names another one.

    ``head``: the first HEAD bytes of the file. Raises NoRoomError.
    """
    offset, size, bits = struct.unpack(">QII", head[8:24])
    new = name.encode("utf-8", "surrogateescape")
    room = min(1 << bits, len(head)) - offset
    behind = head[offset + size : offset + len(new)]
    if len(new) > min(room, LONGEST_NAME) or any(behind):
        raise NoRoomError(name)
    # The name first: until the length is written, it is cut off or followed by what was there, and never elsewhere.
    return (offset, new + bytes(max(0, size - len(new)))), (16, struct.pack(">I", len(new)))
