"""Long work on a host that somebody waits for: it can be cancelled, tells how far it is, and must get on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.model.errors import HostUnreachableError, MigrationFailedError

PARTING = 0.5
"""Seconds that work nobody wants any more may take to clear up before it is left to itself."""
TURN = 0.2
"""Seconds between two looks."""

Result = TypeVar("Result")


class Attended:
    """The work's side of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = 0
        self._got_on = clock.monotonic()
        self._unwanted = False
        self._interrupt: Callable[[], None] = lambda: None

    def got_on(self, size: int = 0) -> None:
        """Say that so many bytes more are done. Raises MigrationFailedError once nobody waits any more."""
        with self._lock:
            if self._unwanted:
                raise MigrationFailedError("nobody waits for it any more")
            self._done += size
            self._got_on = clock.monotonic()

    def interrupt_by(self, interrupt: Callable[[], None]) -> None:
        """Have ``interrupt`` called, in another thread and without waiting, once nobody waits any more."""
        with self._lock:
            self._interrupt = interrupt
            unwanted = self._unwanted
        if unwanted:
            interrupt()

    @property
    def done(self) -> int:
        """Bytes done."""
        return self._done

    @property
    def silent_for(self) -> float:
        """Seconds since it got on."""
        return clock.monotonic() - self._got_on

    def leave(self) -> None:
        """Tell the work that nobody waits any more."""
        with self._lock:
            self._unwanted = True
            interrupt = self._interrupt
        interrupt()


def attend(
    work: Callable[[Attended], Result],
    *,
    host: str,
    what: str,
    patience: float,
    stop: clock.Event | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Result:
    """Return what ``work``, in a thread of its own, returns. ``what`` it does, in words: ``reading /a``.

    Raises what it raises, MigrationFailedError when stopped, and HostUnreachableError when it has not got on for
    ``patience`` seconds.
    """
    attended = Attended()
    task = Task(lambda: work(attended))
    told = 0
    try:
        while not _ends_within(task, TURN):
            if stop is not None and stop.is_set():
                raise MigrationFailedError(f"cancelled while {what} on {host}")
            if attended.silent_for > patience:
                raise HostUnreachableError(host, f"{what} has not got on for {patience:g} s")
            if attended.done != told:
                told = attended.done
                on_progress(told)
    finally:
        attended.leave()
        _ends_within(task, PARTING)
    result = task.wait(0)
    if attended.done != told:
        on_progress(attended.done)
    return result


def _ends_within(task: Task[Result], timeout: float) -> bool:
    try:
        task.wait(timeout)
    except Exception:
        # Its own failure is an end as well; whoever asks for the result gets to see it.
        return task.ended
    return True
