"""Hosts switched off, and their devices named, by a daemon that commands ask: told as when it is done here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mudanza.cli.context import App
from mudanza.journal.balance import Balances
from mudanza.journal.fences import Fences
from mudanza.journal.plans import Plans
from mudanza.journal.tokens import Tokens
from mudanza.model.access import Scope
from mudanza.service.api import api_of
from mudanza.service.desk import Desk
from mudanza.service.picture import Picture
from mudanza.service.server import LocalServer
from tests import factories as make
from tests.fence_agent import AGENT, FakeAgent
from tests.lab.conftest import await_true
from tests.program import Done, Program
from tests.test_fencing import BMC_WORDS, agent, ready
from tests.test_service import problem
from tests.test_tokens import As, certificate, served

__all__ = ["agent", "certificate", "ready"]

Ask = Callable[..., Done]
CLUSTER = make.cluster([make.host("h1"), make.host("h2")], [make.vm()])
DEVICE = {"agent": AGENT, "options": {"plug": "a"}, "secrets": {"password": "bmc"}, "unmatched": True}


@pytest.fixture
def desk(ready: Program) -> Desk:
    app = App(ready.config, debug=False)
    database = app.database
    parts = (app.jobs, Plans(database), Balances(database), app.audit, Tokens(database))
    return Desk(*parts, lambda: Picture(CLUSTER, 1000.0, 0.5), "1.2.3", app)


@pytest.fixture
def place(desk: Desk, tmp_path: Path) -> Iterator[Path]:
    server = LocalServer(api_of(desk), tmp_path / "d.sock")
    server.start()
    yield tmp_path / "d.sock"
    server.stop()


@pytest.fixture
def asked(place: Path, ready: Program) -> Ask:
    """Have a command done by a daemon."""
    return lambda *words: ready("--server", str(place), *words)


@pytest.fixture
def client(place: Path) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(place))
    with httpx.Client(transport=transport, base_url="http://local/api/v1", timeout=60) as found:
        yield found


@pytest.fixture
def as_(desk: Desk, certificate: tuple[Path, Path]) -> Iterator[As]:
    with served(desk, certificate) as found:
        yield found


@pytest.mark.parametrize(
    "words",
    [
        "fence show",
        "fence show -o json",
        "fence set h9 bmc --agent fence_test",
        "fence set h1 bmc --agent fence_nothing",
        "fence set h1 bmc --agent fence_test --option plugg=a",
        "fence set h1 bmc --agent fence_test --secret password=../shadow",
        "fence unset h1 bmc",
        "fence unset h9 bmc",
        "fence test h1",
        "fence test h9",
        "fence off h1",
        "fence off h1 --yes",
        "fence off h9 --yes",
        "fence confirm h1",
        "fence confirm h9 --yes",
    ],
)
def test_both_ways_say_the_same(ready: Program, asked: Ask, words: str) -> None:
    here = ready(*words.split())
    assert asked(*words.split()) == here
    assert here.stdout or here.stderr


def test_devices_are_named_tested_and_used_there(asked: Ask, agent: FakeAgent, ready: Program, desk: Desk) -> None:
    done = asked("fence", "set", "h1", "bmc", *BMC_WORDS)
    assert done == ready("fence", "set", "h1", "bmc", *BMC_WORDS)
    assert (done.returncode, agent.actions) == (0, [])
    agent.will("a", status=0)
    assert asked("fence", "test", "h1", "-o", "json") == ready("fence", "test", "h1", "-o", "json")
    agent.will("a", status=1)
    assert asked("fence", "test", "h1") == ready("fence", "test", "h1")

    failed = asked("fence", "off", "h1", "--yes")
    assert failed == ready("fence", "off", "h1", "--yes")
    assert failed.returncode == 5
    assert "bmc (fence_test): off: done" in failed.stderr
    agent.will("a")
    done = asked("fence", "off", "h1", "--yes")
    assert done == ready("fence", "off", "h1", "--yes")
    assert done.returncode == 0
    assert asked("fence", "show", "-o", "name") == ready("fence", "show", "-o", "name")
    shown = asked("fence", "show").stdout
    assert "password from bmc" in shown
    assert "opensesame" not in shown
    told = [each for each in desk.audit.since(None) if each.who.get("by") == "http"]
    assert [(each.command[0], each.exit_code) for each in told][-1] == ("fence off", 0)
    assert ("fence off", 5) in [(each.command[0], each.exit_code) for each in told]
    assert asked("fence", "unset", "h1", "bmc").stderr == "bmc of h1 is forgotten\n"
    assert json.loads(ready("fence", "show", "-o", "json").stdout)[0]["device"] == ""


def test_a_host_that_answers_is_not_switched_off_unasked(
    ready: Program, asked: Ask, client: httpx.Client, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready("fence", "set", "h1", "bmc", *BMC_WORDS)
    monkeypatch.setattr("mudanza.operations.fencing.answers", lambda _means, _host: True)
    for words in ("fence off h1 --yes", "fence confirm h1 --yes"):
        here = ready(*words.split())
        assert asked(*words.split()) == here
        assert here.returncode == 3
    found = problem(client.post("/hosts/h1/fence/off", json={}), 409, "blocked")
    assert "--force" in found["remedy"]
    problem(client.post("/hosts/h1/fence/confirm", json={"seen_off": True}), 409, "blocked")
    assert agent.actions == []


def test_an_order_to_switch_off_that_comes_again_switches_once(
    ready: Program, client: httpx.Client, agent: FakeAgent
) -> None:
    ready("fence", "set", "h1", "bmc", *BMC_WORDS)
    agent.will("a")
    key = {"Idempotency-Key": "dead-h1"}
    first = client.post("/hosts/h1/fence/off", json={}, headers=key)
    where = first.headers["location"].removeprefix("/api/v1")
    assert first.status_code == 202
    await_true(lambda: client.get(where).json()["state"] == "ended", "it is switched off")
    again = client.post("/hosts/h1/fence/off", json={}, headers=key)
    assert again.json() == client.get(where).json()
    assert again.json()["result"]["proven"]
    assert agent.actions == [("off", "a"), ("status", "a")]


@pytest.mark.parametrize(
    ("path", "order", "status"),
    [
        ("hosts/h9/fence/off", {}, 404),
        ("hosts/h1/fence/off", {"force": "x"}, 422),
        ("hosts/h1/fence/off", {"yes": True}, 422),
        ("hosts/h1/fence/confirm", {}, 422),
        ("hosts/h1/fence/confirm", {"seen_off": False}, 422),
        ("hosts/h9/fence/confirm", {"seen_off": True}, 404),
        ("hosts/h9/fence/test", None, 404),
    ],
)
def test_a_wrong_order_switches_nothing(
    ready: Program, client: httpx.Client, agent: FakeAgent, path: str, order: Any, status: int
) -> None:
    ready("fence", "set", "h1", "bmc", *BMC_WORDS)
    answer = client.post(f"/{path}", json=order)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert agent.actions == []
    assert not any(each.proven for each in Fences(App(ready.config, debug=False).database).last().values())


@pytest.mark.parametrize(
    ("scopes", "limits", "may"),
    [
        (["read"], {}, set()),
        (["failover", "migrate", "plan"], {}, set()),
        (["fence"], {}, {"show", "test", "off", "confirm"}),
        (["fence"], {"hosts": ["h1"]}, {"show", "test", "off", "confirm"}),
        (["fence"], {"hosts": ["h2"]}, set()),
        (["fence"], {"tags": ["gold"]}, set()),
        (["admin"], {}, {"show", "test", "off", "confirm", "set", "unset"}),
    ],
)
def test_only_those_may_who_may(
    ready: Program, as_: As, desk: Desk, agent: FakeAgent, scopes: list[str], limits: dict[str, Any], may: set[str]
) -> None:
    ready("fence", "set", "h1", "bmc", *BMC_WORDS)
    agent.will("a")
    client = as_(desk.tokens.make("t", list(map(Scope, scopes)), "ana", **limits))
    at = "/api/v1/hosts/h1"
    answers = {
        "set": client.put(f"{at}/fences/psu", json=DEVICE),
        "unset": client.delete(f"{at}/fences/psu"),
        "test": client.post(f"{at}/fence/test"),
        "off": client.post(f"{at}/fence/off", json={}),
        "confirm": client.post(f"{at}/fence/confirm", json={"seen_off": True}),
    }
    assert {name for name, each in answers.items() if each.is_success} == may - {"show"}, answers
    shown = client.get("/api/v1/fences")
    assert (shown.is_success and "fence_test" in shown.text) is ("show" in may)
    assert {each.status_code for name, each in answers.items() if name not in may} <= {403, 404}
    if not may:
        assert agent.actions == []
