"""What was on a host that does not answer any more: remembered, and planned for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from sqlalchemy import update

from mudanza import clock
from mudanza.cli.context import App
from mudanza.journal.database import Database, open_database, transaction
from mudanza.journal.errors import JournalLostError
from mudanza.journal.schema import sighting
from mudanza.journal.sightings import Sightings
from mudanza.model.cluster import Cluster
from mudanza.model.host import Host, HugePages, NumaNode
from mudanza.model.vm import BoundMemory, Graphics, VmState, Written
from mudanza.model.wishes import wishes_of
from mudanza.planning.recalling import recall
from mudanza.service.picture import Photographer
from tests import factories as make
from tests.program import Program
from tests.scenario import scenario

HOSTS = """
[hosts.h1]
uri = "qemu+tls://h1/system"
[hosts.h2]
uri = "qemu+tls://h2/system"
[hosts.h3]
uri = "qemu+tls://h3/system"
"""
BEFORE = """
about: Two VMs on storage that all hosts share, one on a disk of its own, one that is off.
hosts: {h1: , h2: , h3: }
vms:
  web: {host: h1, count: 2, memory: 2GiB}
  local: {host: h1, memory: 2GiB, disk: 10GiB}
  spare: {host: h1, memory: 2GiB, runs: false}
  db: {host: h2, memory: 4GiB}
