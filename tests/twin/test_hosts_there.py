"""Whole hosts, by a daemon: their power, their CPUs, and what they have kept; told as when it is done here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from mudanza.journal.audit import Audit
from mudanza.journal.fences import Fences
from mudanza.journal.host_power import HostPowers, power_of_one
from mudanza.journal.jobs import NewJob
from mudanza.journal.kept import KeptUps
from mudanza.journal.plans import Plans
from mudanza.model.access import Scope
from mudanza.model.carrying import RunState
from mudanza.model.fencing import Device
from mudanza.model.host_power import HostPower, Standing, Wish
from mudanza.model.rules import Rule, RuleKind, Rules
from mudanza.model.watts import straight
from mudanza.operations import host_power
from mudanza.operations.switching import Switcher
from mudanza.service.api import api_of
from tests.program import Program
from tests.test_service import problem
from tests.twin.asking import InProcess, Passing, answered_in, asking, desk_over
from tests.twin.conftest import Ask
from tests.twin.scene import Scene


@pytest.fixture(autouse=True)
def swift(the: Scene) -> None:
    """Have memory and disks travel fast: what is tested is what is told of it."""
    the.twin.rate *= 8


@pytest.fixture
def client(the: Scene, tmp_path: Path) -> Iterator[httpx.Client]:
    with asking(the, tmp_path) as found:
        yield found


def both(the: Scene, asked: Ask, program: Program, words: str) -> None:
    """See that a command says the same and ends the same, done here and by a daemon."""
    here = the.do(partial(program, *words.split()))
    assert asked(*words.split()) == here, words
    assert here.stdout or here.stderr


@pytest.mark.parametrize(
    "words",
    [
        "power show",
        "power show -o json",
        "power set h9 --keep-on",
        "power set h1 --mac 52:54",
        "power set h1 --watts 90,80",
        "power set h1 --watts a,b",
        "power set h1",
        "power off h9",
        "power off h1",
        "power on h9",
        "power on h1",
        "power once",
        "ha clean h9 --yes",
        "ha clean h1",
        "cluster cpu",
        "cluster cpu -o json",
        "cluster cpu web db",
        "cluster cpu nobody",
        "cluster cpu --tag gold",
        "cluster cpu --set",
        "cluster cpu --set nobody",
        "cluster cpu --set --all web",
        "cluster cpu --set --undo web",
        "cluster cpu --undo web off",
    ],
)
def test_both_ways_say_the_same(the: Scene, asked: Ask, program: Program, words: str) -> None:
    both(the, asked, program, words)


# CPUs.


def test_vms_get_the_cpu_that_all_hosts_can_give(the: Scene, asked: Ask, program: Program) -> None:
    the.twin.hosts["h2"].cpu_lacks = frozenset({"avx2"})
    both(the, asked, program, "cluster cpu")
    done = asked("cluster", "cpu", "--set", "web", "db")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["web", "db"]
    assert "from its next start on" in done.stderr
    both(the, asked, program, "cluster cpu web")
    both(the, asked, program, "cluster cpu --set web")  # which has it already
    job = the.jobs.latest(1)[0]
    assert (job.kind, job.exit_code) == ("cpu", 0)
    assert asked("cluster", "cpu", "--undo", "web").stderr == the.do(
        lambda: program("cluster", "cpu", "--undo", "db")
    ).stderr.replace("db", "web")


def test_one_that_cannot_be_changed_keeps_nobody_else_from_it(the: Scene, asked: Ask) -> None:
    uuid = next(key for key, domain in the.twin.hosts["h1"].domains.items() if domain.name == "web")
    the.do(lambda: the.jobs.begin(NewJob("live", uuid, "web", "h1", "h2", {}, "bo")))
    done = asked("cluster", "cpu", "--set", "web", "db")
    assert done.returncode == 7
    assert "error: VM 'web' has an unfinished job" in done.stderr
    assert "db has the CPU" in done.stderr


# Power.


def test_what_is_said_of_a_hosts_power_is_kept_there(the: Scene, asked: Ask, program: Program) -> None:
    words = "power set {} --watts 95,150,190 --mac 52:54:00:AA:00:01 --keep-on"
    here = the.do(lambda: program(*words.format("h1").split()))
    told = asked(*words.format("h2").split())
    assert (told.returncode, told.stderr.replace("h2", "h1")) == (0, here.stderr)
    both(the, asked, program, "power set h1 --keep-on")  # nothing to change
    both(the, asked, program, "power show")
    both(the, asked, program, "power show -o json")
    powers = HostPowers(the.engine)
    assert powers.of("h1") == powers.of("h2")
    assert asked("power", "set", "h2", "--watts=", "--mac=", "--may-be-off").returncode == 0
    assert "h2" not in powers.all()


@pytest.fixture
def switched(the: Scene, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have hosts be shut down and seen off in name only; return which were."""
    done: list[str] = []

    def shut_down(_self: Switcher, host: str) -> None:
        done.append(host)

    monkeypatch.setattr(Switcher, "_shut_down", shut_down)
    monkeypatch.setattr(Switcher, "_await_off", lambda _self, _host: "seen off by bmc")
    monkeypatch.setattr("mudanza.operations.switching.needed_hosts", lambda _means, _cluster: {})
    for host in ("h1", "h2"):
        Fences(the.engine).put(host, (Device("bmc", "fence_x"),))
    return done


