"""Groups brought up and VMs brought home live, by a daemon: followed, cancelled, and settled by whoever makes rounds.

Getting ready to go (rounds of replication) takes a login at hosts, which simulated ones have not: that part is played.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.journal.audit import Audit
from mudanza.journal.jobs import LEASE, LONGEST_CALL, NewJob
from mudanza.journal.protections import Protections
from mudanza.journal.protocol import QUEUED_MOVE
from mudanza.model.access import Scope
from mudanza.model.errors import MudanzaError
from mudanza.model.migration import MigrationOptions, Mode
from mudanza.model.protection import Protection, RestorePoint, Standing
from mudanza.operations import coming_home
from mudanza.operations.coming_home import Departure
from mudanza.operations.means import Means, Say
from mudanza.operations.replicating import Replicator
from mudanza.service.api import api_of
from tests.program import Program
from tests.test_service import problem
from tests.twin.asking import InProcess, Passing, answered_in, asking, desk_over
from tests.twin.conftest import Ask
from tests.twin.scene import Scene
from tests.twin.test_protection_there import protected


@pytest.fixture(autouse=True)
def swift(the: Scene) -> None:
    """Have memory and disks travel fast: what is tested is what is told of it."""
    the.twin.rate *= 8


@pytest.fixture
def client(the: Scene, tmp_path: Path) -> Iterator[httpx.Client]:
    with asking(the, tmp_path) as found:
        yield found


@pytest.fixture
def turned(the: Scene, monkeypatch: pytest.MonkeyPatch) -> Protections:
    """A VM that is protected the other way, and gets ready to go home in no time."""
    protected(the)
    store = Protections(the.engine)
    store.change(store.of("web").id, epoch=1)

    def set_out(
        means: Means, connections: Connections, mine: Protection, networks: Mapping[str, str], _by: str, say: Say
    ) -> Departure:
        at = means.read_cluster(connections).find(mine.vm_uuid)
        say(f"{at.name}: restore point 2, 7 B brought; it moves live upon that")
        Protections(means.database).change(mine.id, standing=Standing.GOING_HOME, epoch=mine.epoch + 1)
        return Departure(at, mine.target, MigrationOptions(mode=Mode.LIVE, keep_source=True, epoch=2))

    monkeypatch.setattr(coming_home, "_set_out", set_out)
    return store


def make_a_turn(the: Scene, daemon: Passing) -> list[str]:
    """Have what the daemon does about replicas be done once; return what was said."""
    said: list[str] = []
    failures: list[MudanzaError] = []
    assert daemon.desk.means is not None
    replicator = Replicator(daemon.desk.means, "ana", said.append, failures.append)
    the.do(lambda: replicator.turn(clock.new_event()))
    return [*said, *map(str, failures)]


@pytest.mark.parametrize("mode", ["auto", "live"])
def test_one_that_runs_goes_home_live_and_is_followed(
    the: Scene, there: Ask, daemon: Passing, turned: Protections, mode: str
) -> None:
    done = there("failback", "web", "--mode", mode)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "web: restore point 2, 7 B brought; it moves live upon that"
    assert lines[-2].startswith("web runs on h2 again, and did so all the while; it took ")
    assert lines[-1] == "  it is not protected until: mudanza reprotect web"
    [job] = the.jobs.latest(1)
    assert (job.kind, job.state, job.source, job.target) == ("live", "done", "h1", "h2")
    assert job.asked_by == "somebody@localhost"
    assert turned.of("web").standing is Standing.GOING_HOME
    assert make_a_turn(the, daemon) == ["web: runs on h2 again, under epoch 2"]
    assert turned.of("web").standing is Standing.FAILED_OVER
    assert make_a_turn(the, daemon) == []


def test_ctrl_c_asks_and_cancels_it(
    the: Scene, there: Ask, daemon: Passing, turned: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[clock.Event] = []

    @contextmanager
    def asks(event: clock.Event, _view: object) -> Iterator[None]:
        asked.append(event)
        yield

    def watch(request: httpx.Request, answer: httpx.Response) -> None:
        if request.url.path.endswith("/progress") and answer.json()["state"] == "transferring":
            asked[-1].set()

    monkeypatch.setattr("mudanza.cli.following.asking_at_ctrl_c", asks)
    the.twin.rate /= 64
    daemon.on_answer = watch
    done = there("failback", "web", "--mode", "live")
    assert done.returncode == 4, done.stderr
    assert "cancelled on request of somebody@localhost" in done.stderr
    monkeypatch.setattr("mudanza.protection.homecoming.where_it_went", lambda *_: Standing.ON)
    assert make_a_turn(the, daemon)[0] == "web: it did not go home"
    found = turned.of("web")
    assert (found.standing, found.epoch) == (Standing.ON, 1), "it is protected as before"


def test_one_that_is_about_to_go_is_not_taken_for_one_that_went(
    the: Scene, daemon: Passing, turned: Protections
) -> None:
    uuid = turned.of("web").vm_uuid
    turned.change(turned.of("web").id, standing=Standing.GOING_HOME, epoch=2)
    assert make_a_turn(the, daemon) == []
    asked = {"epoch": 2, "to": "h2"}
    number = the.do(lambda: the.jobs.put_down(NewJob(QUEUED_MOVE, uuid, "web", "h1", "h2", asked, "ana")))
    the.do(lambda: the.jobs.ask_to_cancel(number, "ana"))
    assert turned.of("web").standing is Standing.GOING_HOME


def test_where_it_cannot_be_put_into_the_queue_it_is_protected_as_before(
    the: Scene, asked: Ask, turned: Protections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mudanza.protection.homecoming.where_it_went", lambda *_: Standing.ON)
    real = coming_home._set_out

    def and_then_another_one_takes_it(means: Means, *words: Any) -> Departure:
        going = real(means, *words)
        handle = the.jobs.begin(NewJob("live", going.vm.uuid, "web", "h1", "h3", {}, "bo"))
        monkeypatch.setattr(type(means.jobs), "unfinished_of", lambda *_: None)
        assert handle
        return going

    monkeypatch.setattr(coming_home, "_set_out", and_then_another_one_takes_it)
    done = asked("failback", "web", "--mode", "live")
    assert done.returncode == 3, done.stderr
    found = turned.of("web")
    assert (found.standing, found.epoch) == (Standing.ON, 1)


def test_who_may_bring_it_home_may_cancel_that(the: Scene, tmp_path: Path) -> None:
    for epoch in (2, None):
        asked = {"epoch": epoch, "to": "h2"}
        name = f"vm{epoch}"
        new = NewJob(QUEUED_MOVE, f"u-{epoch}", name, "h1", "h2", asked, "ana")
        the.do(partial(the.jobs.put_down, new))
    desk = desk_over(the, tmp_path)
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1") as client:
        for scope, may in ((Scope.READ, [403, 403]), (Scope.FAILOVER, [202, 403]), (Scope.MIGRATE, [202, 202])):
            headers = {"Authorization": f"Bearer {desk.tokens.make(scope.value, [scope], 'ana')}"}
            assert [client.post(f"/jobs/{n}/cancel", headers=headers).status_code for n in (1, 2)] == may


# Groups.


def group(the: Scene) -> Protections:
    """Have two VMs be protected in a group, with restore points of one instant."""
    store = Protections(the.engine)
    for uuid, domain in the.twin.hosts["h1"].domains.items():
        values: dict[str, Any] = {"vm_uuid": uuid, "vm_name": domain.name, "target": "h2", "directory": "/r"}
        rest = {"every": 60.0, "keep": 5, "scratch": 1, "autostart": False, "made_by": "ana", "group": "shop"}
        made = store.make({**values, **rest})
        store.add_point(made.id, RestorePoint(1, 0.0, {}, "<domain/>", 7, "i-1"), "")
    return store


@pytest.mark.parametrize(
    "words",
    [
        "failover group none",
        "failover group none --source-is-dead",
        "failover group shop --source-is-dead --map-network x",
        "failover group shop --source-is-dead",
        "failback web",
        "failback web --mode live",
        "failback web --mode cold",
        "failback nobody --mode live",
    ],
)
def test_both_ways_say_the_same(the: Scene, asked: Ask, program: Program, words: str) -> None:
    group(the)
    here = the.do(partial(program, *words.split()))
    assert asked(*words.split()) == here, words
    assert here.returncode in (2, 3)
    assert here.stderr


class Started:
    """What brings VMs up, in name only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, on_start: Callable[[str], None] = lambda _: None) -> None:
        self.names: list[str] = []

        def from_point(_self: Any, member: Any, _cluster: Any, point: int, _nics: Any, _by: str) -> Any:
            from mudanza.protection.failover import Outcome

            clock.sleep(30.0)
            self.names.append(member.vm_name)
            on_start(member.vm_name)
            drives = "its drive hdc is empty" if member.vm_name == "web" else ""
            return Outcome(member.vm_name, "h2", point, 70.0, 1.0, drives)

        monkeypatch.setattr("mudanza.protection.failover.Failover.from_point", from_point)


