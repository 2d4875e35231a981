"""Several replicas of one VM: each has rounds and points of its own, and from one of them it comes up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

from mudanza.hypervisor.xml.activation import with_epoch
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.journal import migrations
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.protections import Protections
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.host import HostEntry
from mudanza.model.kept import Care, KeptUp
from mudanza.model.protection import Protection, ReplicaDisk, Standing, Trial
from mudanza.model.vm import Vm, VmState
from mudanza.operations.grouping import refuse_odd
from mudanza.operations.handing_over import _source
from mudanza.operations.protecting import Keeping, meant_by, pause, refuse_too_little, to_each
from mudanza.operations.replicating import apart, state_of
from mudanza.operations.reviving import Reviver
from mudanza.operations.trying import tried
from mudanza.protection.choosing import freshest, home_of, meant, planned_for, unseen
from mudanza.protection.copies import copy_of
from mudanza.protection.homecoming import where_it_went
from mudanza.protection.serving import is_near_socket, near_socket
from mudanza.protection.telling import disk_changes
from mudanza.protection.turning import copies_of, to_be_turned
from tests import factories as make
from tests.test_protection import UUID, VALUES, point

DOMAIN = f"<domain type='kvm'><name>db</name><uuid>{UUID}</uuid><os><type>hvm</type></os></domain>"


@pytest.fixture
def store(database: str) -> Protections:
    return Protections(open_database(database))


def two(store: Protections) -> tuple[Protection, Protection]:
    """One VM with replicas at h2 and h3, the one at h3 taken later."""
    for number, host in enumerate(("h2", "h3"), start=1):
        made = store.make({**VALUES, "target": host, "every": 60.0 * number})
        taken = replace(point(1, whole=True), taken_at=store.instant() - 100 + 10 * number)
        store.add_point(made.id, taken, f"c-{host}")
    one, other = store.replicas(UUID)
    return one, other


def copy(host: str, epoch: int, *, runs: bool) -> Vm:
    xml = with_epoch(DOMAIN, epoch, autostart=False)
    state = VmState.RUNNING if runs else VmState.SHUTOFF
    return replace(parse_vm(xml, host=host, state=state), xml=xml, inactive_xml=xml)


# What is written down of them.


def test_a_vm_has_one_replica_at_each_host(store: Protections) -> None:
    one, other = two(store)
    assert (one.target, other.target, one.every, other.every) == ("h2", "h3", 60.0, 120.0)
    with pytest.raises(BlockedError, match="protected already, to h2"):
        store.make({**VALUES, "target": "h2"})
    with pytest.raises(UsageError, match="replicas at h2 and h3: which one") as unclear:
        store.of("db")
    assert unclear.value.remedy == "say it: --on HOST"
    with pytest.raises(UsageError, match="no replica at h9: it has one at h2 and h3"):
        store.of("db", "h9")
    assert store.of("db", "h3").id == other.id
    store.remove(one.id)
    assert store.of("db").target == "h3"


def test_each_one_has_points_of_its_own(store: Protections) -> None:
    one, other = two(store)
    store.add_point(one.id, point(2), "c-2")
    assert [each.number for each in store.get(one.id).points] == [1, 2]
    assert [each.number for each in store.get(other.id).points] == [1]
    assert (store.get(one.id).checkpoint, store.get(other.id).checkpoint) == ("c-2", "c-h3")


def test_their_epoch_is_the_vm_s_and_points_of_before_it_are_told_apart(store: Protections) -> None:
    one, other = two(store)
    store.change(one.id, standing=Standing.FAILED_OVER, epoch=1)
    assert [each.epoch for each in store.replicas(UUID)] == [1, 1]
    old = store.get(other.id)
    assert (old.is_stale, state_of(old)) == (True, "stale")
    assert not store.get(one.id).is_stale, "it runs on its points"
    store.add_point(other.id, replace(point(2), taken_at=store.instant()), "c")
    assert (store.get(other.id).is_stale, store.get(other.id).points[-1].epoch) == (False, 1)
    third = store.make({**VALUES, "target": "h4"})
    assert third.epoch == 1


def test_a_vm_that_goes_home_live_leaves_behind_what_its_other_replicas_would_bring(store: Protections) -> None:
    one, other = two(store)
    store.forget_changes(UUID)
    assert [store.get(each.id).checkpoint for each in (one, other)] == ["", ""]
    assert all(store.get(each.id).points for each in (one, other))


def test_a_vm_is_in_one_place_at_a_time(store: Protections) -> None:
    one, other = two(store)
    store.change(one.id, standing=Standing.FAILED_OVER, epoch=1)
    store.settle_at(one.id, "runs on h2")
    store.change(other.id, standing=Standing.FAILED_OVER, epoch=2)
    store.settle_at(other.id, "runs on h3")
    assert [(each.standing, each.epoch) for each in store.replicas(UUID)] == [
        (Standing.LEFT, 2),
        (Standing.FAILED_OVER, 2),
    ]


def test_a_replica_that_is_paused_has_no_rounds_until_it_is_resumed(store: Protections, database: str) -> None:
    one, other = two(store)
    means = cast("Any", SimpleNamespace(database=open_database(database)))
    assert "no rounds are made by themselves of its replica at h3; it grows" in pause(
        means, "db", "h3", "ana", paused=True
    )
    paused = store.get(other.id)
    assert (paused.is_kept, state_of(paused), store.get(one.id).is_kept) == (False, "paused", True)
    assert "made again of its replica at h2 and h3" in pause(means, "db", None, "ana", paused=False)
    assert store.get(other.id).is_kept
    store.change(one.id, standing=Standing.FAILED_OVER)
    with pytest.raises(BlockedError, match="failed over at h2"):
        pause(means, "db", "h2", "ana", paused=True)


def test_what_is_asked_for_of_a_vm_is_done_with_all_of_which_rounds_are_made(store: Protections) -> None:
    one, other = two(store)
    assert [each.target for each in meant_by(store, "db", None)] == ["h2", "h3"]
    assert [each.target for each in meant_by(store, "db", "h3")] == ["h3"]
    store.change(one.id, standing=Standing.FAILED_OVER)
    assert [each.target for each in meant_by(store, "db", None)] == ["h3"]
    store.change(other.id, standing=Standing.LEFT)
    assert [each.target for each in meant_by(store, "db", None)] == ["h2"], "which says why not"


def test_a_group_has_each_vm_once(store: Protections) -> None:
    store.make({**VALUES, "group": "shop"})
    vm = make.vm(name="db", uuid=UUID)
    with pytest.raises(BlockedError, match="in group 'shop' already, with its replica at h2"):
        refuse_odd(store, "shop", vm, 60.0, 3)
    refuse_odd(store, "other", vm, 1.0, 1)
    wanted = Keeping("h2", "default", 60.0, 5, 1)
    assert [each.to for each in to_each(wanted, ["h2", "h3", "h2"])] == ["h2", "h3"]
    with pytest.raises(UsageError, match="has each of its VMs once"):
        to_each(replace(wanted, group="shop"), ["h2", "h3"])


BEFORE = """
INSERT INTO protection (vm_uuid, vm_name, target, directory, every, keep, scratch, standing, epoch, autostart,
  checkpoint, rounds, made_by, made_at, said, seed, "group", compress, carriage)
