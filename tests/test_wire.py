"""Whether what a round sends is compressed: decided by what was measured, and by nothing else."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.hypervisor.relay import relay
from mudanza.model.protection import Carriage, Compress
from mudanza.model.units import GIB, KIB, MIB
from mudanza.protection import scripts, wire
from mudanza.protection.wire import is_compressed, is_to_be_sampled, learned, pieces_of, wins
from tests.test_protection_pages import protected
from tests.test_restore_points import Local

TEXT = Carriage(rate=10.0 * MIB, ratio=4.0, speed=50.0 * MIB)
"""A way of 10 MiB/s, and data that become small quickly."""


@pytest.mark.parametrize(
    ("changes", "better"),
    [
        ({}, True),
        ({"ratio": 1.1}, False),  # it becomes no smaller
        ({"rate": 100.0 * MIB}, False),  # the way is faster than the CPU
        ({"rate": 45.0 * MIB}, False),  # not worth it
        ({"rate": None}, False),
        ({"ratio": None}, False),
        ({"speed": None}, False),
    ],
)
def test_it_wins_where_the_way_is_slow_and_the_data_become_small(changes: dict[str, Any], better: bool) -> None:
    assert wins(replace(TEXT, **changes), None) is better


def test_a_round_that_is_held_to_a_rate_becomes_no_faster_by_it() -> None:
    assert not wins(TEXT, 5 * MIB)
    assert wins(TEXT, GIB)


@given(
    rate=st.floats(1e3, 1e10), ratio=st.floats(0.9, 100.0), speed=st.floats(1e5, 1e9),
    bandwidth=st.none() | st.integers(1, 10**10),
)  # fmt: skip
def test_where_it_wins_the_round_is_faster(rate: float, ratio: float, speed: float, bandwidth: int | None) -> None:
    if wins(Carriage(rate, ratio, speed), bandwidth):
        most = bandwidth or float("inf")
        assert min(speed, rate * ratio, most) > min(rate, most)
        assert ratio > 1
        assert speed > rate


def test_whoever_says_it_is_obeyed() -> None:
    slow, unknown = protected(carriage=TEXT), protected()
    assert is_compressed(slow)
    assert not is_compressed(unknown)
    assert is_compressed(replace(unknown, compress=Compress.YES))
    assert not is_compressed(replace(slow, compress=Compress.NO))


def test_a_round_tells_how_fast_the_way_is() -> None:
    assert learned(Carriage(), compressed=False, sent=20 * MIB, carried=20 * MIB, seconds=2.0).rate == 10 * MIB
    assert learned(TEXT, compressed=False, sent=MIB, carried=MIB, seconds=2.0) == TEXT, "too little to tell"
    assert learned(TEXT, compressed=False, sent=None, carried=MIB, seconds=2.0) == TEXT
    # Compressed, and the CPU not at its end: what came through is what the way takes.
    assert learned(TEXT, compressed=True, sent=10 * MIB, carried=40 * MIB, seconds=2.0).rate == 5 * MIB
    # The CPU was: the way may take more.
    assert learned(TEXT, compressed=True, sent=10 * MIB, carried=90 * MIB, seconds=2.0).rate == 10 * MIB


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 40)), max_size=30))
def test_pieces_lie_in_what_has_changed(extents: list[tuple[int, int]]) -> None:
    found = [(start * 64 * KIB, length * 64 * KIB) for start, length in extents]
    pieces = pieces_of(found)
    assert len(pieces) <= wire.PIECES
    for at in pieces:
        assert any(start <= at and at + wire.PIECE <= start + length for start, length in found)
    assert bool(pieces) == any(length >= wire.PIECE for _, length in found)


def test_samples_are_taken_of_what_is_worth_it() -> None:
    much, little = [(0, 10 * MIB)], [(0, MIB)]
    assert is_to_be_sampled(protected(), much)
    assert not is_to_be_sampled(protected(), little)
    assert not is_to_be_sampled(protected(carriage=Carriage(rate=200.0 * MIB)), much), "no CPU is as fast"
    assert not is_to_be_sampled(protected(compress=Compress.NO), much)


def test_data_are_looked_at_before_the_first_round(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(b"a line of a log\n" * (MIB // 16) + random.Random(1).randbytes(MIB) + bytes(2 * MIB))
    values = {"disk": image, "piece": wire.PIECE, "pieces": wire.PIECES, "noise": wire.NOISE}
    answers = Local().run(scripts.FIRST_LOOK, values)
    [[_, before, after, took]] = [words for words in answers if words[0] == "sample"]
    assert int(before) == 2 * wire.PIECE, "one of each, and nothing of what is all zeroes"
    assert wire.PIECE < int(after) < 1.1 * wire.PIECE
    assert int(took) > 0
    assert sum(len(words[1]) for words in answers if words[0] == "noise") >= wire.NOISE


def test_both_logins_are_told_to_compress() -> None:
    for compressed, word in ((True, "Compression=yes"), (False, "Compression=no")):
        with relay({"/a": "/b"}, compressed=compressed) as halves:
            assert word in halves.pull
            assert word in halves.push
