"""Consistency groups: who waits for whom, what becomes of all when one falls out, and which instant they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.shell import HostShell
from mudanza.journal.database import open_database
from mudanza.journal.jobs import JobHandle
from mudanza.journal.protections import Protections
from mudanza.model.errors import BlockedError, HypervisorError, MigrationFailedError, UsageError
from mudanza.model.protection import Protection, Standing
from mudanza.model.vm import Vm
from mudanza.operations.grouping import members_of, refuse_odd
from mudanza.operations.replicating import _by_group
from mudanza.protection import together as module
from mudanza.protection.freezing import Quiet
from mudanza.protection.together import FellOutError, Meeting, Together, common_points
from tests import factories as make
from tests.test_protection import VALUES, point

NOBODY = cast("Connections", SimpleNamespace(entries=()))
LONG = 60.0


@pytest.fixture
def store(database: str) -> Protections:
    return Protections(open_database(database))


def member(store: Protections, name: str, group: str = "shop") -> Protection:
    return store.make({**VALUES, "vm_uuid": f"u-{name}", "vm_name": name, "group": group})


def outcomes(calls: Sequence[Callable[[], object]]) -> list[object]:
    """Call all at once; return what each has returned or raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures: list[Future[object]] = [pool.submit(call) for call in calls]
    return [future.exception() or future.result() for future in futures]


def test_nobody_is_at_a_stage_before_all_are() -> None:
    meeting, seen = Meeting(3), []

    def one(name: str) -> None:
        seen.append(("came", name))
        meeting.meet("ready", clock.monotonic() + LONG)
        seen.append(("went", name))

    outcomes([lambda name=name: one(name) for name in "abc"])  # type: ignore[misc]
    assert [what for what, _ in seen] == ["came"] * 3 + ["went"] * 3


def test_whoever_is_not_there_in_time_is_waited_for_no_more() -> None:
    meeting = Meeting(2)
    with pytest.raises(FellOutError, match="not all of them were kept in time"):
        meeting.meet("kept", clock.monotonic())
    with pytest.raises(FellOutError, match="in time"):
        meeting.meet("kept", clock.monotonic() + LONG)  # who comes late, falls out, too


@pytest.mark.parametrize("freeze_every", [None, 1])
def test_all_are_frozen_before_any_stands_still_and_none_goes_on_before_all_are_kept(
    store: Protections, monkeypatch: pytest.MonkeyPatch, freeze_every: int | None
) -> None:
    seen: list[tuple[str, str]] = []

    @contextmanager
    def noted(before: str, after: str, name: str) -> Iterator[Quiet]:
        seen.append((before, name))
        yield Quiet()
        seen.append((after, name))

    monkeypatch.setattr(module, "frozen", lambda _handle, _domains, vm, _here: noted("frozen", "thawed", vm.name))
    monkeypatch.setattr(module, "HostShell", lambda _: nullcontext())
    monkeypatch.setattr(module, "_assert_still", lambda *_: None)
    still = lambda _self, _handle, vm, _here: noted("still", "goes on", vm.name)  # noqa: E731
    monkeypatch.setattr(Together, "_standing_still", still)
    members = [member(store, "web"), member(store, "db")]
    store.change(members[0].id, freeze_every=freeze_every)
    hosts = SimpleNamespace(entries=[SimpleNamespace(name="h1")], domains=lambda _: None)
    together = Together(cast("Connections", hosts), store.group("shop"), "i-1")

    def one(name: str) -> None:
        vm = cast("Vm", SimpleNamespace(name=name, host="h1"))
        with together.instant(cast("JobHandle", None), members[0], vm, cast("HostShell", None)):
            seen.append(("kept", name))

    assert outcomes([lambda name=name: one(name) for name in ("web", "db")]) == [None, None]  # type: ignore[misc]
    stages = [what for what, _ in seen]
    wanted = ["frozen"] * 2 if freeze_every else []
    assert stages[: len(wanted) + 4] == [*wanted, *["still"] * 2, *["kept"] * 2]
    assert stages.count("thawed") == len(wanted)
    for name in ("web", "db"):
        ends = [what for what, who in seen if who == name][-2:]
        assert ends == (["goes on", "thawed"] if freeze_every else ["kept", "goes on"])


