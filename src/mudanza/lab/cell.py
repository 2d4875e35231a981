"""A cell: PID, mount, network and UTS namespaces that live and die with one init process."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import IO, TypeVar

from mudanza.lab.process import COMMAND_LIMIT, LabError, ProcessId, readable, run

Told = TypeVar("Told")

BIRTH_LIMIT = 20.0
"""Seconds a new cell may take to report its init process."""

BASE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}

_CLONE_NEWNET = 0x40000000
"""From include/uapi/linux/sched.h of Linux."""

# /proc still shows the outer process numbers while the first line runs: that is how the init learns its own.
_INIT = """
read -r pid rest </proc/self/stat
mount -t proc proc /proc && hostname "$1" && ip link set lo up || exit 1
shift
echo "$pid"
exec tini -- "$@" >/dev/null 2>&1
"""


@dataclass(frozen=True, slots=True)
class CellProcess:
    """A process inside a cell, under its numbers outside and inside."""

    id: ProcessId
    inner_pid: int
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """A handle on a set of namespaces; the namespaces themselves belong to the init process."""

    name: str
    init: ProcessId
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to BASE_ENVIRONMENT for everything run in it."""

    @classmethod
    def create(
        cls,
        name: str,
        program: Sequence[str] = ("sleep", "infinity"),
        *,
        within: Cell | None = None,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
    ) -> Cell:
        """Start a cell whose init runs ``program`` and ends with it.

        ``within`` another cell: then it dies with that one. Its mounts start as a private copy of the caller's
        in any case. Raises LabError if it does not come up within BIRTH_LIMIT.
        """
        enter = ["nsenter", "--target", str(within.pid), "--pid", "--"] if within else []
        spaces = ["unshare", "--pid", "--fork", "--mount", "--net", "--uts", "--"]
        argv = [*enter, "setsid", "--fork", *spaces, "sh", "-c", _INIT, "init", name, *program]
        with subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=BASE_ENVIRONMENT,
            start_new_session=True,
        ) as starter:
            assert starter.stdout is not None
            said = _first_line(starter.stdout.fileno())
        if not said.endswith("\n") or not said.strip().isdecimal():
            raise LabError(f"the namespaces of {name} could not be made: {said.strip() or 'no answer'}")
        return cls(name, ProcessId.of(int(said)), environment or {})

    @property
    def pid(self) -> int:
        """The init's process number outside."""
        return self.init.pid

    @property
    def alive(self) -> bool:
        """Whether its init lives."""
        return self.init.alive

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        stdin: str | None = None,
        timeout: float = COMMAND_LIMIT,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end. ``timeout`` in seconds, ``env`` is added to the cell's own.

        Raises LabError if the cell is dead, if the program does not end in time (it is killed then), and with
        ``check`` if it fails.
        """
        shown = f"{self.name}: {shlex.join(argv)}"
        environment = self._environment(env)
        return run(self._enter(argv), check=check, stdin=stdin, timeout=timeout, env=environment, shown=shown)

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
        stop_signal: signal.Signals = signal.SIGKILL,
        foreground: bool = False,
    ) -> subprocess.Popen[str]:
        """Start a program inside. It gets ``stop_signal`` when the returned process is terminated or killed.

        In the ``foreground`` it has the caller's terminal, and its Ctrl-C.
        """
        return subprocess.Popen(
            self._enter(argv, stop_signal),
            text=True,
            env=self._environment(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=not foreground,
        )

    def run_in_network(self, argv: Sequence[str], *, stdin: str | None = None) -> str:
        """Run a program of the machine in the cell's network namespace only, and return its output.

        Process numbers outside are valid there, which moving an interface to another cell needs.
        """
        self._require_alive()
        enter = ["nsenter", "--target", str(self.pid), "--net", "--"]
        return run([*enter, *argv], stdin=stdin, shown=f"{self.name}: {shlex.join(argv)}").stdout

    def call_in_network(self, function: Callable[[], Told]) -> Told:
        """Call a function in a thread that is in the cell's network, and return what it returns.

        For what is asked often: a program would take ten times as long to begin as the question does. The function
        bounds itself. Raises what it raises, and LabError if the cell is dead.
        """
        self._require_alive()
        told: Future[Told] = Future()

        def call() -> None:
            try:
                _enter_network(self.pid)
                told.set_result(function())
            except BaseException as error:
                told.set_exception(error)

        Thread(target=call, name=f"in the network of {self.name}", daemon=True).start()
        return told.result()

    def kill(self) -> None:
        """Kill the init and with it everything inside, and wait until it is gone. Raises LabError if it stays."""
        self.init.kill()

    def processes(self) -> Iterator[CellProcess]:
        """Yield what runs in the cell's own PID namespace, but not in cells within it."""
        self._require_alive()
        mine = Path(f"/proc/{self.pid}/ns/pid").readlink()
        for directory in Path("/proc").iterdir():
            if directory.name.isdecimal():
                try:
                    if (directory / "ns/pid").readlink() == mine:
                        yield _read_process(directory)
                except (FileNotFoundError, ProcessLookupError, LabError):
                    continue  # it ended while we looked
                except PermissionError:
                    continue  # shut even to root, so nothing we have started

    def _require_alive(self) -> None:
        if not self.alive:
            raise LabError(f"{self.name} is dead", remedy="boot it again, or take the lab down and up")

    def _enter(self, argv: Sequence[str], stop_signal: signal.Signals = signal.SIGKILL) -> list[str]:
        self._require_alive()
        # nsenter waits outside for the program inside; should it be killed, the program must not run on.
        follow = ["setpriv", "--pdeathsig", stop_signal.name.removeprefix("SIG"), "--"]
        spaces = ["--mount", "--net", "--uts", "--pid"]
        return ["nsenter", "--target", str(self.pid), *spaces, "--", *follow, *argv]

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        return {**BASE_ENVIRONMENT, **self.environment, **(extra or {})}


def _enter_network(pid: int) -> None:
    """Put this thread, and no other one, into the network of a process (setns(2)). Raises LabError."""
    import ctypes  # Python 3.11 has no setns of its own

    try:
        descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LabError(f"the network of process {pid} cannot be entered: {error.strerror}") from error
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            raise LabError(f"the network of process {pid} cannot be entered: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def _read_process(directory: Path) -> CellProcess:
    identity = ProcessId.of(int(directory.name))
    numbers = next(
        line for line in (directory / "status").read_text(errors="replace").splitlines() if line.startswith("NSpid:")
    )
    arguments = (directory / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    return CellProcess(identity, int(numbers.split()[-1]), tuple(arguments))


def _first_line(descriptor: int) -> str:
    """Read up to the first line end or the end of file, for BIRTH_LIMIT at the most."""
    said = b""
    while not said.endswith(b"\n"):
        piece = os.read(descriptor, 4096) if readable(descriptor, BIRTH_LIMIT) else b""
        if not piece:
            break
        said += piece
    return said.decode(errors="replace")
