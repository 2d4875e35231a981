"""Hosts emptied, opened again and balanced, and rules changed, by a daemon: told as when it is done here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mudanza.journal.audit import Audit
from mudanza.journal.balance import Balances
from mudanza.journal.plans import Plans
from mudanza.model.access import Scope
from mudanza.model.automation import Automation
from mudanza.model.carrying import BRINGING_HOME, CannotGo, RunState
from mudanza.model.rules import Rule, RuleKind, Rules
from mudanza.service.api import api_of
from tests.program import Program
from tests.test_service import problem
from tests.twin.asking import InProcess, answered_in, asking, desk_over
from tests.twin.conftest import Ask
from tests.twin.scene import Scene

SERVER = ("--server", "/run/d.sock")


@pytest.fixture(autouse=True)
def swift(the: Scene) -> None:
    """Have memory and disks travel fast: what is tested is what is told of it."""
    the.twin.rate *= 8


@pytest.fixture
def client(the: Scene, tmp_path: Path) -> Iterator[httpx.Client]:
    """Whoever asks by HTTP where nobody works."""
    with asking(the, tmp_path) as found:
        yield found


def places(the: Scene, program: Program) -> dict[str, str]:
    found = json.loads(the.do(lambda: program("vms", "-o", "json")).stdout)
    return {vm["name"]: f"{vm['host']} {vm['state']}" for vm in found}


def closed(the: Scene) -> set[str]:
    return {entry.name for entry in the.inventory.hosts() if entry.maintenance}


# Words.


@pytest.mark.parametrize(
    "words",
    [
        "drain h9",
        "drain h1 --cannot-go-live shutdown",
        "drain h3",
        "maintenance enter h9",
        "maintenance leave h9",
        "maintenance leave h1 --cannot-go-live refuse",
        "maintenance leave h1 --cannot-go-live ask",
        "maintenance leave h3",
        "maintenance leave h3 --stay-away",
        "rule list",
        "rule list -o json",
        "rule remove x",
        "rule add x apart",
        "rule add x must --vm web",
        "balance",
        "balance -o json",
    ],
)
def test_both_ways_say_the_same(the: Scene, asked: Ask, program: Program, words: str) -> None:
    here = the.do(lambda: program(*words.split()))
    assert asked(*words.split()) == here
    assert here.stdout or here.stderr


# Emptying.


def test_a_host_is_drained(the: Scene, there: Ask, program: Program) -> None:
    done = there("drain", "h1")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("plan 1")]
    assert "2 moves" in told[0]
    assert told[-1] == "plan 1 is done: 2 of 2 VMs are where they were to go"
    run = Plans(the.engine).get(1)
    assert (run.kind, run.subject, run.asked_by, run.policy.elsewhere) == ("drain", "h1", "somebody@localhost", True)
    assert not {place for place in places(the, program).values() if place.startswith("h1")}
    assert closed(the) == set()


def test_who_cannot_go_is_told_before_anything_begins(the: Scene, there: Ask, program: Program) -> None:
    keep_in(the, "db")
    here, told = the.do(lambda: program("drain", "h1")), there("drain", "h1")
    assert told == here
    assert here.returncode == 3
    assert "✗ db: " in here.stderr
    entered = the.do(lambda: program("maintenance", "enter", "h1")), there("maintenance", "enter", "h1")
    assert entered[0] == entered[1]
    assert closed(the) == set(), "nothing is begun, and it is open again"
    assert Plans(the.engine).latest(1) == ()


def keep_in(the: Scene, name: str) -> None:
    """Have a VM be one that may run on the first host only."""
    the.inventory.put_rules(Rules((Rule("pinned", RuleKind.MUST, (name,), hosts=("h1",)),)))


def test_those_who_cannot_go_stay_if_so_wanted(the: Scene, there: Ask, program: Program) -> None:
    keep_in(the, "db")
    done = there("drain", "h1", "--cannot-go-live", "stay")
    assert done.returncode == 7, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "1 VMs cannot leave h1 while they run:"
    assert any(line.startswith("! db is not moved, it stays on h1: ") for line in lines)
    assert places(the, program)["db"] == "h1 running"
    assert places(the, program)["web"] != "h1 running"


def test_somebody_is_asked_what_becomes_of_those_who_cannot_go(
    the: Scene, there: Ask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_in(the, "db")
    asked: list[tuple[int, bool]] = []

    def ask(stuck: int, *, may_shut_down: bool) -> CannotGo:
        asked.append((stuck, may_shut_down))
        return CannotGo.SHUTDOWN

    monkeypatch.setattr("mudanza.cli.maintenance.ask", ask)
    monkeypatch.setattr("mudanza.cli.fleet.ask", ask)
    done = there("maintenance", "enter", "h1")
    assert done.returncode == 0, done.stderr
    assert asked == [(1, True)]
    assert done.stderr.count("1 VMs cannot leave h1 while they run:") == 1
    assert "host h1 is in maintenance: it takes no newcomers" in done.stderr
    assert places(the, program)["db"] == "h1 shut off"
    assert closed(the) == {"h1"}
    back = there("maintenance", "leave", "h1")
    assert back.returncode == 0, back.stderr
    assert back.stderr.startswith("host h1 is open again\ndb started on h1\n")
    assert {places(the, program)[name] for name in ("web", "db")} == {"h1 running"}
    assert Plans(the.engine).get(2).kind == BRINGING_HOME
    assert closed(the) == set()


def test_what_is_detached_is_done_all_the_same(the: Scene, there: Ask) -> None:
    left = there("maintenance", "enter", "h1", "--detach")
    assert left.returncode == 0
    assert left.stderr.endswith("see how it goes: mudanza run watch 1\n")
    assert there("run", "watch", "1").returncode == 0
    assert Plans(the.engine).get(1).state is RunState.DONE


# By HTTP.


def test_the_same_order_twice_is_one_plan(the: Scene, client: httpx.Client) -> None:
    key = {"Idempotency-Key": "tonight"}
    first = client.post("/hosts/h1/drain", json={}, headers=key)
    again = client.post("/hosts/h1/drain", json={}, headers=key)
    assert (first.status_code, again.status_code) == (202, 202), first.text
    assert first.json()["plan"] == again.json()["plan"] == 1
    assert first.headers["location"] == "/api/v1/plans/1"
    other = client.post("/hosts/h1/drain", json={"pace": {"out": 1}}, headers=key)
    assert "plan 1" in problem(other, 400, "usage")["detail"]
    problem(client.post("/hosts/h1/drain", json={}), 409, "blocked")


def test_what_is_not_there_is_not_emptied(the: Scene, client: httpx.Client) -> None:
    for path in ("drain", "maintenance/enter", "maintenance/leave"):
        problem(client.post(f"/hosts/h9/{path}", json={}), 404, "not-there")
    assert the.do(lambda: Audit(the.engine).since(None)) == ()


def test_who_could_not_leave_is_told_with_the_problem(the: Scene, client: httpx.Client) -> None:
    keep_in(the, "db")
    found = problem(client.post("/hosts/h1/maintenance/enter", json={}), 409, "blocked")
    assert found["said"][0] == "1 VMs cannot leave h1 while they run:"
    assert found["remedy"]
    assert closed(the) == set()


def test_the_audit_tells_who_wanted_it(the: Scene, client: httpx.Client) -> None:
    client.post("/hosts/h1/maintenance/enter", json={"cannot_go_live": "stay"})
    client.post("/hosts/h1/maintenance/leave", json={"stay_away": True})
    told = the.do(lambda: Audit(the.engine).since(None))
    assert [each.command[:2] for each in told] == [("maintenance enter", "h1"), ("maintenance leave", "h1")]
    assert {each.exit_code for each in told} == {0}


@pytest.mark.parametrize(
    ("scopes", "limits", "path", "status"),
    [
        ((Scope.MIGRATE,), {}, "hosts/h1/drain", 403),
        ((Scope.PLAN,), {"hosts": ["h1"]}, "hosts/h1/drain", 403),
        ((Scope.PLAN,), {"tags": ["gold"]}, "hosts/h1/maintenance/enter", 403),
        ((Scope.READ,), {}, "hosts/h1/maintenance/leave", 403),
        ((Scope.MIGRATE,), {}, "balance/rounds", 403),
        ((Scope.PLAN,), {}, "rules", 403),
        ((Scope.PLAN,), {}, "hosts/h1/drain", 202),
        ((Scope.PLAN,), {}, "balance/rounds", 200),
        ((Scope.ADMIN,), {}, "rules", 201),
    ],
)
def test_only_those_may_who_may(
    the: Scene, tmp_path: Path, scopes: tuple[Scope, ...], limits: dict[str, Any], path: str, status: int
) -> None:
    desk = desk_over(the, tmp_path)
    opens = desk.tokens.make("t", scopes, "ana", **limits)
    body = {"name": "x", "kind": "apart", "vms": ["web", "db"]} if path == "rules" else {}
    transport = InProcess(api_of(desk), local=False)
    headers = {"Authorization": f"Bearer {opens}"}
    with (
        answered_in(the),
        httpx.Client(transport=transport, base_url="http://d/api/v1", headers=headers) as client,
    ):
        assert client.post(f"/{path}", json=body).status_code == status


# Rules and balance.


def test_rules_are_added_and_removed_both_ways(the: Scene, there: Ask, program: Program) -> None:
    add = ("rule", "add", "{}", "apart", "--vm", "web", "--vm", "db")
    here = the.do(lambda: program(*(word.format("one") for word in add)))
    told = there(*(word.format("two") for word in add))
    assert (here.returncode, here.stderr) == (told.returncode, told.stderr.replace("two", "one"))
    listed = the.do(lambda: program("rule", "list")), there("rule", "list")
    assert listed[0] == listed[1]
    assert [rule.name for rule in the.inventory.rules().rules] == ["one", "two"]
    again = (
        the.do(lambda: program("rule", "add", "one", "apart", "--vm", "web")),
        there("rule", "add", "one", "apart", "--vm", "web"),
    )
    assert again[0] == again[1]
    assert again[0].returncode == 2
    assert there("rule", "remove", "two").returncode == 0
    assert the.do(lambda: program("rule", "remove", "one")).stderr == "rule one removed\n"
    assert the.inventory.rules().rules == ()


def test_a_round_of_balance_is_made_and_what_it_begins_is_followed(the: Scene, there: Ask, program: Program) -> None:
    apart = Rule("apart", RuleKind.APART, ("web", "db"))
    the.inventory.put_rules(Rules((apart,), automation=Automation.AUTO))
    done = there("balance", "once")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("plan 1 begins: ")
    assert done.stderr.endswith("plan 1 is done: 1 of 1 VMs are where they were to go\n")
    assert places(the, program)["web"] != places(the, program)["db"]
    again = there("balance", "once", "-o", "json")
    assert json.loads(again.stdout.splitlines()[0])["event"] == "round"
    rounds = json.loads(there("balance", "-o", "json").stdout)["rounds"]
    assert [each["plan"] for each in rounds] == [1, None]


def test_nobody_balances_beside_another_one(the: Scene, asked: Ask, program: Program) -> None:
    the.do(lambda: Balances(the.engine).take())
    here, told = the.do(lambda: program("balance", "once")), asked("balance", "once")
    assert here == told
    assert here.returncode == 3
