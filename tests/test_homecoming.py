"""Going home while it runs: in which images a VM goes on before, upon what it arrives, and whether it did."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from lxml import etree

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.snapshots import apart_xml
from mudanza.hypervisor.xml.activation import epoch_of
from mudanza.journal.database import open_database
from mudanza.journal.job import Job
from mudanza.journal.protections import Protections
from mudanza.migration.live.order import order_of
from mudanza.migration.live.plan import below
from mudanza.migration.prepare import Candidate, Prepared
from mudanza.migration.record import MoveRecord
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.protection import Protection, Standing, own_name
from mudanza.model.vm import Backing, Vm, VmState
from mudanza.operations.coming_home import settle, way_is_over
from mudanza.operations.means import Means
from mudanza.preflight.cargo import cargo_of
from mudanza.preflight.mapping import resolve
from mudanza.protection.homecoming import apart_images, home_pool, homewards, where_it_went
from tests import factories as make
from tests.factories import IMAGES, NO
from tests.test_protection import VALUES, point
from tests.test_turning import DOMAIN, copy

DIRECTORY = f"{IMAGES}/mudanza-replicas/u"
BELOW = (Backing("/r/vda.active-1.qcow2", "qcow2"), Backing("/r/vda.1.whole.qcow2", "qcow2"))
TOP = make.disk(source="/r/mudanza-1-4-vda.qcow2", pool=None, volume=None, backing=BELOW)
HOME = make.host("h1", pools=(make.pool(path="/srv", name="srv"), make.pool()))


@pytest.fixture
def store(database: str) -> Protections:
    return Protections(open_database(database))


def turned(store: Protections, **changes: object) -> Protection:
    made = store.make({**VALUES, "target": "h1", "directory": DIRECTORY})
    store.change(made.id, **{"epoch": 1, "rounds": 4, **changes})
    store.add_point(made.id, point(4), "c")
    return store.of("db")


def test_it_goes_on_in_images_beside_its_own_that_are_not_there_yet(store: Protections) -> None:
    vm = make.vm(disks=(make.disk(source="/r/vda.active-1.qcow2"), make.iso()))
    protection = turned(store)
    images = apart_images(protection, vm)
    assert images == {"vda": f"/r/mudanza-{own_name(protection)}-4-vda.qcow2"}


def test_libvirt_is_told_of_every_disk_so_that_it_makes_no_images_of_its_own() -> None:
    domain = "<domain><devices><disk><target dev='vda'/></disk><disk><target dev='sda'/></disk></devices></domain>"
    told = etree.fromstring(apart_xml(domain, {"vda": "/r/new"})).findall("disks/disk")
    assert [(disk.get("name"), disk.get("snapshot")) for disk in told] == [("vda", "external"), ("sda", "no")]
    assert told[0].xpath("string(source/@file)") == "/r/new"


def test_it_arrives_in_the_pool_that_has_its_replica(store: Protections) -> None:
    protection = turned(store)
    assert home_pool(protection, HOME) == "images"
    assert home_pool(protection, replace(HOME, pools=(make.pool(active=False),))) is None
    assert home_pool(protection, replace(HOME, pools=None)) is None
    assert home_pool(replace(protection, directory=f"{IMAGES}-2/u"), HOME) is None


def prepared(store: Protections) -> tuple[Prepared, MoveRecord]:
    vm = replace(make.vm(disks=(TOP,), host="h2"), xml=_domain(TOP.source or ""))
    options = homewards(turned(store), vm, "images", 2)
    source = make.host("h2")
    facts = replace(make.facts(vm, HOME), shared={"vda": NO})
    resolution = resolve(vm, source, HOME, options, facts)
    assert cargo_of(vm, source, HOME, options, resolution, live=True).files == (), "nothing goes ahead of it"
    chosen = Candidate(HOME, facts, (), resolution, ())
    record = MoveRecord(
        vm.uuid, vm.name, "h2", "h1", False, True, False, True, False, vm.xml, vm.xml, keeps_chains=True
    )
    return Prepared(vm, source, chosen, "", options), record


def _domain(path: str) -> str:
    disk = f"<disk type='file'><driver type='qcow2'/><source file='{path}'/><target dev='vda'/></disk>"
    return DOMAIN.replace("</domain>", f"<devices>{disk}</devices></domain>")


def test_a_disk_arrives_upon_the_replica_s_image_and_nothing_below_it_travels(store: Protections) -> None:
    asked, record = prepared(store)
    [plan] = asked.chosen.resolution.copies
    assert (plan.pool, plan.path) == ("images", f"{IMAGES}/mudanza-1-4-vda.qcow2")
    assert below(asked, plan, record) == Backing(f"{DIRECTORY}/vda.4.qcow2", "qcow2")


def test_it_arrives_under_the_next_epoch_and_its_copy_keeps_the_one_before(store: Protections) -> None:
    asked, record = prepared(store)
    order = order_of(asked, record)
    assert [epoch_of(str(order.parameters[name])) for name in ("destination_xml", "persistent_xml")] == [2, 2]
    assert "UNDEFINE_SOURCE" not in order.flags
    plain = order_of(replace(asked, options=replace(asked.options, epoch=None)), record)
    assert epoch_of(str(plain.parameters["destination_xml"])) == 0


def seen(*copies: Vm, home_answers: bool = True) -> Cluster:
    home = make.host("h1") if home_answers else make.host("h1", error="no route to host")
    return Cluster((home, make.host("h2")), copies)


def test_where_it_went_is_told_by_where_it_is_and_by_its_epoch(store: Protections) -> None:
    protection = turned(store, standing=Standing.GOING_HOME, epoch=2)
    here, there = copy("h2", 1, runs=True), copy("h1", 2, runs=True)
    off = replace(here, state=VmState.SHUTOFF)

    def went(*copies: Vm, home_answers: bool = True) -> Standing:
        return where_it_went(protection, seen(*copies, home_answers=home_answers))

    assert went(there) is went(there, off) is Standing.FAILED_OVER
    assert went(here) is went(off) is Standing.ON
    assert went(here, home_answers=False) is Standing.ON, "it runs, so it runs nowhere else"
    unclear = (
        went(off, home_answers=False),
        went(),
        went(copy("h2", 2, runs=True)),
        went(copy("h3", 2, runs=True), off),
    )
    assert set(unclear) == {Standing.GOING_HOME}, "a person must look"


def test_a_live_way_home_that_nobody_saw_the_end_of_is_settled_by_what_the_hosts_say(
    store: Protections, database: str
) -> None:
    protection = turned(store, standing=Standing.GOING_HOME, epoch=2)
    cluster = seen()
    jobs: list[object] = []
    job = SimpleNamespace(unfinished_of=lambda _uuid: jobs[0] if jobs else None)
    means = cast("Means", SimpleNamespace(jobs=job, read_cluster=lambda _: cluster, database=open_database(database)))
    nobody = cast("Connections", None)
    with pytest.raises(BlockedError, match="is not told by the hosts"):
        settle(means, nobody, store, "db")
    jobs.append(SimpleNamespace(id=7))
    cluster = seen(copy("h2", 1, runs=True))
    with pytest.raises(BlockedError, match="job 7 is not at its end"):
        settle(means, nobody, store, "db")
    jobs.clear()
    stayed = settle(means, nobody, store, "db")
    assert (stayed.standing, stayed.epoch) == (Standing.ON, 1)
    store.change(protection.id, standing=Standing.GOING_HOME, epoch=2)
    cluster = seen(copy("h2", 1, runs=False), copy("h1", 2, runs=True))
    gone = settle(means, nobody, store, "db")
    assert (gone.standing, gone.epoch) == (Standing.FAILED_OVER, 2)
    assert settle(means, nobody, store, "db").standing is Standing.FAILED_OVER, "that is all there is to be said"


def test_a_way_home_is_over_once_the_job_that_was_it_has_ended(store: Protections) -> None:
    protection = turned(store, standing=Standing.GOING_HOME, epoch=2)

    def over(ended_at: float | None, epoch: int | None, protection: Protection = protection) -> bool:
        return way_is_over(protection, cast("Job", SimpleNamespace(ended_at=ended_at, asked={"epoch": epoch})))

    assert over(7.0, 2)
    assert not over(None, 2), "it goes on"
    assert not over(7.0, 1), "of an earlier try"
    assert not over(7.0, None), "of something else: this way is about to begin"
    assert not over(7.0, 2, replace(protection, standing=Standing.ON))
    assert not way_is_over(protection, None)
