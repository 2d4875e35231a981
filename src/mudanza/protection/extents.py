"""What has changed on a disk, as reads that bring it over: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mudanza.model.units import MIB

Extent = tuple[int, int]
"""Where it begins and how long it is, in bytes."""

MOST_AT_ONCE = 2 * MIB
"""Bytes of one read."""
READS_AT_ONCE = 16
"""Reads under way at the same time."""


def joined(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Return the same in order, neighbours and what overlaps as one."""
    found: list[Extent] = []
    for start, length in sorted(extents):
        if length <= 0:
            continue
        if found and start <= sum(found[-1]):
            first, before = found[-1]
            found[-1] = (first, max(before, start + length - first))
        else:
            found.append((start, length))
    return tuple(found)


def reads(extents: Iterable[Extent]) -> str:
    """Return the commands by which ``qemu-io`` reads these extents, several at once, a line each."""
    lines: list[str] = []
    for number, (start, length) in enumerate(_pieces(extents)):
        if number and number % READS_AT_ONCE == 0:
            lines.append("aio_flush")
        lines.append(f"aio_read -q {start} {length}")
    return "\n".join([*lines, "aio_flush"])


def _pieces(extents: Iterable[Extent]) -> Iterator[Extent]:
    for start, length in extents:
        for at in range(start, start + length, MOST_AT_ONCE):
            yield at, min(MOST_AT_ONCE, start + length - at)
