"""Do both hosts hold the same bytes? Asked of the hosts themselves, chunk by chunk, before a source is let go."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.contents.digests import Images
from mudanza.hypervisor.contents.reading import CHUNK, Contents, Digests, Layer, UnreadableError, assembled, differing
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
    here: tuple[Layer, ...] = ()
    """Where set, it is not the bytes of both files that are to be the same but what a guest finds on the disk which
    these images make at the source, and ``there`` at the target. ``length`` is the disk's then."""
    there: tuple[Layer, ...] = ()


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
        self._unreadable: set[str] = set()
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
        found = {path: here for path, here in mine.items() if path not in self._unreadable}
        return {path: ranges for path, here in found.items() if (ranges := differing(here, theirs[path]))}

    def give_up(self) -> None:
        """Read no more: the files did not get there."""
        self._given_up = True
        self._all_there.set()

    def _read_source(self) -> Mapping[str, Digests]:
        return {piece.file.source: self._digests_here(piece, chosen) for piece, chosen in self._chosen.items()}

    def _digests_here(self, piece: Piece, chosen: Collection[int]) -> Digests:
        if piece.here:
            images, stop = images_of(self._source), self._stop
            return self._if_readable(
                piece, lambda: images.image_digests(piece.here, piece.length, chunks=chosen, stop=stop)
            )
        path, block = piece.file.source, piece.file.source_is_block
        return self._source.digests(path, piece.length, block=block, chunks=chosen, stop=self._stop)

    def _if_readable(self, piece: Piece, read: Callable[[], Digests]) -> Digests:
        """Read an image; one that may not be read is left uncompared."""
        try:
            return read()
        except UnreadableError:
            self._unreadable.add(piece.file.source)
            return assembled({}, piece.length)

    def _digests_there(self, piece: Piece, numbers: Collection[int], on_progress: OnBytes) -> Digests:
        wanted, stop = piece.length, self._stop
        if piece.there:
            images = images_of(self._target)
            return self._if_readable(
                piece,
                lambda: images.image_digests(piece.there, wanted, chunks=numbers, stop=stop, on_progress=on_progress),
            )
        path, block = piece.file.path, piece.file.is_block
        return self._target.digests(path, wanted, block=block, chunks=numbers, stop=stop, on_progress=on_progress)

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
        found = self._digests_there(piece, numbers, lambda read: self._on_bytes(before + read))
        self._lengths[piece.file.source] = found.length
        read = {number: digest for number, digest in enumerate(found.chunks) if number in numbers}
        self._theirs[piece.file.source].update(read)

    @property
    def by_content(self) -> tuple[str, ...]:
        """The paths at the source of what was compared by what a guest finds on it."""
        return tuple(piece.file.source for piece in self._compared if piece.here)

    @property
    def _compared(self) -> Mapping[Piece, Collection[int]]:
        return {piece: chosen for piece, chosen in self._chosen.items() if piece.file.source not in self._unreadable}

    @property
    def total(self) -> int:
        """How many bytes are compared."""
        return sum(min(len(chosen) * CHUNK, piece.length) for piece, chosen in self._compared.items())

    def in_words(self) -> str:
        """Return what was compared and how, for the report."""
        if not self._compared:
            return ""
        much = {Verify.FULL: "in full", Verify.SAMPLE: "in samples"}[self._how]
        count = len(self._compared)
        files = "1 file" if count == 1 else f"{count} files"
        way = self._source.way if self._source.way == self._target.way else f"{self._source.way}; {self._target.way}"
        images = len(self.by_content)
        guests = f", {images} of them by what a guest finds there" if images else ""
        return f"{files} compared {much}, {format_size(self.total)}, holes included{guests} ({way})"


def not_compared(file: CargoFile) -> str:
    """Say that a file became another format unseen."""
    return (
        f"{file.label} became {file.format} and was not compared: its source was kept "
        "(what a guest finds in an image is read by ssh only, as root, with qemu-img on both hosts)"
    )


def images_of(contents: Contents) -> Images:
    """Return the way to read what guests find on disks, where the caller knows that there is one."""
    if contents.images is None:
        raise TypeError(f"images cannot be read {contents.way}")
    return contents.images
