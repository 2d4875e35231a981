"""Two hosts' files compared by their chunks, whenever these get there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import pytest

from mudanza import clock
from mudanza.hypervisor.contents.digests import Images
from mudanza.hypervisor.contents.reading import CHUNK, UNREAD, Digests
from mudanza.migration.freight.comparison import Comparison, Piece, chunks_to_look_at
from mudanza.model.migration import Verify
from mudanza.preflight.cargo import CargoFile, Role

COUNT = 12
FILE = CargoFile(Role.DISK, "vda", "/here/vda", "/there/vda")
PIECE = Piece(FILE, COUNT * CHUNK, fresh=True)
AWAIT_LIMIT = 10.0


@dataclass
class Stored:
    """A host's file, as the digest of each chunk; notes what was looked at, in which order."""

    chunks: list[str | None]
    way: str = "by heart"
    images: Images | None = None
    read: list[tuple[int, ...]] = field(default_factory=list)
    was_read: clock.Event = field(default_factory=clock.new_event)
    was_written_out: clock.Event = field(default_factory=clock.new_event)
    was_closed: clock.Event = field(default_factory=clock.new_event)

    def digests(
        self,
        path: str,  # there is one file only
        length: int,
        *,
        block: bool,
        chunks: Collection[int] | None = None,
        stop: clock.Event | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> Digests:
        wanted = range(len(self.chunks)) if chunks is None else chunks
        self.read.append(tuple(sorted(wanted)))
        self.was_read.set()
        on_progress(len(self.read[-1]) * CHUNK)
        found = (digest if number in wanted else UNREAD for number, digest in enumerate(self.chunks))
        return Digests(len(self.chunks) * CHUNK, tuple(found))

    def write_out(self, path: str, *, stop: clock.Event | None = None) -> None:
        assert path == FILE.path
        self.was_written_out.set()

    def close(self) -> None:
        self.was_closed.set()


def compare(here: Stored, there: Stored, how: Verify = Verify.FULL) -> Comparison:
    return Comparison(lambda: here, lambda: there, [PIECE], how, clock.new_event())


def differences(comparison: Comparison) -> dict[str, tuple[tuple[int, int], ...]]:
    return dict(comparison.differences(lambda: None, lambda _: None))


def same() -> list[str | None]:
    return [f"{number:02}" for number in range(COUNT)]


def test_the_same_is_found_the_same() -> None:
    assert differences(compare(Stored(same()), Stored(same()))) == {}


@pytest.mark.parametrize("number", range(COUNT))
def test_one_chunk_that_differs_is_found_wherever_it_is(number: int) -> None:
    there = same()
    there[number] = None
    assert differences(compare(Stored(same()), Stored(there))) == {FILE.source: ((number * CHUNK, CHUNK),)}


def test_both_are_read_behind_what_has_arrived_and_each_chunk_once() -> None:
    here, there = Stored(same()), Stored(same())
    comparison = compare(here, there)
    comparison.has_arrived(FILE.source, 4 * CHUNK + 1)
    for stored in (here, there):
        assert stored.was_read.wait(AWAIT_LIMIT), "it begins while more is on its way"
        assert stored.read == [(0, 1, 2, 3)], "the next one is not whole"
    assert differences(comparison) == {}
    for stored in (here, there):
        assert sorted(number for numbers in stored.read for number in numbers) == list(range(COUNT))
        assert stored.was_closed.is_set()


def test_what_was_read_early_and_differs_is_read_again() -> None:
    late = same()
    late[1] = "half of it"
    there = Stored(late)
    comparison = compare(Stored(same()), there)
    comparison.has_arrived(FILE.source, 4 * CHUNK)
    assert there.was_read.wait(AWAIT_LIMIT)
    late[1] = same()[1]
    assert differences(comparison) == {}
    assert there.read[-1] == (1,)


def test_what_differs_stays_different_however_often_it_is_read() -> None:
    wrong = same()
    wrong[1] = "spoilt"
    there = Stored(wrong)
    comparison = compare(Stored(same()), there)
    comparison.has_arrived(FILE.source, COUNT * CHUNK)
    assert there.was_read.wait(AWAIT_LIMIT)
    assert differences(comparison) == {FILE.source: ((CHUNK, CHUNK),)}


def test_the_target_writes_out_what_has_arrived_meanwhile() -> None:
    here, there = Stored(same()), Stored(same())
    comparison = compare(here, there)
    comparison.has_arrived(FILE.source, 1)
    assert there.was_written_out.wait(AWAIT_LIMIT)
    assert differences(comparison) == {}
    assert not here.was_written_out.is_set()


def test_a_file_of_another_length_is_another_one() -> None:
    assert differences(compare(Stored(same()), Stored([*same(), "more"])))
    assert differences(compare(Stored(same()), Stored(same()[:-1])))


def test_given_up_before_anything_arrived_it_does_not_even_log_in() -> None:
    there = Stored(same())
    compare(Stored(same()), there).give_up()
    assert not there.was_read.wait(1.0)
    assert not there.was_closed.is_set()


def test_given_up_it_reads_no_more() -> None:
    there = Stored(same())
    comparison = compare(Stored(same()), there)
    comparison.has_arrived(FILE.source, 4 * CHUNK)
    assert there.was_read.wait(AWAIT_LIMIT)
    comparison.give_up()
    assert there.was_closed.wait(AWAIT_LIMIT)
    assert there.read == [(0, 1, 2, 3)]


def test_a_sample_looks_at_both_ends_and_none_at_nothing() -> None:
    many = 100 * CHUNK
    assert {0, 99} < chunks_to_look_at(many, Verify.SAMPLE)
    assert len(chunks_to_look_at(many, Verify.SAMPLE)) < len(chunks_to_look_at(many, Verify.FULL)) == 100
    nothing = compare(Stored(same()), Stored([]), Verify.NONE)
    assert differences(nothing) == {}
    assert nothing.in_words() == ""
