"""What is remembered for the day when a host is lost, and what a plan for it needs before it is carried out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mudanza.availability.restarting import startable
from mudanza.cli.context import App
from mudanza.hypervisor.xml.claims import with_claim
from mudanza.journal.backup import back_up, restore
from mudanza.journal.database import Database, open_database
from mudanza.journal.fences import Fences
from mudanza.journal.protections import Protections
from mudanza.journal.remembered import Definitions
from mudanza.journal.sightings import Sightings
from mudanza.model.claim import Claim
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.fencing import By
from mudanza.model.host import Host
from mudanza.model.rules import Rules, rules_as_data, rules_from_data
from mudanza.model.vm import VmState
from mudanza.planning.compatibility import is_shared
from mudanza.planning.needs import copied_disks
from mudanza.planning.sharing import declared
from tests import factories as make
from tests.program import Program
from tests.scenario import scenario
from tests.test_sightings import BEFORE, HOSTS

DEFINITION = (
    "<domain><name>db</name><devices><graphics type='vnc' passwd='opensesame'/><disk><source protocol='http'/></disk>"
    "</devices></domain>"
)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return open_database(str(tmp_path / "mudanza.db"))


def seen(database: Database, *hosts: Host, vms: tuple[object, ...] = ()) -> None:
    Sightings(database).keep(make.cluster(hosts, vms))  # type: ignore[arg-type]


def test_definitions_are_remembered_without_passwords(database: Database, tmp_path: Path) -> None:
    seen(database, make.host("h1"), vms=(make.vm(uuid="u-1", host="h1", inactive_xml=DEFINITION),))
    found = Definitions(database).of(["u-1", "u-2"])
    assert (set(found), found["u-1"].host) == ({"u-1"}, "h1")
    assert "passwd='*****'" in found["u-1"].definition
    database.dispose()
    for file in tmp_path.iterdir():
        assert b"opensesame" not in file.read_bytes(), file


def test_a_definition_stays_while_its_host_is_gone_and_goes_with_its_vm(database: Database) -> None:
    vm = make.vm(uuid="u-1", host="h1", inactive_xml="<domain/>")
    seen(database, make.host("h1"), make.host("h2"), vms=(vm,))
    gone = Host(make.entry("h1"), error="timed out")
    seen(database, gone, make.host("h2"))
    assert Definitions(database).of(["u-1"])
    moved = replace(vm, host="h2", inactive_xml="<domain><name>n</name></domain>")
    seen(database, gone, make.host("h2"), vms=(moved,))
    found = Definitions(database).of(["u-1"])["u-1"]
    assert (found.host, found.definition) == ("h2", moved.inactive_xml)
    seen(database, gone, make.host("h2"))
    assert not Definitions(database).of(["u-1"])


def test_of_a_vm_that_two_hosts_list_the_one_counts_that_runs_it(database: Database) -> None:
    runs = make.vm(uuid="u-1", host="h1", inactive_xml="<runs/>")
    stale = replace(runs, host="h2", inactive_xml="<stale/>", state=VmState.SHUTOFF)
    for order in ((runs, stale), (stale, runs)):
        seen(database, make.host("h1"), make.host("h2"), vms=order)
        assert Definitions(database).of(["u-1"])["u-1"].definition == "<runs/>"


def test_what_has_not_changed_is_not_written_again(database: Database) -> None:
    keeper = Sightings(database)
    cluster = make.cluster([make.host("h1")], [make.vm(uuid="u-1", host="h1", inactive_xml="<a/>")])
    keeper.keep(cluster)
    first = Definitions(database).of(["u-1"])["u-1"]
    keeper.keep(cluster)
    assert Definitions(database).of(["u-1"])["u-1"] == first
    keeper.keep(replace(cluster, vms=(replace(cluster.vms[0], inactive_xml="<b/>"),)))
    assert Definitions(database).of(["u-1"])["u-1"].definition == "<b/>"


def test_what_is_remembered_is_in_a_backup(database: Database, tmp_path: Path) -> None:
    seen(database, make.host("h1"), vms=(make.vm(uuid="u-1", host="h1", inactive_xml="<a/>"),))
    back_up(database, tmp_path / "backup.db")
    other = open_database(str(tmp_path / "other.db"))
    restore(other, tmp_path / "backup.db")
    assert Definitions(other).of(["u-1"])


CLAIM = Claim("f" * 32, 1, 1, "ana@desk", "live", "h1", "h2", "2026-11-26", 0, (), (), "", "{}")


def test_a_display_gets_a_password_that_nobody_knows_and_no_claim_is_on_it() -> None:
    hidden = DEFINITION.replace("opensesame", "*****")
    text = startable(with_claim(hidden, CLAIM), "db")
    assert "*****" not in text
    assert 'passwd="' in text
    assert "claim" not in text
    assert startable("<domain><name>db</name></domain>", "db") == "<domain><name>db</name></domain>"


def test_without_another_secret_it_is_not_started() -> None:
    with pytest.raises(BlockedError, match="a password that the journal does not keep"):
        startable("<domain><devices><cookie name='a'>*****</cookie></devices></domain>", "db")


def test_pools_are_shared_where_the_rules_say_so() -> None:
    pools = (make.pool(name="vms", kind="dir"), make.pool(name="own", kind="dir"), make.pool(name="lv", kind="logical"))
    cluster = make.cluster([make.host("h1", pools=pools)])
    found = declared(cluster, Rules(shared_pools=("vms", "lv"))).host("h1").pools
    assert found is not None
    assert [pool.kind for pool in found] == ["netfs", "dir", "logical"]
    assert declared(cluster, Rules()) is cluster
    assert rules_from_data(rules_as_data(Rules(shared_pools=("vms",)))) == Rules(shared_pools=("vms",))


def test_an_image_that_a_move_has_brought_lies_in_its_pool_though_libvirt_does_not_list_it_yet() -> None:
    hosts = [make.host(name, pools=(make.pool(kind="netfs"),)) for name in ("h1", "h2")]
    for unlisted in (make.disk(pool=None, volume=None), make.disk()):
        assert copied_disks(make.vm(disks=(unlisted,)), hosts[0]) == []
        assert is_shared(unlisted, *hosts)
    elsewhere = make.disk(pool=None, volume=None, source="/srv/own/web.qcow2")
    assert copied_disks(make.vm(disks=(elsewhere,)), hosts[0])
    assert not is_shared(elsewhere, *hosts)


@pytest.fixture
def before() -> Cluster:
    return scenario("before", yaml.safe_load(BEFORE)).cluster


@pytest.fixture
def lost(mudanza: Program, monkeypatch: pytest.MonkeyPatch, before: Cluster) -> Program:
    """The command, where h1 does not answer any more, and was seen before."""
    mudanza("import", "-", stdin=HOSTS)
    monkeypatch.setattr("mudanza.operations.fencing.answers", lambda _means, _host: False)
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: before)
    assert mudanza("plan", "balance").returncode == 0
    hosts = tuple(Host(host.entry, error="timed out") if host.name == "h1" else host for host in before.hosts)
    gone = Cluster(hosts, tuple(vm for vm in before.vms if vm.host != "h1"))
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: gone)
    return mudanza


def test_no_proof_no_restart_and_it_says_what_would_prove_it(lost: Program, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    done = lost("plan", "evacuate", "h1", "--save", str(file))
    assert done.returncode == 0
    assert "nobody has shown that h1 is off" in done.stdout
    done = lost("apply", str(file))
    assert done.returncode == 3
    for way in ("mudanza fence off h1", "mudanza fence confirm h1", "nothing was touched"):
        assert way in done.stderr
    assert "no job yet" in lost("jobs").stderr


def test_with_proof_it_is_carried_out(lost: Program, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    lost("plan", "evacuate", "h1", "--save", str(file))
    assert lost("fence", "confirm", "h1", "--yes").returncode == 0
    assert "h1 is proven off" in lost("plan", "evacuate", "h1").stdout
    done = lost("apply", str(file), "--detach")
    assert done.returncode == 0, done.stderr
    assert "plan 1" in done.stderr


def test_the_proof_is_of_no_use_once_the_host_was_seen(
    lost: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Cluster
) -> None:
    file = tmp_path / "plan.json"
    lost("plan", "evacuate", "h1", "--save", str(file))
    lost("fence", "confirm", "h1", "--yes")
    gone = App.read_cluster
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: before)
    lost("plan", "balance")
    monkeypatch.setattr(App, "read_cluster", gone)
    assert lost("apply", str(file)).returncode == 3


def test_who_is_left_out_is_said(lost: Program, before: Cluster) -> None:
    engine = open_database(str(lost.config.parent / "state" / "mudanza.db"))
    one, other = (next(vm for vm in before.vms if vm.name == name) for name in ("web-1", "web-2"))
    values = {"directory": "/d", "every": 60.0, "keep": 3, "scratch": 1, "autostart": False, "made_by": "ana"}
    Protections(engine).make({"vm_uuid": one.uuid, "vm_name": one.name, "target": "h2", **values})
    with engine.begin() as connection:
        Definitions(engine).keep(connection, make.cluster([make.host("h1")]), [])
    done = lost("plan", "evacuate", "h1", "-o", "json")
    notes = " ".join(json.loads(done.stdout)["notes"])
    assert json.loads(done.stdout)["moves"] == []
    assert "not planned for: web-1: they have replicas: mudanza failover" in notes
    assert f"{other.name}: nobody remembers their definitions" in notes


def test_who_would_start_again_by_itself_is_said(lost: Program, before: Cluster) -> None:
    engine = open_database(str(lost.config.parent / "state" / "mudanza.db"))
    vms = tuple(replace(vm, autostart=True) if vm.name == "web-2" else vm for vm in before.vms)
    Sightings(engine).keep(replace(before, vms=vms))
    done = lost("plan", "evacuate", "h1")
    assert "its libvirt starts by itself, a second time: web-2" in done.stdout


def test_a_proof_ends_with_the_look_that_finds_its_host(database: Database) -> None:
    fences = Fences(database)
    fences.ended(fences.begin("h1", By.PERSON, "ana"), "ana has said so", proven=True)
    seen(database, make.host("h1"))
    assert fences.proof_of("h1") is None
