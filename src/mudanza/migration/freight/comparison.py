"""Do both hosts hold the same bytes? Asked of the hosts themselves, chunk by chunk, before a source is let go."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.contents.reading import CHUNK, Contents, Digests, assembled, differing
from mudanza.model.migration import Verify
from mudanza.model.units import format_size
from mudanza.preflight.cargo import CargoFile

SAMPLES = 8
"""Chunks of each file that a sample looks at; the first and the last are always among them."""
BATCH = 4
"""Chunks that are read at the target at once while more is on its way: each time costs a login."""
FOLLOW = 0.5
"""Seconds between two looks what else has got to the target."""
TURN = 0.2
"""Seconds between two looks whether the claim on the job is to be renewed."""

Range = tuple[int, int]
"""Where it starts and how long it is, in bytes."""
OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """A file to be brought, as it lies at the source now. Bytes."""

    file: CargoFile
    length: int
    fresh: bool
    """Its place at the target was made just now and is empty; else it holds who knows what."""


def chunks_to_look_at(length: int, how: Verify) -> frozenset[int]:
    """Return the numbers of the chunks of a file that are compared; a sample is another one each time."""
    count = -(-length // CHUNK)
    if how is Verify.NONE:
        return frozenset()
    if how is Verify.FULL or count <= SAMPLES:
        return frozenset(range(count))
    return frozenset({0, count - 1, *random.sample(range(1, count - 1), SAMPLES - 2)})


class Comparison:
    """One comparison of some files. Both sides are read in the background from the beginning: the source as fast as it
    goes, the target behind what has got there for good."""

    def __init__(
        self, source: Contents, target: Contents, pieces: Sequence[Piece], how: Verify, stop: clock.Event
    ) -> None:
        self._source, self._target = source, target
        self._how = how
        self._stop = stop
        self._chosen = {piece: chunks_to_look_at(piece.length, how) for piece in pieces if how is not Verify.NONE}
        self._there: dict[str, int] = {}
        self._all_there = clock.new_event()
        self._given_up = False
        self._on_bytes: OnBytes = lambda _: None
        self._theirs: dict[str, dict[int, str | None]] = {piece.file.source: {} for piece in self._chosen}
        self._lengths: dict[str, int] = {}
        self._reading: Task[Mapping[str, Digests]] = Task(self._read_source)
        self._following: Task[None] = Task(self._read_target)

    def has_arrived(self, source: str, upto: int) -> None:
        """Note that the first ``upto`` bytes of a file have got to the target, and will not be written again."""
        self._there[source] = upto

    def differences(self, turn: Callable[[], None], on_bytes: OnBytes) -> Mapping[str, tuple[Range, ...]]:
        """Return path at the source → the ranges in which the target's bytes are others, now that all is there.

        ``turn`` is called every TURN seconds, ``on_bytes`` with how much of the target was read. Raises what reading
        raises, and what ``turn`` raises.
        """
        self._on_bytes = on_bytes
        self._all_there.set()
        for reading in (self._following, self._reading):
            while not reading.ended:
                turn()
                self._stop.wait(TURN)
        self._following.wait(0)
        mine = self._reading.wait(0)
        theirs = {
            path: assembled(self._theirs[path], self._lengths.get(path, piece.length))
            for piece in self._chosen
            for path in (piece.file.source,)
        }
        return {path: ranges for path, here in mine.items() if (ranges := differing(here, theirs[path]))}

    def give_up(self) -> None:
        """Read no more: the files did not get there."""
        self._given_up = True
        self._all_there.set()

    def _read_source(self) -> Mapping[str, Digests]:
        return {
            piece.file.source: self._source.digests(
                piece.file.source, piece.length, block=piece.file.source_is_block, chunks=chosen, stop=self._stop
            )
            for piece, chosen in self._chosen.items()
        }

    def _read_target(self) -> None:
        while not self._all_there.wait(FOLLOW) and not self._stop.is_set():
            for piece, chosen in self._chosen.items():
                known = self._theirs[piece.file.source]
                # One chunk behind, for QEMU has several writes under way.
                final = max(0, self._there.get(piece.file.source, 0) - CHUNK) // CHUNK
                due = [number for number in chosen if number < final and number not in known]
                if len(due) >= BATCH:
                    self._read_chunks(piece, due, 0)
        done = 0
        for piece, chosen in self._chosen.items():
            if self._given_up:
                return
            self._read_chunks(piece, chosen - self._theirs[piece.file.source].keys(), done)
            done += min(len(chosen) * CHUNK, piece.length)

    def _read_chunks(self, piece: Piece, numbers: Collection[int], before: int) -> None:
        if not numbers:
            return
        found = self._target.digests(
            piece.file.path,
            piece.length,
            block=piece.file.is_block,
            chunks=numbers,
            stop=self._stop,
            on_progress=lambda read: self._on_bytes(before + read),
        )
        self._lengths[piece.file.source] = found.length
        read = {number: digest for number, digest in enumerate(found.chunks) if number in numbers}
        self._theirs[piece.file.source].update(read)

    @property
    def total(self) -> int:
        """How many bytes are compared."""
        return sum(min(len(chosen) * CHUNK, piece.length) for piece, chosen in self._chosen.items())

    def in_words(self) -> str:
        """Return what was compared and how, for the report."""
        if not self._chosen:
            return ""
        much = {Verify.FULL: "in full", Verify.SAMPLE: "in samples"}[self._how]
        count = len(self._chosen)
        files = "1 file" if count == 1 else f"{count} files"
        way = self._source.way if self._source.way == self._target.way else f"{self._source.way}; {self._target.way}"
        return f"{files} compared {much}, {format_size(self.total)}, holes included ({way})"
