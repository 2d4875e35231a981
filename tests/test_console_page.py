"""A guest's console and its display on pages: who may, what goes to and fro, and how it ends."""

from __future__ import annotations

import base64
import os
import queue
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from mudanza.journal.sessions import Sessions
from mudanza.model.access import Scope
from mudanza.model.errors import BlockedError, HypervisorError
from mudanza.model.vm import Graphics, VmState
from mudanza.service.api import api_of
from mudanza.service.desk import Desk
from mudanza.service.pages import talking
from mudanza.service.pages.dashboard import with_pages
from mudanza.service.pages.session import COOKIE
from mudanza.service.picture import Picture
from mudanza.service.server import LocalServer
from tests import factories as make
from tests.lab.conftest import await_true
from tests.test_pages import SITE, Hands, admin, desk, enter, hands, site_of, sound, stranger, words

__all__ = ["admin", "desk", "hands", "stranger"]

PAGE = f"/vms/{make.UUID}/console"
DISPLAY = f"/vms/{make.UUID}/display"


class Screen:
    """A guest that writes in capitals what is typed."""

    def __init__(self) -> None:
        self.came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.closed = threading.Event()
        self.gone = threading.Event()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.gone.set()

    def receive(self) -> bytes:
        return self.came.get()

    def send(self, data: bytes) -> None:
        if self.closed.is_set():
            raise HypervisorError("h1", "the console is closed")
        self.came.put(data.upper())

    def close(self) -> None:
        self.closed.set()
        self.came.put(b"")


@pytest.fixture
def screen(hands: Hands) -> Screen:
    hands.screen = Screen()
    return hands.screen  # type: ignore[no-any-return]


def at(client: TestClient, page: str = PAGE, **headers: str) -> WebSocketTestSession:
    """Open a WebSocket as a browser does whose page is ours."""
    cookie = f"{COOKIE}={client.cookies[COOKIE]}" if COOKIE in client.cookies else ""
    sent = {"host": SITE.removeprefix("https://"), "origin": SITE, "cookie": cookie, **headers}
    return client.websocket_connect(f"{page}/stream", headers=sent)


def refused(client: TestClient, **headers: str) -> None:
    for page in (PAGE, DISPLAY):
        with pytest.raises(WebSocketDisconnect), at(client, page, **headers):
            pass


def over(session: WebSocketTestSession) -> dict[str, Any]:
    """Return how a session ended."""
    while (message := session.receive())["type"] == "websocket.send":
        continue
    return dict(message)


def heard(session: WebSocketTestSession) -> bytes:
    """Return what is told next, but for that the console is open."""
    return next(told for told in iter(session.receive_bytes, None) if told)


def test_the_page_says_how_to_leave_and_takes_nothing_from_elsewhere(admin: TestClient) -> None:
    tree = sound(admin.get(PAGE))
    assert tree.xpath("//pre/@data-stream") == [f"{PAGE}/stream"]
    assert tree.xpath("//pre/@tabindex") == ["0"]
    assert all(source.startswith("/static/") for source in tree.xpath("//script/@src"))
    for source in tree.xpath("//script/@src"):
        assert admin.get(source).status_code == 200
    assert "Consola" in admin.get(PAGE, headers={"accept-language": "es"}).text


def test_what_is_typed_gets_there_and_what_is_written_comes_back(
    admin: TestClient, desk: Desk, hands: Hands, screen: Screen
) -> None:
    screen.came.put(b"login: ")
    with at(admin) as session:
        assert heard(session) == b"login: "
        session.send_text("root\r")
        assert heard(session) == b"ROOT\r"
        session.send_bytes(b"\x03\xff")
        assert heard(session) == b"\x03\xff"
    assert screen.gone.wait(60), "a browser that goes lets the console go"
    assert hands.done == [("console", make.UUID, "h1")]
    await_true(lambda: desk.audit.since(None)[-1].exit_code == 0, "the audit has its end")
    asked = desk.audit.since(None)[-1]
    assert (asked.command, asked.who["user"]) == (("console", make.UUID), "token t0")


def test_a_display_has_a_page_too_and_its_words_go_to_and_fro(
    admin: TestClient, desk: Desk, hands: Hands, screen: Screen
) -> None:
    tree = sound(admin.get(DISPLAY))
    assert tree.xpath("//canvas/@data-stream") == [f"{DISPLAY}/stream"]
    assert tree.xpath("//canvas/@tabindex") == ["0"]
    for source in tree.xpath("//script/@src"):
        assert admin.get(source).status_code == 200
    assert "Pantalla de web" in admin.get(DISPLAY, headers={"accept-language": "es"}).text
    with at(admin, DISPLAY) as session:
        assert session.receive_bytes() == b"", "it is open"
        session.send_bytes(b"\x01")
        assert heard(session) == b"\x01"
    assert screen.gone.wait(60)
    assert hands.done == [("display", make.UUID, "h1")]
    await_true(lambda: desk.audit.since(None)[-1].exit_code == 0, "the audit has its end")
    assert desk.audit.since(None)[-1].command == ("display", make.UUID)


def test_why_a_display_is_not_shown_is_told_with_what_to_do(admin: TestClient, hands: Hands) -> None:
    hands.error = BlockedError("VM 'web' has no VNC display", remedy="give it one " + "x" * 200)
    with at(admin, DISPLAY) as session:
        assert session.receive_text() == f"VM 'web' has no VNC display: {hands.error.remedy}"
        assert over(session)["code"] == talking.REFUSED


