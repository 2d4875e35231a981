"""Do both hosts hold the same bytes? Asked of the hosts themselves, chunk by chunk, before a source is let go."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.contents import CHUNK, Contents, Digests, differing
from mudanza.model.migration import Verify
from mudanza.model.units import format_size
from mudanza.preflight.cargo import CargoFile

SAMPLES = 8
"""Chunks of each file that a sample looks at; the first and the last are always among them."""
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
    """One comparison of some files; the source is read in the background from the beginning."""

    def __init__(
        self, source: Contents, target: Contents, pieces: Sequence[Piece], how: Verify, stop: threading.Event
    ) -> None:
        self._source, self._target = source, target
        self._how = how
        self._stop = stop
        self._chosen = {piece: chunks_to_look_at(piece.length, how) for piece in pieces if how is not Verify.NONE}
        self._reading: Task[Mapping[str, Digests]] = Task(self._read_source)

    def _read_source(self) -> Mapping[str, Digests]:
        return {
            piece.file.source: self._source.digests(
                piece.file.source, piece.length, block=piece.file.source_is_block, chunks=chosen, stop=self._stop
            )
            for piece, chosen in self._chosen.items()
        }

    def differences(self, turn: Callable[[], None], on_bytes: OnBytes) -> Mapping[str, tuple[Range, ...]]:
        """Return path at the source → the ranges in which the target's bytes are others.

        ``turn`` is called every TURN seconds, ``on_bytes`` with how much of the target was read. Raises what reading
        raises, and what ``turn`` raises.
        """
        theirs = Task(lambda: self._read_target(on_bytes))
        for reading in (theirs, self._reading):
            while not reading.ended:
                turn()
                self._stop.wait(TURN)
        target, source = theirs.wait(0), self._reading.wait(0)
        return {path: ranges for path, mine in source.items() if (ranges := differing(mine, target[path]))}

    def _read_target(self, on_bytes: OnBytes) -> Mapping[str, Digests]:
        found = {}
        before = 0
        for piece, chosen in self._chosen.items():
            done = before

            def tell(read: int, done: int = done) -> None:
                on_bytes(done + read)

            found[piece.file.source] = self._target.digests(
                piece.file.path,
                piece.length,
                block=piece.file.is_block,
                chunks=chosen,
                stop=self._stop,
                on_progress=tell,
            )
            before += min(len(chosen) * CHUNK, piece.length)
        return found

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
