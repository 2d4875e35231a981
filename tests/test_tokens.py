"""Who comes from elsewhere needs a token, and gets what that is for: nothing else, and nothing after its time."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from mudanza.journal.database import open_database
from mudanza.journal.jobs import NewJob
from mudanza.journal.tokens import PREFIX, Tokens
from mudanza.model.access import Scope
from mudanza.model.errors import UsageError
from mudanza.service import access
from mudanza.service.access import FAILURES_COUNT_FOR, MOST_FAILURES, Failures
from mudanza.service.api import api_of
from mudanza.service.desk import Desk
from mudanza.service.problems import TooManyError
from mudanza.service.server import NetworkServer
from tests import factories as make
from tests.program import Program
from tests.test_service import desk, problem
from tests.timekeeping import set_clock

__all__ = ["desk"]

READS = ("health", "hosts", "hosts/h1", "vms", "vms/a", "jobs", "plans", "balance")
As = Callable[[str], httpx.Client]


@pytest.fixture
def tokens(desk: Desk) -> Tokens:
    return desk.tokens


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", str(made), "-keyout", str(key)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return made, key


@contextmanager
def served(desk: Desk, certificate: tuple[Path, Path]) -> Iterator[As]:
    """Serve by TLS, and return what gives a client with a token."""
    server = NetworkServer(api_of(desk), "127.0.0.1:0", *certificate)
    server.start()
    clients: list[httpx.Client] = []

    def client(opens: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {opens}"} if opens else {}
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        made = httpx.Client(verify=trust, base_url=f"https://localhost:{server.port}", headers=headers, timeout=60)
        clients.append(made)
        return made

    try:
        yield client
    finally:
        for each in clients:
            each.close()
        server.stop()


@pytest.fixture
def as_(desk: Desk, certificate: tuple[Path, Path]) -> Iterator[As]:
    with served(desk, certificate) as found:
        yield found


def test_a_stranger_reads_nothing(as_: As) -> None:
    stranger = as_("")
    paths = [*(f"/api/v1/{path}" for path in READS), "/metrics", "/openapi.json"]
    for path in paths[: MOST_FAILURES - 1]:
        answer = stranger.get(path)
        problem(answer, 401, "unknown")
        assert answer.headers["www-authenticate"] == "Bearer"
    problem(stranger.post("/api/v1/vms/web/moves", json={}), 401, "unknown")


def test_by_plain_http_nothing_is_answered(as_: As) -> None:
    with as_("") as secure, pytest.raises(httpx.HTTPError):
        httpx.get(str(secure.base_url.copy_with(scheme="http")), timeout=20)


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (Scope.READ, set()),
        (Scope.MIGRATE, {"move"}),
        (Scope.PLAN, {"plan"}),
        (Scope.FENCE, set()),
        (Scope.ADMIN, {"move", "plan"}),
    ],
)
def test_a_token_gets_what_it_is_for(as_: As, tokens: Tokens, scope: Scope, allowed: set[str]) -> None:
    client = as_(tokens.make("ci", [scope], "ana"))
    for path in READS:
        assert client.get(f"/api/v1/{path}").status_code == 200, path
    assert client.get("/metrics").status_code == 200
    moved = client.post("/api/v1/vms/a/moves", json={"to": "h2"})
    assert moved.status_code == (202 if "move" in allowed else 403)
    ordered = client.post("/api/v1/plans/7/pause")
    assert ordered.status_code == (404 if "plan" in allowed else 403), "there is no such plan"


def test_who_asked_is_in_the_job_and_in_the_audit(as_: As, desk: Desk) -> None:
    client = as_(desk.tokens.make("ci", [Scope.MIGRATE], "ana"))
    assert client.post("/api/v1/vms/a/moves", json={"to": "h2"}).json()["asked_by"] == "token ci"
    assert desk.audit.since(None)[0].who["user"] == "token ci"


def test_a_token_ends_when_it_expires_and_when_it_is_revoked(as_: As, tokens: Tokens) -> None:
    over, long = (
        tokens.make("over", [Scope.READ], "ana", lasts=0.0),
        tokens.make("long", [Scope.READ], "ana", lasts=600.0),
    )
    problem(as_(over).get("/api/v1/hosts"), 401, "unknown")
    assert as_(long).get("/api/v1/hosts").status_code == 200
    tokens.revoke("long")
    problem(as_(long).get("/api/v1/hosts"), 401, "unknown")
    assert {each.name: each.state for each in tokens.all()} == {"over": "expired", "long": "revoked"}


def test_for_some_hosts_there_are_no_others(as_: As, desk: Desk) -> None:
    client = as_(desk.tokens.make("east", [Scope.MIGRATE, Scope.PLAN], "ana", hosts=["h1"]))
    assert [host["entry"]["name"] for host in client.get("/api/v1/hosts").json()] == ["h1"]
    assert {vm["host"] for vm in client.get("/api/v1/vms").json()["vms"]} == {"h1"}
    assert "h2" not in problem(client.get("/api/v1/hosts/h2"), 404, "not-there")["detail"].split("known")[1]
    problem(client.get("/api/v1/vms/b"), 404, "not-there")
    problem(client.post("/api/v1/vms/a/moves", json={"to": "h2"}), 404, "not-there")
    problem(client.post("/api/v1/vms/a/moves", json={}), 403, "not-allowed")
    for path in ("plans", "balance"):
        problem(client.get(f"/api/v1/{path}"), 403, "not-allowed")
    problem(client.get("/metrics"), 403, "not-allowed")
    assert desk.jobs.unfinished() == ()
    both = as_(desk.tokens.make("both", [Scope.MIGRATE], "ana", hosts=["h1", "h2"]))
    number = both.post("/api/v1/vms/a/moves", json={"to": "h2"}).json()["id"]
    problem(client.get(f"/api/v1/jobs/{number}"), 404, "not-there")
    problem(client.post(f"/api/v1/jobs/{number}/cancel"), 404, "not-there")
    assert client.get("/api/v1/jobs").json()["jobs"] == []
    assert both.get(f"/api/v1/jobs/{number}").status_code == 200


def test_for_some_tags_there_are_no_other_vms(as_: As, desk: Desk) -> None:
    client = as_(desk.tokens.make("gold", [Scope.MIGRATE], "ana", tags=["gold"]))
    assert all("gold" in vm["tags"] for vm in client.get("/api/v1/vms").json()["vms"])
    problem(client.post("/api/v1/vms/b/moves", json={"to": "h1"}), 409, "blocked")
    assert client.post("/api/v1/vms/a/moves", json={"to": "h2"}).status_code == 202
    whole = as_(desk.tokens.make("whole", [Scope.MIGRATE], "ana"))
    number = whole.post("/api/v1/vms/b/moves", json={"to": "h1"}).json()["id"]
    problem(client.get(f"/api/v1/jobs/{number}"), 404, "not-there")
    assert [job["vm_name"] for job in client.get("/api/v1/jobs").json()["jobs"]] == ["a"]


def test_who_guesses_has_to_wait(as_: As) -> None:
    guess = as_(PREFIX + "guess")
    for _ in range(MOST_FAILURES):
        problem(guess.get("/api/v1/hosts"), 401, "unknown")
    problem(guess.get("/api/v1/hosts"), 429, "too-many")


def test_who_has_guessed_may_come_again_after_a_while() -> None:
    failures = Failures()
    with set_clock() as time:
        for _ in range(MOST_FAILURES):
            failures.refuse_many("10.0.0.1")
            failures.note("10.0.0.1")
        with pytest.raises(TooManyError):
            failures.refuse_many("10.0.0.1")
        failures.refuse_many("10.0.0.2")
        time.pass_time(FAILURES_COUNT_FOR + 1.0)
        failures.refuse_many("10.0.0.1")


def test_no_number_of_addresses_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MOST_ADDRESSES", 3)
    failures = Failures()
    for n in range(10):
        for _ in range(MOST_FAILURES):
            failures.note(f"10.0.0.{n}")
    assert len(failures._since) <= 3
    with pytest.raises(TooManyError):
        failures.refuse_many("10.0.0.9")


@pytest.mark.parametrize("opens", ["\N{SNOWMAN}".encode(), b"a b", b"x" * 5000])
def test_nonsense_opens_nothing(as_: As, opens: bytes) -> None:
    problem(as_("").get("/api/v1/hosts", headers={b"authorization": b"Bearer " + opens}), 401, "unknown")


def test_too_many_headers_are_not_read(as_: As, tokens: Tokens) -> None:
    client = as_(tokens.make("ci", [Scope.READ], "ana"))
    told = client.get("/api/v1/hosts", headers={"x": "y" * 40_000})
    assert told.status_code in (400, 431), "by what reads them if they come in pieces, else by us"


# What is kept.


def test_what_opens_is_kept_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    tokens = Tokens(open_database(str(path)))
    opens = tokens.make("ci", [Scope.READ], "ana")
    assert opens.startswith(PREFIX)
    for file in tmp_path.iterdir():
        assert opens.removeprefix(PREFIX).encode() not in file.read_bytes()


def test_both_databases_know_a_token_by_its_hash(database: str) -> None:
    tokens = Tokens(open_database(database))
    opens = tokens.make("ci", [Scope.READ, Scope.PLAN], "ana", hosts=["h1"], tags=["gold"], lasts=3600.0)
    asker = tokens.whose(opens)
    assert asker is not None
    assert (asker.name, sorted(asker.hosts), sorted(asker.tags)) == ("token ci", ["h1"], ["gold"])
    assert asker.may(Scope.PLAN)
    assert not asker.may(Scope.MIGRATE)
    (found,) = tokens.all()
    assert found.state == "good"
    assert found.used_at is not None
    assert tokens.whose(opens + "x") is None
    with pytest.raises(UsageError, match="there is, or was"):
        tokens.make("ci", [Scope.READ], "ana")
    tokens.revoke("ci")
    with pytest.raises(UsageError, match="there is, or was"):
        tokens.make("ci", [Scope.READ], "ana")
    with pytest.raises(UsageError, match="there is no token"):
        tokens.revoke("other")
    assert tokens.whose(opens) is None


def test_it_is_made_shown_and_taken_away(mudanza: Program) -> None:
    opens = mudanza("token", "make", "ci", "--scope", "read", "--tag", "gold", "--expires", "90d").stdout.strip()
    assert opens.startswith(PREFIX)
    shown = mudanza("token", "list").stdout
    assert "ci" in shown
    assert "gold" in shown
    for command in (("token", "list"), ("token", "list", "-o", "json"), ("audit", "-o", "json")):
        assert opens not in mudanza(*command).stdout
    assert "opens nothing any more" in mudanza("token", "revoke", "ci").stderr
    assert "revoked" in mudanza("token", "list").stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("revoke", "nobody"), "no token"),
        (("make", "a b", "--scope", "read"), "no name"),
        (("make", "x"), "scope"),
        (("make", "x", "--scope", "everything"), "everything"),
        (("make", "x", "--scope", "read", "--host", "h9"), "h9"),
        (("make", "x", "--scope", "read", "--expires", "soon"), "soon"),
    ],
)
def test_what_makes_no_sense_makes_no_token(mudanza: Program, words: tuple[str, ...], why: str) -> None:
    done = mudanza("token", *words)
    assert done.returncode == 2
    assert why in done.stderr
    assert mudanza("token", "list", "-o", "json").stdout.strip() == "[]"


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:x", "127.0.0.1:99999999", "203.0.113.7:8443"])
def test_an_address_that_is_none_is_said_so(desk: Desk, certificate: tuple[Path, Path], address: str) -> None:
    server = NetworkServer(api_of(desk), address, *certificate)
    with pytest.raises(UsageError, match="cannot be listened at"):
        server.start()
    server.stop()


def test_a_certificate_that_is_none_is_said_so(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="certificate"):
        NetworkServer(api_of(desk), "127.0.0.1:0", tmp_path / "none.pem", tmp_path / "none.pem").start()


def test_a_vm_on_a_host_that_was_not_seen_is_not_told_of_to_those_whom_it_is_no_business(
    desk: Desk, certificate: tuple[Path, Path]
) -> None:
    picture = desk.picture()
    lost = replace(picture, cluster=make.cluster([make.host("h1"), make.host("h2", error="off")], picture.cluster.vms))
    with served(replace(desk, newest=lambda: lost), certificate) as as_:
        client = as_(desk.tokens.make("east", [Scope.READ], "ana", hosts=["h1"]))
        assert "h2" not in client.get("/api/v1/vms/nobody").text
        assert client.get("/api/v1/health").json()["unseen"] == {}


def test_a_stream_ends_when_its_token_is_taken_away(as_: As, desk: Desk) -> None:
    opens = desk.tokens.make("watcher", [Scope.READ], "ana")
    desk.jobs.put_down(NewJob("move", make.UUID, "web", "h1", "h2", {}, "ana"))
    with as_(opens).stream("GET", "/api/v1/jobs/1/events") as events:
        lines = events.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: job"
        desk.tokens.revoke("watcher")
        assert [line for line in lines if line.startswith("event:")] == []
    assert desk.jobs.get(1).ended_at is None
