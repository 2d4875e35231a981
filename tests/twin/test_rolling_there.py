"""Maintenance that rolls over hosts, by a daemon: told as when it is done here, stopped, left and gone on with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from mudanza import clock
from mudanza.cli.carrying import CarriedHere
from mudanza.cli.context import App
from mudanza.cli.output import Format
from mudanza.hypervisor.host_command import HostCommand
from mudanza.hypervisor.twin.threads import Controller
from mudanza.journal.audit import Audit
from mudanza.journal.rollings import Rollings
from mudanza.model.access import Scope
from mudanza.model.rolling import Order, RollingState, Stage
from mudanza.model.rules import Rule, RuleKind, Rules
from mudanza.operations.rolling import Roller
from mudanza.service.api import api_of
from mudanza.service.rolling_left import MOST_TRIES, LeftRollings
from tests.program import Done, Program
from tests.test_service import problem
from tests.twin.asking import InProcess, Passing, answered_in, asking, desk_over
from tests.twin.conftest import Ask
from tests.twin.scene import Scene
from tests.twin.test_rolling import Machines, TwinCommand

COMMAND = ("rolling", "--command", "upgrade", "--hosts", "h1,h2")


@pytest.fixture(autouse=True)
def machines(the: Scene, monkeypatch: pytest.MonkeyPatch) -> Machines:
    """What goes on at the hosts besides libvirt, for both ways; memory and disks travel fast."""
    the.twin.rate *= 8
    made = Machines(the.twin.hosts)
    command = type("Command", (TwinCommand,), {"machines": made})
    monkeypatch.setattr("mudanza.service.rolling.HostCommand", command)
    return made


@pytest.fixture
def client(the: Scene, tmp_path: Path) -> Iterator[httpx.Client]:
    with asking(the, tmp_path) as found:
        yield found


def closed(the: Scene) -> set[str]:
    return {entry.name for entry in the.inventory.hosts() if entry.maintenance}


def homes(the: Scene) -> dict[str, list[str]]:
    the.twin.catch_up()
    domains = {domain.name: uuid for host in the.twin.hosts.values() for uuid, domain in host.domains.items()}
    return {name: the.twin.oracle.runs_on(uuid) for name, uuid in domains.items()}


HOME = {"web": ["h1"], "db": ["h1"], "off": []}


@pytest.mark.parametrize(
    "words",
    [
        "rolling show",
        "rolling show -o json",
        "rolling show 7",
        "rolling --resume 7",
        "rolling stop 7",
        "rolling give-up 7",
        "rolling",
        "rolling --command a --script b",
        "rolling --script /nowhere",
        "rolling --command a --cannot-go-live ask",
    ],
)
def test_both_ways_say_the_same(the: Scene, asked: Ask, program: Program, words: str) -> None:
    here = the.do(partial(program, *words.split()))
    assert asked(*words.split()) == here, words
    assert here.stdout or here.stderr


def test_what_cannot_be_logged_in_to_is_said_both_ways(
    the: Scene, asked: Ask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mudanza.service.rolling.HostCommand", HostCommand)
    for words in (COMMAND, (*COMMAND, "--dry-run")):
        here = the.do(partial(program, *words))
        assert asked(*words) == here
        assert here.returncode == 3


def test_each_host_has_its_turn_and_all_is_told_on_the_way(the: Scene, there: Ask, machines: Machines) -> None:
    done = there(*COMMAND)
    assert done.returncode == 0, done.stderr
    assert machines.ran == ["h1", "h2"]
    assert (homes(the), closed(the)) == (HOME, set())
    told = iter(done.stderr.splitlines())
    for words in (
        "rolling maintenance 1: upgrade, on h1, h2",
        "h1 (1 of 2) waits",
        "h1 (1 of 2) is being emptied",
        "host h1 is in maintenance: it takes no newcomers",
        "plan 1: ",
        "plan 1: 2 done of 2 moves",
        "h1 (1 of 2) runs the command",
        "h1 | it is being upgraded",
        "h1: the command is done",
        "h1 (1 of 2) is to be well again",
        "h1 (1 of 2) gets its VMs back",
        "host h1 is open again",
        "plan 2: 2 done of 2 moves",
        "h2 (2 of 2) waits",
        "h2: the command is done",
        "rolling maintenance 1 is done: 2 hosts are done",
    ):
        assert any(line.startswith(words) for line in told), words
    found = Rollings(the.engine).get(1)
    assert (found.state, found.asked_by) == (RollingState.DONE, "somebody@localhost")
    [asked] = the.do(lambda: Audit(the.engine).since(None))
    assert (asked.command[0], asked.exit_code) == ("rolling", 0)


def test_what_there_was_is_shown_the_same_way(the: Scene, there: Ask, program: Program, machines: Machines) -> None:
    machines.code["h1"] = 9
    stopped = there(*COMMAND)
    assert stopped.returncode == 4
    lines = stopped.stderr.splitlines()
    assert lines[-3] == "rolling maintenance 1 is stopped: h1: the command ended with exit code 9"
    assert lines[-1] == "  mudanza rolling --resume 1; or without the command there: add --skip-command"
    for words in ("rolling show", "rolling show -o json", "rolling show 1", "rolling show 1 -o yaml"):
        here, told = the.do(partial(program, *words.split())), there(*words.split())
        assert [timeless(line) for line in told.stdout.splitlines()] == list(map(timeless, here.stdout.splitlines()))
        assert "upgrade" in here.stdout
    resumed = there("rolling", "--resume", "1", "--skip-command", "-o", "json")
    assert resumed.returncode == 0, resumed.stderr
    events = [json.loads(line) for line in resumed.stdout.splitlines()]
    assert (events[-1]["event"], events[-1]["state"], events[-1]["exit_code"]) == ("rolling ended", "done", 0)
    assert machines.ran == ["h1", "h2"]
    assert homes(the) == HOME


def timeless(line: str) -> str:
    """Return a line without what it says of how long ago something was."""
    return re.sub(r"(for_seconds\W+)[\d.]+", r"\1", line)


def test_what_would_be_done_is_told_and_nothing_is_touched(the: Scene, there: Ask, machines: Machines) -> None:
    done = there(*COMMAND, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[2:]] == [["h1", "1"], ["h1", "1"], ["h2", "2"]]
    assert "then on each: upgrade" in done.stderr
    plans = json.loads(there(*COMMAND, "--dry-run", "-o", "json").stdout)
    assert [len(each["plan"]["moves"]) for each in plans] == [2, 0]
    assert (machines.ran, Rollings(the.engine).latest(1), closed(the)) == ([], (), set())


def test_nothing_is_begun_where_a_host_could_not_be_emptied(the: Scene, there: Ask, machines: Machines) -> None:
    the.inventory.put_rules(Rules((Rule("pinned", RuleKind.MUST, ("db",), hosts=("h1",)),)))
    done, dry = there(*COMMAND), there(*COMMAND, "--dry-run")
    assert (done.returncode, dry.returncode) == (3, 3)
    assert "not begun: h1: " in done.stderr
    assert done.stderr.splitlines()[-1] == dry.stderr.splitlines()[-1]
    assert (machines.ran, Rollings(the.engine).latest(1), closed(the)) == ([], (), set())


def pressed(daemon: Passing, when: str, act: Callable[[], None]) -> list[str]:
    """Have something happen once that was said while an order is followed; return whether it did."""
    seen: list[str] = []

    def watch(request: httpx.Request, answer: httpx.Response) -> None:
        if "/orders/" in request.url.path and request.method == "GET" and when in answer.text and not seen:
            seen.append(when)
            act()

    daemon.on_answer = watch
    return seen


def interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_stops_it_and_the_command_goes_on(the: Scene, there: Ask, daemon: Passing, machines: Machines) -> None:
    seen = pressed(daemon, "h1 | it is being upgraded", interrupt)
    done = there(*COMMAND)
    assert seen
    assert done.returncode == 4, done.stderr
    assert "beginning nothing more; ending when what is under way has ended" in done.stderr
    assert "is stopped: h1: somebody@localhost wanted it stopped; its command goes on there" in done.stderr
    assert machines.ran == ["h1"]
    again = there("rolling", "--resume", "1")
    assert again.returncode == 0, again.stderr
    assert (machines.ran, homes(the), closed(the)) == (["h1", "h2"], HOME, set())


def test_ctrl_c_pauses_the_plan_that_is_under_way(the: Scene, there: Ask, daemon: Passing, machines: Machines) -> None:
    seen = pressed(daemon, "1 begun", interrupt)
    the.twin.rate /= 64
    done = there(*COMMAND, "--parallel", "1")
    assert seen
    assert done.returncode == 4, done.stderr
    assert "is stopped: h1: plan 1 is paused" in done.stderr
    assert there("rolling", "--resume", "1").returncode == 0
    assert (machines.ran, homes(the)) == (["h1", "h2"], HOME)


def test_ctrl_c_leaves_a_plan_that_nobody_has_taken(
    the: Scene, asked: Ask, idle: Passing, program: Program, machines: Machines
) -> None:
    seen = pressed(idle, "2 waiting", interrupt)
    done = asked(*COMMAND)
    assert seen
    assert done.returncode == 4, done.stderr
    assert "is stopped: h1: plan 1 is paused" in done.stderr
    assert machines.ran == []


def test_it_is_stopped_from_elsewhere(the: Scene, there: Ask, daemon: Passing) -> None:
    stopped: list[Any] = []

    def stop() -> None:
        stopped.append(httpx.Client(transport=daemon, base_url="http://d/api/v1").post("/rolling/1/stop").json())

    seen = pressed(daemon, "h1 (1 of 2) runs the command", stop)
    done = there(*COMMAND)
    assert seen
    [told] = stopped
    assert told["said"] == ["rolling maintenance 1 stops after what is under way; go on: mudanza rolling --resume 1"]
    assert done.returncode == 4
    assert "h1: the command is done" in done.stderr, "that is waited for"
    assert there("rolling", "stop", "1").returncode == 2, "it does not run"
    assert there("rolling", "give-up", "1").stderr.startswith("rolling maintenance 1 is given up, 0 of 2 hosts are")
    assert there("rolling", "--resume", "1").returncode == 2


def happened(done: Done) -> dict[str, Any]:
    """Return what programs were told, without what depends on when they were."""
    events = [json.loads(line) for line in done.stdout.splitlines()]

    def of(kind: str, *names: str) -> list[tuple[Any, ...]]:
        return [tuple(each[name] for name in names) for each in events if each["event"] == kind]

    return {
        "kinds": {each["event"] for each in events},
        "stages": of("rolling", "host", "n", "stage", "of"),
        "reports": sorted(of("report", "vm")),
        "begun": sorted(of("start", "vm")),
        "over": sorted(of("end", "vm")),
        "plans": len(set(of("plan", "plan"))),
        "end": of("rolling ended", "state", "outcome", "exit_code"),
    }


def test_programs_are_told_the_same_as_without_a_daemon(
    the: Scene, there: Ask, program: Program, machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*COMMAND, "-o", "json")
    through = there(*words)
    assert through.returncode == 0, through.stderr
    monkeypatch.setattr(HostCommand, "machines", machines, raising=False)
    for name in ("is_here", "prepare", "begin", "look", "stop", "forget"):
        monkeypatch.setattr(HostCommand, name, vars(TwinCommand)[name])
    here = the.do(partial(program, *words))
    assert here.returncode == 0, here.stderr
    assert happened(through) == happened(here)
    assert happened(here)["kinds"] == {"rolling", "plan", "start", "progress", "end", "report", "rolling ended"}
    assert len(happened(here)["reports"]) == 4, "two leave, and come back"


# Daemons that end, or die, and those that go on.


class Keeper:
    """A daemon's duty to go on with what was left, in the simulation."""

    def __init__(self, the: Scene, daemon: Passing) -> None:
        self.said: list[str] = []
        left = LeftRollings(daemon.desk, self.said.append)
        the.twin.scheduler.start(lambda: left.watch(clock.new_event()), "keeper", Controller("keeper"))


