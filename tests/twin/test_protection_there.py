"""Protection by a daemon that commands ask, as far as it needs no login at hosts: told as when it is done here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.journal.audit import Audit
from mudanza.journal.protections import Protections
from mudanza.journal.sightings import Sightings
from mudanza.model.access import Scope
from mudanza.model.protection import RestorePoint
from mudanza.service.api import api_of
from tests.program import Program
from tests.test_service import problem
from tests.twin.asking import InProcess, answered_in, asking, desk_over
from tests.twin.conftest import Ask
from tests.twin.scene import Scene


@pytest.mark.parametrize(
    "words",
    [
        "protections",
        "protect nobody --to h2",
        "protect web --to h9",
        "protect web --to h1",
        "protect web --to h2",
        "protect web --to h2 --pool none",
        "protection sync web",
        "protection verify nobody",
        "protection pause web",
        "protection resume web --on h3",
        "unprotect web",
        "unprotect web --from h3",
        "failover web",
        "failover web --planned --point 1",
        "failover web --planned --map-network x",
        "failover web --planned --from h9",
        "protect web --to h2 --to h9",
        "failover nobody --planned",
        "failover web --source-is-dead",
        "reprotect web",
        "reprotect web --to h9",
        "failback web --mode cold",
        "test-failover web",
        "test-failover end web",
        "recovery show",
        "recovery show site",
        "recovery check site",
        "recovery remove site",
        "failover plan site",
        "failover plan site --planned",
        "failover plan check site",
        "ha status",
        "ha status -o json",
        "ha enable nobody",
        "ha enable web --priority 1",
        "ha disable web",
    ],
)
def test_both_ways_say_the_same(the: Scene, asked: Ask, program: Program, words: str) -> None:
    here = the.do(lambda: program(*words.split()))
    assert asked(*words.split()) == here
    assert here.stdout or here.stderr


def protected(the: Scene) -> None:
    """Write down that a VM is protected, and a restore point."""
    store = Protections(the.engine)
    key = next(iter(the.twin.hosts["h1"].domains))
    values: dict[str, Any] = {"vm_uuid": key, "vm_name": "web", "target": "h2", "directory": "/r", "every": 60.0}
    made = store.make({**values, "keep": 5, "scratch": 1, "autostart": False, "made_by": "ana"})
    store.add_point(made.id, RestorePoint(1, 0.0, {}, "<domain/>", 7), "")


def test_replicas_are_listed_the_same_way_but_for_their_age(the: Scene, asked: Ask, program: Program) -> None:
    protected(the)
    here, told = the.do(lambda: program("protections", "-o", "name")), asked("protections", "-o", "name")
    assert (here.stdout, here.returncode) == (told.stdout, told.returncode) == ("web\n", 0)
    shown = asked("protections").stdout
    assert "h2:/r" in shown
    assert "late" in shown


def protected_twice(the: Scene) -> None:
    """The same, and a second replica, which is a little older."""
    protected(the)
    store = Protections(the.engine)
    [first] = store.all()
    values = {"vm_uuid": first.vm_uuid, "vm_name": "web", "target": "h3", "directory": "/s", "every": 900.0, "keep": 20}
    made = store.make({**values, "scratch": 1, "autostart": False, "made_by": "ana"})
    store.add_point(made.id, RestorePoint(1, -9.0, {}, "<domain/>", 7), "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("unprotect web", "replicas at h2 and h3: which one is meant"),
        ("test-failover end web", "replicas at h2 and h3: which one is meant"),
        ("failback web", "at h2 and h3: which one is meant"),
        ("failover web --source-is-dead", "not dead"),
        ("failover web --source-is-dead --from h3", "not dead"),
        ("protection pause web", "of its replica at h2 and h3"),
        ("protection pause web --on h3", "of its replica at h3"),
        ("protection points web --on h3", "h3"),
        ("protect web --to h3 --every 30s", "protected already, to h3"),
        ("protection verify web --on h9", "no replica at h9"),
    ],
)
def test_of_several_replicas_both_ways_say_which(
    the: Scene, asked: Ask, program: Program, words: str, said: str
) -> None:
    protected_twice(the)
    here, there = the.do(lambda: program(*words.split())), asked(*words.split())
    assert said in here.stdout + here.stderr
    assert there.returncode == here.returncode
    if "points" not in words:  # which tell ages
        assert there == here


def test_a_token_knows_only_the_replicas_at_its_hosts(the: Scene, tmp_path: Path) -> None:
    protected_twice(the)
    desk = desk_over(the, tmp_path)
    headers = {"Authorization": f"Bearer {desk.tokens.make('t', (Scope.FAILOVER,), 'ana', hosts=['h1', 'h3'])}"}
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1", headers=headers) as client:
        assert client.put("/vms/web/protection/pause", json={"paused": True, "on": "h2"}).status_code == 404
        told = client.put("/vms/web/protection/pause", json={"paused": True})
        assert told.status_code == 200
        assert "of its replica at h3" in told.json()["said"][0]
        assert client.post("/vms/web/reprotect", json={"to": "h3"}).status_code == 404, "it is about all of them"
    kept = {each.target: each.paused_by for each in Protections(the.engine).all()}
    assert kept["h2"] == ""
    assert kept["h3"]


@pytest.mark.parametrize(
    ("scopes", "limits", "seen", "status"),
    [
        ((Scope.READ,), {}, 1, 403),
        ((Scope.MIGRATE,), {"hosts": ["h3"]}, 0, 403),
        ((Scope.FAILOVER,), {"hosts": ["h3"]}, 0, 404),
        ((Scope.FAILOVER,), {}, 1, 409),
    ],
)
def test_only_those_may_who_may(
    the: Scene, tmp_path: Path, scopes: tuple[Scope, ...], limits: dict[str, Any], seen: int, status: int
) -> None:
    protected(the)
    desk = desk_over(the, tmp_path)
    headers = {"Authorization": f"Bearer {desk.tokens.make('t', scopes, 'ana', **limits)}"}
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1", headers=headers) as client:
        assert len(client.get("/protections").json()) == seen
        assert "<domain/>" not in client.get("/protections").text
        assert client.post("/vms/web/protection/rounds", json={}).status_code == status


@pytest.mark.parametrize(
    "words",
    [
        "failover web --source-is-dead",
        "failover web --source-is-dead --point 7",
        "reprotect web",
        "reprotect web --to h9",
        "reprotect web --to h3",
        "failback web --mode cold",
        "test-failover web --point 7",
        "test-failover end web",
        "protect web --to h2",
        "failover web --source-is-dead --from h9",
        "failback web --to h9",
        "test-failover web --on h9",
        "protection pause web --on h9",
        "unprotect web --from h9",
    ],
)
def test_what_stands_against_it_is_said_both_ways(the: Scene, asked: Ask, program: Program, words: str) -> None:
    protected(the)
    here = the.do(lambda: program(*words.split()))
    assert asked(*words.split()) == here
    assert here.returncode in (2, 3)
    assert here.stderr
    assert the.jobs.unfinished() == ()


@pytest.fixture
def client(the: Scene, tmp_path: Path) -> Iterator[httpx.Client]:
    with asking(the, tmp_path) as found:
        yield found


ORDERS: tuple[tuple[str, Any], ...] = (
    ("failover", {"source_is_dead": True}),
    ("reprotect", {"to": "h2"}),
    ("failback", {}),
    ("test-failover", {}),
    ("test-failover/end", None),
)


@pytest.mark.parametrize(("what", "order"), ORDERS)
@pytest.mark.parametrize(
    ("scopes", "limits", "status"),
    [
        ((Scope.READ,), {}, 403),
        ((Scope.MIGRATE, Scope.FENCE, Scope.PLAN), {}, 403),
        ((Scope.FAILOVER,), {"hosts": ["h1"]}, 404),  # its replica is at h2
        ((Scope.FAILOVER,), {"hosts": ["h2", "h3"]}, 404),
        ((Scope.FAILOVER,), {"tags": ["gold"]}, 404),
    ],
)
def test_nobody_is_brought_up_by_those_who_may_not(
    the: Scene, tmp_path: Path, scopes: tuple[Scope, ...], limits: dict[str, Any], status: int, what: str, order: Any
) -> None:
    protected(the)
    desk = desk_over(the, tmp_path)
    headers = {"Authorization": f"Bearer {desk.tokens.make('t', scopes, 'ana', **limits)}"}
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1", headers=headers) as client:
        assert client.post(f"/vms/web/{what}", json=order).status_code == status
    assert the.do(lambda: Audit(the.engine).since(None)) == ()


def test_a_limited_token_is_for_a_vm_whose_host_is_gone_as_it_was_seen_last(the: Scene, tmp_path: Path) -> None:
    protected(the)
    the.do(lambda: Sightings(the.engine).keep(read_cluster(the.inventory.hosts())))
    the.twin.hosts["h1"].power_off()
    desk = desk_over(the, tmp_path)
    mine, other = (
        desk.tokens.make(name, [Scope.FAILOVER], "ana", hosts=hosts)
        for name, hosts in (("mine", ["h1", "h2"]), ("other", ["h2", "h3"]))
    )
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1") as client:

        def end_trial(opens: str) -> int:
            headers = {"Authorization": f"Bearer {opens}"}
            return client.post("/vms/web/test-failover/end", headers=headers).status_code

        assert end_trial(mine) == 409, "there is no test to be ended"
        assert end_trial(other) == 404


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({}, 400),
        ({"planned": True, "source_is_dead": True}, 400),
        ({"planned": True, "point": 1}, 400),
        ({"planned": "perhaps"}, 422),
        ({"source_is_dead": True, "point": 0}, 422),
        ({"source_is_dead": True, "point": 2**31}, 422),
        ({"source_is_dead": True, "networks": ["a"]}, 422),
        ({"source_is_dead": True, "force": True}, 422),
        ([], 422),
        (None, 422),
    ],
)
def test_a_wrong_order_begins_nothing(the: Scene, client: httpx.Client, order: Any, status: int) -> None:
    protected(the)
    found = client.post("/vms/web/failover", json=order)
    assert found.status_code == status, found.text
    assert found.headers["content-type"] == "application/problem+json"
    assert the.do(lambda: Audit(the.engine).since(None)) == ()
    assert the.jobs.latest(1) == ()


def test_an_order_that_comes_again_is_the_same_one(the: Scene, client: httpx.Client) -> None:
    protected(the)
    key = {"Idempotency-Key": "night"}
    dead = {"source_is_dead": True}
    first = client.post("/vms/web/failover", json=dead, headers=key)
    assert "not dead" in problem(first, 409, "blocked")["detail"]
    again = client.post("/vms/web/failover", json=dead, headers=key)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"] == "/api/v1/orders/1"
    assert len(the.do(lambda: Audit(the.engine).since(None))) == 1
    other = client.post("/vms/web/failover", json={**dead, "point": 1}, headers=key)
    assert "order 1" in problem(other, 400, "usage")["detail"]
    told = client.get("/orders/1").json()
    assert (told["state"], told["command"][0], told["problem"]) == ("ended", "failover", first.json())
    assert problem(client.get("/orders/2"), 404, "not-there")["remedy"]
