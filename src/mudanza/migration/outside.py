"""What a client outside sees of a guest while it moves: an address of the guest is asked over and over."""

from __future__ import annotations

import errno
import re
import selectors
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import IO, Protocol

from mudanza import clock
from mudanza.model.errors import BlockedError, UsageError

STEP = 0.05
"""Seconds between two questions: this fine is the blackout measured."""
ANSWER_LIMIT = 1.0
"""Seconds after which a connection that is not made counts as not answered."""
FIRST_ANSWER = 5.0
"""Seconds within which there must be an answer before the move."""
LAST_ANSWER = 10.0
"""Seconds within which there ought to be one after it."""
END_LIMIT = 2.0
"""Seconds that ``ping`` may take to end."""
SPELL = 2.0
"""A silence counts that is so many times as long as the usual time between two answers, and a step longer."""
SWITCHING = 1.0
"""Seconds after post-copy was ordered within which the silence of the switchover begins."""
_LOOK_AGAIN = 0.05
_REPLY = re.compile(rb"^\[(\d+\.\d+)\] .*\btime[=<]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Silences:
    """What was heard of a guest. Seconds."""

    longest: float = 0.0
    """The blackout."""
    spells: int = 0
    """How often it was silent for longer than usual."""
    total: float = 0.0
    """How long it was, in all these spells."""
    dark: bool = False
    """It was silent in the end, for LAST_ANSWER seconds."""
    stall: float | None = None
    """The longest silence in post-copy but that of the switchover; None: there was no post-copy."""
    stalled: float | None = None
    """How long it was silent in post-copy, but for that, in all spells."""


def silences(
    answers: Sequence[float], until: float | None = None, postcopy: tuple[float, float] | None = None
) -> Silences:
    """Work out the silences from the instants of the answers, in their order: pure.

    ``until``: when it was still silent; None: it answered in the end. ``postcopy``: when that was ordered, and when the
    last page had come. What there is between two answers anyhow, as a rule, is taken off each silence.
    """
    gaps = [later - earlier for earlier, later in pairwise(answers)]
    if until is not None and answers:
        gaps.append(until - answers[-1])
    usual = median(gaps) if gaps else 0.0
    spells = [gap - usual for gap in gaps if gap > SPELL * usual + STEP]
    longest = max((gap - usual for gap in gaps), default=0.0)
    found = Silences(max(0.0, longest), len(spells), sum(spells), dark=until is not None)
    if postcopy is None:
        return found
    began, ended = postcopy
    silent = [(earlier, later) for earlier, later in pairwise(answers) if later - earlier > SPELL * usual + STEP]
    switchover = (later for earlier, later in silent if later > began and earlier < began + SWITCHING)
    since = next(switchover, began)
    inside = [at for at in answers if since <= at <= ended]
    after = silences([*inside, ended]) if inside else Silences()
    return replace(found, stall=after.longest, stalled=after.total)


class Asking(Protocol):
    """Somebody who asks a guest over and over."""

    def answers(self) -> list[float]:
        """Return the instants of the answers so far, by one clock, in their order."""

    def now(self) -> float:
        """Return the time of that clock."""

    def end(self) -> None:
        """Ask no more."""


class Outside:
    """A guest's address under watch, from before its move until it answers after it."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def await_answer(self, limit: float) -> bool:
        """Wait until it answers after now; return whether it did within ``limit`` seconds."""
        since = self._asking.now()
        while not any(at > since for at in self._asking.answers()[-1:]):
            if self._asking.now() > since + limit:
                return False
            clock.sleep(_LOOK_AGAIN)
        return True

    def heard(self, postcopy: tuple[float, float] | None = None) -> Silences:
        """Return what was heard, once it answers again, or LAST_ANSWER seconds have passed.

        ``postcopy``: from when to when it was in post-copy, by our monotonic clock.
        """
        answered = self.await_answer(LAST_ANSWER)
        by_its_clock = self._asking.now() - clock.monotonic()
        span = (postcopy[0] + by_its_clock, postcopy[1] + by_its_clock) if postcopy else None
        return silences(self._asking.answers(), None if answered else self._asking.now(), span)


@contextmanager
def watching(what: str | None) -> Iterator[Outside | None]:
    """Ask ``ping:HOST`` or ``tcp:HOST:PORT`` meanwhile; None: nobody.

    Raises UsageError for anything else, BlockedError where nobody answers.
    """
    if what is None:
        yield None
        return
    asking = _asking(what)
    try:
        outside = Outside(asking)
        if not outside.await_answer(FIRST_ANSWER):
            raise BlockedError(
                f"--probe {what}: nobody answers, though the VM has not moved yet",
                remedy="see whether this machine reaches it, or leave --probe out",
            )
        yield outside
    finally:
        asking.end()


def parse_probe(what: str) -> tuple[str, int | None]:
    """Return the host that is asked, and the port where that is by TCP. Raises UsageError."""
    kind, _, rest = what.partition(":")
    host, _, port = rest.rpartition(":") if kind == "tcp" else (rest, "", "")
    fits = bool(host) and not host.startswith("-") and (kind == "ping" or (kind == "tcp" and port.isdigit()))
    if not fits or (port and not 0 < int(port) < 65536):
        raise UsageError(f"--probe {what!r} names nothing to ask", remedy="write ping:HOST, or tcp:HOST:PORT")
    return host.strip("[]"), int(port) if kind == "tcp" else None


def _asking(what: str) -> Asking:
    host, port = parse_probe(what)
    return Pings(host) if port is None else ConnectionAttempts(host, port)


class Pings:
    """Echo requests by the system's own ``ping``, which may send them, and writes down when the answers came."""

    def __init__(self, host: str) -> None:
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        argv = ["ping", "-n", "-D", "-i", str(STEP), "--", host]
        try:
            self._ping = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.DEVNULL, start_new_session=True
            )
        except FileNotFoundError:
            self._output.close()
            raise UsageError(
                "--probe ping: there is no ping on this machine",
                remedy="install it (Debian: iputils-ping), or ask a port: --probe tcp:HOST:PORT",
            ) from None

    def answers(self) -> list[float]:
        self._output.seek(0)
        return [float(at) for at in _REPLY.findall(self._output.read())]

    def now(self) -> float:
        return clock.time()

    def end(self) -> None:
        self._ping.send_signal(signal.SIGINT)
        try:
            self._ping.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            self._ping.kill()
            self._ping.wait()
        self._output.close()


