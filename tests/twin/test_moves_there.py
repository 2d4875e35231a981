"""Moves that a daemon carries out because a command has asked for them: told and ended as when they are done here."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import httpx
import pytest

from mudanza import clock
from mudanza.cli.migrate import migrate
from mudanza.cli.watching import report_text
from mudanza.journal.jobs import NEEDS_PERSON, NewJob
from mudanza.model.errors import NeedsPersonError
from mudanza.model.migration import NOT_ASKED_FOR, MigrationOptions, MigrationReport
from mudanza.service.orders import MoveOrder
from tests.program import Program
from tests.twin.asking import Passing
from tests.twin.conftest import Ask
from tests.twin.scene import Scene

NEW = NewJob("live", "u-1", "ghost", "h1", "h2", {}, "ana@laptop")


@pytest.fixture(autouse=True)
def swift(the: Scene) -> None:
    """Have memory and disks travel fast: what is tested is what is told of it."""
    the.twin.rate *= 8


def events_of(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def places(the: Scene, program: Program) -> dict[str, str]:
    found = json.loads(the.do(lambda: program("vms", "-o", "json")).stdout)
    return {vm["name"]: f"{vm['host']} {vm['state']}" for vm in found}


# What can be asked for.


def test_all_that_is_asked_of_a_move_can_be_asked_of_a_daemon() -> None:
    known = {each.name for each in fields(MigrationOptions)} - NOT_ASKED_FOR
    assert set(MoveOrder.model_fields) - {"to"} == known
    named = {"image_format": "format"}
    of_command = {named.get(each, each) for each in inspect.signature(migrate).parameters}
    assert of_command - {"context", "vms", "to", "tag", "parallel", "detach", "output"} == known


def test_all_of_it_gets_there(the: Scene, there: Ask, daemon: Passing) -> None:
    bodies = recorded(daemon, "/moves")
    words = (
        "--max-downtime 0.2s --bandwidth 50MiB/s --streams 2 --deadline 1h --policy gentle --post-copy never "
        "--map-storage images=other --map-network a=b --keep-source --tls off --mode live --verify sample --chain keep "
        "--media eject --format raw --force-off --shutdown-limit 90s --take-claim --probe tcp:web:22 "
        "--guest-clock leave --no-hooks"
    )
    assert there("migrate", "web", "--to", "h2", "--detach", *words.split()).returncode == 0
    assert set(bodies[0]) == set(MoveOrder.model_fields)
    asked = the.jobs.get(1).asked
    assert asked["take_claim"] is True
    assert asked["named"] == ["deadline", "max_downtime", "policy", "post_copy"]
    assert MoveOrder(**bodies[0]).options().shutdown_limit == asked["shutdown_limit"] == 90.0


def recorded(daemon: Passing, end: str) -> list[Mapping[str, Any]]:
    """Return a list that gets what is sent to paths that end so."""
    bodies: list[Mapping[str, Any]] = []

    def record(request: httpx.Request, _answer: httpx.Response) -> None:
        if request.url.path.endswith(end):
            bodies.append(json.loads(request.content))

    daemon.on_answer = record
    return bodies


def test_what_is_not_said_is_as_the_daemon_has_it(the: Scene, there: Ask, daemon: Passing) -> None:
    bodies = recorded(daemon, "/moves")
    there("migrate", "web", "--to", "h2", "--detach")
    assert not {"shutdown_limit", "guest_clock", "max_downtime", "deadline", "policy", "post_copy"} & set(bodies[0])


@pytest.mark.parametrize(
    "words",
    [
        "migrate web --to h9",
        "migrate nobody --to h2",
        "migrate web db --to h2 --probe ping:web",
        "migrate web --to h2 --probe tcp:web:22 --mode cold",
        "migrate --to h2",
        "migrate web --to h9 --detach",
        "forecast nobody --to h2",
        "forecast web --to h1",
        "forecast web --to h9",
        "forecast --accuracy",
        "forecast off --to h1",
        "job watch 7",
        "job cancel 7",
        "job resume 7",
        "job tune 7",
        "job tune 7 --bandwidth 10MiB/s",
    ],
)
def test_what_cannot_be_done_is_told_in_the_same_words(the: Scene, asked: Ask, program: Program, words: str) -> None:
    here = the.do(lambda: program(*words.split()))
    assert asked(*words.split()) == here
    assert here.stderr or here.stdout


def test_a_forecast_is_told_the_same_way(the: Scene, there: Ask, program: Program) -> None:
    here, found = the.do(lambda: program("forecast", "web", "--to", "h2")), there("forecast", "web", "--to", "h2")
    assert (found.returncode, found.stderr) == (here.returncode, here.stderr) == (0, "")
    labels = [[line.split()[0] for line in each.stdout.splitlines()] for each in (found, here)]
    assert labels[0] == labels[1]
    assert found.stdout.splitlines()[0].partition(": ")[0] == "web from h1 to h2"
    probed = there("forecast", "web", "--to", "h2", "--probe-link", "-o", "json")
    assert probed.returncode == 0
    assert json.loads(probed.stdout)["targets"][0]["strategies"]


# What is told of a move.


def test_a_move_is_told_from_its_beginning_to_its_end(the: Scene, there: Ask, program: Program) -> None:
    done = there("migrate", "web", "--to", "h2", "-o", "json")
    assert done.returncode == 0, done.stderr
    events = events_of(done.stdout)
    kinds = [each["event"] for each in events]
    assert [kind for kind in dict.fromkeys(kinds) if kind != "progress"] == ["start", "end", "report"]
    assert "progress" in kinds
    start = events[kinds.index("start")]
    assert (start["vm"], start["source"], start["target"]) == ("web", "h1", "h2")
    assert start["forecast"]["total"] > 0
    assert start["travels"]
    report = the.jobs.get(1).report
    assert {**events[-1], "event": 0, "at": 0} == {**report, "event": 0, "at": 0}
    assert places(the, program)["web"] == "h2 running"


def test_people_read_the_same_report(the: Scene, there: Ask) -> None:
    done = there("migrate", "web", "--to", "h2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == report_text(MigrationReport(**the.jobs.get(1).report)) + "\n"
    assert "web: forecast: about " in done.stderr
    assert "web  h1 → h2  " in done.stderr


def test_several_are_moved_and_told_of_in_their_order(the: Scene, there: Ask, program: Program) -> None:
    done = there("migrate", "web", "db", "--to", "h2", "--parallel", "1", "-o", "name")
    assert (done.returncode, done.stdout) == (0, "web\ndb\n")
    first, second = the.jobs.get(1), the.jobs.get(2)
    assert second.queued_at is not None
    assert first.ended_at is not None
    assert second.queued_at >= first.ended_at
    assert {places(the, program)[name] for name in ("web", "db")} == {"h2 running"}


def test_where_it_is_already_there_is_nothing_to_do(there: Ask) -> None:
    done = there("migrate", "web", "--to", "h1")
    assert done.returncode == 0
    assert done.stderr.endswith("web is on h1 already: nothing to do\n")
    events = events_of(there("migrate", "web", "--to", "h1", "-o", "json").stdout)
    assert [each["event"] for each in events if each["event"] != "progress"] == ["unchanged", "end"]


def test_what_stands_in_the_way_is_told_with_its_remedies(the: Scene, there: Ask, program: Program) -> None:
    done = there("migrate", "off", "--to", "h1", "--mode", "live")
    assert done.returncode == 3
    assert "one thing stands in the way" in done.stderr or "things stand in the way" in done.stderr
    checked = the.do(lambda: program("check", "off", "--to", "h1", "--mode", "live"))
    remedies = [line for line in checked.stdout.splitlines() if "→" in line]
    assert remedies
    assert all(line in done.stderr for line in remedies)
    assert the.jobs.get(1).state == "refused"
    assert places(the, program)["off"] == "h2 shut off"


def test_one_whose_vm_has_a_job_already_is_refused_and_the_others_are_moved(the: Scene, there: Ask) -> None:
    other = NewJob("live", vm_uuid(the, "web"), "web", "h1", "h3", {}, "ana@laptop")
    the.do(lambda: the.jobs.begin(other).let_go(NEEDS_PERSON))
    done = there("migrate", "web", "db", "--to", "h2")
    assert done.returncode == 7
    assert "has an unfinished job: number 1" in done.stderr
    assert "db moved from h1 to h2" in done.stdout


def vm_uuid(the: Scene, name: str) -> str:
    return next(key for key, domain in the.twin.hosts["h1"].domains.items() if domain.name == name)


def test_what_is_detached_is_done_all_the_same(the: Scene, there: Ask) -> None:
    left = there("migrate", "web", "--to", "h2", "--detach", "-o", "name")
    assert (left.returncode, left.stdout) == (0, "1\n")
    assert left.stderr == "job 1 is queued: web, h1 → h2; see how it goes: mudanza job watch 1\n"
    watched = there("job", "watch", "1")
    assert watched.returncode == 0
    assert "web moved from h1 to h2" in watched.stdout


# Cancelling.


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What a Ctrl-C that was said yes to does."""
    asked: list[clock.Event] = []

    @contextmanager
    def asking(event: clock.Event, _view: object) -> Iterator[None]:
        asked.append(event)
        yield

    monkeypatch.setattr("mudanza.cli.following.asking_at_ctrl_c", asking)

    def interrupt() -> None:
        asked[-1].set()

    return interrupt