@pytest.mark.parametrize("when", ["begun", "h1 (1 of 2) runs the command", "h1 (1 of 2) gets its VMs back"])
def test_the_next_daemon_goes_on_by_itself_and_whoever_follows_hears_of_it(
    the: Scene, there: Ask, daemon: Passing, machines: Machines, when: str
) -> None:
    under_way, seen = daemon.desk.under_way, list[str]()

    def watch(request: httpx.Request, answer: httpx.Response) -> None:
        if "/orders/" not in request.url.path or request.method != "GET":
            return
        if when in answer.text and not seen:
            seen.append(when)
            under_way.wound_up()
        elif seen and answer.json()["state"] == "left":
            under_way._takes_more = True  # the next one

    daemon.on_answer = watch
    keeper = Keeper(the, daemon)
    done = there(*COMMAND, "-o", "json")
    assert done.returncode == 0, done.stderr
    assert "this controller ends: rolling maintenance 1 is left at h1" in done.stderr
    assert "rolling maintenance 1 is gone on with here" in done.stderr
    assert "rolling maintenance 1 is done: 2 hosts are done" in done.stderr
    assert happened(done)["end"] == [("done", "2 hosts are done", 0)]
    assert machines.ran == ["h1", "h2"], "no command is run a second time by itself"
    assert (homes(the), closed(the)) == (HOME, set())
    assert keeper.said == ["rolling maintenance 1 was left, and is gone on with here: order 1"]
    [asked] = the.do(lambda: Audit(the.engine).since(None))
    assert (asked.command[0], asked.exit_code) == ("rolling", 0)


