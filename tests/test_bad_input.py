"""What forms, addresses and WebSockets make of what nobody should send: a clear answer, and nothing begun."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mudanza.journal.audit import Audit
from mudanza.journal.balance import Balances
from mudanza.journal.database import open_database
from mudanza.journal.jobs import Jobs
from mudanza.journal.plans import Plans
from mudanza.journal.sessions import Sessions
from mudanza.journal.tokens import Tokens
from mudanza.model.access import Scope
from mudanza.service.api import MOST_BODY, api_of
from mudanza.service.desk import Desk
from mudanza.service.pages.dashboard import with_pages
from mudanza.service.picture import Picture
from mudanza.service.server import LocalServer
from tests import described
from tests import factories as make
from tests.test_pages import OURS, SITE, Hands, enter, site_of
from tests.test_service import CLUSTER, MARKUP

WEB = f"/vms/{make.UUID}"
WORDS = st.one_of(
    st.sampled_from(
        ["", "\0", "a\0b", MARKUP, "h9", "\u202e", "../../etc/passwd", "%00", "😀" * 60, "x" * 5000, "-1", "1e9"]
    ),
    st.text(max_size=40),
)
FORMS = (
    "/login", "/hosts/new", "/plans/new", "/plans/proposed/{}/apply", "/plans/{}/approve", "/plans/{}/pause",
    "/jobs/{}/cancel", "/vms/{}/move", "/vms/{}/start", "/vms/{}/shutdown", f"{WEB}/move", "/protection/{}/sync",
    "/protection/{}/failover",
)  # fmt: skip
NAMES = ("name", "uri", "force", "goal", "host", "to", "mode", "planned", "word", "next", f"vm-{make.UUID}", "")
LOOKS = (
    "/vms?q={}", "/history?q={}", "/history.csv?q={}", "/history.json?q={}", "/history?before={}", "/?page={}",
    "/login?next={}", "/vms/{}", "/vms/{}/ways", "/vms/{}/console", "/vms/{}/display", "/jobs/{}", "/plans/{}",
    "/plans/proposed/{}", "/protection/{}", f"{WEB}?said={{}}", "/{}", "/static/{}", "/oidc/back?state={}&code={}",
)  # fmt: skip


@pytest.fixture
def desk(database: str) -> Desk:
    """The same on each kind of database: one takes what the other refuses."""
    return desk_at(database)


def desk_at(database: str) -> Desk:
    engine = open_database(database)
    picture = Picture(CLUSTER, 1000.0, 0.5)
    return Desk(Jobs(engine), Plans(engine), Balances(engine), Audit(engine), Tokens(engine), lambda: picture, "1.2.3")


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def admin(desk: Desk, hands: Hands) -> TestClient:
    return enter(site_of(desk, hands), desk, Scope.ADMIN)


def assert_clear(answer: Any) -> None:
    """Have it be an answer, and no word of what was sent be markup in it."""
    assert answer.status_code < 500, answer.text
    assert MARKUP not in answer.text


USUAL = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@USUAL
@given(st.sampled_from(FORMS), WORDS, st.dictionaries(st.sampled_from(NAMES), WORDS, max_size=5))
def test_a_form_with_anything_in_it_is_answered(
    admin: TestClient, path: str, word: str, fields: dict[str, str]
) -> None:
    assert_clear(admin.post(path.format(quote(word, safe="") or "x"), data=fields, headers=OURS))


@USUAL
@given(st.sampled_from(FORMS), st.binary(max_size=200))
def test_a_body_that_is_no_form_is_answered(admin: TestClient, path: str, body: bytes) -> None:
    assert_clear(admin.post(path.format("web"), content=body, headers=OURS))


@USUAL
@given(st.sampled_from(LOOKS), WORDS)
def test_any_address_is_answered(admin: TestClient, path: str, word: str) -> None:
    assert_clear(admin.get(path.format(*[quote(word, safe="") or "x"] * path.count("{}"))))


@pytest.mark.parametrize("path", ["/hosts/new", "/login", f"{WEB}/move"])
def test_a_huge_form_is_not_read(admin: TestClient, hands: Hands, path: str) -> None:
    answer = admin.post(path, content=b"name=" + b"x" * MOST_BODY, headers=OURS)
    assert answer.status_code == 413
    assert hands.done == []


def test_a_form_with_too_many_fields_starts_nothing(admin: TestClient, hands: Hands) -> None:
    assert admin.post("/hosts/new", content=b"a&" * 3000, headers=OURS).status_code == 400
    assert hands.done == []


# The WebSockets, by a real server.


class Line:
    """A client that speaks WebSocket as badly as it is told to."""

    def __init__(self, path: Path, of: str, **headers: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        key = base64.b64encode(os.urandom(16)).decode()
        about = {"Host": "localhost", "Origin": "http://localhost", "Upgrade": "websocket", "Connection": "Upgrade"}
        about |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key} | headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in about.items())
        self.socket.sendall(f"GET {of} HTTP/1.1\r\n{lines}\r\n".encode())

    def all(self) -> bytes:
        """Return all that comes until the other end hangs up."""
        found = b""
        try:
            while piece := self.socket.recv(65536):
                found += piece
        except ConnectionResetError:
            return found
        return found

    def frame(self, opcode: int, data: bytes, *, masked: bool = True, length: int | None = None) -> None:
        count = len(data) if length is None else length
        head = bytes([0x80 | opcode, (0x80 if masked else 0) | 127]) + count.to_bytes(8, "big")
        self.socket.sendall(head + (bytes(4) if masked else b"") + data)


@pytest.fixture
def place(hands: Hands, tmp_path: Path) -> Iterator[Path]:
    """Where the pages are served."""
    desk = desk_at(str(tmp_path / "pages.db"))
    server = LocalServer(with_pages(api_of(desk), Sessions(desk.tokens._engine), hands), tmp_path / "pages.sock")
    server.start()
    yield tmp_path / "pages.sock"
    server.stop()


@pytest.mark.parametrize("what", ["console", "display"])
@pytest.mark.parametrize(
    ("key", "headers", "status"),
    [
        ("nobody", {}, b"403"),
        (quote(MARKUP, safe="") + "x", {}, b"403"),
        ("%00", {}, b"403"),
        ("x" * 300, {}, b"403"),
        (make.UUID, {"Origin": "https://evil.example"}, b"403"),
        (make.UUID, {"Host": "evil.example"}, b"403"),
        (make.UUID, {"Sec-WebSocket-Version": "12"}, b""),
    ],
)
def test_who_is_not_let_in_is_told_no_more_than_that(
    place: Path, hands: Hands, what: str, key: str, headers: dict[str, str], status: bytes
) -> None:
    line = Line(place, f"/vms/{key}/{what}/stream", **headers)
    said = line.all()
    assert said.startswith(b"HTTP/1.1 4" if not status else b"HTTP/1.1 " + status), said
    assert b"script" not in said
    assert hands.done == []


@pytest.mark.parametrize("what", ["console", "display"])
@pytest.mark.parametrize("bad", ["huge", "long", "not masked", "unknown", "no text"])
def test_who_speaks_badly_is_hung_up_on_and_the_guest_let_go(place: Path, hands: Hands, what: str, bad: str) -> None:
    from tests.test_console_page import Screen

    screen = hands.screen = Screen()
    screen.came.put(b"hello")
    line = Line(place, f"{WEB}/{what}/stream")
    while b"hello" not in line.socket.recv(65536):
        continue
    match bad:
        case "huge":
            line.frame(2, b"x" * (MOST_BODY + 1))
        case "long":
            line.frame(2, b"x" * 100, length=1 << 62)
        case "not masked":
            line.frame(2, b"x", masked=False)
        case "unknown":
            line.frame(11, b"x")
        case "no text":
            line.frame(1, b"\xff\xfe")
    if bad == "long":
        line.socket.close()  # nobody waits for what never comes: the line itself must live
    else:
        line.all()
    assert screen.gone.wait(60), "the guest is let go"


# The API, where each kind of database has limits of its own.

PATHS = described.WORDS["paths"]
NUL, LONE = "\0", "\ud800"
"""What PostgreSQL keeps in no text, and what is no character by itself."""


def asked_with(about: Mapping[str, Any], path: str, word: str) -> tuple[str, dict[str, str]]:
    """Return the path and the query of an operation, with that word wherever a text may stand."""
    texts = [each for each in about.get("parameters", ()) if "string" in str(each["schema"])]
    query = {each["name"]: word for each in texts if each["in"] == "query"}
    for each in about.get("parameters", ()):
        if each["in"] == "path":
            path = path.replace(f"{{{each['name']}}}", quote(word, safe="") if each in texts else "1")
    return path, query


def test_a_nul_is_answered_wherever_it_stands(desk: Desk) -> None:
    headers = {"Authorization": f"Bearer {desk.tokens.make('api', [Scope.ADMIN], 'ana')}"}
    client = TestClient(api_of(desk), base_url=SITE, headers=headers, raise_server_exceptions=False)
    bodies: list[Any] = [
        {"to": NUL}, {"map_storage": {NUL: NUL}}, {"name": NUL, "uri": NUL, "scopes": ["read"], "text": NUL},
        {"hosts": [NUL]},
        {"to": LONE}, {"name": LONE}, {"name": LONE, "scopes": ["read"], "tags": [LONE]}, {"wishes": {NUL: LONE}},
    ]  # fmt: skip
    for path, methods in PATHS.items():
        if path.endswith("/events"):
            continue  # what lasts is asked for elsewhere
        for method, about in methods.items():
            where, query = asked_with(about, path, NUL)
            real, _ = asked_with(about, path, "web")
            answers = [client.request(method, where, params=query)]
            if "requestBody" in about:
                answers += [client.request(method, real, content=json.dumps(body)) for body in bodies]
            for answer in answers:
                assert answer.status_code != 500, (method, path, answer.text)
