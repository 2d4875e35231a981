"""Controllers and their threads: real ones, and a baton that only one of them has."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Killed(BaseException):
    """The controller of this thread is dead: the thread must end without doing anything any more."""


class SimulationError(AssertionError):
    """The simulation itself cannot go on: a deadlock, a thread left over, a fault of the twin's own."""


class Controller:
    """A process with its threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.killed = False
        self.stopped_until = 0.0
        self.threads: set[SimThread] = set()
        self.on_death: list[Callable[[], None]] = []
        """What its kernel does for it when it is gone: closes its connections."""

    @property
    def alive(self) -> bool:
        """Whether it was not killed and has threads left."""
        return not self.killed and bool(self.threads)


class SimThread:
    """One thread, waiting for the baton or having it."""

    def __init__(self, name: str, controller: Controller) -> None:
        self.name = name
        self.controller = controller
        self.baton = threading.Lock()
        self.baton.acquire()
        self.waits_for: str = ""
        self.turn = 0
        """Counts its waits, so that an alarm for an earlier one is known for what it is."""
        self.timed_out = False
        self.calls = 0
        """Calls to hosts it is in. To stop a controller within one, which takes a moment, is to stop it after it."""


class Worker:
    """A real thread that is used again: starting one costs more than handing the baton over."""

    idle: list[Worker] = []  # noqa: RUF012 - shared by all simulations of this program, on purpose

    def __init__(self) -> None:
        self.work: Callable[[], None] | None = None
        self._go = threading.Lock()
        self._go.acquire()
        self.ident: int | None = None
        threading.Thread(target=self._loop, name="twin-worker", daemon=True).start()

    def give(self, work: Callable[[], None]) -> None:
        self.work = work
        self._go.release()

    def _loop(self) -> None:
        self.ident = threading.get_ident()
        while True:
            self._go.acquire()
            work, self.work = self.work, None
            if work is not None:
                work()
            Worker.idle.append(self)