@pytest.mark.parametrize(
    ("kinds", "offered"), [((), False), (("vnc",), True), (("spice",), True), (("spice", "vnc"), True)]
)
def test_a_display_is_offered_where_there_is_one_to_show(
    desk: Desk, hands: Hands, kinds: tuple[str, ...], offered: bool
) -> None:
    vm = make.vm(graphics=tuple(Graphics(kind, "127.0.0.1", 5900) for kind in kinds))
    picture = Picture(make.cluster(vms=[vm]), 1.0, 0.1)
    client = enter(site_of(replace(desk, newest=lambda: picture), hands), desk, Scope.MIGRATE)
    tree = sound(client.get(f"/vms/{make.UUID}"))
    assert bool(tree.xpath(f"//a[@href='{DISPLAY}']")) == offered
    for kind in kinds:
        assert f"{kind.upper()} · 127.0.0.1:5900" in words(tree)
    assert bool(sound(client.get(PAGE)).xpath(f"//a[@href='{DISPLAY}']")) == offered


def test_what_is_typed_before_it_is_open_gets_there_then(
    admin: TestClient, hands: Hands, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = threading.Event()
    opened = hands.console

    def console(uuid: str, host: str) -> object:
        login.wait(60)
        return opened(uuid, host)

    monkeypatch.setattr(hands, "console", console)
    with at(admin) as session:
        session.send_text("root\r")
        login.set()
        assert session.receive_bytes() == b"", "it is open"
        assert heard(session) == b"ROOT\r"


def test_a_guest_that_ends_ends_it(admin: TestClient, screen: Screen) -> None:
    with at(admin) as session:
        screen.came.put(b"bye")
        assert heard(session) == b"bye"
        screen.came.put(b"")
        assert over(session)["code"] == talking.OVER


def test_strangers_and_readers_are_refused(stranger: TestClient, desk: Desk, hands: Hands, screen: Screen) -> None:
    refused(stranger)
    refused(enter(stranger, desk, Scope.READ))
    assert stranger.get(PAGE).status_code == 403
    assert hands.done == []


def test_another_sites_page_is_refused(admin: TestClient, hands: Hands, screen: Screen) -> None:
    refused(admin, origin="https://evil.example")
    refused(admin, origin="null")
    refused(admin, **{"sec-fetch-site": "cross-site"})
    assert hands.done == []


def test_who_may_not_see_a_vm_gets_no_console_of_it(
    stranger: TestClient, desk: Desk, hands: Hands, screen: Screen
) -> None:
    refused(enter(stranger, desk, Scope.MIGRATE, hosts=["h2"]))
    assert hands.done == []


def test_what_keeps_it_from_being_opened_is_told(admin: TestClient, desk: Desk, hands: Hands) -> None:
    hands.error = HypervisorError("h1", "Active console session exists for this domain")
    with at(admin) as session:
        ended = over(session)
    assert ended["code"] == talking.REFUSED
    assert "Active console session" in ended["reason"]
    assert desk.audit.since(None)[-1].exit_code == HypervisorError.exit_code


def test_a_guest_that_is_off_has_none(desk: Desk, hands: Hands, screen: Screen) -> None:
    picture = Picture(make.cluster(vms=[make.vm(state=VmState.SHUTOFF)]), 1.0, 0.1)
    client = enter(site_of(replace(desk, newest=lambda: picture), hands), desk, Scope.ADMIN)
    with at(client) as session:
        assert "is off" in over(session)["reason"]
    assert hands.done == []


def test_no_more_are_open_than_may_be(
    desk: Desk, hands: Hands, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talking, "MOST_OPEN", 1)
    client = enter(site_of(desk, hands), desk, Scope.ADMIN)
    screen.came.put(b"first")
    with at(client) as session:
        assert heard(session) == b"first"
        with at(client) as second:
            assert "as many consoles" in over(second)["reason"]
    assert screen.gone.wait(60)


def test_it_ends_with_the_token(admin: TestClient, desk: Desk, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talking, "LOOK_AGAIN", 0.01)
    with at(admin) as session:
        screen.came.put(b"there")
        assert heard(session) == b"there"
        desk.tokens.revoke("t0")
        assert over(session)["code"] == talking.OVER
    assert screen.gone.wait(60)


def test_it_is_not_open_for_ever(admin: TestClient, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talking, "LOOK_AGAIN", 0.01)
    monkeypatch.setattr(talking, "LASTS", 0.0)
    with at(admin) as session:
        assert over(session)["code"] == talking.OVER
    assert screen.gone.wait(60)


def test_at_the_local_socket_it_is_open_to_whoever_may_do_everything(
    desk: Desk, hands: Hands, screen: Screen, tmp_path: Path
) -> None:
    front = with_pages(api_of(desk), Sessions(desk.tokens._engine), hands)
    server = LocalServer(front, tmp_path / "local.sock")
    server.start()
    screen.came.put(b"hello")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(60)
            client.connect(str(tmp_path / "local.sock"))
            key = base64.b64encode(os.urandom(16)).decode()
            client.sendall(
                f"GET {PAGE}/stream HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
            )
            came = b""
            while b"hello" not in came:
                piece = client.recv(4096)
                assert piece, came
                came += piece
            assert came.startswith(b"HTTP/1.1 101")
        assert screen.gone.wait(60)
        assert str(desk.audit.since(None)[-1].who["user"]).endswith("@localhost")
    finally:
        server.stop()
