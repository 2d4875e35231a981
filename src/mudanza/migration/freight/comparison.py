"""Do both hosts hold the same bytes? Asked of the hosts themselves, chunk by chunk, before a source is let go."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.contents.reading import (
    CHUNK,
    Contents,
    Digests,
    Layer,
    UnreadableError,
    assembled,
    chunk_size,
    differing,
)
from mudanza.model.migration import Verify
from mudanza.model.units import format_size
from mudanza.preflight.cargo import CargoFile

SAMPLES = 8
"""Chunks of each file that a sample looks at; the first and the last are always among them."""
WRITE_OUT = 0.5
"""Seconds between two orders to the target to write out what has got there: else it would do so all at once in the end,
while everybody waits."""
TURN = 0.2
"""Seconds between two looks whether the claim on the job is to be renewed, and whether there is more to be read."""

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


@dataclass(slots=True)
class _Read:
    """What was read of one file on one host."""

    chunks: dict[int, str | None] = field(default_factory=dict)
    early: set[int] = field(default_factory=set)
    """Chunks read while more was on its way."""
    length: int | None = None


class Comparison:
    """One comparison of some files. Both hosts read theirs in the background, behind what has got to the target: what
    is read has just been in their memory, and little is left to be read in the end."""

    def __init__(
        self,
        source: Callable[[], Contents],
        target: Callable[[], Contents],
        pieces: Sequence[Piece],
        how: Verify,
        stop: clock.Event,
    ) -> None:
        """``source`` and ``target`` open the way to the files of either host; that may take a login."""
        self._how = how
        self._stop = stop
        self._chosen = {piece: chunks_to_look_at(piece.length, how) for piece in pieces if how is not Verify.NONE}
        self._mine = {piece: _Read() for piece in self._chosen}
        self._theirs = {piece: _Read() for piece in self._chosen}
        self._way_there = self._way_here = ""
        self._news = clock.new_condition()
        self._there: dict[str, int] = {}
        self._unreadable: set[Piece] = set()
        self._all_there = self._given_up = False
        self._on_bytes: OnBytes = lambda _: None
        self._reading_here: Task[None] = Task(lambda: self._read_source(source))
        self._reading_there: Task[None] = Task(lambda: self._read_target(target))

    def has_arrived(self, source: str, upto: int) -> None:
        """Note that the first ``upto`` bytes of a file have got to the target.

        Should QEMU write there once more, what was read too early is read again.
        """
        with self._news:
            self._there[source] = upto
            self._news.notify_all()

    def differences(self, turn: Callable[[], None], on_bytes: OnBytes) -> Mapping[str, tuple[Range, ...]]:
        """Return path at the source → the ranges in which the target's bytes are others, now that all is there.

        ``turn`` is called every TURN seconds, ``on_bytes`` with how much of the target was read. Raises what reading
        raises, and what ``turn`` raises.
        """
        self._on_bytes = on_bytes
        self._end(all_there=True)
        for reading in (self._reading_here, self._reading_there):
            while not reading.ended:
                turn()
                with suppress(TimeoutError):
                    reading.wait(TURN)
            reading.wait(0)
        return {piece.file.source: ranges for piece in self._compared if (ranges := self._differing(piece))}

    def give_up(self) -> None:
        """Read no more: the files did not get there."""
        self._end(all_there=False)

    def _end(self, *, all_there: bool) -> None:
        with self._news:
            self._all_there, self._given_up = all_there, not all_there
            self._news.notify_all()

    def _differing(self, piece: Piece) -> tuple[Range, ...]:
        mine, theirs = (
            assembled(read.chunks, piece.length if read.length is None else read.length)
            for read in (self._mine[piece], self._theirs[piece])
        )
        return differing(mine, theirs)

    def _read_source(self, way: Callable[[], Contents]) -> None:
        if not self._is_wanted():
            return
        with closing(way()) as contents:
            while self._more_is_coming():
                for piece, due in self._due(self._mine):
                    self._read_here(contents, piece, due)
            if not self._given_up:
                for piece, rest in self._rest(self._mine):
                    self._read_here(contents, piece, rest)
            self._way_here = contents.way  # only now is it known by which ways all could be read

    def _read_target(self, way: Callable[[], Contents]) -> None:
        if not self._is_wanted():
            return
        with closing(way()) as contents:
            last, written = clock.monotonic(), dict[Piece, int]()
            while self._more_is_coming():
                for piece, due in self._due(self._theirs):
                    self._theirs[piece].early.update(due)
                    self._read_there(contents, piece, due)
                if clock.monotonic() - last >= WRITE_OUT:
                    written = self._write_out(contents, written)
                    last = clock.monotonic()
            if not self._given_up:
                for piece, rest in self._rest(self._theirs):
                    self._read_there(contents, piece, rest)
                self._read_again(contents)
                # Before the source is let go: a host that fails loses what only its memory holds.
                for piece in self._chosen:
                    contents.write_out(piece.file.path, stop=self._stop)
            self._way_there = contents.way

    def _is_wanted(self) -> bool:
        """Wait until something gets there: logging in would slow down what starts at the same time to bring it."""
        while not self._there and self._more_is_coming():
            continue
        return bool(self._chosen) and not self._given_up

    def _more_is_coming(self) -> bool:
        """Wait for news, TURN seconds at most; return whether there may be more."""
        with self._news:
            if not self._all_there and not self._given_up:
                self._news.wait(TURN)
            return not (self._all_there or self._given_up or self._stop.is_set())

    def _due(self, read: Mapping[Piece, _Read]) -> list[tuple[Piece, list[int]]]:
        """Return what can be read of each file, as far as it has got to the target."""
        found = []
        for piece, chosen in self._chosen.items():
            upto = self._there.get(piece.file.source, 0)
            if piece.here:  # what a guest finds there is read at the source at any time, at the target in the end
                upto = piece.length if upto and read is self._mine else 0
            unread = chosen - read[piece].chunks.keys()
            if due := sorted(n for n in unread if n * CHUNK + chunk_size(n, piece.length) <= upto):
                found.append((piece, due))
        return found

    def _rest(self, read: Mapping[Piece, _Read]) -> list[tuple[Piece, frozenset[int]]]:
        """Return what is left of each file; of one without contents nothing, so that its length is read."""
        rest = [(piece, chosen - read[piece].chunks.keys()) for piece, chosen in self._chosen.items()]
        return [(piece, chunks) for piece, chunks in rest if chunks or read[piece].length is None]

    def _read_here(self, contents: Contents, piece: Piece, numbers: Collection[int]) -> None:
        file, length, stop = piece.file, piece.length, self._stop
        if piece.here:
            found = self._of_images(piece, contents, piece.here, numbers, lambda _: None)
        else:
            found = contents.digests(file.source, length, block=file.source_is_block, chunks=numbers, stop=stop)
        _keep(self._mine[piece], found, numbers)

    def _read_there(self, contents: Contents, piece: Piece, numbers: Collection[int]) -> None:
        file, length, stop = piece.file, piece.length, self._stop
        before = sum(chunk_size(n, each.length) for each, read in self._theirs.items() for n in read.chunks)

        def tell(read: int) -> None:
            self._on_bytes(before + read)

        if piece.there:
            found = self._of_images(piece, contents, piece.there, numbers, tell)
        else:
            found = contents.digests(
                file.path, length, block=file.is_block, chunks=numbers, stop=stop, on_progress=tell
            )
        _keep(self._theirs[piece], found, numbers)

    def _of_images(
        self, piece: Piece, contents: Contents, layers: Sequence[Layer], numbers: Collection[int], tell: OnBytes
    ) -> Digests:
        """Read what a guest finds on a disk; one that may not be read, or cannot on this host, is left uncompared."""
        nothing = assembled({}, piece.length)
        if contents.images is None:
            self._unreadable.add(piece)
            return nothing
        try:
            return contents.images.image_digests(
                layers, piece.length, chunks=numbers, stop=self._stop, on_progress=tell
            )
        except UnreadableError:
            self._unreadable.add(piece)
            return nothing

    def _read_again(self, contents: Contents) -> None:
        """Read again what was read early and differs: it may have been written since."""
        while not self._reading_here.ended:
            with suppress(TimeoutError):
                self._reading_here.wait(TURN)
        for piece, theirs in self._theirs.items():
            mine = self._mine[piece].chunks
            if again := [n for n in theirs.early if theirs.chunks.get(n) != mine.get(n)]:
                self._read_there(contents, piece, again)

    def _write_out(self, contents: Contents, before: Mapping[Piece, int]) -> dict[Piece, int]:
        """Have what has arrived since written out; return how much of each file it is now."""
        now = {piece: self._there.get(piece.file.source, 0) for piece in self._chosen}
        for piece, upto in now.items():
            if upto > before.get(piece, 0):
                contents.write_out(piece.file.path, stop=self._stop)
        return now

    @property
    def by_content(self) -> tuple[str, ...]:
        """The paths at the source of what was compared by what a guest finds on it."""
        return tuple(piece.file.source for piece in self._compared if piece.here)

    @property
    def _compared(self) -> Mapping[Piece, Collection[int]]:
        return {piece: chosen for piece, chosen in self._chosen.items() if piece not in self._unreadable}

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
        way = "; ".join(dict.fromkeys((self._way_here, self._way_there)))
        images = len(self.by_content)
        guests = f", {images} of them by what a guest finds there" if images else ""
        return f"{files} compared {much}, {format_size(self.total)}, holes included{guests} ({way})"


def not_compared(file: CargoFile) -> str:
    """Say that a file became another format unseen."""
    return (
        f"{file.label} became {file.format} and was not compared: its source was kept "
        "(what a guest finds in an image is read by ssh only, as root, with qemu-img on both hosts)"
    )


def _keep(read: _Read, digests: Digests, numbers: Collection[int]) -> None:
    read.length = digests.length
    read.chunks.update({n: digests.chunks[n] for n in numbers if n < len(digests.chunks)})