def closed(the: Scene) -> set[str]:
    return {entry.name for entry in the.inventory.hosts() if entry.maintenance}


def test_a_host_is_emptied_by_a_plan_and_put_off(the: Scene, there: Ask, switched: list[str]) -> None:
    done = there("power", "off", "h1")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("plan 1: ")
    assert lines[-1] == "h1 is off: seen off by bmc"
    assert "plan 1: 2 done of 2 moves" in done.stderr
    run = Plans(the.engine).get(1)
    assert (run.kind, run.subject, run.asked_by, run.state) == ("power off", "h1", "somebody@localhost", RunState.DONE)
    assert switched == ["h1"]
    assert closed(the) == {"h1"}
    assert HostPowers(the.engine).last()["h1"].standing is Standing.ASLEEP
    assert [each.command[0] for each in the.do(lambda: Audit(the.engine).since(None))] == ["power off"]


def test_who_could_not_leave_is_told_and_the_host_stays_on(
    the: Scene, there: Ask, program: Program, switched: list[str]
) -> None:
    the.inventory.put_rules(Rules((Rule("pinned", RuleKind.MUST, ("db",), hosts=("h1",)),)))
    both(the, there, program, "power off h1 --cannot-go-live refuse")
    assert (closed(the), switched) == (set(), [])
    stays = there("power", "off", "h1", "--cannot-go-live", "stay")
    assert stays.returncode == 7
    assert stays.stderr.splitlines()[-1] == "! h1 is not empty, and stays on"
    assert (closed(the), switched) == (set(), [])


def test_ctrl_c_has_nothing_more_begun_and_the_host_stays_on(
    the: Scene, there: Ask, daemon: Passing, switched: list[str]
) -> None:
    pressed: list[str] = []

    def watch(request: httpx.Request, answer: httpx.Response) -> None:
        if "/orders/" in request.url.path and "1 begun" in answer.text and not pressed:
            pressed.append("once")
            raise KeyboardInterrupt

    the.twin.rate /= 64
    daemon.on_answer = watch
    done = there("power", "off", "h1", "--parallel", "1")
    assert pressed, done.stderr
    assert done.returncode == 7, done.stderr
    assert "beginning nothing more; ending when what is under way has ended" in done.stderr
    assert done.stderr.splitlines()[-1] == "! h1 is not empty, and stays on"
    assert (closed(the), switched) == (set(), [])
    assert Plans(the.engine).get(1).state is RunState.PAUSED


def test_a_daemon_that_ends_leaves_the_plan_to_the_next_one(
    the: Scene, there: Ask, daemon: Passing, switched: list[str]
) -> None:
    def end(request: httpx.Request, answer: httpx.Response) -> None:
        if "/orders/" in request.url.path and answer.json()["said"]:
            daemon.desk.under_way.wound_up()

    the.twin.rate /= 64
    daemon.on_answer = end
    done = there("power", "off", "h1")
    assert done.returncode == 5, done.stderr
    assert "this controller ends; plan 1 goes on with the next one" in done.stderr
    assert "mudanza power off h1" in done.stderr
    assert (closed(the), switched) == ({"h1"}, [])