def test_ctrl_c_stops_it_also_at_the_next_daemon(the: Scene, there: Ask, daemon: Passing, machines: Machines) -> None:
    under_way = daemon.desk.under_way
    steps: list[str] = []

    def watch(request: httpx.Request, answer: httpx.Response) -> None:
        if "/orders/1" not in request.url.path or request.method != "GET":
            return
        state = answer.json()["state"]
        if not steps and "h1 | it is being upgraded" in answer.text:
            steps.append("killed")
            under_way._known.clear()
            under_way.wound_up()
        elif steps == ["killed"] and state == "left":
            steps.append("anew")
            under_way._takes_more = True
        elif steps == ["killed", "anew"] and "is gone on with here" in answer.text:
            steps.append("heard")
        elif steps == ["killed", "anew", "heard"]:
            steps.append("pressed")
            raise KeyboardInterrupt

    daemon.on_answer = watch
    Keeper(the, daemon)
    done = there(*COMMAND)
    assert steps == ["killed", "anew", "heard", "pressed"]
    assert done.returncode == 4, done.stderr
    assert "somebody@localhost wanted it stopped" in done.stderr
    assert machines.ran == ["h1"]


def test_where_no_daemon_follows_it_is_said_how_it_is_gone_on_with(
    the: Scene, there: Ask, daemon: Passing, program: Program, machines: Machines
) -> None:
    def end() -> None:
        daemon.desk.under_way.wound_up()

    seen = pressed(daemon, "h1 (1 of 2) runs the command", end)
    done = there(*COMMAND)
    assert seen
    assert done.returncode == 5, done.stderr
    assert "rolling maintenance 1 is left at h1" in done.stderr
    assert "go on: mudanza rolling --resume ID" in done.stderr
    assert Rollings(the.engine).get(1).state is RollingState.RUNNING
    here = the.do(partial(program, "rolling", "show"))
    assert "running, abandoned" in here.stdout
    assert there("rolling", "show") == here
    daemon.desk.under_way._takes_more = True  # the next one
    again = there("rolling", "--resume", "1")
    assert again.returncode == 0, again.stderr
    assert machines.ran == ["h1", "h2"], "no command is run a second time by itself"
    assert (homes(the), closed(the)) == (HOME, set())


