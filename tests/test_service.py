"""What the daemon answers by HTTP: to good questions, to bad ones, and to strangers."""

from __future__ import annotations

import json
import os
import pwd
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

from mudanza.journal.audit import Audit
from mudanza.journal.balance import Balances
from mudanza.journal.database import open_database
from mudanza.journal.jobs import Filter, Jobs, NewJob
from mudanza.journal.plans import Plans
from mudanza.journal.requests import Request
from mudanza.journal.tokens import Tokens
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.model.vm import VmState
from mudanza.service.api import MOST_BODY, api_of
from mudanza.service.desk import Desk
from mudanza.service.parameters import MOST_NUMBER
from mudanza.service.picture import Picture
from mudanza.service.problems import problem_of
from mudanza.service.server import LocalServer
from mudanza.service.supervisor import notify, watchdog
from tests import factories as make

ME = f"{pwd.getpwuid(os.getuid()).pw_name}@localhost"
MARKUP = "<script>alert(1)</script>"
VMS = (
    make.vm(),
    *(
        make.vm(name=name, uuid=f"00000000-0000-4000-8000-00000000000{n}", host=host, tags=tags)
        for n, (name, host, tags) in enumerate(
            (("a", "h1", ("gold",)), ("b", "h2", ()), (MARKUP, "h2", ("gold",)), ("off", "h1", ()))
        )
    ),
)
CLUSTER = make.cluster([make.host("h1"), make.host("h2"), make.host("h3", error="timed out")], VMS)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    database = open_database(str(tmp_path / "mudanza.db"))
    picture = Picture(CLUSTER, 1000.0, 0.5)
    parts = (Jobs(database), Plans(database), Balances(database), Audit(database), Tokens(database))
    return Desk(*parts, lambda: picture, "1.2.3")


@contextmanager
def asking(app: Desk | ASGIApp, path: Path) -> Iterator[httpx.Client]:
    """Ask a server of its own, as whoever runs the tests."""
    server = LocalServer(api_of(app) if isinstance(app, Desk) else app, path)
    server.start()
    transport = httpx.HTTPTransport(uds=str(path))
    try:
        with httpx.Client(transport=transport, base_url="http://local", timeout=60) as found:
            yield found
    finally:
        server.stop()


@pytest.fixture
def client(desk: Desk, tmp_path: Path) -> Iterator[httpx.Client]:
    with asking(desk, tmp_path / "client.sock") as found:
        yield found


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status
    assert found["type"].endswith(kind)
    return found


def test_what_nobody_expected_is_a_problem_too_and_its_traceback_is_logged(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **_named: object) -> None:
        raise ZeroDivisionError("secret of the inside")

    monkeypatch.setattr(Jobs, "latest", fail)
    with asking(desk, tmp_path / "failing.sock") as client:
        answer = client.get("/api/v1/jobs?state=unfinished")
    assert problem(answer, 500, "unexpected")["detail"] == "ZeroDivisionError"
    assert "secret" not in answer.text
    assert (
        "ZeroDivisionError: secret of the inside" in caplog.text
    )  # the server has ended, and has logged all it had to


# What is where.


def test_it_says_how_it_is(client: httpx.Client) -> None:
    found = client.get("/api/v1/health").json()
    assert (found["version"], found["hosts"], found["vms"]) == ("1.2.3", 3, 5)
    assert found["unseen"] == {"h3": "timed out"}
    assert found["balanced_by"] is None


def test_before_the_first_look_it_says_so(desk: Desk, tmp_path: Path) -> None:
    blind = replace(desk, newest=lambda: None)
    with asking(blind, tmp_path / "blind.sock") as client:
        for path in ("health", "hosts", "vms", "vms/web"):
            assert "looked at yet" in problem(client.get(f"/api/v1/{path}"), 503, "not-ready")["detail"]
        assert client.get("/metrics").status_code == 200


def test_hosts_and_vms_are_shown_without_their_definitions(client: httpx.Client) -> None:
    assert [host["entry"]["name"] for host in client.get("/api/v1/hosts").json()] == ["h1", "h2", "h3"]
    assert client.get("/api/v1/hosts/h2").json()["hostname"] == "h2.example"
    found = client.get("/api/v1/vms/web").json()
    assert found["uuid"] == make.UUID
    assert "xml" not in found
    assert client.get(f"/api/v1/vms/{make.UUID}").json() == found


