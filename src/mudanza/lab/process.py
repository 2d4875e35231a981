"""Running other programs, with a limit on every wait, and naming processes so that no stranger is ever hit."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mudanza.model.errors import MudanzaError

COMMAND_LIMIT = 60.0
"""Seconds a program may take unless the caller knows better."""
STOP_LIMIT = 10.0
"""Seconds all threads of a process may take to stand still."""
_STOP_INTERVAL = 0.01
DEATH_LIMIT = 20.0
"""Seconds a killed process, and everything that goes with it, may take to be gone."""


class LabError(MudanzaError):
    """Something in the lab could not be done."""


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout: float = COMMAND_LIMIT,
    env: Mapping[str, str] | None = None,
    shown: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return what it said.

    ``timeout`` in seconds, ``shown`` is what errors call the command. Raises LabError when it cannot be started or
    does not end in time, and with ``check`` when it fails. A session of its own keeps the terminal's Ctrl-C from
    it: that is for the caller to handle.
    """
    shown = shown or shlex.join(argv)
    try:
        done = subprocess.run(
            argv,
            check=False,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL if stdin is None else None,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            env=env,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shown} did not end within {timeout:g} s") from error
    except OSError as error:
        raise LabError(f"{shown} could not be started: {error}") from error
    if check and done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise LabError(f"{shown} failed with {done.returncode}: {said}")
    return done


def readable(descriptor: int, limit: float) -> bool:
    """Wait until there is something to read, or an end; return False after ``limit`` seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(limit * 1000))


class _Stat(NamedTuple):
    """Fields 3, 9 and 22 of /proc/PID/stat (proc(5))."""

    state: str
    flags: int
    started: int


_ENDED = "ZX"
_PF_EXITING = 0x4
"""From include/linux/sched.h of Linux."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken for a later one of the same number."""

    pid: int
    started: int
    """Clock ticks after boot (field 22 of /proc/PID/stat)."""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return the identity of a process that exists. Raises LabError when it does not."""
        stat = _stat(pid)
        if stat is None:
            raise LabError(f"there is no process {pid}")
        return cls(pid, stat.started)

    @property
    def alive(self) -> bool:
        """Whether it is there and not about to end: a dying process has no namespaces any more."""
        stat = self._stat_of_mine()
        return stat is not None and stat.state not in _ENDED and not stat.flags & _PF_EXITING

    @property
    def stopped(self) -> bool:
        """Whether every thread of it stands still after SIGSTOP."""
        try:
            threads = [_stat(self.pid, f"task/{task.name}/stat") for task in Path(f"/proc/{self.pid}/task").iterdir()]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return self.alive and all(thread is None or thread.state == "T" for thread in threads)

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; return False if the process is gone already."""
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def stop(self) -> None:
        """Send SIGSTOP and wait until it stands still. Raises LabError if it does not within STOP_LIMIT."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + STOP_LIMIT
        while not self.stopped:
            if time.monotonic() > deadline or not self.alive:
                raise LabError(f"process {self.pid} did not stop within {STOP_LIMIT:g} s of SIGSTOP, or has ended")
            time.sleep(_STOP_INTERVAL)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end. Raises LabError if it is not gone within DEATH_LIMIT."""
        descriptor = self._open()
        if descriptor is None:
            return
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            ended = readable(descriptor, DEATH_LIMIT)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)
        if not ended:
            raise LabError(f"process {self.pid} is still there {DEATH_LIMIT:g} s after SIGKILL")

    def _open(self) -> int | None:
        """Return a descriptor that stands for this very process: a pid alone may be reused between two calls."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        stat = self._stat_of_mine()
        if stat is not None and stat.state not in _ENDED:
            return descriptor
        os.close(descriptor)
        return None

    def _stat_of_mine(self) -> _Stat | None:
        stat = _stat(self.pid)
        return stat if stat is not None and stat.started == self.started else None


def _stat(pid: int, file: str = "stat") -> _Stat | None:
    """Read what the kernel says of a process (or of a thread, by its file), None if there is none."""
    try:
        text = Path(f"/proc/{pid}/{file}").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may hold anything, parentheses and blanks too.
    fields = text.rpartition(")")[2].split()
    return _Stat(state=fields[0], flags=int(fields[6]), started=int(fields[19]))
