"""Which replicas are due, and that one that is too old is told of."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Engine, select

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.domains import Domains
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.journal.protections import Protections
from mudanza.journal.schema import happening
from mudanza.model.errors import BlockedError, MigrationFailedError, MudanzaError
from mudanza.model.host import HostEntry
from mudanza.model.migration import Side, Sighting
from mudanza.model.protection import Consistency, Protection, Readdressed, ReplicaDisk, RestorePoint, Standing
from mudanza.model.vm import VmState
from mudanza.operations import replicating
from mudanza.operations.means import Means
from mudanza.operations.replicating import Replicator
from mudanza.protection import own_addresses
from mudanza.protection.addressing import Back
from tests.timekeeping import set_clock

VALUES = {
    "vm_uuid": "u-1", "vm_name": "db", "target": "h2", "directory": "/replicas/u-1", "every": 60.0, "keep": 5,
    "scratch": 1, "autostart": False, "made_by": "ana",
}  # fmt: skip


@pytest.fixture
def engine(database: str) -> Engine:
    return open_database(database)


@pytest.fixture
def store(engine: Engine) -> Protections:
    made = Protections(engine)
    made.make(VALUES)
    return made


class Seen:
    """What was said, and why rounds were not made."""

    def __init__(self, engine: Engine) -> None:
        self.said: list[str] = []
        self.failures: list[MudanzaError] = []
        self.opened: list[Connections] = []
        inventory = Inventory(engine)
        self.means = SimpleNamespace(
            database=engine, jobs=Jobs(engine), inventory=inventory, connections=self.connections
        )
        self.replicator = Replicator(cast("Means", self.means), "ana", self.said.append, self.failures.append)

    def connections(self) -> Connections:
        self.opened.append(Connections(self.means.inventory.hosts()))
        return self.opened[-1]

    def turn(self) -> list[int]:
        return self.replicator.turn(clock.new_event())


def refuse(*_: Any, **__: Any) -> RestorePoint:
    raise BlockedError("no host that answers has it")


def succeed(
    _means: Means,
    _connections: Any,
    protection: Protection,
    _by: str,
    *,
    verify: bool = False,
) -> RestorePoint:
    return RestorePoint(protection.rounds + 1, 0.0, {}, "<domain/>", 7)


def test_what_cannot_begin_is_tried_again_only_after_its_interval(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicating, "sync", refuse)
    with set_clock() as time:
        seen = Seen(engine)
        assert seen.turn() == [3]
        assert seen.turn() == []
        time.pass_time(61.0)
        assert seen.turn() == [3]
    assert [str(error) for error in seen.failures] == ["no host that answers has it"] * 2
    assert store.of("u-1").tried_at is None


def test_what_another_controller_has_tried_or_works_on_is_left_alone(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicating, "sync", succeed)
    handle = Jobs(engine).begin(NewJob("protect", "u-1", "db", "h1", "h2", {}, "eva"))
    assert Seen(engine).turn() == []
    handle.finish("done", "", 0)
    seen = Seen(engine)
    assert seen.turn() == [0]
    assert seen.said == ["db: restore point 1, 7 B brought"]
    store.begin_round(store.of("u-1").id)
    assert Seen(engine).turn() == [], "a round was begun less than an interval ago"


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_round_that_takes_long_holds_up_no_other(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch, *, goes_on: bool
) -> None:
    store.make({**VALUES, "vm_uuid": "u-2", "vm_name": "quick"})
    stop = clock.new_event()

    def sync(means: Means, connections: Any, protection: Protection, by: str, *, verify: bool) -> RestorePoint:
        if protection.vm_name == "quick":
            stop.set()
        else:
            assert stop.wait(30.0), "the other one's round came not before"
        return succeed(means, connections, protection, by, verify=verify)

    monkeypatch.setattr(replicating, "sync", sync)
    seen = Seen(engine)
    if goes_on:
        seen.replicator.run(stop)
    else:
        assert seen.replicator.turn(clock.new_event()) == [0, 0]
    assert sorted(said.partition(":")[0] for said in seen.said) == ["db", "quick"]


def test_hosts_are_logged_in_at_anew_only_where_there_are_others(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, stop, used = HostEntry("h1", "qemu+ssh://root@h1/system"), clock.new_event(), []
    seen = Seen(engine)
    seen.means.inventory.put_hosts([entry])

    def sync(
        _means: Means, connections: Connections, protection: Protection, _by: str, *, verify: bool
    ) -> RestorePoint:
        used.append(connections)
        if len(used) == 2:
            seen.means.inventory.put_hosts([replace(entry, uri="qemu+ssh://root@h1.example/system")])
        if len(used) == 3:
            stop.set()
        return succeed(_means, connections, protection, _by, verify=verify)

    store.change(store.of("u-1").id, every=0.0)
    monkeypatch.setattr(replicating, "sync", sync)
    monkeypatch.setattr(replicating, "LOOK_EVERY", 0.01)
    seen.replicator.run(stop)
    assert [seen.opened.index(each) for each in used] == [0, 0, 1]


def test_all_of_a_replica_is_compared_when_the_last_time_is_too_long_ago(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, verified = store.of("u-1").id, []

    def sync(*arguments: Any, verify: bool) -> RestorePoint:
        verified.append(verify)
        return succeed(*arguments)

    monkeypatch.setattr(replicating, "sync", sync)
    for every, ago in ((None, 1e6), (3600.0, 3500.0), (3600.0, 3700.0)):
        store.change(number, verify_every=every, verified_at=store.instant() - ago)
        assert Seen(engine).turn() == [0]
    store.change(number, verified_at=None)  # it was protected just now
    assert Seen(engine).turn() == [0]
    assert verified == [False, False, True, False]


def test_a_replica_that_is_too_old_is_told_of_once(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicating, "sync", refuse)
    seen = Seen(engine)
    number = store.of("u-1").id
    store.add_point(number, point_at(store, 61.0), "c")
    seen.turn()
    assert told_of(engine) == [], "not twice its interval yet"
    store.add_point(number, point_at(store, 121.0, number=2), "c")
    seen.turn()
    seen.turn()
    assert told_of(engine) == [("protection.rpo-broken", "db")]
    assert "was to be 60 s" in seen.said[0]


def test_a_guest_that_is_not_frozen_is_told_of_once_until_it_is_again(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[RestorePoint] = []

    def sync(_means: Means, _connections: Any, protection: Protection, *_: Any, **__: Any) -> RestorePoint:
        point = made.pop(0)
        store.add_point(protection.id, point, "c")
        return point

    monkeypatch.setattr(replicating, "sync", sync)
    bare = point_at(store, 1.0)
    ways = [{"why_not": "no agent"}, {"why_not": "no agent"}, {}, {"consistency": Consistency.APPLICATION}]
    made = [replace(bare, number=number, **way) for number, way in enumerate([*ways, ways[0]], start=1)]  # type: ignore[arg-type]
    seen = Seen(engine)
    number, told = store.of("u-1").id, []
    while made:
        store.change(number, tried_at=0.0)
        seen.replicator._tried.clear()
        assert seen.turn() == [0]
        told.append(len(told_of(engine)))
    assert told == [1, 1, 1, 1, 2]
    assert told_of(engine)[0] == ("protection.not-frozen", "db")


def point_at(store: Protections, ago: float, number: int = 1) -> RestorePoint:
    disks = {"vda": ReplicaDisk(f"vda.{number}.whole.qcow2", 7)}
    return RestorePoint(number, store.instant() - ago, disks, "<domain/>", 7)


def told_of(engine: Engine) -> list[tuple[str, str]]:
    with engine.begin() as connection:
        return [(row.kind, row.subject) for row in connection.execute(select(happening))]


def test_a_guest_at_home_with_the_addresses_of_elsewhere_is_seen_to(
    engine: Engine, store: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And tried again after a while, by whoever makes rounds, though nobody is there who asks; told of once."""

    def silent(*_: Any) -> Back:
        raise MigrationFailedError("its agent does not answer")

    monkeypatch.setattr(own_addresses, "take_back", silent)
    monkeypatch.setattr(Domains, "sighting", lambda *_: Sighting(Side.PRESENT, VmState.RUNNING))
    Inventory(engine).put_hosts([HostEntry("h1", "test:///default")])
    given, found, code = Readdressed("h2", ("52:54:00:00:00:01",), 30.0), store.of("db"), MigrationFailedError.exit_code
    store.readdressed(found.id, given)
    store.change(found.id, standing=Standing.FAILED_OVER)
    with set_clock() as now:
        seen = Seen(engine)
        assert seen.turn() == [], "it is where they are for"
        store.turn(found.id, "h1", "/replica", {"vda": "/images/db.qcow2"})
        store.change(found.id, standing=Standing.FAILED_OVER)
        assert seen.turn() == [code]
        begun, told = seen.said
        assert begun == "db: it gets its own addresses on h1 as soon as its guest's agent answers"
        assert told.startswith("! db has the addresses still that it was given at h2: its agent does not answer")
        assert store.of("db").readdressed == replace(given, owed_at="h1")
        assert seen.turn() == []
        now.pass_time(301.0)
        assert seen.turn() == [code]
        assert seen.said == [begun, told]
        monkeypatch.setattr(own_addresses, "take_back", lambda *_: Back.DONE)
        now.pass_time(301.0)
        assert seen.turn() == [0]
        assert seen.said[-1] == "db has its own addresses again"
        assert store.of("db").readdressed is None
