"""The outside client: what talks to guests in the network of the lab's client seat.

As a program there: ``watch`` sends ICMP echoes and reads the heartbeat, recording all of it; ``turns`` has guests write
one sequence. As functions: ``ask`` puts one question to a guest's agent, ``await_guest`` waits for it to come up.
Standard library only: it must start at once.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from mudanza.model.errors import MudanzaError

BEAT_PORT = 7000
CONTROL_PORT = 7001

PING_STEP = 0.008
"""Seconds between two echo requests: this fine is the blackout measured."""
CONNECT_LIMIT = 1.0
"""Seconds one attempt to connect to the heartbeat may take."""
RETRY_STEP = 0.2
"""Seconds between two such attempts."""
DRAIN_LIMIT = 0.5
"""Seconds to wait at the end for replies still under way."""
READY_STEP = 0.1
"""Seconds between two looks at a guest that is booting."""
NICENESS = -10
"""It measures, so it goes first on a loaded machine."""

# A guest that came back without its old connections answers the probe with a reset; one that is only cut off
# for a while must not be taken for broken.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 24))

ECHO_REQUEST, ECHO_REPLY = 8, 0
_ECHO = struct.Struct("!BBHHH")
_PAYLOAD = struct.Struct("!8sQ")
_SECONDS_NANOSECONDS = struct.Struct("@qq")
SO_TIMESTAMPNS = 35
"""asm-generic/socket.h; Python 3.11 does not name it."""


def command(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return argv and the environment to run this program in a seat with the interpreter and package in use."""
    return [sys.executable, "-m", "mudanza.lab.client", *arguments], {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Echo:
    """ICMP echoes to one address, told from everyone else's by a token in the payload."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._token = secrets.token_bytes(8)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)

    def send(self, number: int) -> None:
        """Send request ``number``. Raises OSError when the network refuses it."""
        payload = _PAYLOAD.pack(self._token, number)
        fields = (int.from_bytes(self._token[:2], "big"), number & 0xFFFF)
        blank = _ECHO.pack(ECHO_REQUEST, 0, 0, *fields)
        header = _ECHO.pack(ECHO_REQUEST, 0, checksum(blank + payload), *fields)
        self.socket.sendto(header + payload, (self._address, 0))

    def receive(self) -> tuple[int, int] | None:
        """Return (arrival in monotonic ns, number) of a reply, None for a packet of others.

        The arrival is the kernel's, so that a late wake-up of this process does not count against the guest.
        Raises BlockingIOError when nothing is there, OSError when the network reports trouble.
        """
        packet, extra, _, _ = self.socket.recvmsg(2048, 128)
        now, wall = time.monotonic_ns(), time.time_ns()
        content = packet[(packet[0] & 0x0F) * 4 :]
        if len(content) < _ECHO.size + _PAYLOAD.size or content[0] != ECHO_REPLY:
            return None
        token, number = _PAYLOAD.unpack_from(content, _ECHO.size)
        if token != self._token:
            return None
        arrival = next((_SECONDS_NANOSECONDS.unpack(data) for _, kind, data in extra if kind == SO_TIMESTAMPNS), None)
        since = wall - (arrival[0] * 10**9 + arrival[1]) if arrival else 0
        return now - since, number


class Heartbeat:
    """The TCP connection to the guest's heartbeat, made again whenever it breaks."""

    def __init__(self, address: str, selector: selectors.BaseSelector, record: Recorder) -> None:
        self._address, self._selector, self._record = address, selector, record
        self._socket: socket.socket | None = None
        self._connected = False
        self._rest = b""
        self._due = 0.0
        """Monotonic seconds: when to try again, or to give an attempt up."""

    def tend(self, now: float) -> None:
        """Start an attempt when one is due, and give one up that takes too long."""
        if self._connected or now < self._due:
            return
        if self._socket:
            self._close("no connection within the limit")
            return
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            self._socket.setsockopt(socket.IPPROTO_TCP, option, value)
        self._due = now + CONNECT_LIMIT
        self._socket.connect_ex((self._address, BEAT_PORT))
        self._selector.register(self._socket, selectors.EVENT_WRITE, self._on_connected)

    def _on_connected(self) -> None:
        assert self._socket
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._close(os.strerror(error))
            return
        self._connected = True
        self._rest = b""
        self._record.add("connected")
        self._selector.modify(self._socket, selectors.EVENT_READ, self._on_data)

    def _on_data(self) -> None:
        assert self._socket
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(error.strerror or str(error))
            return
        if not data:
            self._close("the guest closed the connection")
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        now = time.monotonic_ns()
        for line in lines:
            self._record.add("beat", *(int(word) for word in line.split()), at=now)

    def _close(self, why: str) -> None:
        assert self._socket
        self._selector.unregister(self._socket)
        self._socket.close()
        # An attempt that came to nothing is no break: it only means that the guest is not there yet.
        if self._connected:
            self._record.add("broken", why)
        self._socket, self._connected = None, False
        self._due = time.monotonic() + RETRY_STEP


class Recorder:
    """The record on its way to the file, one JSON array a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def add(self, kind: str, *values: int | str, at: int | None = None) -> None:
        """Add one record; ``at`` is monotonic ns, now if not given."""
        self._out.write(json.dumps([kind, time.monotonic_ns() if at is None else at, *values]) + "\n")

    def flush(self) -> None:
        """Hand over to the file what was recorded."""
        self._out.flush()


class Watcher:
    """Pings and listens until it is told to stop, or its time is over."""

    def __init__(self, address: str, out: TextIO, step: float = PING_STEP) -> None:
        self._step = step
        self._record = Recorder(out)
        self._selector = selectors.DefaultSelector()
        self._echo = Echo(address)
        self._selector.register(self._echo.socket, selectors.EVENT_READ, self._on_reply)
        self._heartbeat = Heartbeat(address, self._selector, self._record)
        self._sent = 0
        self._waiting: set[int] = set()
        self._stopping = False

    def stop(self) -> None:
        """End soon."""
        self._stopping = True

    def run(self, limit: float) -> None:
        """Watch for at most ``limit`` seconds."""
        next_ping = time.monotonic()
        end = next_ping + limit
        while not self._stopping and time.monotonic() < end:
            self._turn(max(0.0, next_ping - time.monotonic()))
            now = time.monotonic()
            if now >= next_ping:
                self._ping()
                next_ping = max(next_ping + self._step, now)
            self._heartbeat.tend(now)
        self._drain()
        self._record.add("end", "stopped" if self._stopping else "limit")
        self._record.flush()

    def _turn(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            key.data()
        self._record.flush()

    def _drain(self) -> None:
        end = time.monotonic() + DRAIN_LIMIT
        while self._waiting and (left := end - time.monotonic()) > 0:
            self._turn(left)

    def _ping(self) -> None:
        self._sent += 1
        self._waiting.add(self._sent)
        self._record.add("sent", self._sent)
        try:
            self._echo.send(self._sent)
        except OSError as error:
            self._record.add("error", error.strerror or str(error))

    def _on_reply(self) -> None:
        try:
            reply = self._echo.receive()
        except BlockingIOError:
            return
        except OSError as error:
            self._record.add("error", error.strerror or str(error))
            return
        if reply:
            at, number = reply
            self._waiting.discard(number)
            self._record.add("reply", number, at=at)


def watch(address: str, out: Path, limit: float, step: float) -> None:
    """Record until SIGTERM, SIGINT or ``limit`` seconds."""
    os.nice(NICENESS)
    with out.open("w", encoding="ascii") as file:
        watcher = Watcher(address, file, step)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: watcher.stop())
        watcher.run(limit)


def ask(address: str, question: str, limit: float) -> str:
    """Put one command to the guest's agent and return its answer. Raises MudanzaError when none comes."""
    try:
        with socket.create_connection((address, CONTROL_PORT), timeout=limit) as connection:
            connection.sendall(question.encode() + b"\n")
            answer = connection.makefile("rb").readline().decode()
    except OSError as error:
        raise MudanzaError(f"the agent of {address} does not answer {question!r}: {error}") from error
    if not answer.endswith("\n"):
        raise MudanzaError(f"the agent of {address} hung up on {question!r}")
    return answer.strip()


def take_turns(addresses: Sequence[str], out: TextIO, limit: float) -> None:
    """Have guests write one sequence by turns, each number once the one before is on its disk, until SIGTERM or
    ``limit`` seconds; tell each one. Raises MudanzaError when one does not answer within that time."""
    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: over.append(1))
    end, number = time.monotonic() + limit, 0
    try:
        connections = [socket.create_connection((address, CONTROL_PORT), timeout=limit) for address in addresses]
        answers = [connection.makefile("rb") for connection in connections]
        while not over and time.monotonic() < end:
            number += 1
            connections[number % len(addresses)].sendall(f"turn {number}\n".encode())
            answer = answers[number % len(addresses)].readline().decode().strip()
            if answer != f"ok {number}":
                raise MudanzaError(f"{addresses[number % len(addresses)]} answered turn {number} with: {answer}")
            print(number, file=out, flush=True)
    except OSError as error:
        raise MudanzaError(f"turn {number} got no answer: {error}") from error