def test_vms_come_in_pages_that_are_all_of_them(client: httpx.Client) -> None:
    whole = [vm["uuid"] for vm in client.get("/api/v1/vms").json()["vms"]]
    seen, after = [], ""
    for _ in range(len(VMS)):
        page = client.get("/api/v1/vms", params={"limit": 2, "after": after}).json()
        seen += [vm["uuid"] for vm in page["vms"]]
        after = page["next"]
        if after is None:
            break
    assert seen == whole
    assert len(whole) == len(VMS)


def test_vms_are_chosen_by_host_and_tag(client: httpx.Client) -> None:
    def names(**wanted: str) -> set[str]:
        return {vm["name"] for vm in client.get("/api/v1/vms", params=wanted).json()["vms"]}

    assert names(host="h2") == {"b", MARKUP}
    assert names(tag="gold") == {"a", MARKUP}
    assert names(host="h2", tag="gold") == {MARKUP}


def test_figures_are_as_a_prometheus_server_reads_them(client: httpx.Client) -> None:
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    up = {sample.labels["host"]: sample.value for sample in families["mudanza_host_up"].samples}
    assert up == {"h1": 1.0, "h2": 1.0, "h3": 0.0}
    assert {sample.labels["domain"] for sample in families["mudanza_vm_active"].samples} == {vm.name for vm in VMS}
    assert {sample.labels["host"] for sample in families["mudanza_host_memory_bytes"].samples} == {"h1", "h2"}


# Asking for something.


def test_a_move_is_queued_as_it_was_asked(client: httpx.Client, desk: Desk) -> None:
    order = {"to": "h2", "max_downtime": 0.08, "policy": "gentle", "map_storage": {"images": "fast"}}
    answer = client.post("/api/v1/vms/web/moves", json=order)
    assert answer.status_code == 202
    assert answer.headers["location"] == "/api/v1/jobs/1"
    job = desk.jobs.get(1)
    assert (job.vm_uuid, job.source, job.target, job.state) == (make.UUID, "h1", "h2", "queued")
    assert job.asked_by == ME
    assert job.asked["map_storage"] == {"images": "fast"}
    assert job.asked["named"] == ["max_downtime", "policy"]
    (asked,) = desk.audit.since(None)
    assert asked.who["user"] == ME
    assert asked.command[0] == "move"
    assert asked.exit_code == 0


def test_a_vm_has_one_job(client: httpx.Client, desk: Desk) -> None:
    assert client.post("/api/v1/vms/web/moves", json={}).status_code == 202
    found = problem(client.post("/api/v1/vms/web/moves", json={"to": "h2"}), 409, "blocked")
    assert "unfinished job" in found["detail"]
    assert found["remedy"]
    assert len(desk.jobs.unfinished()) == 1
    assert desk.audit.since(None)[-1].exit_code == 3


def test_a_request_that_comes_again_is_the_same_job(client: httpx.Client, desk: Desk) -> None:
    key = {"Idempotency-Key": "night-shift-7"}
    order = {"to": "h2", "max_downtime": 0.08}
    first = client.post("/api/v1/vms/web/moves", json=order, headers=key)
    again = client.post(f"/api/v1/vms/{make.UUID}/moves", json=order, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"] == 1
    assert first.headers["location"] == again.headers["location"]
    handle = desk.jobs.claim([1])
    assert handle is not None
    handle.finish("done", "moved", 0)
    assert client.post("/api/v1/vms/web/moves", json=order, headers=key).json()["state"] == "done"
    assert desk.jobs.unfinished() == ()
    other = problem(client.post("/api/v1/vms/web/moves", json={"to": "h1"}, headers=key), 400, "usage")
    assert "job 1" in other["detail"]
    assert client.post("/api/v1/vms/web/moves", json=order, headers={"Idempotency-Key": "another"}).json()["id"] == 2


def test_of_one_request_that_comes_many_times_at_once_there_is_one_job(database: str) -> None:
    jobs = Jobs(open_database(database))
    new = NewJob("move", make.UUID, "web", "h1", "h2", {}, "ana")
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: jobs.put_down(new, Request("ana", "key", "same")), range(12)))
    assert len(set(found)) == 1
    other = jobs.put_down(replace(new, vm_uuid=make.OTHER_UUID), Request("bob", "key", "same"))
    assert other not in found
    assert len(jobs.unfinished()) == 2


