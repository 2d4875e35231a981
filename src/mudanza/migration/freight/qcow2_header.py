"""The name of its backing image in a qcow2 file: pure, for a chain whose files lie elsewhere at the target.

The format is described in QEMU's docs/interop/qcow2.txt: big-endian, backing_file_offset at byte 8, backing_file_size
at 16, cluster_bits at 20; the name lies in the first cluster and is at most 1023 bytes long.
"""

from __future__ import annotations

import struct

MAGIC = b"QFI\xfb"
LONGEST_NAME = 1023
HEAD = 64 * 1024
"""Bytes of a file that hold header and name: one cluster of the usual size."""

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
