"""Time and threads in one place: the machine's own, or those of a simulation that decides when what happens.

Everything outside the lab that waits, measures time or works side by side does so through here, so that the simulated
twin can run a controller through hours of waiting in a moment, kill it or let it sleep at any instant, and repeat it.
Plain locks are not here: nobody waits for anything while holding one.
"""

from __future__ import annotations

import threading
import time as _time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from types import TracebackType
from typing import Protocol


class Event(Protocol):
    """Something that happens once. As of ``threading``."""

    def set(self) -> None:
        """Let it have happened."""

    def is_set(self) -> bool:
        """Return whether it has happened."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for it, ``timeout`` seconds at most; return whether it has happened."""


class EventOfOne:
    """An event that has happened once that of all has, and can happen by itself without it."""

    def __init__(self, of_all: Event) -> None:
        self._of_all = of_all
        self._own = False

    def set(self) -> None:
        """Let it have happened for this one alone."""
        self._own = True

    def is_set(self) -> bool:
        """Return whether it has happened, for this one or for all."""
        return self._own or self._of_all.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for that of all, ``timeout`` seconds at most; return whether it has happened, for this one or for all.

        Its own is set by who works on this one, and so never while that one waits.
        """
        return self._own or self._of_all.wait(timeout)


class Condition(Protocol):
    """A lock under which one can wait for a change. As of ``threading``."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None: ...

    def wait(self, timeout: float | None = None) -> bool:
        """Let go of the lock and wait for a notice, ``timeout`` seconds at most; return whether there was one."""

    def notify(self) -> None:
        """Wake one who waits."""

    def notify_all(self) -> None:
        """Wake everybody who waits."""


class Clock(Protocol):
    """What a simulation has to stand in for."""

    def monotonic(self) -> float:
        """Return seconds since some instant; they never run backwards."""

    def time(self) -> float:
        """Return seconds since the epoch."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""

    def new_event(self) -> Event:
        """Return an event that has not happened yet."""

    def new_condition(self) -> Condition:
        """Return a condition with a lock of its own."""

    def start_thread(self, function: Callable[[], object], name: str) -> None:
        """Run a function beside its caller. It holds up neither its caller nor the end of the program."""


class _MachineClock:
    monotonic = staticmethod(_time.monotonic)
    time = staticmethod(_time.time)
    sleep = staticmethod(_time.sleep)

    def new_event(self) -> Event:
        return threading.Event()

    def new_condition(self) -> Condition:
        return threading.Condition()

    def start_thread(self, function: Callable[[], object], name: str) -> None:
        threading.Thread(target=function, name=name, daemon=True).start()


_current: Clock = _MachineClock()


@contextmanager
def replaced_by(clock: Clock) -> Iterator[None]:
    """Have the whole program live by another clock."""
    global _current  # noqa: PLW0603 - there is one time in a program
    before, _current = _current, clock
    try:
        yield
    finally:
        _current = before


def monotonic() -> float:
    """Return seconds since some instant; they never run backwards."""
    return _current.monotonic()


def time() -> float:
    """Return seconds since the epoch."""
    return _current.time()


def sleep(seconds: float) -> None:
    """Let time pass."""
    _current.sleep(seconds)


def new_event() -> Event:
    """Return an event that has not happened yet."""
    return _current.new_event()


def new_condition() -> Condition:
    """Return a condition with a lock of its own."""
    return _current.new_condition()


def start_thread(function: Callable[[], object], name: str) -> None:
    """Run a function beside its caller, with the caller's context variables. It holds up neither its caller nor the end
    of the program."""
    context = copy_context()
    _current.start_thread(lambda: context.run(function), name)
