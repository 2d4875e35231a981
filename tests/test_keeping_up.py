"""Which VMs of a lost host are to be started elsewhere now, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine

from mudanza.availability.deciding import MOST_PAUSE, TRY_AGAIN, due, in_groups, leads_back, pause_after
from mudanza.availability.mending import AGAIN, mends
from mudanza.availability.stale import stale_copies
from mudanza.journal.database import open_database
from mudanza.journal.job import NewJob
from mudanza.journal.jobs import Jobs
from mudanza.journal.kept import KeptUps
from mudanza.journal.plans import Plans
from mudanza.model.carrying import RunPolicy
from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.kept import ON_PURPOSE, KeptUp, Past, ran_on
from mudanza.model.plan import Goal, MoveMode, Plan, PlannedMove
from mudanza.model.vm import Vm, VmState
from tests import factories as make

GONE = Host(make.entry("h1"), error="timed out")


def vm(name: str, host: str = "h1", *, runs: bool = True) -> Vm:
    return make.vm(name=name, uuid=f"u-{name}", host=host, state=VmState.RUNNING if runs else VmState.SHUTOFF)


def kept(*names: str, most: int = 3, on: str = "h1") -> dict[str, KeptUp]:
    return {f"u-{name}": KeptUp(f"u-{name}", name, 5, most, False, "ana", 0.0, on) for name in names}


CLUSTER = make.cluster([GONE, make.host("h2")])


def found(
    past: Mapping[str, Past] | None = None, cluster: Cluster = CLUSTER, who: Mapping[str, KeptUp] | None = None
) -> dict[str, tuple[str, ...]]:
    return dict(due(who or kept("db"), cluster, ["h1"], past or {}).hosts)


def test_who_is_kept_up_and_ran_there_is_started_elsewhere() -> None:
    assert found() == {"h1": ("u-db",)}


def test_nothing_is_due_of_a_host_that_is_not_proven_off() -> None:
    assert due(kept("db"), CLUSTER, [], {}).hosts == {}
    assert found(who=kept("db", on="")) == {}, "somebody has shut it down"
    assert found(who=kept("db", on="h3")) == {}, "it ran elsewhere later"


@pytest.mark.parametrize("runs", [True, False])
def test_one_that_another_host_has_is_left_alone(runs: bool) -> None:
    assert found(cluster=replace(CLUSTER, vms=(vm("db", "h2", runs=runs),))) == {}


def test_a_copy_that_it_has_left_by_failover_keeps_it_from_nothing() -> None:
    def of(*there: Vm) -> tuple[str, ...]:
        cluster = replace(CLUSTER, vms=there)
        return due(kept("db"), cluster, ["h1"], {}, left=[("u-db", "h2")]).hosts.get("h1", ())

    assert of(vm("db", "h2", runs=False)) == ("u-db",)
    assert of(vm("db", "h2", runs=True)) == (), "whatever its epoch, it runs there"
    assert of(vm("db", "h2", runs=False), vm("db", "h3", runs=False)) == (), "that one may be it"


OFF = {"shutdown": "", "destroyed": "", "migrated": "", "saved": "", "crashed": "h1", "failed": "h1", "unknown": "h1"}


@pytest.mark.parametrize(("reason", "then"), OFF.items())
def test_where_one_ran_last_is_forgotten_when_somebody_shuts_it_down(reason: str, then: str) -> None:
    one = kept("db")["u-db"]
    h1, h2 = make.host("h1"), make.host("h2")
    off = replace(vm("db", runs=False), reason=reason)
    assert ran_on(one, make.cluster([h1, h2], [off])) == then
    assert ran_on(one, make.cluster([h1, h2], [off, vm("db", "h2")])) == "h2"
    assert ran_on(one, make.cluster([h1, h2], [vm("db")])) == "h1"
    assert ran_on(replace(one, ran_on=""), make.cluster([h1, h2], [off])) == ""


def test_where_one_ran_last_stays_known_while_its_host_is_silent_and_is_not_when_it_is_gone() -> None:
    one = kept("db")["u-db"]
    assert ran_on(one, CLUSTER) == "h1"
    assert ran_on(one, make.cluster([make.host("h1"), make.host("h2")])) == "", "it was undefined"
    old = replace(vm("db", "h2", runs=False), reason="crashed")
    assert ran_on(one, replace(CLUSTER, vms=(old,))) == "h1", "that is an old copy"


def test_what_is_under_way_is_not_begun_again_and_what_failed_rests() -> None:
    assert found({"u-db": Past(under_way=True)}) == {}
    assert found({"u-db": Past(failed=1, ago=TRY_AGAIN - 1)}) == {}
    assert found({"u-db": Past(failed=1, ago=TRY_AGAIN)}) == {"h1": ("u-db",)}
    assert found({"u-db": Past(failed=3, ago=TRY_AGAIN)}) == {}
    pauses = [pause_after(failed) for failed in range(30)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[1], pauses[-1]) == (0.0, TRY_AGAIN, MOST_PAUSE)
    assert found({"u-db": Past(within_a_day=1, ago=5.0)}) == {"h1": ("u-db",)}, "its second host has died, too"


def test_one_that_has_had_enough_is_told_of() -> None:
    decision = due(kept("db"), CLUSTER, ["h1"], {"u-db": Past(within_a_day=3, ago=3600.0)})
    assert decision.hosts == {}
    assert decision.told == ("db was started elsewhere 3 times within a day: not again",)


def test_those_of_a_group_wait_for_the_group_before() -> None:
    who = {**kept("a", "b", "c", "d")}
    for uuid, priority in (("u-a", 2), ("u-b", 1), ("u-c", 2), ("u-d", 9)):
        who[uuid] = replace(who[uuid], priority=priority)
    moves = [PlannedMove(n, name, f"u-{name}", "h1", "h2", "", MoveMode.RESTART, 1) for n, name in enumerate("abcd", 1)]
    ordered = in_groups(moves, who)
    assert [(move.number, move.vm, move.after) for move in ordered] == [
        (1, "b", ()),
        (2, "a", (1,)),
        (3, "c", (1,)),
        (4, "d", (2, 3)),
    ]


def after(who: dict[str, KeptUp], **others: str) -> dict[str, KeptUp]:
    """``others``: VM → names of those that it is started after."""
    changed = {f"u-{name}": tuple(f"u-{each}" for each in names.split()) for name, names in others.items()}
    return {uuid: replace(each, after=changed.get(uuid, ())) for uuid, each in who.items()}


def test_one_is_started_after_those_that_it_needs() -> None:
    who = after(kept("a", "b", "c", "d"), a="b", b="c")
    who["u-c"] = replace(who["u-c"], priority=9)
    moves = [PlannedMove(n, name, f"u-{name}", "h1", "h2", "", MoveMode.RESTART, 1) for n, name in enumerate("abcd", 1)]
    ordered = in_groups(moves, who)
    assert [(move.number, move.vm, move.after) for move in ordered] == [
        (1, "d", ()),
        (2, "c", (1,)),
        (3, "b", (1, 2)),
        (4, "a", (1, 3)),
    ], "who needs one of a later group is of that group"


def test_one_waits_for_those_of_another_host_that_are_being_started() -> None:
    who = {**after(kept("web", "shop"), web="db", shop="web"), **kept("db", on="h2")}
    cluster = make.cluster([GONE, Host(make.entry("h2"), error="timed out"), make.host("h3")])
    both = due(who, cluster, ["h1", "h2"], {})
    assert (dict(both.hosts), both.told) == ({"h2": ("u-db",)}, ("web waits for db", "shop waits for web"))
    assert due(who, cluster, ["h1"], {"u-db": Past(under_way=True)}).hosts == {}
    runs = replace(cluster, vms=(vm("db", "h3"),))
    assert due(who, runs, ["h1", "h2"], {}).hosts == {"h1": ("u-web", "u-shop")}
    rests = due(who, cluster, ["h1", "h2"], {"u-db": Past(failed=1, ago=1.0)})
    assert rests.hosts == {"h1": ("u-web", "u-shop")}, "nobody waits for one that cannot be started"


def test_nobody_is_started_after_itself() -> None:
    who = after(kept("a", "b", "c"), a="b", b="c")
    assert leads_back("u-c", ["u-a"], who)
    assert leads_back("u-c", ["u-c"], who)
    assert not leads_back("u-a", ["u-b", "u-c"], who)
    assert not leads_back("u-new", ["u-a", "u-gone"], who)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(str(tmp_path / "m.db"))


def test_autostart_is_remembered_as_it_was_first(engine: Engine) -> None:
    store = KeptUps(engine)
    store.put("u-1", "db", 5, 3, "ana", autostart=True)
    store.put("u-1", "db", 1, 9, "bo", autostart=False, ran_on="h1", after=["u-2"])
    one = store.all()["u-1"]
    assert (one.ran_on, one.after) == ("h1", ("u-2",))
    store.seen(make.cluster([make.host("h1"), make.host("h2")], [replace(vm("db", "h2"), uuid="u-1")]))
    assert store.all()["u-1"].ran_on == "h2"
    assert (one.priority, one.most, one.autostart, one.asked_by) == (1, 9, True, "bo")
    store.remove("u-1")
    assert store.all() == {}


def test_what_became_of_earlier_restarts_is_known(engine: Engine) -> None:
    jobs, store = Jobs(engine), KeptUps(engine)
    for uuid, code in (("u-1", 0), ("u-1", 4), ("u-1", 0), ("u-2", 0), ("u-2", 4)):
        jobs.begin(NewJob("restart", uuid, uuid, "h1", "h2", {}, "ana")).finish("done", "", code)
    jobs.begin(NewJob("live", "u-1", "u-1", "h1", "h2", {}, "ana")).finish("done", "", 0)
    jobs.begin(NewJob("live", "u-3", "u-3", "h1", "h2", {}, "ana"))
    move = PlannedMove(1, "u-4", "u-4", "h1", "h2", "", MoveMode.RESTART, 1)
    Plans(engine).begin(Plan(Goal.EVACUATE, "", (move,)), RunPolicy(), "ana", kind="restart")
    past = store.past(["u-1", "u-2", "u-3", "u-4", "u-5"])
    assert (past["u-1"].within_a_day, past["u-1"].failed, past["u-1"].under_way) == (2, 0, False)
    assert (past["u-2"].within_a_day, past["u-2"].failed) == (1, 1)
    assert past["u-2"].ago is not None
    assert past["u-3"].under_way
    assert past["u-4"].under_way
    assert past["u-5"] == Past()


# In place.


def mended(
    *vms: Vm,
    who: Mapping[str, KeptUp] | None = None,
    past: Mapping[str, Past] | None = None,
    tried: Mapping[str, float] | None = None,
    hosts: Sequence[Host] = (),
) -> tuple[list[tuple[str, str, str]], tuple[str, ...]]:
    cluster = make.cluster(hosts or [make.host("h1"), make.host("h2")], vms)
    found, told = mends(who or kept("db"), cluster, past or {}, tried or {}, 1000.0)
    return [(each.vm.name, each.vm.host, each.act.value) for each in found], told


def off(reason: str, host: str = "h1", state: VmState = VmState.SHUTOFF) -> Vm:
    return make.vm(name="db", uuid="u-db", host=host, state=state, reason=reason)


@pytest.mark.parametrize("reason", sorted({*OFF, "from snapshot", "daemon"}))
def test_one_that_has_stopped_by_itself_is_started_where_it_was(reason: str) -> None:
    by_itself = reason not in ON_PURPOSE
    assert mended(off(reason)) == ([("db", "h1", "start")] if by_itself else [], ())


def test_it_is_left_alone_where_it_is_not_clear_that_it_should_run() -> None:
    assert mended(off("crashed"), who=kept("web")) == ([], ())
    assert mended(off("crashed", "h2")) == ([], ()), "an old copy"
    assert mended(off("crashed"), vm("db", "h2")) == ([], ()), "it runs elsewhere"
    assert mended(off("crashed"), who=kept("db", on="")) == ([], ()), "somebody has shut it down before"
    assert mended(off("crashed"), past={"u-db": Past(under_way=True)}) == ([], ())
    closed = make.host("h1", entry=make.entry("h1", maintenance=True))
    assert mended(off("crashed"), hosts=[closed, make.host("h2")]) == ([], ())
    assert mended(off("panicked", state=VmState.CRASHED)) == (
        [],
        ("db on h1 has crashed in itself, and is kept for a look: start it when you have",),
    )


def test_it_rests_after_a_try_in_vain_and_is_left_alone_after_enough() -> None:
    assert mended(off("crashed"), past={"u-db": Past(failed=1, ago=TRY_AGAIN - 1)}) == ([], ())
    assert mended(off("crashed"), past={"u-db": Past(failed=1, ago=TRY_AGAIN)})[0]
    assert mended(off("crashed"), past={"u-db": Past(within_a_day=2, ago=1.0)})[0]
    many = mended(off("crashed"), past={"u-db": Past(within_a_day=3, ago=1e4)})
    assert many == ([], ("db was started anew 3 times within a day: not again",))


def test_one_that_stands_still_goes_on_or_is_told_of() -> None:
    def paused(reason: str) -> Vm:
        return off(reason, state=VmState.PAUSED)

    assert mended(paused("I/O error")) == ([("db", "h1", "go on")], ())
    assert mended(paused("I/O error"), tried={"u-db": 1000.0 - AGAIN + 1}) == ([], ())
    assert mended(paused("I/O error"), tried={"u-db": 1000.0 - AGAIN})[0]
    assert mended(paused("user")) == ([], ())
    assert mended(paused("watchdog")) == ([], ("db on h1 hangs: its watchdog has it stand still",))
    assert mended(paused("I/O error"), vm("db", "h2")) == ([], ()), "it runs in two places: nobody touches that"


# What a host keeps that came back.


def copies(*vms: Vm, restarted: Sequence[tuple[str, str]] = (("u-db", "h1"),)) -> list[tuple[str, str, str]]:
    found = stale_copies(make.cluster([make.host("h1"), make.host("h2")], vms), restarted)
    return [(each.vm.host, each.runs_on, each.why_not) for each in found]


def test_an_old_definition_is_one_of_a_vm_that_was_started_elsewhere_and_runs_there() -> None:
    old, runs = vm("db", runs=False), vm("db", "h2")
    assert copies(old, runs) == [("h1", "h2", "")]
    assert copies(old, runs, restarted=()) == [], "who defined it twice wanted that"
    assert copies(vm("db"), replace(old, host="h2")) == [], "it runs where it was"
    assert copies(old, replace(runs, state=VmState.SHUTOFF)) == [], "whose disks are the newest nobody can tell"
    assert copies(vm("db"), runs) == [], "two copies run"
    assert copies(replace(old, persistent=False), runs) == []


def test_what_would_be_lost_with_it_keeps_it() -> None:
    old, runs = vm("db", runs=False), vm("db", "h2")
    assert "saved memory" in copies(replace(old, has_managed_save=True), runs)[0][2]
    assert "somebody works on it" in copies(replace(old, claims=(make.CLAIM,)), runs)[0][2]