def test_a_host_is_woken(the: Scene, there: Ask, monkeypatch: pytest.MonkeyPatch, switched: list[str]) -> None:
    monkeypatch.setattr(Switcher, "_wakers", lambda _self, _host: ())
    monkeypatch.setattr(Switcher, "_unfit", lambda _self, _host: ())

    def asleep() -> None:
        powers = HostPowers(the.engine)
        right = power_of_one(the.engine, "h1").take()
        powers.ended(powers.begin("h1", Wish.OFF, "ana", right, closed=False), "seen off", done=True)
        right.let_go()
        the.inventory.set_maintenance("h1", on=True)

    the.do(asleep)
    assert "asleep" in there("power", "show").stdout
    done = there("power", "on", "h1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("h1 is well: ")
    assert closed(the) == set()


# What hosts have kept.


def kept_there(the: Scene, name: str = "web") -> str:
    """Have the first host keep an old definition of a VM that runs on the second; return its UUID."""
    here, other = the.twin.hosts["h1"], the.twin.hosts["h2"]
    uuid = next(key for key, domain in here.domains.items() if domain.name == name)

    def restarted() -> None:
        line = the.twin.open("qemu+tls://h1/system")
        definition = line.lookupByUUIDString(uuid).XMLDesc()
        line.lookupByUUIDString(uuid).destroy()
        line.close()
        line = the.twin.open("qemu+tls://h2/system")
        line.defineXML(definition).create()
        line.close()

    the.do(restarted)
    assert uuid in other.domains
    return uuid


def test_old_definitions_are_taken_away_there(
    the: Scene, asked: Ask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = kept_there(the)
    monkeypatch.setattr(KeptUps, "started_elsewhere", lambda _self: ((uuid, "h1"),))
    both(the, asked, program, "ha clean h1")  # nobody can be asked
    assert uuid in the.twin.hosts["h1"].domains
    done = asked("ha", "clean", "h1", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "web runs on h2",
        "h1 has no definition of web any more; it runs on h2, and its disks were not touched",
    ]
    assert uuid not in the.twin.hosts["h1"].domains
    both(the, asked, program, "ha clean h1 --yes")  # nothing is left
    [told] = [each for each in the.do(lambda: Audit(the.engine).since(None)) if each.who.get("by") == "http"]
    assert (told.command[:2], told.exit_code) == (("ha clean", "h1"), 0)


def test_what_is_no_old_definition_is_not_touched(
    the: Scene, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = kept_there(the)
    monkeypatch.setattr(KeptUps, "started_elsewhere", lambda _self: ((uuid, "h1"),))
    db = next(key for key, domain in the.twin.hosts["h1"].domains.items() if domain.name == "db")
    found = client.post("/hosts/h1/clean", json={"vms": [db]}).json()
    assert found["kept"] == 1
    assert "nothing was touched" in found["said"][0]
    assert {uuid, db} <= set(the.twin.hosts["h1"].domains)


# By HTTP.

ORDERS: tuple[tuple[str, str, Any, Scope], ...] = (
    ("GET", "/hosts/h1/old-definitions", None, Scope.READ),
    ("POST", "/hosts/h1/clean", {}, Scope.FAILOVER),
    ("GET", "/cpus", None, Scope.READ),
    ("POST", "/cpus", {"vms": ["web"]}, Scope.MIGRATE),
    ("PATCH", "/hosts/h1/power", {"keep_on": True}, Scope.ADMIN),
    ("POST", "/hosts/h1/power/off", {}, Scope.FENCE),
    ("POST", "/hosts/h1/power/on", None, Scope.FENCE),
    ("POST", "/power/rounds", None, Scope.FENCE),
)


@pytest.mark.parametrize(("method", "path", "order", "scope"), ORDERS)
def test_only_those_may_who_may(the: Scene, tmp_path: Path, method: str, path: str, order: Any, scope: Scope) -> None:
    desk = desk_over(the, tmp_path)
    others = [each for each in Scope if each not in (scope, Scope.ADMIN)]
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1") as client:

        def status(name: str, scopes: Sequence[Scope], **limits: Any) -> int:
            headers = {"Authorization": f"Bearer {desk.tokens.make(name, scopes, 'ana', **limits)}"}
            return client.request(method, path, json=order, headers=headers).status_code

        if scope is not Scope.READ:
            assert status("others", others) == 403
        assert status("tagged", [scope], tags=["gold"]) == 403
        assert status("elsewhere", [scope], hosts=["h3"]) in (403, 404)
        assert the.do(lambda: Audit(the.engine).since(None)) == ()
        assert client.request(method, path, json=order).status_code == 401
        assert status("may", [scope]) not in (401, 403)


def test_a_token_for_certain_hosts_sees_their_power_alone(the: Scene, tmp_path: Path) -> None:
    desk = desk_over(the, tmp_path)
    headers = {"Authorization": f"Bearer {desk.tokens.make('t', [Scope.READ], 'ana', hosts=['h2'])}"}
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1", headers=headers) as client:
        assert [each["host"] for each in client.get("/power").json()] == ["h2"]


@pytest.mark.parametrize(
    ("method", "path", "order", "status"),
    [
        ("PATCH", "/hosts/h9/power", {"keep_on": True}, 404),
        ("PATCH", "/hosts/h1/power", {"mac": "52:54"}, 422),
        ("PATCH", "/hosts/h1/power", {"mac": 7}, 422),
        ("PATCH", "/hosts/h1/power", {"keep_on": None}, 422),
        ("PATCH", "/hosts/h1/power", {"watts": [9]}, 422),
        ("PATCH", "/hosts/h1/power", {"watts": [90, 80]}, 400),
        ("PATCH", "/hosts/h1/power", {"watts": ["<b>", 80]}, 422),
        ("PATCH", "/hosts/h1/power", {"colour": "red"}, 422),
        ("POST", "/hosts/h9/power/off", {}, 404),
        ("POST", "/hosts/h1/power/off", {"cannot_go_live": "ask"}, 422),
        ("POST", "/hosts/h1/power/off", {"pace": {"out": 0}}, 422),
        ("POST", "/hosts/h1/power/off", {"pace": {"windows": ["<script>"]}}, 400),
        ("POST", "/hosts/%3Cb%3E/power/off", {}, 404),
        ("POST", "/hosts/h9/power/on", None, 404),
        ("POST", "/hosts/h9/clean", {}, 404),
        ("POST", "/hosts/h1/clean", {"vms": "web"}, 422),
        ("POST", "/hosts/h1/clean", {"vms": [""]}, 422),
        ("POST", "/cpus", {"everyone": True, "undo": True}, 400),
        ("POST", "/cpus", {"everyone": True, "vms": ["web"]}, 400),
        ("POST", "/cpus", {"vms": "web"}, 422),
        ("POST", "/cpus", [], 422),
        ("GET", "/cpus?vm=nobody", None, 400),
    ],
)
def test_a_wrong_order_changes_nothing(
    the: Scene, client: httpx.Client, method: str, path: str, order: Any, status: int
) -> None:
    problem(client.request(method, path, json=order), status, {400: "usage", 404: "not-there", 422: "input"}[status])
    assert the.do(lambda: Audit(the.engine).since(None)) == ()
    assert HostPowers(the.engine).all() == {}
    assert the.jobs.latest(1) == ()


def test_the_same_order_twice_is_one(the: Scene, client: httpx.Client) -> None:
    key = {"Idempotency-Key": "tonight"}
    first, again = (client.post("/cpus", json={"vms": ["web"]}, headers=key) for _ in range(2))
    assert (first.status_code, again.json()["number"]) == (202, first.json()["number"])
    assert len(the.jobs.latest(9)) == 1
    problem(client.post("/cpus", json={"vms": ["db"]}, headers=key), 400, "usage")


def test_a_hosts_power_in_words() -> None:
    assert host_power.in_words(HostPower()) == "nobody knows its watts"
    known = HostPower(straight(95, 190), "52:54:00:aa:00:01", keep_on=True)
    assert host_power.in_words(known) == "95 W idle, 190 W busy; woken at 52:54:00:aa:00:01; never switched off"
