"""Clients that keep the daemon waiting are hung up on; meanwhile all others are answered."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from mudanza.service import patience
from mudanza.service.server import LocalServer, listen_at

LARGE = 64 * 1024 * 1024
"""More than lies in any buffer between two processes."""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with how long the body was, or at length."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/large":
        piece = b"x" * 65536
        for _ in range(LARGE // len(piece)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


def test_no_part_of_an_answer_waits_for_the_one_before_to_be_acknowledged() -> None:
    with listen_at("127.0.0.1:0") as listening, socket.create_connection(listening.getsockname()) as _:
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@contextmanager
def serving(app: ASGIApp, path: Path) -> Iterator[Path]:
    server = LocalServer(app, path)
    server.start()
    try:
        yield path
    finally:
        server.stop()


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as found:
        found.settimeout(60)
        found.connect(str(path))
        yield found


def answer(path: Path, body: bytes = b"") -> str:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://local", timeout=60) as client:
        return client.post("/", content=body).text


def received(client: socket.socket) -> int:
    """Wait until the other end is closed; return how many bytes came before."""
    count = 0
    try:
        while piece := client.recv(65536):
            count += len(piece)
    except ConnectionResetError:
        return count
    return count


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: l\r\n",
        b"POST / HTTP/1.1\r\nHost: l\r\nContent-Length: 9\r\n\r\nhalf",
    ],
)
def test_who_does_not_end_a_request_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(patience, "REQUEST_LIMIT", 0.5)
    with serving(application, tmp_path / "s") as path, connected(path) as slow:
        slow.sendall(beginning)
        assert answer(path, b"others") == "6"
        assert received(slow) == 0


def test_so_is_who_begins_a_second_one_and_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "REQUEST_LIMIT", 0.5)
    with serving(application, tmp_path / "s") as path, connected(path) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: l\r\n\r\n")
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET / HT")
        assert received(slow) < 100, "the rest of the first answer"


def test_who_does_not_read_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "READ_LIMIT", 0.5)
    ended = threading.Event()

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        await application(scope, receive, send)
        if scope["path"] == "/large":
            ended.set()

    with serving(noting, tmp_path / "s") as path, connected(path) as slow:
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: l\r\n\r\n")
        assert answer(path) == "0"
        assert ended.wait(60), "it ends although nobody reads"
        assert received(slow) < LARGE


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: l\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def test_so_is_who_does_not_read_what_a_websocket_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "READ_LIMIT", 0.5)
    ended = threading.Event()

    async def bringing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await application(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        try:
            for number in range(LARGE // 65536):
                await send({"type": "websocket.send", "bytes": hashlib.shake_128(bytes([number % 256])).digest(65536)})
        finally:
            ended.set()

    with serving(bringing, tmp_path / "s") as path, connected(path) as slow:
        slow.sendall(UPGRADE)
        assert answer(path) == "0"
        assert ended.wait(60), "it ends although nobody reads"
        assert received(slow) < LARGE


def test_who_is_answered_for_long_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "REQUEST_LIMIT", 0.2)

    async def pondering(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(4 * patience.REQUEST_LIMIT)
        await application(scope, receive, send)

    with serving(pondering, tmp_path / "s") as path, connected(path) as client:
        client.sendall(b"GET /long HTTP/1.1\r\nHost: l\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