def test_where_one_falls_out_all_do_and_no_point_is_written_down(store: Protections) -> None:
    members = [member(store, "web"), member(store, "db")]
    together = Together(NOBODY, members, "i-1")

    def brings() -> Any:
        together.keep(store, members[0].id, point(1), "c")
        return point(1)

    def breaks() -> Any:
        raise HypervisorError("h1", "its disk is full")

    first, second = outcomes([lambda: together.make("web", brings), lambda: together.make("db", breaks)])
    assert isinstance(second, HypervisorError)
    assert isinstance(first, FellOutError)
    assert "db: host h1: its disk is full" in str(first)
    assert [each.points for each in store.all()] == [(), ()]


def test_points_of_all_are_written_down_at_once_as_old_as_the_oldest(store: Protections) -> None:
    members = [member(store, "web"), member(store, "db")]
    together = Together(NOBODY, members, "i-1")

    def brings(number: int, taken_at: float) -> Callable[[], object]:
        made = replace(point(number), taken_at=taken_at)
        who = members[number - 1]
        return lambda: together.make(who.vm_name, lambda: together.keep(store, who.id, made, f"c{number}"))  # type: ignore[arg-type,return-value]

    assert outcomes([brings(1, 100.0), brings(2, 90.0)]) == [None, None]
    found = {each.vm_name: each for each in store.group("shop")}
    assert {name: (each.newest and each.newest.instant) for name, each in found.items()} == {"web": "i-1", "db": "i-1"}
    assert {each.newest and each.newest.taken_at for each in found.values()} == {90.0}
    assert {each.checkpoint for each in found.values()} == {"c1", "c2"}
    assert common_points(tuple(found.values())) == {"u-web": 1, "u-db": 2}


def test_a_row_that_cannot_be_written_keeps_the_others_out_as_well(store: Protections) -> None:
    first, second = member(store, "web"), member(store, "db")
    store.add_point(second.id, point(1), "c")
    with pytest.raises(Exception, match=r"UNIQUE|unique|duplicate"):
        store.add_points({first.id: (point(1), "c"), second.id: (point(1), "c")})
    assert store.of("web").points == ()


def test_the_newest_instant_of_all_counts_and_points_made_alone_do_not(store: Protections) -> None:
    members = [member(store, "web"), member(store, "db")]
    for number, instants in enumerate((("a", "a"), ("b", "b"), ("", ""), ("c", "")), start=1):
        for who, instant in zip(members, instants, strict=True):
            store.add_point(who.id, replace(point(number), instant=instant), "c")
    assert common_points(store.group("shop")) == {"u-web": 2, "u-db": 2}
    member(store, "queue")
    assert common_points(store.group("shop")) == {}
    assert common_points(()) == {}


def test_a_group_is_who_is_in_it_and_protected_now(store: Protections) -> None:
    web, _, _ = member(store, "web"), member(store, "db"), member(store, "mail", group="")
    assert [each.vm_name for each in members_of(store, "shop")] == ["db", "web"]
    store.change(web.id, standing=Standing.FAILED_OVER)
    assert [each.vm_name for each in members_of(store, "shop")] == ["db"]
    with pytest.raises(UsageError, match="no VM is protected in a group 'office'"):
        members_of(store, "office")


def test_all_of_a_group_are_brought_up_to_date_alike(store: Protections) -> None:
    made = member(store, "web")
    other = make.vm(uuid="u-other")
    refuse_odd(store, "shop", other, made.every, made.keep)
    refuse_odd(store, "office", other, 1.0, 1)
    with pytest.raises(BlockedError, match="has rounds every"):
        refuse_odd(store, "shop", other, made.every + 1, made.keep)


def test_a_group_has_one_round_and_everybody_else_one_of_their_own(store: Protections) -> None:
    for name, group in (("a", ""), ("b", "shop"), ("c", "office"), ("d", "shop"), ("e", "")):
        member(store, name, group)
    found = [[each.vm_name for each in members] for members in _by_group(store.all())]
    assert found == [["a"], ["b", "d"], ["c"], ["e"]]


def test_errors_of_the_group_are_those_of_a_round() -> None:
    assert issubclass(FellOutError, MigrationFailedError), "a round undoes what it has begun, whoever fell out"