def test_the_largest_number_that_is_taken_is_one_that_the_database_takes(database: str) -> None:
    engine = open_database(database)
    assert Jobs(engine).latest(1, Filter(state="unfinished", below=MOST_NUMBER)) == ()
    assert Jobs(engine).find(MOST_NUMBER) is None
    with pytest.raises(UsageError, match="no plan"):
        Plans(engine).get(MOST_NUMBER)


def test_a_job_is_cancelled_by_asking_whoever_has_it(client: httpx.Client, desk: Desk) -> None:
    client.post("/api/v1/vms/web/moves", json={})
    assert client.post("/api/v1/jobs/1/cancel").status_code == 202
    assert desk.jobs.get(1).cancel_asked_by == ME


def test_jobs_are_listed_without_their_steps_unless_these_are_asked_for(desk: Desk, client: httpx.Client) -> None:
    desk.jobs.begin(NewJob("live", make.UUID, "web", "h1", "h2", {}, "ana")).intend("decide", {})
    [listed] = client.get("/api/v1/jobs").json()["jobs"]
    [whole] = client.get("/api/v1/jobs", params={"steps": True}).json()["jobs"]
    assert whole.keys() - listed.keys() == {"steps", "events"}
    assert [step["name"] for step in whole["steps"]] == ["decide"]
    assert listed["has_begun"]
    assert whole.keys() == client.get("/api/v1/jobs/1").json().keys()


def test_what_is_told_of_a_vm_twice_is_the_same_and_is_made_once(desk: Desk, client: httpx.Client) -> None:
    first, second = (client.get("/api/v1/vms", params={"limit": 2}).text for _ in range(2))
    assert first == second
    told = {vm["uuid"]: vm for vm in json.loads(first)["vms"]}
    assert all(client.get(f"/api/v1/vms/{uuid}").json() == vm for uuid, vm in told.items())
    picture = desk.picture()
    assert picture.told(picture.in_order[0]) is picture.told(picture.in_order[0])


def test_jobs_come_in_pages_the_newest_first(client: httpx.Client) -> None:
    for vm in VMS:
        assert client.post(f"/api/v1/vms/{vm.uuid}/moves", json={}).status_code == 202
    first = client.get("/api/v1/jobs", params={"limit": 3}).json()
    assert [job["id"] for job in first["jobs"]] == [5, 4, 3]
    rest = client.get("/api/v1/jobs", params={"limit": 3, "before": first["next"]}).json()
    assert [job["id"] for job in rest["jobs"]] == [2, 1]
    assert rest["next"] is None
    assert [job["id"] for job in client.get("/api/v1/jobs", params={"vm": "web"}).json()["jobs"]] == [1]


def story(client: httpx.Client, number: int, seen: str = "") -> list[tuple[str, str, Any]]:
    """Return the events of a job that has ended: name, id and what they hold."""
    told = client.get(f"/api/v1/jobs/{number}/events", headers={"last-event-id": seen} if seen else {}).text
    found = []
    for block in told.replace("\r\n", "\n").strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "data" in fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


def test_a_job_is_told_of_until_it_has_ended_and_never_twice(client: httpx.Client, desk: Desk) -> None:
    client.post("/api/v1/vms/web/moves", json={})
    handle = desk.jobs.claim([1])
    assert handle is not None
    handle.finish("failed", "cancelled before it began", 4)
    ((name, last, job),) = story(client, 1)
    assert name == "ended"
    assert job["outcome"] == "cancelled before it began"
    assert story(client, 1, seen=last) == []
    assert [told[:2] for told in story(client, 1, seen="of another job")] == [(name, last)]