def test_ctrl_c_cancels_what_is_under_way_and_begins_nothing_more(
    the: Scene, there: Ask, daemon: Passing, stop: Callable[[], None], program: Program
) -> None:
    the.twin.rate /= 64

    def watch(request: httpx.Request, answer: httpx.Response) -> None:
        if request.url.path.endswith("/progress") and answer.json()["state"] == "transferring":
            stop()

    daemon.on_answer = watch
    done = there("migrate", "db", "web", "--to", "h2", "--parallel", "1")
    assert done.returncode == 4
    assert "VM 'db' was not moved from h1 to h2: cancelled on request of somebody@localhost" in done.stderr
    assert "VM 'web' was not moved: cancelled before its turn came" in done.stderr
    assert [job.vm_name for job in the.jobs.latest(9)] == ["db"]
    assert places(the, program) == {"web": "h1 running", "db": "h1 running", "off": "h2 shut off"}


def test_one_that_waits_is_cancelled_at_once(the: Scene, program: Program, asked: Ask) -> None:
    for name in ("web", "db"):
        new = NewJob("move", vm_uuid(the, name), name, "h1", "h2", {"to": "h2"}, "ana@laptop")
        the.do(lambda new=new: the.jobs.put_down(new))  # type: ignore[misc]
    here, told = the.do(lambda: program("job", "cancel", "1")), asked("job", "cancel", "2")
    assert (here.returncode, told.returncode) == (0, 0)
    assert {the.jobs.get(n).state for n in (1, 2)} == {"failed"}
    assert "before it began" in the.jobs.get(2).outcome
    assert the.jobs.get(2).report["error"]["vm_state"] == "it is on h1 as before; nothing was touched"


