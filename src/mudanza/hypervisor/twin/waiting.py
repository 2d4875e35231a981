"""Events and conditions in virtual time."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from mudanza.hypervisor.twin.threads import SimulationError

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.scheduler import Scheduler
    from mudanza.hypervisor.twin.threads import SimThread


class SimEvent:
    """As of ``threading``, in virtual time."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._happened = False
        self._waiting: list[tuple[SimThread, int]] = []

    def set(self) -> None:
        """Let it have happened."""
        self._happened = True
        waiting, self._waiting = self._waiting, []
        for thread, turn in waiting:
            if thread.turn == turn:
                self._scheduler.wake(thread)

    def is_set(self) -> bool:
        """Return whether it has happened."""
        return self._happened

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for it, ``timeout`` seconds at most; return whether it has happened."""
        if self._happened:
            return True  # no scheduling point: nobody waits here, so that a lock may be held
        self._scheduler.die_if_killed()  # or somebody would wake it whom nobody waits for
        running = self._scheduler.running
        if running is not None:
            self._waiting.append((running, running.turn))
        self._scheduler.wait(timeout, "waits for an event")
        return self._happened


class SimCondition:
    """As of ``threading``, in virtual time. Its lock is never held over a scheduling point but by waiting."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._lock = threading.RLock()
        self._waiting: list[tuple[SimThread, int]] = []

    def __enter__(self) -> bool:
        if not self._lock.acquire(blocking=False):
            raise SimulationError("a condition's lock is held over a scheduling point")
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Let go of the lock and wait for a notice, ``timeout`` seconds at most; return whether there was one."""
        self._scheduler.die_if_killed()  # or somebody would wake it whom nobody waits for
        running = self._scheduler.running
        if running is not None:
            self._waiting.append((running, running.turn))
        self._lock.release()
        try:
            return self._scheduler.wait(timeout, "waits for a notice")
        finally:
            self._lock.acquire()

    def notify(self) -> None:
        """Wake one who waits."""
        while self._waiting:
            thread, turn = self._waiting.pop(0)
            if thread.turn == turn:
                self._scheduler.wake(thread)
                return

    def notify_all(self) -> None:
        """Wake everybody who waits."""
        while self._waiting:
            self.notify()