def await_guest(address: str, limit: float) -> None:
    """Wait until the guest answers ping and sends a beat. Raises MudanzaError saying what is missing."""
    end = time.monotonic() + limit
    missing = "ping"
    while time.monotonic() < end:
        missing = _missing(address)
        if not missing:
            return
        time.sleep(READY_STEP)
    raise MudanzaError(f"{address} does not answer after {limit:g} s: no {missing}")


def _missing(address: str) -> str:
    """Return what of ping and heartbeat does not answer yet; empty: both do."""
    if not _answers_ping(address):
        return "reply to ping"
    try:
        with socket.create_connection((address, BEAT_PORT), timeout=CONNECT_LIMIT) as connection:
            return "" if connection.recv(1) else "heartbeat"
    except OSError:
        return "heartbeat"


def _answers_ping(address: str) -> bool:
    echo = Echo(address)
    end = time.monotonic() + CONNECT_LIMIT
    with echo.socket:
        try:
            echo.send(1)
            while (left := end - time.monotonic()) > 0:
                # Other pings of this seat pass by here too.
                echo.socket.settimeout(left)
                if echo.receive():
                    return True
        except OSError:
            return False
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program in the client seat."""
    parser = argparse.ArgumentParser(prog="mudanza.lab.client")
    verbs = parser.add_subparsers(dest="verb", required=True)
    watching = verbs.add_parser("watch")
    watching.add_argument("address")
    watching.add_argument("--out", type=Path, required=True)
    watching.add_argument("--duration-limit", type=float, required=True, help="seconds")
    watching.add_argument("--step", type=float, default=PING_STEP, help="seconds between two pings")
    turning = verbs.add_parser("turns")
    turning.add_argument("addresses", nargs="+")
    turning.add_argument("--limit", type=float, required=True, help="seconds")
    options = parser.parse_args(arguments)
    try:
        if options.verb == "watch":
            watch(options.address, options.out, options.duration_limit, options.step)
        else:
            take_turns(options.addresses, sys.stdout, options.limit)
    except MudanzaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