def test_one_under_way_is_cancelled_and_waited_for(the: Scene, there: Ask, program: Program) -> None:
    the.twin.rate /= 64
    there("migrate", "db", "--to", "h2", "--detach")
    for _ in range(200):
        if the.jobs.get(1).state == "transferring":
            break
        there("jobs")
    done = there("job", "cancel", "1")
    assert done.returncode == 0, done.stderr
    assert "is to be cancelled; its controller is" in done.stderr
    assert "it is on h1 as before" in done.stderr
    assert places(the, program)["db"] == "h1 running"


# What may go wrong on the way.


def test_a_request_whose_answer_is_lost_starts_one_job(the: Scene, there: Ask, daemon: Passing) -> None:
    lost: list[str] = []

    def lose(request: httpx.Request, _answer: httpx.Response) -> None:
        if request.url.path.endswith("/moves") and not lost:
            lost.append(request.headers["idempotency-key"])
            raise httpx.ReadError("cut")

    daemon.on_answer = lose
    done = there("migrate", "web", "--to", "h2")
    assert done.returncode == 0, done.stderr
    assert lost
    assert len(the.jobs.latest(9)) == 1


def test_a_daemon_that_is_started_anew_is_waited_for(the: Scene, there: Ask, daemon: Passing) -> None:
    silent: list[httpx.Request] = []

    def lose(request: httpx.Request, _answer: httpx.Response) -> None:
        if request.url.path.endswith("/progress") and len(silent) < 3:
            silent.append(request)
            raise httpx.ConnectError("nobody there")

    daemon.on_answer = lose
    assert there("migrate", "web", "--to", "h2").returncode == 0
    assert len(silent) == 3


