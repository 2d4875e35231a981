"""What is asked by HTTP of hosts, and done there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mudanza.journal.audit import Audit
from mudanza.model.carrying import RunState
from tests.test_service import problem
from tests.twin.asking import asking
from tests.twin.scene import Scene


@pytest.fixture
def client(the: Scene, tmp_path: Path) -> Iterator[httpx.Client]:
    with asking(the, tmp_path) as found:
        yield found


def states(the: Scene, client: httpx.Client) -> dict[str, str]:
    return {vm["name"]: f"{vm['host']} {vm['state']}" for vm in client.get("/vms").json()["vms"]}


def test_a_check_tells_of_one_host_or_of_all(client: httpx.Client) -> None:
    one = client.post("/vms/web/checks", json={"to": "h2"}).json()
    assert (one["vm"], one["source"]) == ("web", "h1")
    assert [(each["target"], each["possible"]) for each in one["targets"]] == [("h2", True)]
    every = client.post("/vms/web/checks", json={}).json()
    assert [each["target"] for each in every["targets"]] == ["h2", "h3"]


def test_a_check_tells_what_stands_in_the_way(client: httpx.Client) -> None:
    there = client.post("/vms/web/checks", json={"to": "h1"}).json()["targets"][0]
    assert not there["possible"]
    assert there["findings"][0]["remedy"]
    problem(client.post("/vms/web/checks", json={"to": "h9"}), 404, "not-there")


def test_a_forecast_tells_how_long_and_how_dark(client: httpx.Client) -> None:
    found = client.post("/vms/web/forecasts", json={"to": "h2", "max_downtime": 0.1}).json()
    forecast = found["targets"][0]["forecast"]
    assert forecast["chosen"]["total"] > 0
    assert forecast["why"]
    assert "already" in problem(client.post("/vms/web/forecasts", json={"to": "h1"}), 400, "usage")["detail"]


def test_vms_are_started_and_shut_down_and_the_audit_tells(the: Scene, client: httpx.Client) -> None:
    assert client.post("/vms/off/start").json()["said"] == ["off started on h2"]
    assert states(the, client)["off"] == "h2 running"
    assert "already" in client.post("/vms/off/start").json()["said"][0]
    assert client.post("/vms/off/shutdown", json={"wait": True}).json()["said"] == ["off is off"]
    assert states(the, client)["off"] == "h2 shut off"
    told = the.do(lambda: Audit(the.engine).since(None))
    assert [each.command[0] for each in told] == ["start", "start", "shutdown"]
    assert {each.exit_code for each in told} == {0}


def test_a_vm_that_somebody_works_on_is_not_started(the: Scene, client: httpx.Client) -> None:
    client.post("/vms/off/moves", json={"to": "h3"})
    assert "unfinished job" in problem(client.post("/vms/off/start"), 409, "blocked")["detail"]
    assert states(the, client)["off"] == "h2 shut off"


def test_hosts_are_changed_removed_and_added(the: Scene, client: httpx.Client) -> None:
    assert client.patch("/hosts/h3", json={"tags": ["gold"], "tls_name": "three"}).json()["said"] == ["host h3 changed"]
    entry = next(each for each in client.get("/entries").json() if each["name"] == "h3")
    assert (entry["tags"], entry["tls_name"]) == (["gold"], "three")
    client.patch("/hosts/h3", json={"tls_name": None})
    assert next(each for each in client.get("/entries").json() if each["name"] == "h3")["tls_name"] is None
    problem(client.patch("/hosts/h3", json={}), 400, "usage")
    assert client.delete("/hosts/h3").status_code == 200
    problem(client.get("/hosts/h3"), 404, "not-there")
    problem(client.delete("/hosts/h3"), 404, "not-there")
    made = client.post("/hosts", json={"name": "h3", "uri": entry["uri"]})
    assert (made.status_code, made.headers["location"]) == (201, "/api/v1/hosts/h3")
    assert client.get("/hosts/h3").status_code == 200
    assert (
        "password"
        in problem(client.post("/hosts", json={"name": "h4", "uri": "qemu+ssh://root:secret@h4/system"}), 400, "usage")[
            "detail"
        ]
    )


def test_a_plan_is_made_carried_out_as_it_was_shown_and_once(the: Scene, client: httpx.Client) -> None:
    shown = client.post("/proposals", json={"goal": "drain", "subject": "h1", "explain": ["web"]}).json()
    assert {move["vm"] for move in shown["plan"]["moves"]} == {"web", "db"}
    assert shown["explanations"][0]["vm"] == "web"
    key = {"Idempotency-Key": "night"}
    first = client.post("/plans", json={"plan": shown["plan"]}, headers=key)
    again = client.post("/plans", json={"plan": shown["plan"]}, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"] == 1
    assert first.headers["location"] == "/api/v1/plans/1"
    assert first.json()["state"] == RunState.RUNNING.value
    other = problem(client.post("/plans", json={"plan": shown["plan"], "pace": {"out": 1}}, headers=key), 400, "usage")
    assert "plan 1" in other["detail"]
    problem(client.post("/plans", json={"plan": shown["plan"]}), 409, "blocked")
    assert client.post("/plans/1/cancel").status_code == 202


def test_a_plan_is_not_carried_out_in_another_world(the: Scene, client: httpx.Client) -> None:
    shown = client.post("/proposals", json={"goal": "drain", "subject": "h1"}).json()
    client.post("/vms/web/shutdown", json={"wait": True})
    found = problem(client.post("/plans", json={"plan": shown["plan"]}), 409, "blocked")
    assert "not as the plan found it" in found["detail"]
    assert client.get("/plans").json() == []


def test_what_is_no_plan_is_not_carried_out(client: httpx.Client) -> None:
    problem(client.post("/plans", json={"plan": {"format": 1, "goal": "drain"}}), 400, "usage")
    problem(client.post("/plans", json={"plan": {"moves": [1]}}), 400, "usage")
    problem(client.post("/plans/1/approve", json={}), 404, "not-there")


def test_tokens_are_made_listed_and_taken_away(client: httpx.Client) -> None:
    made = client.post("/tokens", json={"name": "ci", "scopes": ["read"], "lasts": 60})
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    assert made.json()["token"] not in client.get("/tokens").text
    assert [(each["name"], each["state"]) for each in client.get("/tokens").json()] == [("ci", "good")]
    problem(client.post("/tokens", json={"name": "ci", "scopes": ["read"]}), 400, "usage")
    assert client.delete("/tokens/ci").json()["state"] == "revoked"
    problem(client.delete("/tokens/ci2"), 404, "not-there")
    asked = client.get("/audit", params={"limit": 2}).json()
    assert [each["command"][0] for each in asked["asked"]] == ["revoke token", "make token"]
    assert made.json()["token"] not in client.get("/audit").text
    rest = client.get("/audit", params={"before": asked["next"]}).json()
    assert [each["command"][0] for each in rest["asked"]] == ["make token"]
