"""The daemon's processes: one that answers, some that work, and this one, which starts them, and again what dies.

Python computes in one thread of a process at a time: what works on a hundred moves, or looks at a thousand hosts, would
have whoever asks something wait. This one does nothing itself, so there is little that could end it; where it is killed
all the others are, too, by the kernel: so there are never two daemons at one socket.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from mudanza import clock
from mudanza.model.errors import MudanzaError
from mudanza.model.telling import error_as_data, error_from_data
from mudanza.service.supervisor import notify, watchdog

LOOK_EVERY = 0.5
"""Seconds between two looks at the processes, where none of them tells something."""
FRESH = 30.0
"""Seconds for which a process counts as alive after its last sign."""
AGAIN_AFTER = 1.0
"""Seconds until one that has died is started again; twice as many each time that it dies young..."""
AGAIN_AT_MOST = 60.0
"""... up to so many; and one is not young any more that has lived for so many."""
_DIE_WITH_PARENT = 1
"""``PR_SET_PDEATHSIG``, see prctl(2)."""
_MOST_ARENAS = -8
"""``M_ARENA_MAX``, see mallopt(3): of glibc alone."""
ARENAS = 2
"""Heaps of the C library in one process: hundreds of threads would each leave holes in one of sixteen."""


class Line:
    """A process's line to the one that has started it."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self.stop = clock.new_event()
        """Set: begin nothing more, and end when what is under way has ended."""
        self.cancel = clock.new_event()
        """Set: cancel that."""

    def listen(self) -> None:
        """Hear what is wanted, in a thread of its own; whoever's starter is gone is gone, too."""

        def hear() -> None:
            try:
                while True:
                    (self.cancel if self._line.recv() == "cancel" else self.stop).set()
            except (EOFError, OSError):
                os._exit(1)

        clock.start_thread(hear, "line")

    def ready(self, status: str = "") -> None:
        """Tell that all is as it should be, and in words how."""
        self._tell("ready", status)

    def alive(self) -> None:
        """Give a sign of life."""
        self._tell("alive", "")

    def failed(self, error: MudanzaError) -> None:
        """Tell why it ends."""
        self._tell("failed", error_as_data(error))

    def _tell(self, kind: str, what: Any) -> None:
        with suppress(OSError):
            self._line.send((kind, what))


@dataclass(frozen=True, slots=True)
class Part:
    """What one process does."""

    name: str
    run: Callable[[Line], None]
    """Does it until the line says to stop, and all that was begun has ended."""


@dataclass
class _Child:
    part: Part
    pid: int
    line: Connection
    begun: float = field(default_factory=clock.monotonic)
    ready: bool = False
    status: str = ""
    alive_at: float = float("-inf")
    failure: Mapping[str, Any] | None = None


