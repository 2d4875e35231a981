"""Answering by HTTP: at a socket of this machine, where the kernel tells who asks, and by TLS at an address."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import struct
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from mudanza import clock
from mudanza.model.errors import UsageError
from mudanza.service.access import LOCAL
from mudanza.service.api import MOST_BODY, MOST_HEADERS
from mudanza.service.ending import told_of_ending
from mudanza.service.patience import Patience, PatientSocket

MOST_CONNECTIONS = 200
"""From elsewhere, at one time; who comes beyond is told to come again."""
END_LIMIT = 5
"""Seconds that answers under way may take when it is to end."""
GONE_WITHIN = 1.0
"""Seconds that processes of a daemon that was killed may take to be gone from its socket..."""
LOOK_EVERY = 0.1
"""... which is looked at so often."""
_CREDENTIALS = struct.Struct("3i")


class LocalProtocol(Patience):
    """HTTP/1.1, where the client is a user of this machine: root, or whoever the daemon runs as; nobody else."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Look who it is; hang up on a stranger."""
        super().connection_made(transport)
        found = transport.get_extra_info("socket")
        packed = found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(packed)
        if uid not in (0, os.getuid()):
            transport.abort()
            return
        self.client = (f"{_name(uid)}@localhost", pid)
        self.app_state = {**self.app_state, LOCAL: self.client[0]}


class Server:
    """Serves an application at one socket, in a thread of its own."""

    def __init__(self, app: ASGIApp, **how: Any) -> None:
        self._ending = threading.Event()
        self._config = uvicorn.Config(
            told_of_ending(app, self._ending.is_set),
            ws=PatientSocket,
            ws_max_size=MOST_BODY,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=END_LIMIT,
            **how,
        )
        self._server = _Quiet(self._config)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._socket: socket.socket | None = None

    def stop(self) -> None:
        """End, once what is being answered is answered; what is sent for as long as somebody listens ends now."""
        self._ending.set()
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(END_LIMIT + 1.0)
        if self._socket is not None:
            self._socket.close()

    def _begin(self, listening: socket.socket) -> None:
        self._socket = listening
        self._thread.start()

    def _serve(self) -> None:
        if self._socket is not None:
            self._server.run(sockets=[self._socket])


class LocalServer(Server):
    """Serves at a path of this machine."""

    def __init__(self, app: ASGIApp, path: Path, listening: socket.socket | None = None) -> None:
        """``listening``: as somebody else has it listen at that path already, and takes the path away."""
        super().__init__(app, http=LocalProtocol)
        self._path = path
        self._listening = listening

    def start(self) -> None:
        """Begin to answer. Raises UsageError where the path cannot be used."""
        self._begin(self._listening or listen_at_path(self._path))

    def stop(self) -> None:
        """End, once what is being answered is answered, and take the socket away."""
        super().stop()
        if self._socket is not None and self._listening is None:
            with suppress(OSError):
                self._path.unlink()


class NetworkServer(Server):
    """Serves by TLS at an address of the network, for those who have a token."""

    def __init__(
        self, app: ASGIApp, address: str, certificate: Path, key: Path, listening: socket.socket | None = None
    ) -> None:
        """``address``: see ``listen_at``; the files are PEM; ``listening``: as somebody has it listen there already."""
        super().__init__(
            app,
            http=Patience,
            ssl_certfile=str(certificate),
            ssl_keyfile=str(key),
            limit_concurrency=MOST_CONNECTIONS,
            h11_max_incomplete_event_size=MOST_HEADERS,
        )
        self._address = address
        self._listening = listening
        self.port = 0
        """Where it listens, once it does."""

    def start(self) -> None:
        """Begin to answer. Raises UsageError where the address or the certificate cannot be used."""
        try:
            self._config.load()  # reads the certificate
        except (OSError, ValueError) as error:
            raise UsageError(
                f"the certificate or the key of the service cannot be used: {error}",
                remedy="see service.certificate and service.key of the settings: PEM files that the daemon may read",
            ) from error
        listening = self._listening or listen_at(self._address)
        self.port = int(listening.getsockname()[1])
        self._begin(listening)


class _Quiet(uvicorn.Server):
    """Leaves signals to whoever has it."""

    def capture_signals(self) -> Any:
        """Catch none."""
        return nullcontext()


def listen_at(address: str) -> socket.socket:
    """Listen at HOST:PORT, [IPV6]:PORT or, for all addresses, :PORT. Raises UsageError where that cannot be."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    everywhere = not host
    family = socket.AF_INET6 if everywhere or ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, int(port)), family=family, dualstack_ipv6=everywhere)
        # Else the second part of an answer waits until the first one is acknowledged, which takes 40 ms; asyncio sees
        # to it only where a socket was made with the protocol's number.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"{address!r} cannot be listened at: {error}", remedy="write HOST:PORT, such as 10.0.0.5:8443"
        ) from error


def listen_at_path(path: Path) -> socket.socket:
    """Listen at a path of this machine, for its user alone. Raises UsageError where it cannot, or somebody does."""
    if path.exists():
        if _answers(path):
            raise UsageError(f"somebody answers at {path} already", remedy="stop that one, or name another --socket")
        path.unlink()
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(128)
    except OSError as error:
        raise UsageError(f"{path} cannot be listened at: {error.strerror or error}") from error
    return listening


def _answers(path: Path) -> bool:
    """Whether somebody does; one that was killed may take a moment to be gone."""
    until = clock.monotonic() + GONE_WITHIN
    while _accepts(path):
        if clock.monotonic() >= until:
            return True
        clock.sleep(LOOK_EVERY)
    return False


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(1.0)
        return trial.connect_ex(str(path)) == 0


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