def test_a_job_is_read_once_for_whoever_follows_it_while_nothing_is_written(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = desk.jobs.begin(NewJob("live", make.UUID, "web", "h1", "h2", {}, "ana"))
    read, looked = list[int](), list[int]()
    find, mark = Jobs.find, Jobs.mark

    def finding(jobs: Jobs, number: int) -> Any:
        read.append(number)
        return find(jobs, number)

    def marking(jobs: Jobs, number: int) -> str | None:
        looked.append(number)
        if len(looked) == 4:
            handle.finish("done", "moved", 0)
        return mark(jobs, number)

    monkeypatch.setattr("mudanza.service.jobs.LOOK_EVERY", 0.01)
    monkeypatch.setattr(Jobs, "find", finding)
    monkeypatch.setattr(Jobs, "mark", marking)
    with asking(desk, tmp_path / "followed.sock") as client:
        told = story(client, 1)
    assert [name for name, _, _ in told] == ["job", "ended"]
    assert (len(looked), len(read)) == (4, 3), "once to see whether there is one, and each time that it was written"


# Bad questions.


@pytest.mark.parametrize("path", ["hosts/h9", "jobs/99", "jobs/99/events", "plans/99"])
def test_what_is_not_there_is_said_so(client: httpx.Client, path: str) -> None:
    assert problem(client.get(f"/api/v1/{path}"), 404, "not-there")["detail"]


@pytest.mark.parametrize("path", ["nobody", MARKUP[1:7]])
def test_a_vm_that_nobody_lists_may_be_on_a_host_that_was_not_seen(
    desk: Desk, client: httpx.Client, tmp_path: Path, path: str
) -> None:
    assert "h3" in problem(client.get(f"/api/v1/vms/{path}"), 409, "blocked")["detail"]
    all_seen = make.cluster(vms=VMS)
    with asking(replace(desk, newest=lambda: Picture(all_seen, 1.0, 0.1)), tmp_path / "other.sock") as other:
        problem(other.get(f"/api/v1/vms/{path}"), 404, "not-there")
        problem(other.post(f"/api/v1/vms/{path}/moves", json={}), 404, "not-there")
    assert desk.audit.since(None) == ()


@pytest.mark.parametrize("path", ["jobs/99/cancel", "plans/99/pause"])
def test_nothing_is_asked_of_what_is_not_there(client: httpx.Client, desk: Desk, path: str) -> None:
    problem(client.post(f"/api/v1/{path}", json={}), 404, "not-there")
    assert desk.audit.since(None) == ()


@pytest.mark.parametrize(
    ("order", "where"),
    [
        ({"to": ["h2"]}, "body.to"),
        ({"to": ""}, "body.to"),
        ({"to": "h" * 1000}, "body.to"),
        ({"max_downtime": -1}, "body.max_downtime"),
        ({"max_downtime": "soon"}, "body.max_downtime"),
        ({"bandwidth": 1}, "body.bandwidth"),
        ({"bandwidth": 2**70}, "body.bandwidth"),
        ({"policy": "fast"}, "body.policy"),
        ({"format": "vmdk"}, "body.format"),
        ({"map_storage": {"images": 3}}, "body.map_storage.images"),
        ({"take_claim": 3}, "body.take_claim"),
        ({"probe_link": True}, "body.probe_link"),
        ([], "body"),
        ("h2", "body"),
    ],
)
def test_a_wrong_order_says_where_and_starts_nothing(client: httpx.Client, desk: Desk, order: Any, where: str) -> None:
    found = problem(client.post("/api/v1/vms/web/moves", json=order), 422, "input")
    assert found["errors"][0]["where"] == where
    assert desk.jobs.unfinished() == ()


def test_what_is_no_json_starts_nothing(client: httpx.Client, desk: Desk) -> None:
    headers = {"content-type": "application/json"}
    problem(client.post("/api/v1/vms/web/moves", content=b'{"to": ', headers=headers), 422, "input")
    problem(client.post("/api/v1/vms/web/moves", content=b"\xff\xfe", headers=headers), 422, "input")
    assert desk.jobs.unfinished() == ()


def test_a_host_that_nobody_knows_is_said_and_nothing_is_queued(client: httpx.Client, desk: Desk) -> None:
    assert "h9" in problem(client.post("/api/v1/vms/web/moves", json={"to": "h9"}), 404, "not-there")["detail"]
    assert desk.jobs.unfinished() == ()


def test_a_large_body_and_one_of_unknown_length_are_not_read(client: httpx.Client) -> None:
    problem(client.post("/api/v1/vms/web/moves", content=b" " * (MOST_BODY + 1)), 413, "too-large")
    problem(client.post("/api/v1/vms/web/moves", content=(part for part in [b"{}"])), 413, "too-large")


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "before=0", "before=99999999999999999999"])
def test_a_wrong_page_is_said_so(client: httpx.Client, query: str) -> None:
    problem(client.get(f"/api/v1/jobs?{query}"), 422, "input")