class Processes:
    """All of them, while the daemon runs."""

    def __init__(
        self, front: Part, workers: Sequence[Part], say: Callable[[str], None], before: Callable[[], None]
    ) -> None:
        """``front`` is started first and ends last. ``before`` is called before each start: what must not be shared
        with a process that begins as a copy of this one is closed there."""
        self._front = front
        self._workers = workers
        self._say = say
        self._before = before
        self._children: list[_Child] = []
        self._due: list[tuple[float, Part]] = []
        self._delays: dict[str, float] = {}
        self._told_ready = False
        self._fed = float("-inf")
        self._told_to_end = False
        self._trouble: MudanzaError | None = None

    def run(self, stop: clock.Event, cancel: clock.Event) -> None:
        """Have them work until ``stop`` is set and all of them have ended; ``cancel``: what is under way is cancelled.

        Raises what keeps one of them from beginning, or from ending as it should.
        """
        gc.collect()
        gc.freeze()  # what all have in common stays so: collecting garbage writes into what it looks at
        try:
            self._start(self._front)
            while not stop.is_set() and self._trouble is None and not self._is_ready(self._front):
                self._look()
                self._start_again()
            for part in self._workers if self._trouble is None else ():
                self._start(part)
            while not stop.is_set() and self._trouble is None:
                self._look()
                self._start_again()
                self._report()
            notify("STOPPING=1")
            self._wind_up(cancel)
        finally:
            self._kill()
            gc.unfreeze()
        if self._trouble is not None:
            raise self._trouble

    def _is_ready(self, part: Part) -> bool:
        return any(child.ready for child in self._children if child.part is part)

    def _start(self, part: Part) -> None:
        self._before()
        ours, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        starter = os.getpid()
        pid = os.fork()
        if pid == 0:
            for line in (ours, *(child.line for child in self._children)):
                line.close()
            _be(part, Line(theirs), starter)
        theirs.close()
        self._children.append(_Child(part, pid, ours))

    def _look(self) -> None:
        """Hear what they tell, and see who has ended."""
        lines = {child.line: child for child in self._children}
        for line in wait(list(lines), LOOK_EVERY) if lines else ():
            child = lines[line]  # type: ignore[index]
            with suppress(EOFError, OSError):
                self._hear(child, *child.line.recv())
        for child in tuple(self._children):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _hear(self, child: _Child, kind: str, what: Any) -> None:
        child.alive_at = clock.monotonic()
        if kind == "ready":
            child.ready, child.status = True, what
        elif kind == "failed":
            child.failure = what

    def _ended(self, child: _Child, code: int) -> None:
        """Take note of one that has ended: by itself, which it should not, or because it was told to."""
        with suppress(EOFError, OSError):
            while child.line.poll():
                self._hear(child, *child.line.recv())
        child.line.close()
        self._children.remove(child)
        if code == 0:
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        error = MudanzaError(f"the daemon's process {child.part.name} {how}", remedy="its log tells why")
        if child.failure is not None:
            error = error_from_data(child.failure)
            how = f"ended: {error}"
        if self._told_to_end or (code > 0 and not child.ready):
            self._trouble = self._trouble or error
            return
        delay = self._delay_of(child)
        self._say(f"! process {child.part.name} ({child.pid}) {how}; another one takes its place in {delay:g} s")
        self._due.append((clock.monotonic() + delay, child.part))

    def _delay_of(self, child: _Child) -> float:
        """Return the seconds until one that has died is started again."""
        is_young = clock.monotonic() - child.begun < AGAIN_AT_MOST
        before = self._delays.get(child.part.name, 0.0) if is_young else 0.0
        self._delays[child.part.name] = delay = min(2 * before or AGAIN_AFTER, AGAIN_AT_MOST)
        return delay

    def _start_again(self) -> None:
        due = [part for at, part in self._due if at <= clock.monotonic()]
        self._due = [(at, part) for at, part in self._due if part not in due]
        for part in due:
            self._start(part)

    def _report(self) -> None:
        """Tell systemd that the daemon is ready, and then that it lives, as long as all of it does."""
        every = len(self._children) == 1 + len(self._workers)
        if not self._told_ready and every and all(child.ready for child in self._children):
            notify(f"READY=1\nSTATUS={', '.join(child.status for child in self._children if child.status)}")
            self._told_ready = True
        at = clock.monotonic()
        wanted = watchdog()
        fresh = every and all(at - child.alive_at < FRESH for child in self._children)
        if wanted is not None and fresh and at - self._fed > wanted / 3:
            notify("WATCHDOG=1")
            self._fed = at

    def _wind_up(self, cancel: clock.Event) -> None:
        """Have all end: those that work first, so that whoever asks is told how it ends."""
        self._told_to_end, self._due = True, []
        self._tell([child for child in self._children if child.part is not self._front], "stop")
        self._await(cancel, lambda: [child for child in self._children if child.part is not self._front])
        self._tell(self._children, "stop")
        self._await(cancel, lambda: self._children)

    def _await(self, cancel: clock.Event, left: Callable[[], Sequence[_Child]]) -> None:
        is_told = False
        while left():
            if cancel.is_set() and not is_told:
                self._tell(self._children, "cancel")
                is_told = True
            self._look()
            self._report()

    def _tell(self, children: Sequence[_Child], word: str) -> None:
        for child in children:
            with suppress(OSError):
                child.line.send(word)

    def _kill(self) -> None:
        """End what is left: there is something only where this process itself has failed."""
        for child in self._children:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
            child.line.close()
        self._children = []


def _be(part: Part, line: Line, starter: int) -> None:
    """Be that process, from its begin to its end."""
    code = 1
    try:
        library = ctypes.CDLL(None)
        library.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        with suppress(AttributeError):  # another C library
            library.mallopt(_MOST_ARENAS, ARENAS)
        if os.getppid() != starter:  # it has died meanwhile
            os._exit(1)
        for number in (signal.SIGINT, signal.SIGTERM):  # told to all by a terminal or systemd; the line tells it once
            signal.signal(number, _ignore)
        line.listen()
        part.run(line)
        code = 0
    except MudanzaError as error:
        line.failed(error)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing; unlike ``SIG_IGN`` that is not handed on to programs which are started."""
