"""Commands that begin with everything loaded: to load it takes longer than most of what commands do in the lab.

One process has loaded what others have written, and all of our modules, and has begun nothing with them. Each command
is a process forked from it, of a session of its own, that does what ``python -m mudanza`` does, with its own arguments,
environment and streams. That a command starts from nothing, too, is what ``tests/test_cli.py`` shows, and here every
command in the controller's seat and every one that is killed at its steps; all do with ``$MUDANZA_FROM_NOTHING``.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import mudanza

LIBRARIES = (
    "alembic.command",
    "httpx",
    "libvirt",
    "libvirt_qemu",
    "lxml.etree",
    "pydantic",
    "rich.console",
    "rich.table",
    "sqlalchemy",
    "sqlalchemy.dialects.sqlite",
    "typer",
)
"""What commands load besides our own modules, where they want it."""
OURS_LEFT_OUT = ("mudanza.__main__", "mudanza.lab", "mudanza.hypervisor.twin", "mudanza.journal.migrations")
"""What no command loads by itself, but to be it, to make a lab, or to bring a database up to date."""
LONGEST_ORDER = 1 << 20
"""Bytes of arguments and environment."""
_STREAMS: Mapping[str, Mapping[str, Any]] = {
    "stdin": {"mode": "r"},
    "stdout": {"mode": "w"},
    "stderr": {"mode": "w", "buffering": 1, "errors": "backslashreplace"},
}
"""As Python opens them."""
ENOUGH = 60.0
"""Seconds that a command may take to be begun on a busy machine."""


class Order(NamedTuple):
    """What one command is to be."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    streams: Sequence[int]
    """Its stdin, stdout and stderr."""


class Forked:
    """A command on its way; as ``subprocess.Popen`` with text."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        (out, its_out), (err, its_err), (told, its_told) = (os.pipe() for _ in range(3))
        handed_on = [nothing, its_out, its_err, its_told]
        try:
            order = json.dumps([list(arguments), dict(environment)]).encode()
            socket.send_fds(_forker(), [order], handed_on)
        finally:
            for descriptor in handed_on:
                os.close(descriptor)
        self.stdout = os.fdopen(out, encoding="utf-8")
        self.stderr = os.fdopen(err, encoding="utf-8")
        self._told = os.fdopen(told, encoding="ascii")
        self.returncode: int | None = None
        self.pid = int(self._hear(ENOUGH) or 0)
        assert self.pid, "no process was forked"
        self._read: list[str] = ["", ""]
        self._readers: list[threading.Thread] = []

    def _hear(self, limit: float | None) -> str | None:
        """Return the next line that is told of it; None: there is none within the limit."""
        if not select.select([self._told], [], [], limit)[0]:
            return None
        line = self._told.readline()
        assert line, "whoever forks commands has died"
        return line

    def poll(self) -> int | None:
        """Return its exit code, a signal's number below 0; None: it runs."""
        if self.returncode is None and (line := self._hear(0)):
            self.returncode = int(line)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read its streams to their ends, and wait for its own. Raises subprocess.TimeoutExpired."""
        until = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if until is None else max(0.0, until - time.monotonic())

        if not self._readers:
            self._readers = [threading.Thread(target=self._read_all, args=[n], daemon=True) for n in (0, 1)]
            for reader in self._readers:
                reader.start()
        for reader in self._readers:
            reader.join(left())
        over = not any(reader.is_alive() for reader in self._readers)
        if over and self.returncode is None and (line := self._hear(left())):
            self.returncode = int(line)
        if self.returncode is None or not over:
            raise subprocess.TimeoutExpired("mudanza", timeout or 0.0)
        for stream in (self.stdout, self.stderr, self._told):
            stream.close()
        return self._read[0], self._read[1]

    def _read_all(self, which: int) -> None:
        stream = (self.stdout, self.stderr)[which]
        if not stream.closed:
            self._read[which] += stream.read()


@cache
def _forker() -> socket.socket:
    """Start the process that commands are forked from; it ends with whoever holds the socket."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, its):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST_ORDER)
    with its:
        argv = [sys.executable, "-m", __name__, str(its.fileno())]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        subprocess.Popen(argv, pass_fds=[its.fileno()], start_new_session=True, **quiet)  # type: ignore[call-overload]
    return ours


def main(descriptor: int) -> None:
    """Fork commands, and in a command's process be it."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else numpy would start threads
    for library in LIBRARIES:
        importlib.import_module(library)
    _load_ours()
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "no other thread survives a fork"
    gc.collect()
    gc.freeze()
    if order := _next_command(socket.socket(fileno=descriptor)):
        _become(order)


def _load_ours() -> None:
    for _, name, _ in pkgutil.walk_packages(mudanza.__path__, "mudanza."):
        if not name.startswith(OURS_LEFT_OUT):
            importlib.import_module(name)


def _next_command(orders: socket.socket) -> Order | None:
    """Fork as many commands as are asked for, telling of each which process it is and how it ended.

    Returns in the process of each what it is to be; None: nobody will ask for any more.
    """
    looked_at = select.poll()
    looked_at.register(orders, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for ready, _ in looked_at.poll():
            if ready in running:
                pid, told = running.pop(ready)
                looked_at.unregister(ready)
                os.close(ready)
                _, status = os.waitpid(pid, 0)
                _tell(told, os.waitstatus_to_exitcode(status))
                os.close(told)
                continue
            text, descriptors, _, _ = socket.recv_fds(orders, LONGEST_ORDER, 4)
            if not text:
                return None
            *streams, told = descriptors
            pid = os.fork()
            if not pid:
                arguments, environment = json.loads(text)
                return Order(arguments, environment, streams)
            _tell(told, pid)
            process = os.pidfd_open(pid)
            running[process] = pid, told
            looked_at.register(process, select.POLLIN)
            for stream in streams:
                os.close(stream)


def _tell(told: int, number: int) -> None:
    try:
        os.write(told, f"{number}\n".encode())
    except BrokenPipeError:
        return  # nobody waits for it any more


def _become(order: Order) -> NoReturn:
    os.setsid()
    for (number, stream), (name, how) in zip(enumerate(order.streams), _STREAMS.items(), strict=True):
        os.dup2(stream, number)
        setattr(sys, name, os.fdopen(number, **how, closefd=False))
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(order.environment)
    sys.argv = ["mudanza", *order.arguments]
    runpy.run_module("mudanza", run_name="__main__", alter_sys=True)
    raise AssertionError("the program always exits")


if __name__ == "__main__":
    main(int(sys.argv[1]))