def test_other_paths_and_methods_are_problems_too(client: httpx.Client) -> None:
    assert client.get("/api/v1/nothing").json() == {"type": "about:blank", "title": "Not Found", "status": 404}
    assert problem(client.delete("/api/v1/hosts"), 405, "about:blank")["title"] == "Method Not Allowed"


def test_the_description_names_every_path(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert "/api/v1/vms/{key}/moves" in described["paths"]
    for path in described["paths"].values():
        for operation in path.values():
            assert operation.get("description") or operation.get("summary")


def test_each_error_has_a_status_and_none_is_taken_for_another() -> None:
    def kinds(error: type[MudanzaError]) -> Iterator[type[MudanzaError]]:
        yield error
        for each in error.__subclasses__():
            yield from kinds(each)

    assert problem_of(UsageError("no", remedy="do"))[1]["remedy"] == "do"
    for kind in kinds(MudanzaError):
        error = kind.__new__(kind)
        MudanzaError.__init__(error, "what")
        if not hasattr(error, "findings"):
            error.findings = ()  # type: ignore[attr-defined]
        assert 400 <= problem_of(error)[0] < 600


# The socket.


@pytest.fixture
def place(desk: Desk, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run" / "mudanza.sock"
    server = LocalServer(api_of(desk), path)
    server.start()
    yield path
    server.stop()
    assert not path.exists()


def test_it_answers_at_a_socket_of_its_own_users(place: Path, desk: Desk) -> None:
    assert place.stat().st_mode & 0o777 == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(place)), base_url="http://local") as client:
        assert client.get("/api/v1/health").json()["version"] == "1.2.3"
        client.post("/api/v1/vms/web/moves", json={})
    assert desk.jobs.get(1).asked_by.endswith("@localhost")


def test_a_second_one_does_not_take_the_first_ones_place(place: Path, desk: Desk) -> None:
    with pytest.raises(UsageError, match="somebody answers"):
        LocalServer(api_of(desk), place).start()


def test_a_socket_that_a_dead_daemon_has_left_is_taken_over(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "mudanza.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = LocalServer(api_of(desk), path)
    server.start()
    server.stop()
    assert not path.exists()


def asked_as(uid: int, place: Path) -> bytes:
    """Return what a user of that number gets to read."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(20)
                asking.connect(str(place))
                asking.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                os.write(theirs, asking.recv(100) or b"nothing")
        except OSError as error:
            os.write(theirs, b"hung up" if isinstance(error, ConnectionError) else repr(error).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours, "rb") as answer:
        return answer.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_stranger_reads_nothing_even_where_the_socket_lets_everybody_in(place: Path) -> None:
    shut = [path for path in place.parents if path.stat().st_mode & 0o001 == 0]
    for path in shut:
        path.chmod(path.stat().st_mode | 0o001)
    place.chmod(0o666)
    try:
        assert asked_as(65534, place) in (b"hung up", b"nothing")
        assert asked_as(0, place).startswith(b"HTTP/1.1 200")
    finally:
        for path in shut:
            path.chmod(path.stat().st_mode & ~0o001)


def test_a_supervisor_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(path)
        assert notify("READY=1", {"NOTIFY_SOCKET": path})
        assert told.recv(100) == b"READY=1"
    assert not notify("READY=1", {"NOTIFY_SOCKET": path}), "nobody is there any more"
    assert not notify("READY=1", {})
    assert watchdog({"WATCHDOG_USEC": "30000000"}) == 30.0
    assert watchdog({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog({}) is None


def test_a_vm_that_is_off_is_not_said_to_be_active(desk: Desk, tmp_path: Path) -> None:
    off = make.cluster(vms=[make.vm(state=VmState.SHUTOFF)])
    with asking(replace(desk, newest=lambda: Picture(off, 1.0, 0.1)), tmp_path / "off.sock") as client:
        assert f'uuid="{make.UUID}"}} 0.0' in client.get("/metrics").text
