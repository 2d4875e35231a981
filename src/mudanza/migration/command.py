"""Running a program on this machine within a limit: what it says is kept, the end of it at least, and it is ended with
all that it has begun when it takes too long or nobody wants it any more."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from mudanza import clock

PARTING = 2.0
"""Seconds that a program has to end when it is told to, before it is killed."""
KEPT = 2000
"""Bytes of what it says that are kept, the last ones."""
MOST_FED = 32 * 1024
"""Bytes that a program may get as its input: as many as a pipe holds in any case."""
_LOOK = 0.05


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int | None
    """Its exit code, less than 0 for a signal; None: it took too long and was ended."""
    said: str
    """The last line of what it said, on either stream."""
    text: str = field(default="", compare=False, repr=False)
    """All of it that was kept."""

    @property
    def fault(self) -> str:
        """What went wrong, in words; empty where it ended well."""
        words = f": {self.said}" if self.said else ""
        if self.code is None:
            return f"took too long and was ended{words}"
        if self.code < 0:
            return f"was ended by signal {-self.code}{words}"
        return f"failed (exit {self.code}){words}" if self.code else ""


def run(
    argv: Sequence[str],
    environment: Mapping[str, str],
    limit: float,
    turn: Callable[[], None],
    *,
    feed: bytes = b"",
    kept: int = KEPT,
) -> Ended:
    """Run a program to its end, ``limit`` seconds at the most. ``turn`` is called over and over meanwhile.

    It gets ``feed`` as its input, MOST_FED bytes at the most, and a session of its own: what a terminal sends to us
    does not reach it. ``kept``: bytes of what it says. What it has begun and left behind when it ends by itself lives
    on. Raises OSError where it cannot be started, and what ``turn`` raises; then the program is ended.
    """
    assert len(feed) <= MOST_FED
    program = subprocess.Popen(
        list(argv),
        env=dict(environment),
        cwd="/",
        stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    listener = _Listener(program, kept)
    _feed(program, feed)
    until = clock.monotonic() + limit
    try:
        while program.poll() is None:
            turn()
            if clock.monotonic() >= until:
                return Ended(None, listener.last_line(), listener.text)
            listener.listen(_LOOK)
        return Ended(program.returncode, listener.last_line(), listener.text)
    finally:
        if program.returncode is None:
            _end(program)
        listener.close()


def _feed(program: subprocess.Popen[bytes], feed: bytes) -> None:
    """Give a program its input, all of which a pipe holds: nobody waits for it to be read."""
    if program.stdin is not None:
        with suppress(BrokenPipeError):  # it has ended already: its exit code tells
            program.stdin.write(feed)
            program.stdin.flush()
        with suppress(BrokenPipeError):
            program.stdin.close()


def _end(program: subprocess.Popen[bytes]) -> None:
    """End a program and its group: it is the first of its session."""
    os.killpg(program.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        program.wait(PARTING)
    with suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()


class _Listener:
    """Keeps the last of what a program says."""

    def __init__(self, program: subprocess.Popen[bytes], kept: int) -> None:
        assert program.stdout is not None
        self._pipe = program.stdout
        self._open = True
        self._most = kept
        self._kept = b""
        os.set_blocking(self._pipe.fileno(), False)
        self._said = select.poll()  # select() takes no file above 1023, and a daemon has a thousand hosts
        self._said.register(self._pipe, select.POLLIN)

    def listen(self, limit: float) -> None:
        """Take what there is, waiting for it ``limit`` seconds at the most."""
        if not self._open:
            clock.sleep(limit)
            return
        if not self._said.poll(limit * 1000):
            return
        with suppress(BlockingIOError):
            said = os.read(self._pipe.fileno(), 65536)
            self._open = bool(said)
            self._kept = (self._kept + said)[-self._most :]

    def last_line(self) -> str:
        """Return the last line that is not empty."""
        if self._open:
            self.listen(0.0)
        lines = self.text.split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    @property
    def text(self) -> str:
        """All that was kept."""
        return self._kept.decode("utf-8", "replace")

    def close(self) -> None:
        self._pipe.close()
