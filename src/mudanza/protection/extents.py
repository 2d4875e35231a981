"""What has changed on a disk, as reads that bring it over: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mudanza.model.units import KIB, MIB

Extent = tuple[int, int]
"""Where it begins and how long it is, in bytes."""

MOST_AT_ONCE = 2 * MIB
"""Bytes of one read."""
READS_AT_ONCE = 16
"""Reads under way at the same time."""
LEAST_AT_ONCE = 64 * KIB
"""Bytes of one read where they are held to a rate: a cluster of qcow2."""
READS_PER_SECOND = 8
"""How many of them there are a second at least, as far as that allows: none stops everything else for long."""


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


def reads(extents: Iterable[Extent], rate: int | None = None) -> str:
    """Return the commands by which ``qemu-io`` reads these extents, a line each: several at once, or, where they are
    held to a ``rate`` in bytes per second, one by one: while it waits for several, QEMU holds nothing to any rate."""
    if rate is not None:
        most = max(LEAST_AT_ONCE, min(MOST_AT_ONCE, rate // READS_PER_SECOND // LEAST_AT_ONCE * LEAST_AT_ONCE))
        return "\n".join(f"read -q {start} {length}" for start, length in _pieces(extents, most))
    lines: list[str] = []
    for number, (start, length) in enumerate(_pieces(extents, MOST_AT_ONCE)):
        if number and number % READS_AT_ONCE == 0:
            lines.append("aio_flush")
        lines.append(f"aio_read -q {start} {length}")
    return "\n".join([*lines, "aio_flush"])


def _pieces(extents: Iterable[Extent], most: int) -> Iterator[Extent]:
    for start, length in extents:
        for at in range(start, start + length, most):
            yield at, min(most, start + length - at)
