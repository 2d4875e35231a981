"""The host-side reader of the heartbeat's ring finds exactly what is missing and what is torn."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.lab.guest_disk import SECTOR, parse_ring
from mudanza.lab.process import LabError

OFFSET = 4096
CAPACITY = 16


def sealed(body: bytes) -> bytes:
    padded = body.ljust(SECTOR - 4, b"\0")
    return padded + struct.pack("<I", zlib.crc32(padded))


def record(seq: int) -> bytes:
    return sealed(struct.pack("<8sQQQ", b"MUDBEAT1", seq, seq * 20_000_000, 1))


def disk(last: int) -> bytearray:
    """A disk on which the beats up to ``last`` were written one after the other."""
    content = bytearray(OFFSET + CAPACITY * SECTOR)
    content[:SECTOR] = sealed(struct.pack("<8sQQQQ", b"MUDHEAD1", 3, OFFSET, CAPACITY, 1 << 30))
    for seq in range(1, last + 1):
        place(content, seq, record(seq))
    return content


def place(content: bytearray, seq: int, sector: bytes) -> None:
    at = OFFSET + (seq - 1) % CAPACITY * SECTOR
    content[at : at + SECTOR] = sector


@given(last=st.integers(min_value=0, max_value=5 * CAPACITY))
def test_an_untouched_ring_is_whole(last: int) -> None:
    ring = parse_ring(bytes(disk(last)))
    assert (ring.last, ring.missing, ring.torn, ring.boots) == (last, (), (), 3)
    assert ring.first == max(1, last - CAPACITY + 1)
    assert ring.whole == (last > 0)


@given(
    last=st.integers(min_value=2, max_value=5 * CAPACITY),
    back=st.integers(min_value=1, max_value=CAPACITY - 1),
    at=st.integers(min_value=0, max_value=SECTOR - 1),
    flip=st.integers(min_value=1, max_value=255),
)
def test_one_changed_byte_makes_its_record_torn_and_missing(last: int, back: int, at: int, flip: int) -> None:
    seq = max(1, last - back)
    content = disk(last)
    slot = (seq - 1) % CAPACITY
    content[OFFSET + slot * SECTOR + at] ^= flip
    ring = parse_ring(bytes(content))
    assert ring.torn == (slot,)
    assert ring.missing == ((seq,) if seq < last else ())
    assert not ring.whole


@given(last=st.integers(min_value=CAPACITY + 2, max_value=5 * CAPACITY), back=st.integers(1, CAPACITY - 1))
def test_a_beat_that_was_never_written_is_missing(last: int, back: int) -> None:
    content = disk(last)
    place(content, last - back, record(last - back - CAPACITY) if last - back > CAPACITY else bytes(SECTOR))
    ring = parse_ring(bytes(content))
    assert ring.missing == (last - back,)
    assert ring.torn == ()


def test_a_whole_record_in_the_wrong_place_is_torn() -> None:
    content = disk(5)
    place(content, 3, record(4))
    ring = parse_ring(bytes(content))
    assert ring.torn == (2,)
    assert ring.missing == (3,)


@pytest.mark.parametrize("content", [b"", bytes(SECTOR), bytes(disk(1))[: OFFSET + SECTOR]])
def test_what_is_no_ring_is_refused(content: bytes) -> None:
    with pytest.raises(LabError, match="the disk"):
        parse_ring(content)