def test_a_group_comes_up_and_each_is_told_of_as_it_does(
    the: Scene, there: Ask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, started = group(the), Started(monkeypatch)
    words = ("failover", "group", "shop", "--source-is-dead")
    done = there(*words)
    assert (done.returncode, started.names) == (0, ["db", "web"]), done.stderr
    up = "".join(f"{name} runs on h2 from restore point 1, 1 min 10 s old\n" for name in ("db", "web"))
    assert done.stderr == f"{up}! web: its drive hdc is empty\n"
    assert the.do(partial(program, *words)) == done
    store.change(store.of("db").id, standing=Standing.FAILED_OVER)
    assert there(*words).stderr.splitlines()[0] == "db is failed over already"
    [asked] = [each for each in the.do(lambda: Audit(the.engine).since(None)) if each.who.get("by") == "http"][:1]
    assert asked.command[:2] == ("failover group", "shop")


def test_a_group_whose_controller_died_over_one_of_it_is_gone_on_with_once_that_is_known(
    the: Scene, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is to be there was written down; it was not started."""
    store, started = group(the), Started(monkeypatch)
    words, db = ("failover", "group", "shop", "--source-is-dead"), store.of("db")
    asked = {"protection": db.id, "point": 1}
    store.change(db.id, standing=Standing.FAILED_OVER, epoch=1)
    left = the.do(lambda: the.jobs.begin(NewJob("failover", db.vm_uuid, "db", "", "h2", asked, "ana")))
    lives = the.do(partial(program, *words))
    assert (lives.returncode, started.names) == (3, []), lives.stderr
    assert f"has an unfinished failover to h2: job {left.id}" in lives.stderr
    the.twin.scheduler.advance(seconds=LEASE + LONGEST_CALL)
    done = the.do(partial(program, *words))
    assert (done.returncode, started.names) == (0, ["db", "web"]), done.stderr
    assert f"db: job {left.id} was left behind: VM 'db' was not started at h2" in done.stderr
    assert the.jobs.get(left.id).exit_code == 4


def test_one_of_a_group_that_has_come_up_before_and_is_off_is_told_of(
    the: Scene, there: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, started = group(the), Started(monkeypatch)
    db, h1 = store.of("db"), the.twin.hosts["h1"]
    store.change(db.id, standing=Standing.FAILED_OVER)
    h1.qemu_died(h1.domains[db.vm_uuid])
    done = there("failover", "group", "shop", "--source-is-dead")
    assert (done.returncode, started.names) == (3, ["web"]), "the others are brought up"
    assert "came up before, and not seen to run: db at h2" in done.stderr


def test_ctrl_c_starts_no_more_of_a_group(
    the: Scene, there: Ask, daemon: Passing, monkeypatch: pytest.MonkeyPatch
) -> None:
    group(the)
    started, pressed = Started(monkeypatch), list[str]()

    def watch(request: httpx.Request, _answer: httpx.Response) -> None:
        if not pressed and request.method == "GET":
            pressed.append("once")
            raise KeyboardInterrupt

    daemon.on_answer = watch
    done = there("failover", "group", "shop", "--source-is-dead")
    assert done.returncode == 4, done.stderr
    assert started.names == ["db"]
    assert "somebody@localhost wanted it stopped: web and those after it were not started" in done.stderr
    assert "go on: mudanza failover group shop --source-is-dead" in done.stderr


@pytest.mark.parametrize(
    ("scopes", "limits", "status"),
    [
        ((Scope.READ,), {}, 403),
        ((Scope.MIGRATE, Scope.PLAN, Scope.FENCE), {}, 403),
        ((Scope.FAILOVER,), {"hosts": ["h1"]}, 404),
        ((Scope.FAILOVER,), {"tags": ["gold"]}, 404),
    ],
)
def test_no_group_is_brought_up_by_those_who_may_not(
    the: Scene, tmp_path: Path, scopes: tuple[Scope, ...], limits: dict[str, Any], status: int
) -> None:
    group(the)
    desk = desk_over(the, tmp_path)
    headers = {"Authorization": f"Bearer {desk.tokens.make('t', scopes, 'ana', **limits)}"}
    transport = InProcess(api_of(desk), local=False)
    with answered_in(the), httpx.Client(transport=transport, base_url="http://d/api/v1", headers=headers) as client:
        assert client.post("/groups/shop/failover", json={"source_is_dead": True}).status_code == status
    assert the.do(lambda: Audit(the.engine).since(None)) == ()


@pytest.mark.parametrize(
    ("path", "order", "status"),
    [
        ("/groups/shop/failover", {}, 400),
        ("/groups/shop/failover", {"source_is_dead": "perhaps"}, 422),
        ("/groups/shop/failover", {"source_is_dead": True, "planned": True}, 422),
        ("/groups/shop/failover", {"source_is_dead": True, "networks": ["a"]}, 422),
        ("/groups/none/failover", {"source_is_dead": True}, 404),
        ("/groups/%3Cb%3E/failover", {"source_is_dead": True}, 404),
        ("/vms/web/failback", {"mode": "warm"}, 422),
        ("/vms/web/failback", {"mode": 7}, 422),
        ("/vms/nobody/failback", {"mode": "live"}, 404),
    ],
)
def test_a_wrong_order_begins_nothing(the: Scene, client: httpx.Client, path: str, order: Any, status: int) -> None:
    group(the)
    problem(client.post(path, json=order), status, {400: "usage", 404: "not-there", 422: "input"}[status])
    assert the.do(lambda: Audit(the.engine).since(None)) == ()
    assert the.jobs.latest(1) == ()
