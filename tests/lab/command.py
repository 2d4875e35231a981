"""Running mudanza as a user does: as a command, with its exit code, its events and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mudanza.cli.lab import CONFIG
from mudanza.lab.lab import Lab
from mudanza.lab.layout import CONTROLLER
from tests.lab.forking import Forked

FROM_NOTHING = "MUDANZA_FROM_NOTHING" in os.environ
"""Whether each command loads its libraries itself."""
COMMAND_LIMIT = 180.0
"""Seconds a command may take in these tests."""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it printed with ``-o json``."""
        return json.loads(self.out)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events it printed with ``-o json`` while something ran."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def report(self) -> dict[str, Any]:
        """The report among its events."""
        return next(event for event in self.events if event["event"] == "report")


class Mudanza:
    """The command, using the hosts of a lab."""

    def __init__(self, lab: Lab, config: Path | None = None) -> None:
        self.lab = lab
        self.config = config or lab.directory / CONFIG

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "mudanza", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "MUDANZA_CONFIG": str(self.config)}

    def __call__(self, *arguments: str, expect: int | None = 0, limit: float = COMMAND_LIMIT) -> Result:
        """Run a command to its end; ``expect`` None: any exit code."""
        return self.start(*arguments).end(expect, limit)

    def start(self, *arguments: str) -> Running:
        """Start a command and return while it runs."""
        if FROM_NOTHING:
            return self.start_argv(self.argv(*arguments))
        return Running(Forked(arguments, self.environment))

    def start_argv(self, argv: Sequence[str]) -> Running:
        """Start a program that works as this controller, and return while it runs."""
        pipe = subprocess.PIPE
        environment = self.environment
        return Running(
            subprocess.Popen(argv, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
        )


class SeatedMudanza(Mudanza):
    """The command in the lab's controller seat: it reaches the hosts by the network only, and has its own database."""

    def __init__(self, lab: Lab, config: Path | None = None) -> None:
        """``config``: settings that can be read there; None: as it is without."""
        super().__init__(lab, config)
        self._own = {"MUDANZA_CONFIG": str(config)} if config else {}

    def start(self, *arguments: str) -> Running:
        return self.start_argv(self.argv(*arguments))

    def start_argv(self, argv: Sequence[str]) -> Running:
        pipe = subprocess.PIPE
        return Running(self.popen(argv, stdout=pipe, stderr=pipe))

    def popen(self, argv: Sequence[str], **streams: Any) -> subprocess.Popen[str]:
        """Start a program there, with these streams; it ends as gently as it is told to."""
        return self.lab.cell(CONTROLLER).popen(argv, env=self._own, stop_signal=signal.SIGTERM, **streams)


class Running:
    """A command on its way, its events read as they come."""

    def __init__(self, process: subprocess.Popen[str] | Forked) -> None:
        self._process = process
        self._lines: list[str] = []

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def until(self, phase: str) -> dict[str, Any]:
        """Read events until one of that phase has come; fail if the command ends first."""
        return self.until_event(lambda event: event.get("phase") == phase, phase)

    def until_event(self, wanted: Callable[[dict[str, Any]], bool], what: str = "it") -> dict[str, Any]:
        """Read events until one that is wanted has come; fail if the command ends first."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            event: dict[str, Any] = json.loads(line)
            if wanted(event):
                return event
        raise AssertionError(f"it ended without {what!r}: {self._lines} {self.end(None).err}")

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still (SIGSTOP); fail if it has ended."""
        assert self._process.poll() is None, self.end(None)
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def abandon(self) -> None:
        """See that it does not outlive its test, in whatever state it is."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def end(self, expect: int | None = 0, limit: float = COMMAND_LIMIT) -> Result:
        """Wait for its end, ``limit`` seconds at the most."""
        try:
            out, err = self._process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        assert self._process.returncode is not None
        result = Result(self._process.returncode, "".join(self._lines) + out, err)
        assert expect is None or result.code == expect, f"exit {result.code}: {result.out}{result.err}"
        return result