@pytest.fixture
def left(the: Scene, daemon: Passing, machines: Machines, tmp_path: Path) -> Rollings:
    """One that was begun without a daemon, and whose controller was killed while the command ran at h1."""
    settings, controller = tmp_path / "ana.toml", Controller("ana")
    settings.write_text(f"database = {the.database!r}\n")
    command = type("Command", (TwinCommand,), {"machines": machines})

    def work() -> None:
        app = App(settings, debug=False)
        roller = Roller(app, CarriedHere(app, Format.TABLE), "ana", lambda _: None, command=command)
        roller.begin(Order(("h1", "h2"), "upgrade", "upgrade"))

    the.twin.scheduler.start(work, "ana", controller)
    rollings = Rollings(the.engine)
    until(daemon, lambda: machines.ran == ["h1"])
    the.twin.kill(controller)
    return rollings


def until(daemon: Passing, holds: Callable[[], bool], seconds: float = 900.0) -> None:
    """Let time pass until something holds."""
    for _ in range(int(seconds)):
        if holds():
            return
        daemon.let_pass(1.0)
    raise AssertionError("it does not come to that")


def test_one_that_was_begun_without_a_daemon_is_gone_on_with_once_its_controller_is_gone(
    the: Scene, daemon: Passing, left: Rollings, machines: Machines
) -> None:
    Keeper(the, daemon)
    until(daemon, lambda: left.get(1).state is RollingState.DONE)
    assert machines.ran == ["h1", "h2"], "no command is run a second time by itself"
    assert (homes(the), closed(the)) == (HOME, set())
    [asked] = the.do(lambda: Audit(the.engine).since(None))
    assert (asked.who, asked.command) == ({"user": "ana", "by": "daemon"}, ("rolling resume", "1"))
    assert left.get(1).ordered == asked.n


