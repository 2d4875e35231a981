"""Watching a guest from outside while something is done to it."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from mudanza.lab import client, layout
from mudanza.lab.lab import Lab
from mudanza.lab.process import LabError
from mudanza.lab.series import Recording, Series, analyse, parse

WATCH_LIMIT = 3600.0
"""Seconds after which a forgotten client ends by itself."""
START_LIMIT = 20.0
"""Seconds until the first reply and the first beat must be there."""
STOP_LIMIT = 15.0
"""Seconds the client may take to end."""
_LOOK_STEP = 0.02


class Watch:
    """The outside client on one guest's address, from ``start`` to ``stop``; also a context manager.

    After the ``with`` block, ``series`` holds what was seen.
    """

    def __init__(self, lab: Lab, address: str, *, step: float = client.PING_STEP, out: Path | None = None) -> None:
        """``step`` in seconds between two pings; the record is kept in ``out`` if given, and removed otherwise."""
        self._seat = lab.cell(layout.CLIENT)
        self._address, self.step = address, step
        self._keep = out is not None
        self._out = out or Path(tempfile.mkstemp(dir=lab.directory, prefix="watch-", suffix=".jsonl")[1])
        self._program: subprocess.Popen[str] | None = None
        self._series: Series | None = None

    @property
    def series(self) -> Series:
        """What was seen. Raises LabError before ``stop``."""
        if self._series is None:
            raise LabError(f"the client watching {self._address} was not stopped yet")
        return self._series

    def start(self) -> Self:
        """Start the client and wait for the first reply and beat. Raises LabError if none come in START_LIMIT."""
        settings = {"--out": self._out, "--step": self.step, "--duration-limit": WATCH_LIMIT}
        words = [str(word) for setting in settings.items() for word in setting]
        argv, environment = client.command("watch", self._address, *words)
        self._program = self._seat.popen(argv, env=environment, stderr=subprocess.PIPE, stop_signal=signal.SIGTERM)
        try:
            self.until(lambda seen: bool(seen.replies and seen.beats), limit=START_LIMIT)
        except BaseException:
            self._end()
            self._discard()
            raise
        return self

    def until(self, condition: Callable[[Recording], bool], *, limit: float) -> None:
        """Wait until the record so far fulfils a condition. Raises LabError after ``limit`` seconds."""
        end = time.monotonic() + limit
        while not condition(self.recording()):
            if self._program is None or self._program.poll() is not None:
                raise LabError(f"the client watching {self._address} has ended{self._end()}")
            if time.monotonic() > end:
                raise LabError(f"the client watching {self._address} did not see what was awaited in {limit:g} s")
            time.sleep(_LOOK_STEP)

    def recording(self) -> Recording:
        """Return the record so far."""
        with self._out.open(encoding="ascii") as lines:
            return parse(lines)

    def stop(self) -> Series:
        """End the client and return what it saw. Raises LabError if it had failed or does not end."""
        try:
            complaint = self._end()
            seen = self.recording()
        finally:
            self._discard()
        if seen.ended is None:
            raise LabError(f"the client watching {self._address} did not end properly{complaint}")
        self._series = analyse(seen)
        return self._series

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._series is None:
            self.stop()

    def _end(self) -> str:
        """End the program if it runs; return its complaints, ready to be added to a message."""
        program, self._program = self._program, None
        if program is None:
            return ""
        program.terminate()
        try:
            _, complaint = program.communicate(timeout=STOP_LIMIT)
        except subprocess.TimeoutExpired as error:
            program.kill()
            raise LabError(f"the client watching {self._address} did not end in {STOP_LIMIT:g} s") from error
        return f": {complaint.strip()}" if complaint.strip() else ""

    def _discard(self) -> None:
        if not self._keep:
            self._out.unlink(missing_ok=True)
