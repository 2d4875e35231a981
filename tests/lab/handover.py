"""Two copies of one disk: were they the same at the instant the guest went from one to the other?

The source's copy stands still from the hand-over on, while the guest writes on into the target's. Whatever the lab's
agent writes carries the number of a heartbeat. So the copies were equal at the hand-over if every sector that differs
was written, in the target's copy, after the last heartbeat that the source's copy holds.
"""

from __future__ import annotations

import struct

from mudanza.lab.guest_disk import RECORD_MAGIC, SECTOR, parse_ring

BLOCK = 64 * 1024
BLOCK_MAGIC = b"MUDDATA1"
STAMP_DELAY = 25
"""Heartbeats that may pass between a block's stamp and its way to the disk."""


def differences(source: bytes, target: bytes) -> list[str]:
    """Return what differs and was not written after the hand-over; nothing means the copies were equal."""
    if len(source) != len(target):
        return [f"sizes differ: {len(source)} and {len(target)} bytes"]
    ring = parse_ring(source)
    offset = struct.unpack_from("<Q", source, 16)[0]
    data_at = -(-(offset + ring.capacity * SECTOR) // BLOCK) * BLOCK
    found = []
    for at in range(0, len(source), BLOCK):
        if source[at : at + BLOCK] == target[at : at + BLOCK]:
            continue
        if at >= data_at:
            found += _block(source, target, at, ring.last)
        else:
            found += [
                f"sector {sector // SECTOR}: {why}"
                for sector in range(at, min(at + BLOCK, data_at), SECTOR)
                if source[sector : sector + SECTOR] != target[sector : sector + SECTOR]
                and (why := _record(target, sector, ring.last))
            ]
    return found


def _record(disk: bytes, at: int, last: int) -> str:
    magic, seq = struct.unpack_from("<8sQ", disk, at)
    if magic != RECORD_MAGIC:
        return "no heartbeat in the target's copy"
    return "" if seq > last else f"heartbeat {seq} is no newer than the hand-over ({last})"


def _block(source: bytes, target: bytes, at: int, last: int) -> list[str]:
    magic, stamp = struct.unpack_from("<8sQ", target, at)
    old_magic, old_stamp = struct.unpack_from("<8sQ", source, at)
    before = old_stamp if old_magic == BLOCK_MAGIC else 0
    # The guest's writer may have been interrupted between stamping a block and writing it.
    if magic == BLOCK_MAGIC and stamp >= max(before, last - STAMP_DELAY):
        return []
    return [f"block at {at}: stamped {stamp}; the source's copy has {before}, and ended at heartbeat {last}"]