ask: balance
expect: {}
"""


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_database(str(tmp_path / "mudanza.db"))


@pytest.fixture
def sightings(database: Database) -> Sightings:
    return Sightings(database)


def _gone(host: Host) -> Host:
    return Host(host.entry, error="timed out")


def _without(cluster: Cluster, *names: str) -> Cluster:
    hosts = tuple(_gone(host) if host.name in names else host for host in cluster.hosts)
    return Cluster(hosts, tuple(vm for vm in cluster.vms if vm.host not in names))


@pytest.fixture
def before() -> Cluster:
    return scenario("before", yaml.safe_load(BEFORE)).cluster


def test_it_comes_back_as_it_was_seen_but_for_definitions(sightings: Sightings) -> None:
    vm = make.vm(
        xml="<domain><graphics passwd='hush'/></domain>",
        inactive_xml="<domain><graphics passwd='hush'/></domain>",
        graphics=(Graphics("vnc", None),),
        written=Written(7, 3.0),
        wishes=wishes_of({"balance": "manual"}),
        numa_nodes=frozenset({1, 0}),
        bound_memory=(BoundMemory(frozenset({1, 0}), 9, (2048,)),),
        cpu_required=frozenset({"avx2", "aes"}),
    )
    host = make.host("h1", machines=frozenset({"b", "a"}), nodes=(NumaNode(0, 9, 5, (HugePages(2048, 3, 1),)),))
    sightings.keep(make.cluster([host], [vm]))
    found = sightings.last()["h1"]
    assert found.host == host
    assert found.vms == (replace(vm, xml="<domain/>", inactive_xml="<domain/>"),)
    assert found.vms[0].state is VmState.RUNNING


def test_no_definition_is_written_down(database: Database, sightings: Sightings) -> None:
    sightings.keep(make.cluster([make.host("h1")], [make.vm(xml="<hush/>", inactive_xml=None)]))
    with transaction(database) as connection:
        (text,) = connection.execute(sighting.select().with_only_columns(sighting.c.seen)).scalars()
    assert "hush" not in text
    assert sightings.last()["h1"].vms[0].inactive_xml is None


def test_the_last_look_at_a_host_that_is_not_seen_stays_and_others_are_renewed(sightings: Sightings) -> None:
    vms = [make.vm(host="h1"), make.vm(host="h2", uuid="b", name="b")]
    cluster = make.cluster([make.host("h1"), make.host("h2")], vms)
    sightings.keep(cluster)
    sightings.keep(make.cluster([_gone(cluster.hosts[0]), cluster.hosts[1]]))
    found = sightings.last()
    assert [vm.host for vm in found["h1"].vms] == ["h1"]
    assert found["h2"].vms == ()


def test_a_host_that_is_none_of_the_clusters_any_more_is_forgotten(sightings: Sightings) -> None:
    sightings.keep(make.cluster([make.host("h1"), make.host("h2")]))
    sightings.keep(make.cluster([_gone(make.host("h2"))]))
    assert set(sightings.last()) == {"h2"}


def test_what_another_version_wrote_is_left_out(database: Database, sightings: Sightings) -> None:
    sightings.keep(make.cluster([make.host("h1"), make.host("h2")]))
    with transaction(database) as connection:
        connection.execute(update(sighting).where(sighting.c.host == "h1").values(seen='{"host": {}, "vms": []}'))
    assert set(sightings.last()) == {"h2"}


def test_a_host_that_answers_is_what_it_says(sightings: Sightings, before: Cluster) -> None:
    sightings.keep(before)
    assert recall(before, "h1", sightings.last()) == (before, ())


def test_a_host_of_another_address_is_another_host(sightings: Sightings, before: Cluster) -> None:
    sightings.keep(before)
    gone = _without(before, "h1")
    other = replace(gone.hosts[0].entry, uri="qemu+tls://other/system")
    moved = replace(gone, hosts=(replace(gone.hosts[0], entry=other), *gone.hosts[1:]))
    assert recall(moved, "h1", sightings.last()) == (moved, ())


def test_who_was_seen_elsewhere_since_is_there(sightings: Sightings, before: Cluster) -> None:
    sightings.keep(before)
    web = next(vm for vm in before.vms if vm.name == "web-1")
    now = _without(before, "h1")
    now = replace(now, vms=(*now.vms, replace(web, host="h2")))
    recalled, notes = recall(now, "h1", sightings.last())
    assert _names(recalled, "h1") == ["local", "spare", "web-2"]
    assert any("seen elsewhere since: web-1" in note for note in notes)


def test_who_was_seen_later_on_another_lost_host_is_not_planned_for_twice(
    sightings: Sightings, before: Cluster
) -> None:
    sightings.keep(before)
    earlier = sightings.last()["h1"]
    web = next(vm for vm in earlier.vms if vm.name == "web-1")
    later = replace(earlier, at=earlier.at + 60, host=before.host("h2"), vms=(replace(web, host="h2"),))
    recalled, notes = recall(_without(before, "h1", "h2"), "h1", {"h1": earlier, "h2": later})
    assert "web-1" not in _names(recalled, "h1")
    assert any("may be there: h2" in note for note in notes)
    recalled, _ = recall(_without(before, "h1", "h2"), "h1", {"h1": earlier, "h2": replace(later, at=earlier.at - 60)})
    assert "web-1" in _names(recalled, "h1")


def _names(cluster: Cluster, host: str) -> list[str]:
    return sorted(vm.name for vm in cluster.vms_on(host))


def test_a_plan_for_a_host_that_is_gone(
    mudanza: Program, monkeypatch: pytest.MonkeyPatch, before: Cluster, tmp_path: Path
) -> None:
    mudanza("import", "-", stdin=HOSTS)
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: before)
    assert mudanza("plan", "balance").returncode == 0
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: _without(before, "h1"))
    file = tmp_path / "plan.json"
    done = mudanza("plan", "evacuate", "h1", "--save", str(file), "-o", "json")
    plan = json.loads(done.stdout)
    assert {move["vm"] for move in plan["moves"]} == {"web-1", "web-2"}
    assert {move["target"] for move in plan["moves"]} <= {"h2", "h3"}
    assert [(each["vm"], "lost with it" in each["why"]) for each in plan["unmoved"]] == [("local", True)]
    notes = " ".join(plan["notes"])
    for said in ("h1 does not answer (timed out)", "may be running there still", "not to be started: spare"):
        assert said in notes
    assert mudanza("apply", str(file)).returncode in (2, 3)


def test_nothing_is_made_of_a_host_that_was_never_seen(
    mudanza: Program, monkeypatch: pytest.MonkeyPatch, before: Cluster
) -> None:
    mudanza("import", "-", stdin=HOSTS)
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: _without(before, "h1"))
    done = mudanza("plan", "evacuate", "h1")
    assert done.returncode == 3
    assert "nobody knows what is on it" in done.stderr


def test_the_daemon_writes_it_down_and_tries_again_where_that_failed() -> None:
    stop, seen, said = clock.new_event(), list[Cluster](), list[str]()

    def remember(cluster: Cluster) -> None:
        seen.append(cluster)
        if len(seen) == 1:
            raise JournalLostError("the disk is full")
        stop.set()

    Photographer(lambda: (), connect=1, read=1, say=said.append, remember=remember).run(0, stop)
    assert seen == [Cluster((), ())] * 2
    assert said == ["! the disk is full"]
