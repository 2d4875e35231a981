"""Several connections are taken where they are known to carry more, both hosts can, and nothing better is given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mudanza.cli.limits import MOST_STREAMS, parse_streams
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.migration.convergence import Budget
from mudanza.migration.forecast.dirtying import Dirtying
from mudanza.migration.forecast.foresight import foresee, foresee_by
from mudanza.migration.forecast.learning import Past, link_of
from mudanza.migration.forecast.model import ONE, Known, Link, Strategy, Streams
from mudanza.migration.forecast.streams import (
    BY_A_CPU,
    LITTLE,
    MARGIN,
    Carried,
    carried,
    needs_little,
    proposed,
    where_there_is_room,
)
from mudanza.model.errors import UsageError
from mudanza.model.host import HostEntry
from mudanza.model.link import MeasuredLink
from mudanza.model.policy import PostCopy
from mudanza.model.units import GIB, MIB
from mudanza.preflight.streams import QEMU_WITH_POSTCOPY, cannot_go_parallel, excludes_postcopy
from tests import factories as make

LONG_WAY = MeasuredLink(10.0 * MIB, 70.0 * MIB, 8, age=600.0)
KNOWN = Carried(10.0 * MIB, 70.0 * MIB, 8, "measured 5 s ago")
EIGHT = Streams(8, "eight carry more", 70.0 * MIB)
CALM = Known(
    link=Link(10.0 * MIB, "measured"), budget=Budget(0.3, postcopy=PostCopy.ALLOW), memory=4.0 * GIB, in_use=1.0 * GIB,
    dirtying=Dirtying(1.0 * MIB, 64.0 * MIB), dirtying_from="sampled",
)  # fmt: skip
BUSY = replace(CALM, dirtying=Dirtying(150.0 * MIB, 1.0 * GIB))


def moved(rate: float, streams: int = 1, *, ago: float = 60.0, **report: Any) -> Past:
    figures = {"memory_bytes": 100 * MIB, "memory_rate": rate * MIB, "streams": streams, **report}
    return Past("live", "a", "h1", "h2", None, figures, ago)


def test_what_was_measured_is_corrected_by_moves_since_and_by_none_before() -> None:
    assert carried(None, (moved(10.0),)) is None, "several were never tried"
    assert carried(MeasuredLink(10.0 * MIB, 10.0 * MIB, 1), ()) is None
    measured = carried(LONG_WAY, ())
    assert measured == Carried(10.0 * MIB, 70.0 * MIB, 8, "measured 10 min 0 s ago")
    assert carried(LONG_WAY, (moved(30.0, 8, ago=700.0),)) == measured
    since = carried(LONG_WAY, (moved(12.0, 8, ago=10.0), moved(12.0, 8, ago=20.0)))
    assert since is not None
    assert since.several == pytest.approx(12 * MIB), "two in a row are a change"
    assert since.how == "measured 10 min 0 s ago, 2 moves since"
    taught = carried(None, (moved(60.0, 4), moved(10.0)))
    assert taught == Carried(10.0 * MIB, 60.0 * MIB, 4, "2 moves have taught it")


def test_what_went_by_several_says_nothing_of_one() -> None:
    assert link_of((moved(60.0, 4), moved(10.0)), None, None).rate == 10 * MIB


def test_several_are_taken_only_by_a_margin() -> None:
    assert proposed(None, None, "") is ONE
    chosen = proposed(None, KNOWN, "")
    assert (chosen.connections, chosen.rate) == (8, KNOWN.several)
    assert chosen.why == "8 connections carry 70 MiB/s together, one 10 MiB/s (measured 5 s ago)"
    barely = replace(KNOWN, several=KNOWN.one * MARGIN)
    assert proposed(None, barely, "").connections == 8
    less = proposed(None, replace(barely, several=barely.several - 1), "")
    assert less.connections == 1
    assert less.why.startswith("one connection: 8 connections carry 12 MiB/s together")


def test_several_are_not_taken_where_something_stands_in_the_way() -> None:
    assert proposed(None, KNOWN, "QEMU of h2 is old").why == "one connection: QEMU of h2 is old"
    assert "exclude post-copy" in proposed(None, KNOWN, "", now=True).why
    assert "--bandwidth" in proposed(None, KNOWN, "", limit=11 * MIB).why
    assert proposed(None, KNOWN, "", limit=20 * MIB).connections == 8


def test_what_is_asked_for_is_done() -> None:
    assert proposed(3, KNOWN, "QEMU of h2 is old", now=True).connections == 3
    assert proposed(1, KNOWN, "") is ONE


def test_both_hosts_need_room_for_what_several_carry_more() -> None:
    assert where_there_is_room(EIGHT, KNOWN, {"h1": 0.2, "h2": 3.0}) is EIGHT
    assert where_there_is_room(EIGHT, KNOWN, {"h1": None, "h2": 3.0}) is EIGHT
    full = where_there_is_room(EIGHT, KNOWN, {"h1": 2.0, "h2": 0.05})
    assert full.connections == 1
    assert full.why.startswith("one connection: h2 has 0.05 CPUs to spare, and several need 0.12; eight carry more")


def test_what_several_need_is_asked_for_only_where_it_is_much() -> None:
    most = KNOWN.one + LITTLE * BY_A_CPU
    assert needs_little(replace(KNOWN, several=most))
    assert not needs_little(replace(KNOWN, several=most + 1 * MIB))


def test_a_calm_guest_goes_by_several_and_the_forecast_says_so() -> None:
    many = foresee_by(CALM, EIGHT, asked=False, excludes_postcopy=True)
    assert many.known.streams is EIGHT
    assert many.chosen.total < foresee(CALM).chosen.total / 4
    assert "pre-copy by 8 connections, because" in many.sentence
    assert many.sentence.endswith("; eight carry more")
    assert many.to_json()["streams"] == 8
    with_disks = foresee_by(replace(CALM, disks=1.0 * GIB), EIGHT, asked=False, excludes_postcopy=True)
    assert with_disks.chosen.total > many.chosen.total + 100, "a disk goes by one connection"


def test_a_guest_that_may_need_postcopy_does_not_give_it_up() -> None:
    one = foresee_by(BUSY, EIGHT, asked=False, excludes_postcopy=True)
    assert one.known.streams.connections == 1
    assert one.known.streams.why.startswith("one connection, for post-copy may be needed")
    assert one.chosen.strategy is Strategy.POSTCOPY_AFTER
    assert foresee_by(BUSY, EIGHT, asked=False, excludes_postcopy=False).known.streams is EIGHT
    assert foresee_by(BUSY, EIGHT, asked=True, excludes_postcopy=True).known.streams is EIGHT
    never = replace(BUSY, budget=replace(BUSY.budget, postcopy=PostCopy.NEVER))
    assert foresee_by(never, EIGHT, asked=False, excludes_postcopy=True).known.streams is EIGHT
    unknown = foresee_by(replace(CALM, dirtying=None), EIGHT, asked=False, excludes_postcopy=True)
    assert unknown.known.streams.connections == 1


def test_what_hosts_can_do_is_seen_by_their_versions() -> None:
    new = make.host("h1", libvirt_version=9_000_000, qemu_version=7_002_000)
    old = make.host("h2", libvirt_version=9_000_000, qemu_version=5_001_000)
    assert cannot_go_parallel(new, new, tls=True) == ""
    assert cannot_go_parallel(new, old, tls=False) == ""
    assert cannot_go_parallel(new, old, tls=True) == (
        "libvirt and QEMU of h2 know nothing of several connections that are encrypted"
    )
    assert "h2" in cannot_go_parallel(new, replace(old, qemu_version=3_000_000), tls=False)
    assert excludes_postcopy(new, replace(new, qemu_version=QEMU_WITH_POSTCOPY))
    assert not excludes_postcopy(*[replace(new, qemu_version=QEMU_WITH_POSTCOPY)] * 2)


def test_a_number_of_connections_is_read() -> None:
    assert [parse_streams(word) for word in (None, "auto", "1", "8")] == [None, None, 1, 8]
    for wrong in ("0", "-1", "four", str(MOST_STREAMS + 1), "٤"):
        with pytest.raises(UsageError, match="connections"):
            parse_streams(wrong)


def test_what_was_measured_is_kept_for_the_pair(tmp_path: Path) -> None:
    kept = Inventory(open_database(str(tmp_path / "a.db")))
    for name in ("h1", "h2"):
        kept.add_host(HostEntry(name, f"qemu+tls://{name}/system"))
    assert kept.link_between("h1", "h2") is None
    kept.keep_link("h1", "h2", replace(LONG_WAY, one=1.0))
    kept.keep_link("h1", "h2", LONG_WAY)
    found = kept.link_between("h1", "h2")
    assert found is not None
    assert replace(found, age=600.0) == LONG_WAY
    assert 0 <= found.age < 60
    assert kept.link_between("h2", "h1") is None
    kept.remove_host("h2")
    assert kept.link_between("h1", "h2") is None