class ConnectionAttempts:
    """Connections that are made and dropped, several at once where answers take longer than a step."""

    def __init__(self, host: str, port: int) -> None:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise UsageError(f"--probe tcp: {host}: {error}", remedy="give the guest's address") from None
        self._kind, self._address = (family, kind, protocol), address
        self._answers: list[float] = []
        self._over = clock.new_event()
        self._ended = clock.new_event()
        clock.start_thread(self._ask, f"probe {host}:{port}")

    def answers(self) -> list[float]:
        return list(self._answers)

    def now(self) -> float:
        return clock.monotonic()

    def end(self) -> None:
        self._over.set()
        self._ended.wait(2 * ANSWER_LIMIT)

    def _ask(self) -> None:
        with selectors.DefaultSelector() as waiting:
            ask_at = clock.monotonic()
            while not self._over.is_set():
                if clock.monotonic() >= ask_at:
                    self._begin(waiting)
                    ask_at = max(ask_at + STEP, clock.monotonic())
                for key, _ in waiting.select(max(0.0, ask_at - clock.monotonic())):
                    self._conclude(waiting, key)
                self._give_up_late(waiting)
            for key in list(waiting.get_map().values()):
                _drop(waiting, key)
        self._ended.set()

    def _begin(self, waiting: selectors.BaseSelector) -> None:
        connection = socket.socket(*self._kind)
        connection.setblocking(False)
        if connection.connect_ex(self._address) in (0, errno.EINPROGRESS):
            waiting.register(connection, selectors.EVENT_WRITE, clock.monotonic())
        else:
            connection.close()  # no way there now

    def _conclude(self, waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        if _drop(waiting, key) == 0:
            self._answers.append(clock.monotonic())

    def _give_up_late(self, waiting: selectors.BaseSelector) -> None:
        late = clock.monotonic() - ANSWER_LIMIT
        for key in [key for key in waiting.get_map().values() if key.data < late]:
            _drop(waiting, key)


def _drop(waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> int:
    """Wait for a connection no longer; return its error, 0 for one that was made or is not yet."""
    connection = waiting.unregister(key.fileobj).fileobj
    assert isinstance(connection, socket.socket)
    error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    with suppress(OSError):
        connection.close()
    return error