def test_a_daemon_that_stays_away_leaves_the_job_to_itself(the: Scene, there: Ask, daemon: Passing) -> None:
    def lose(request: httpx.Request, _answer: httpx.Response) -> None:
        if request.url.path.endswith("/progress"):
            raise httpx.ConnectError("nobody there")

    daemon.on_answer = lose
    done = there("migrate", "web", "--to", "h2")
    assert done.returncode == 3
    assert "what becomes of it: mudanza job watch 1" in done.stderr
    assert the.jobs.get(1).state == "done"


def test_a_job_that_another_one_goes_on_instead_of_is_followed_there(the: Scene, asked: Ask, idle: Passing) -> None:
    key = vm_uuid(the, "web")
    gone_on = NewJob("live", key, "web", "h1", "h2", {}, "ana@laptop")
    report = MigrationReport("web", key, "h1", "h2", "cold", 2.0, None, 1, 0, 1.0, 1, True, "directly")
    the.do(lambda: the.jobs.begin(gone_on).finish("done", "moved", 0, asdict(report)))

    def merge() -> None:
        handle = the.jobs.claim([2])
        assert handle is not None
        handle.finish("merged", "job 1, which left something, goes on instead", 0, {"instead": 1})

    def instead(request: httpx.Request, _answer: httpx.Response) -> None:
        if request.url.path.endswith("/moves"):
            the.do(merge)

    idle.on_answer = instead
    done = asked("migrate", "web", "--to", "h2")
    assert (done.returncode, done.stdout) == (0, report_text(report) + "\n")


# Jobs that were left behind.


def test_one_that_was_left_to_a_person_is_gone_on_with(the: Scene, there: Ask, program: Program) -> None:
    why = NeedsPersonError("look at both", vm_state="nobody knows")
    the.do(lambda: the.jobs.begin(NEW).let_go(NEEDS_PERSON, why))
    watched = [the.do(lambda: program("job", "watch", "1")), there("job", "watch", "1")]
    assert watched[0] == watched[1]
    assert watched[0].returncode == 5
    done = there("job", "resume", "1")
    assert done.returncode == 4
    assert "job 1 had done nothing yet" in done.stderr
    assert "the VM was not touched" in done.stderr


@pytest.mark.parametrize("verb", ["watch", "cancel", "resume", "tune --deadline 1h"])
@pytest.mark.parametrize("code", [0, 4, 6])
def test_one_that_has_ended_is_told_of_in_the_same_words(
    the: Scene, asked: Ask, program: Program, verb: str, code: int
) -> None:
    the.do(lambda: the.jobs.begin(NEW).finish("ended", "this is how", code))
    name, *options = verb.split()
    here = the.do(lambda: program("job", name, "1", *options))
    assert asked("job", name, "1", *options) == here
    assert "this is how" in here.stderr


def test_limits_are_changed(the: Scene, asked: Ask, program: Program) -> None:
    the.do(lambda: the.jobs.begin(NEW))
    words = ("job", "tune", "1", "--bandwidth", "50MiB/s", "--post-copy", "allow")
    here, told = the.do(lambda: program(*words)), asked(*words)
    assert here == told
    assert here.returncode == 0
    changed = the.jobs.get(1).asked
    assert (changed["bandwidth"], changed["post_copy"]) == (50 * 2**20, "allow")