VALUES ('u-1', 'db', 'h2', '/r', 60, 5, 1, 'on', 3, TRUE, 'c', 7, 'ana', 0, '', '{}', '', 'auto', '{}');
INSERT INTO protection (vm_uuid, vm_name, target, directory, every, keep, scratch, standing, epoch, autostart,
  checkpoint, rounds, made_by, made_at, said, seed, "group", compress, carriage)
VALUES ('u-2', 'web', 'h2', '/w', 60, 5, 1, 'failed over', 1, TRUE, 'c', 7, 'ana', 0, '', '{}', '', 'auto', '{}');
INSERT INTO restore_point (protection, number, taken_at, disks, definition, carried, given_up, instant, consistency,
  firmware, why_not)
VALUES (1, 7, 0, '{}', '<domain/>', 5, FALSE, '', 'crash', '', '');
INSERT INTO restore_point (protection, number, taken_at, disks, definition, carried, given_up, instant, consistency,
  firmware, why_not)
VALUES (2, 7, 0, '{}', '<domain/>', 5, FALSE, '', 'crash', '', '');
INSERT INTO trial (protection, point, uuid, name, host, begun_at, before, times)
VALUES (1, 7, 'u-t', 'db-test-7', 'h2', 0, '{}', '{}')
"""


def test_what_was_protected_before_is_protected_still_with_all_its_points(database: str) -> None:
    url = database.replace("postgresql:", "postgresql+psycopg:") if "://" in database else f"sqlite:///{database}"
    engine = create_engine(url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", migrations.__path__[0])
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0023")
        for statement in BEFORE.split(";\n"):
            connection.execute(text(statement.replace(":", r"\:")))
    engine.dispose()
    store = Protections(open_database(database))
    one, other = store.all()
    assert [(each.vm_name, each.epoch, [p.epoch for p in each.points]) for each in (one, other)] == [
        ("db", 3, [3]),
        ("web", 1, [0]),
    ]
    assert one.trial == Trial(7, "u-t", "db-test-7", "h2", 0.0)
    assert store.make({**VALUES, "vm_uuid": "u-1", "target": "h3"}).epoch == 3
    store.remove(one.id)
    assert [each.vm_name for each in store.all()] == ["db", "web"]
    assert store.of("web").points, "what is another one's stays"


# Which one is meant.


def test_the_freshest_one_is_what_a_vm_comes_up_from(store: Protections) -> None:
    one, other = two(store)
    assert freshest([one, other]).target == meant([one, other]).target == "h3"
    assert freshest([one, other], {"h3": "it is lost"}).target == "h2"
    with pytest.raises(BlockedError, match=r"h2: no answer; h3: no answer") as none:
        freshest([one, other], {"h2": "no answer", "h3": "no answer"})
    assert "--from HOST" in none.value.remedy


def test_a_person_is_asked_before_more_is_lost_than_need_be(store: Protections) -> None:
    one, other = two(store)
    cluster = Cluster((make.host("h2"), make.host("h3", error="no route")), ())
    with pytest.raises(
        BlockedError, match=r"freshest replica of VM 'db', .* is at h3: it was not seen: no route"
    ) as no:
        meant([one, other], unseen(cluster))
    assert "--from HOST (h2: 1 min" in no.value.remedy
    assert meant([other], unseen(cluster)) is other, "there is no other"


def test_one_of_before_the_vm_came_up_elsewhere_is_taken_only_by_a_person_s_word(store: Protections) -> None:
    one, other = two(store)
    store.change(one.id, standing=Standing.FAILED_OVER, epoch=1)
    with pytest.raises(BlockedError, match="h2: it is failed over; h3: it is of before the VM came up elsewhere"):
        meant(store.replicas(UUID))
    store.add_point(other.id, replace(point(2), taken_at=0.0), "c")
    assert meant(store.replicas(UUID)).target == "h3"


def test_a_plan_takes_its_own_host_or_the_freshest_and_leaves_what_is_up(store: Protections) -> None:
    one, other = two(store)

    def chosen(host: str = "", away: Mapping[str, str] | None = None, *, runs: bool = False) -> Protection:
        return planned_for(store.replicas(UUID), host, away or {}, lambda _: runs)

    assert (chosen().target, chosen("h2").target, chosen(away={"h3": "silent"}).target) == ("h3", "h2", "h2")
    with pytest.raises(UsageError, match="no replica at h9"):
        chosen("h9")
    store.change(one.id, standing=Standing.FAILED_OVER, epoch=1)
    assert chosen().standing is Standing.FAILED_OVER, "the other one is of before: it is up, or nowhere"
    store.add_point(other.id, replace(point(2), taken_at=0.0), "c")
    assert (chosen(runs=True).target, chosen(runs=False).target) == ("h2", "h3")


def test_home_is_where_its_old_disks_are(store: Protections) -> None:
    one, other = two(store)
    store.change(one.id, standing=Standing.FAILED_OVER, epoch=1)
    assert home_of(store.replicas(UUID)).target == "h2", "which is to be turned about first"
    assert home_of(store.replicas(UUID), "h3").target == "h3"
    store.turn(one.id, "h1", "/images/u-1", {"vda": "/images/db.qcow2"})
    assert home_of(store.replicas(UUID)).target == "h1"
    store.turn(one.id, "h1", "/images/u-1", {})
    with pytest.raises(UsageError, match="at h1 and h3: which one") as unclear:
        home_of(store.replicas(UUID))
    assert unclear.value.remedy == "say it: --to HOST"
    assert other.id == store.of(UUID, "h3").id


def test_a_double_is_ended_where_it_is(store: Protections) -> None:
    one, other = two(store)
    with pytest.raises(UsageError, match="which one"):
        tried(store, "db")
    store.begin_trial(other.id, Trial(1, "u-t", "db-test-1", "h3", 0.0))
    assert tried(store, "db").id == other.id
    store.begin_trial(one.id, Trial(1, "u-s", "db-test-1-h2", "h2", 0.0))
    with pytest.raises(UsageError, match="which one"):
        tried(store, "db")
    assert tried(store, "db", "h2").id == one.id


def test_of_one_vm_one_round_is_made_at_a_time(store: Protections) -> None:
    one, other = two(store)
    mail = replace(one, id=7, vm_uuid="u-mail")
    both = [replace(other, id=8), replace(mail, id=9)]
    assert apart([[one], [other], [mail]]) == [[one], [mail]]
    assert apart([[other], [mail], [one]], frozenset(["u-mail"])) == [[other]]
    assert apart([[one], both, [mail]]) == [[one], [mail]], "a group waits for all of its own"


# Where the VM is.


def test_a_copy_that_the_vm_has_left_is_not_the_vm(store: Protections) -> None:
    one, other = two(store)
    store.change(one.id, standing=Standing.FAILED_OVER, epoch=1)
    other = store.get(other.id)
    old, now = copy("h1", 0, runs=False), copy("h2", 1, runs=True)
    assert copy_of(Cluster((), (old, now)), other) == now
    off = replace(now, state=VmState.SHUTOFF)
    assert copy_of(Cluster((), (old, off)), other) == off
    assert _source(Cluster((), (old, off)), other) == off
    with pytest.raises(BlockedError, match="h1, h2"):
        _source(Cluster((), (copy("h1", 0, runs=True), now)), other)


def test_what_a_vm_has_left_at_a_third_host_says_nothing_of_its_way_home(store: Protections) -> None:
    one, _ = two(store)
    store.change(one.id, standing=Standing.GOING_HOME, epoch=3)
    going, cluster = store.get(one.id), [make.host("h1"), make.host("h2"), make.host("h3")]
    oldest, home, left = copy("h1", 0, runs=False), copy("h2", 3, runs=True), copy("h3", 2, runs=True)
    assert where_it_went(going, Cluster(tuple(cluster), (oldest, home))) is Standing.FAILED_OVER
    assert where_it_went(going, Cluster(tuple(cluster), (oldest, left))) is Standing.ON


def test_which_of_several_old_copies_is_meant_is_said(store: Protections) -> None:
    one, other = two(store)
    for number, epoch in ((one.id, 1), (other.id, 2)):
        store.change(number, standing=Standing.FAILED_OVER, epoch=epoch)
        store.settle_at(number, "")
    replicas = store.replicas(UUID)
    copies = (copy("h1", 0, runs=False), copy("h2", 1, runs=False), copy("h3", 2, runs=True))
    assert to_be_turned(replicas, None).target == to_be_turned(replicas, "h1").target == "h3"
    assert to_be_turned(replicas, "h2").target == "h2", "its replica was there, and is to be there again"
    with pytest.raises(BlockedError, match="old copies on h1 and h2") as unclear:
        copies_of(store.get(other.id), Cluster((), copies))
    assert "--to HOST" in unclear.value.remedy
    meant_one = copies_of(store.get(one.id), Cluster((), copies), "h1")
    assert (meant_one.running.host, meant_one.stale and meant_one.stale.host) == ("h3", "h1")
    assert copies_of(store.get(one.id), Cluster((), copies), "h9").stale is None


def test_a_backup_of_another_replica_s_broken_round_is_ended_and_no_other_journal_s(store: Protections) -> None:
    one, other = two(store)
    assert is_near_socket(one, near_socket(other, 3))
    assert not is_near_socket(one, near_socket(replace(other, journal="f" * 32), 3))
    assert not is_near_socket(one, "/var/lib/libvirt/qemu/mudanza-strange.sock")
    assert not is_near_socket(one, "/tmp/x.sock")


# Disks that come, go and grow.


def test_it_is_told_which_disks_came_went_and_grew() -> None:
    before = replace(point(4), disks={"vda": ReplicaDisk("a", 1 << 30), "vdb": ReplicaDisk("b", 1 << 20)})
    now = replace(point(5), disks={"vda": ReplicaDisk("a", 2 << 30), "vdc": ReplicaDisk("c", 1 << 20)})
    new, grown, gone = disk_changes(before, now)
    assert new.startswith("disk vdc is new")
    assert "vda had 1 GiB and has 2 GiB" in grown
    assert "vdb is none of the VM's any more; the points up to 4 have it" in gone
    assert disk_changes(before, before) == disk_changes(None, now) == ()


# Unattended.


def test_a_vm_of_a_lost_host_comes_up_from_the_freshest_that_can(store: Protections, database: str) -> None:
    one, other = two(store)
    engine = open_database(database)
    inventory = Inventory(engine)
    inventory.put_hosts([HostEntry(name, f"qemu+ssh://root@{name}/system") for name in ("h1", "h2", "h3")])
    means = cast("Any", SimpleNamespace(database=engine, inventory=inventory))
    reviver = Reviver(means, "ana", lambda _: None, lambda _: None)
    ended = SimpleNamespace(ended_at=store.instant())
    reviver._fences = cast("Any", SimpleNamespace(proof_of=lambda _host: ended))
    kept = KeptUp(UUID, "db", 5, 3, False, "ana", 0.0, "h1", care=Care(from_replica=True))
    hosts = {name: make.host(name) for name in ("h2", "h3")}

    def chosen(host: str = "h1", kept: KeptUp = kept, **away: str) -> str:
        seen = [replace(each, error=away.get(name)) for name, each in hosts.items()]
        return reviver._may(host, kept, Cluster(tuple(seen), ()))[0].target

    assert chosen() == "h3"
    assert chosen(h3="no route") == "h2"
    assert chosen("h3") == "h2", "it ran beside that one, which is lost with it"
    with pytest.raises(BlockedError, match=r"h2: it was not seen: x; h3: it was not seen: y"):
        chosen(h2="x", h3="y")
    inventory.put_hosts([replace(inventory.host("h3"), maintenance=True)])
    assert chosen() == "h2"
    with pytest.raises(BlockedError, match=r"is not brought up from its replica: .* would be lost"):
        chosen(kept=replace(kept, care=Care(from_replica=True, max_loss=1.0)))
    store.change(one.id, standing=Standing.FAILED_OVER, epoch=1)
    with pytest.raises(BlockedError, match="h2: it is failed over; h3: it is of before"):
        chosen("h2")
    assert other.id == store.of(UUID, "h3").id


@pytest.mark.parametrize(
    ("option", "little"),
    [
        ("every", 0.0),
        ("scratch", 0),
        ("bandwidth", 0),
        ("verify_every", 0.0),
        ("test_every", 59.0),
        ("test_limit", 0.0),
    ],
)
def test_what_is_less_than_makes_sense_is_refused(option: str, little: float) -> None:
    wanted = Keeping("h2", "default", 60.0, 5, 1 << 30)
    refuse_too_little(wanted)
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} is .* at the least"):
        refuse_too_little(replace(wanted, **cast("Any", {option: little})))


def test_a_vm_that_was_renamed_is_found_by_its_name_at_each_host(store: Protections) -> None:
    one, other = two(store)
    store.rename(one.vm_uuid, "renamed")
    assert {each.id for each in store.all_of("renamed")} == {one.id, other.id}
    with pytest.raises(UsageError, match="not protected"):
        store.all_of(one.vm_name)
