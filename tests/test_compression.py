"""Compression is tried where pre-copy would not end without, judged by what it gains, and not tried again in vain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.journal.database import open_database
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.journal.reports import PastMoves
from mudanza.migration.convergence import PATIENCE, Budget
from mudanza.migration.forecast.compression import with_compression
from mudanza.migration.forecast.dirtying import Dirtying
from mudanza.migration.forecast.foresight import foresee
from mudanza.migration.forecast.learning import Past, tells_of_link
from mudanza.migration.forecast.model import Compressing, Forecast, Known, Link, Strategy, Streams
from mudanza.migration.forecast.precopy import Load, Run, carry
from mudanza.migration.progress import read_compressed, read_progress
from mudanza.model.compression import ENOUGH, PAYS, Compressed, Tried
from mudanza.model.policy import Compression, Policy, PostCopy
from mudanza.model.units import GIB, MIB
from mudanza.preflight.compression import LEAST_CACHE, cache_for, spare_at
from tests import factories as make

ALLOWED = Budget(0.3, postcopy=PostCopy.ALLOW, compressed=True)
BUSY = Known(
    link=Link(25.0 * MIB, "measured"), budget=replace(ALLOWED, compressed=False),
    memory=256.0 * MIB, in_use=160.0 * MIB, dirtying=Dirtying(38.0 * MIB, 128.0 * MIB), dirtying_from="sampled",
)  # fmt: skip
PLAIN = foresee(BUSY)
ROOM = 256 * MIB
USELESS, GOOD = Tried(0.98, paid_off=False), Tried(0.05, paid_off=True)


def carried(share: float, budget: Budget = ALLOWED) -> Run:
    """Move a guest that dirties 1.5 times what its link carries, of whose pages so much differs each time."""
    assert BUSY.dirtying is not None
    return carry(Load(BUSY.memory, BUSY.in_use, BUSY.link.rate, BUSY.dirtying, share), budget)


def uncompressed(budget: Budget = ALLOWED) -> Run:
    """Move the same guest without compression."""
    assert BUSY.dirtying is not None
    return carry(Load(BUSY.memory, BUSY.in_use, BUSY.link.rate, BUSY.dirtying), replace(budget, compressed=False))


def chosen(tried: Tried | None, asked: Compression = Compression.AUTO, room: int = ROOM, **known: Any) -> Forecast:
    plain = foresee(replace(BUSY, **known))
    return with_compression(plain, asked, tried, lambda _dirtied: room)


def test_a_guest_that_changes_little_of_its_pages_needs_no_postcopy() -> None:
    assert foresee(BUSY).chosen.strategy is Strategy.POSTCOPY_AFTER, "without it needs that"
    run = carried(0.02)
    assert not run.postcopy
    assert run.arrived
    assert run.downtime <= ALLOWED.max_downtime
    assert run.sent < 160 * MIB + 128 * MIB + 40 * MIB, "all of it once, what fills the cache, and little more"


def test_a_guest_that_rewrites_its_pages_is_fetched_as_soon_as_that_shows() -> None:
    run, without = carried(1.0), uncompressed()
    assert run.postcopy
    one_more_pass = 128 / 25
    assert run.took < without.took + one_more_pass + 1.0
    assert run.passes == 3


def test_waiting_for_compression_never_costs_the_deadline() -> None:
    for deadline in (12.0, 13.0, 15.0, 18.0, 25.0):
        budget = replace(ALLOWED, deadline=deadline)
        without = uncompressed(budget)
        assert carried(1.0, budget).arrived == without.arrived, deadline


def test_where_postcopy_is_forbidden_a_move_in_vain_is_given_up() -> None:
    run = carried(1.0, replace(ALLOWED, postcopy=PostCopy.NEVER))
    assert run.given_up.startswith("it does not converge")


def test_what_compression_pays_for_and_does_not_bring_to_its_end_is_fetched() -> None:
    """QEMU counts on what gets across, and pages that are compressed get across slowly."""
    load = Load(256 * MIB, 160 * MIB, 25 * MIB, Dirtying(400 * MIB, 1 * MIB), share=0.01)
    run = carry(load, ALLOWED)
    assert run.postcopy.startswith("compression pays, and has not brought it to its end")
    assert run.took < 3 * 160 / 25
    given_up = carry(load, replace(ALLOWED, postcopy=PostCopy.NEVER))
    assert "it does not converge" in given_up.given_up
    assert given_up.took < 200


@given(
    share=st.floats(0.0, 1.0), rate=st.floats(1, 400), working_set=st.integers(1, 160),
    postcopy=st.sampled_from((PostCopy.ALLOW, PostCopy.NEVER)), deadline=st.none() | st.floats(5, 200),
)  # fmt: skip
def test_it_ends_and_keeps_to_what_was_allowed(
    share: float, rate: float, working_set: int, postcopy: PostCopy, deadline: float | None
) -> None:
    budget = Budget(0.3, deadline=deadline, postcopy=postcopy, compressed=True)
    run = carry(Load(256 * MIB, 160 * MIB, 25 * MIB, Dirtying(rate * MIB, working_set * MIB), share), budget)
    assert run.downtime <= budget.max_downtime + 1e-6
    if postcopy is PostCopy.NEVER:
        assert not run.postcopy
    elif deadline is None:
        assert run.arrived
        assert run.took < PATIENCE + 20


def test_a_guest_that_dirties_little_over_and_over_is_not_waited_for_without_end() -> None:
    """Nothing is left whenever one looks, and yet more is dirty than QEMU thinks that it gets across in time."""
    over_and_over = Load(256 * MIB, 160 * MIB, 25 * MIB, Dirtying(400 * MIB, 1 * MIB), share=0.0)
    forbidden, allowed = (
        carry(over_and_over, replace(ALLOWED, postcopy=each)) for each in (PostCopy.NEVER, PostCopy.ALLOW)
    )
    assert forbidden.given_up.startswith("it does not converge")
    assert allowed.postcopy.startswith("compression pays, and has not brought it to its end")
    assert max(forbidden.took, allowed.took) < PATIENCE + 20


def test_it_is_tried_where_precopy_would_not_end_and_only_there() -> None:
    tried = chosen(None)
    assert tried.known.compressing.cache == ROOM
    assert "xbzrle is tried" in tried.sentence
    assert tried.chosen.strategy is Strategy.POSTCOPY_AFTER, "nothing is promised of what is not known"
    assert tried.to_json()["compression"]["cache"] == ROOM
    calm = replace(BUSY, dirtying=Dirtying(1.0 * MIB, 16.0 * MIB))
    without = foresee(calm)
    assert with_compression(without, Compression.AUTO, None, lambda _: ROOM) is without
    assert chosen(None, Compression.OFF).known.compressing == Compressing()


def test_a_trial_in_vain_does_not_make_a_move_take_far_longer_than_its_memory_does() -> None:
    full: dict[str, Any] = {"in_use": 200.0 * MIB}
    assert chosen(None, memory=300.0 * MIB, **full).known.compressing.cache == ROOM
    left_out = chosen(None, **full)
    assert left_out.known.compressing.cache == 0
    assert "trying it may be in vain, and would take 4.0 s more then" in left_out.known.compressing.why
    assert left_out.chosen == foresee(replace(BUSY, in_use=200.0 * MIB)).chosen
    assert chosen(None, Compression.XBZRLE, **full).known.compressing.cache == ROOM
    assert chosen(GOOD, **full).known.compressing.cache == ROOM, "it is no trial any more"
    never = replace(BUSY.budget, postcopy=PostCopy.NEVER)
    assert chosen(None, budget=never, **full).known.compressing.cache == ROOM, "without it would not get there"


def test_nobody_gets_it_together_with_tls_who_has_not_asked_for_it() -> None:
    for tried in (None, GOOD):
        left_out = with_compression(PLAIN, Compression.AUTO, tried, lambda _: ROOM, encrypted=True)
        assert left_out.known.compressing.cache == 0
        assert "may not heed an order to cancel" in left_out.known.compressing.why
    by_hand = with_compression(PLAIN, Compression.XBZRLE, None, lambda _: ROOM, encrypted=True)
    assert by_hand.known.compressing.cache == ROOM


@pytest.mark.parametrize("deadline", [12.0, 13.5, 14.0, 15.0, 17.0, 20.0, 30.0])
def test_a_trial_never_costs_a_move_its_deadline(deadline: float) -> None:
    budget = replace(BUSY.budget, deadline=deadline)
    without = foresee(replace(BUSY, budget=budget)).chosen
    assert chosen(None, budget=budget).chosen.arrives == without.arrives
    never = replace(budget, postcopy=PostCopy.NEVER)
    assert chosen(None, budget=never).known.compressing.cache == ROOM, "without it would not get there either"


def test_what_has_paid_off_is_used_again_and_what_has_not_is_not() -> None:
    good = chosen(GOOD)
    assert good.chosen.strategy is Strategy.PRECOPY
    assert good.chosen.total < PLAIN.chosen.total + 5
    assert "pre-copy, with xbzrle, because" in good.sentence
    assert "took 5% of their size (a cache of up to 256 MiB at the source)" in good.sentence
    useless = chosen(USELESS)
    assert useless.known.compressing.cache == 0
    assert useless.known.compressing.why == (
        "no xbzrle: it has not paid off when it was tried (pages that had changed again took 98% of their size)"
    )
    assert useless.chosen == PLAIN.chosen


@pytest.mark.parametrize(
    ("known", "room", "why"),
    [
        ({}, 0, "the source has no memory for its cache"),
        ({}, 64 * MIB, "the guest goes on dirtying 128 MiB"),
        ({"streams": Streams(8, "several")}, ROOM, ""),
        ({"budget": Budget(0.3, policy=Policy.NOW, postcopy=PostCopy.NOW)}, ROOM, ""),
        ({"cold": True}, ROOM, ""),
        ({"running": False}, ROOM, ""),
        ({"dirtying": None}, ROOM, ""),
    ],
)
def test_auto_leaves_it_where_something_stands_in_the_way(known: Mapping[str, Any], room: int, why: str) -> None:
    left = chosen(None, room=room, **known)
    assert left.known.compressing.cache == 0
    assert why in left.known.compressing.why


def test_what_is_asked_for_is_done_whatever_it_came_to_before() -> None:
    asked = chosen(USELESS, Compression.XBZRLE)
    assert asked.known.compressing.cache == ROOM
    assert asked.known.budget.compressed
    assert "xbzrle was asked for" in asked.sentence


@given(
    dirtied=st.none() | st.floats(0, 64 * GIB), memory=st.integers(64 * MIB, 512 * GIB), free=st.integers(0, 512 * GIB)
)
def test_the_cache_is_a_power_of_two_that_the_source_can_spare(dirtied: float | None, memory: int, free: int) -> None:
    source = make.host("h1", memory_total=512 * GIB, memory_free=free)
    cache = cache_for(dirtied, memory, source)
    assert cache & (cache - 1) == 0
    assert cache <= spare_at(source)
    assert cache == 0 or cache >= LEAST_CACHE
    if spare_at(source) >= 2 * max(memory, LEAST_CACHE) and dirtied is not None:
        assert cache >= min(dirtied, memory)


def test_what_libvirt_tells_of_it_is_read() -> None:
    assert read_progress({"memory_total": 5}, 1.0).compressed is None
    stats = {
        "compression_cache": 64 * MIB, "compression_pages": 2000, "compression_bytes": 2000 * 1024,
        "compression_cache_misses": 7, "compression_overflow": 3, "memory_page_size": 4096,
    }  # fmt: skip
    found = read_compressed(stats)
    assert found == Compressed(64 * MIB, 2000, 2000 * 1024, 7, 3, 4096)
    assert found.share == 0.25
    assert found.pays
    assert not replace(found, bytes=int(2000 * 4096 * PAYS) + 1).pays
    assert not replace(found, pages=0).pays
    assert replace(found, pages=ENOUGH).to_json(arrived=True)["paid_off"]
    assert not found.to_json(arrived=False)["paid_off"]


def test_the_journal_tells_what_it_came_to_when_it_was_last_used(database: str) -> None:
    engine = open_database(database)
    jobs, past = Jobs(engine), PastMoves(engine)
    assert past.compressed("a") is None
    packed = Compressed(64 * MIB, 2000, 2000 * 1024)

    def ended(vm: str, code: int, report: Mapping[str, Any]) -> None:
        jobs.begin(NewJob("live", vm, vm, "h1", "h2", {}, "me")).finish("done", "", code, report)

    ended("a", 0, {"compression": packed.to_json(arrived=True)})
    ended("a", 0, {"compression": None})
    ended("b", 4, {"left": [], "compression": packed.to_json(arrived=False)})
    assert past.compressed("a") == Tried(0.25, paid_off=True)
    assert past.compressed("b") == Tried(0.25, paid_off=False), "a move that was given up has taught it as well"


def test_a_compressed_move_says_nothing_of_the_link() -> None:
    figures = {"memory_bytes": 100 * MIB, "memory_rate": 20.0 * MIB}
    assert tells_of_link(Past("live", "a", "h1", "h2", None, figures))
    packed = Compressed(64 * MIB, 2000, 2000 * 1024).to_json(arrived=True)
    assert not tells_of_link(Past("live", "a", "h1", "h2", None, {**figures, "compression": packed}))