def test_who_wants_one_stopped_that_was_left_has_it_stopped(the: Scene, daemon: Passing, left: Rollings) -> None:
    the.do(lambda: left.wish_stopped(1, "bo"))
    Keeper(the, daemon)
    until(daemon, lambda: left.get(1).state is RollingState.STOPPED)
    assert left.get(1).outcome == "h1: bo wanted it stopped"


def test_one_that_has_stopped_waits_for_somebody(the: Scene, there: Ask, daemon: Passing, machines: Machines) -> None:
    machines.code["h1"] = 9
    assert there(*COMMAND).returncode == 4
    keeper = Keeper(the, daemon)
    daemon.let_pass(300.0)
    assert (keeper.said, machines.ran) == ([], ["h1"])


def test_what_nobody_has_foreseen_is_not_tried_for_ever(
    the: Scene, daemon: Passing, left: Rollings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Roller, "take_up", lambda *_: 1 / 0)
    keeper = Keeper(the, daemon)
    daemon.let_pass(300.0)
    assert len(keeper.said) == MOST_TRIES
    assert left.get(1).state is RollingState.RUNNING


def test_a_daemon_that_dies_says_how_it_is_gone_on_with(
    the: Scene, there: Ask, daemon: Passing, machines: Machines
) -> None:
    machines.never_ends = True

    def forget() -> None:
        daemon.desk.under_way._known.clear()

    assert pressed(daemon, "h1 (1 of 2) runs the command", forget) == []
    done = there(*COMMAND)
    assert done.returncode == 5, done.stderr
    assert "the daemon that carried out order 1 is gone: rolling" in done.stderr
    assert "see what became of it: mudanza rolling show; go on: mudanza rolling --resume ID" in done.stderr


def test_what_was_stopped_before_it_began_is_not_begun(
    the: Scene, there: Ask, daemon: Passing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*_: Any) -> tuple[()]:
        clock.sleep(60.0)
        return ()

    monkeypatch.setattr("mudanza.operations.outings.outings", slowly)
    pressed(daemon, "running", interrupt)
    done = there(*COMMAND)
    assert done.returncode == 3, done.stderr
    assert "wanted it stopped; nothing was begun" in done.stderr
    assert Rollings(the.engine).latest(1) == ()


# By HTTP.

ORDERS: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/rolling", None),
    ("GET", "/rolling/1", None),
    ("POST", "/rolling", {"text": "id"}),
    ("POST", "/rolling/outings", {"text": "id"}),
    ("POST", "/rolling/1/resume", {}),
    ("POST", "/rolling/1/stop", None),
    ("POST", "/rolling/1/give-up", None),
)


@pytest.mark.parametrize(("method", "path", "order"), ORDERS)
def test_it_is_for_admins_of_everything_alone(
    the: Scene, tmp_path: Path, machines: Machines, method: str, path: str, order: Any
) -> None:
    desk = desk_over(the, tmp_path)
    others = [each for each in Scope if each is not Scope.ADMIN]
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1") as client:

        def status(name: str, scopes: Sequence[Scope], **limits: Any) -> int:
            headers = {"Authorization": f"Bearer {desk.tokens.make(name, scopes, 'ana', **limits)}"}
            return client.request(method, path, json=order, headers=headers).status_code

        assert status("others", others) == 403
        assert status("east", [Scope.ADMIN], hosts=["h1", "h2", "h3"]) == 403
        assert status("gold", [Scope.ADMIN], tags=["gold"]) == 403
        assert client.request(method, path, json=order).status_code == 401
    assert the.do(lambda: Audit(the.engine).since(None)) == ()
    assert machines.ran == []


@pytest.mark.parametrize(
    ("path", "order", "status"),
    [
        ("/rolling", {}, 422),
        ("/rolling", {"text": ""}, 422),
        ("/rolling", {"text": " \n"}, 422),
        ("/rolling", {"text": "a\0b"}, 422),
        ("/rolling", {"text": "x" * 49 * 1024}, 422),
        ("/rolling", {"text": "x" * 70 * 1024}, 413),
        ("/rolling", {"text": "id", "hosts": ["h9"]}, 400),
        ("/rolling", {"text": "id", "hosts": ["h1", "h1"]}, 400),
        ("/rolling", {"text": "id", "hosts": "h1"}, 422),
        ("/rolling", {"text": "id", "hosts": ["<b>"]}, 400),
        ("/rolling", {"text": "id", "reboot": True, "cannot_go_live": "stay"}, 400),
        ("/rolling", {"text": "id", "cannot_go_live": "ask"}, 422),
        ("/rolling", {"text": "id", "limit": 0}, 422),
        ("/rolling", {"text": "id", "parallel": 65}, 422),
        ("/rolling", {"text": "id", "user": "root"}, 422),
        ("/rolling/outings", {"text": "id", "hosts": ["h9"]}, 400),
        ("/rolling/7/resume", {}, 404),
        ("/rolling/0/resume", {}, 422),
        ("/rolling/7/resume", {"skip_command": "perhaps"}, 422),
        ("/rolling/7/stop", None, 404),
        ("/rolling/7/give-up", None, 404),
        ("/orders/7/stop", None, 404),
    ],
)
def test_a_wrong_order_begins_nothing(
    the: Scene, client: httpx.Client, machines: Machines, path: str, order: Any, status: int
) -> None:
    answer = client.post(path, json=order)
    kinds = {400: "usage", 404: "not-there", 413: "too-large", 422: "input"}
    problem(answer, status, kinds[status])
    assert (machines.ran, Rollings(the.engine).latest(1), closed(the)) == ([], (), set())


def test_the_same_order_twice_is_one(the: Scene, client: httpx.Client) -> None:
    key = {"Idempotency-Key": "tonight"}
    first, again = (client.post("/rolling", json={"text": "id"}, headers=key) for _ in range(2))
    assert (first.status_code, again.json()["number"]) == (202, first.json()["number"])
    assert first.headers["location"] == f"/api/v1/orders/{first.json()['number']}"
    the.twin.scheduler.advance(seconds=60.0)
    assert len(Rollings(the.engine).latest(9)) == 1
    other = client.post("/rolling", json={"text": "id; reboot"}, headers=key)
    problem(other, 400, "usage")


def test_an_order_that_is_brought_to_its_end_anyway_is_not_stopped(the: Scene, client: httpx.Client) -> None:
    ended = client.post("/cpus", json={"vms": ["web"]}).json()
    assert ended["may_stop"] is False
    problem(client.post(f"/orders/{ended['number']}/stop"), 409, "blocked")


def test_the_audit_does_not_keep_what_a_script_says(the: Scene, client: httpx.Client) -> None:
    client.post("/rolling", json={"text": "#!/bin/sh\nexport TOKEN=hush\n", "hosts": ["h3"]})
    [asked] = the.do(lambda: Audit(the.engine).since(None))
    assert "hush" not in " ".join(asked.command)
    assert "#!/bin/sh (sha256 " in asked.command[1]


def test_one_that_is_left_is_told_of_by_its_stage(the: Scene, client: httpx.Client) -> None:
    client.post("/rolling", json={"text": "id", "hosts": ["h3"]})
    told = client.get("/rolling").json()
    assert told["held"] is True
    assert told["found"][0]["laps"][0]["stage"] in {stage.value for stage in Stage}
