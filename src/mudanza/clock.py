"""Time and threads in one place: the machine's own, or those of a simulation that decides when what happens.

Everything outside the lab that waits, measures time or works side by side does so through here, so that the simulated
twin can run a controller through hours of waiting in a moment, kill it or let it sleep at any instant, and repeat it.
Plain locks are not here: nobody waits for anything while holding one.
"""

from __future__ import annotations

import os
import threading
import time as _time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from queue import Empty, SimpleQueue
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


MOST_IDLE = 64
"""Threads that may wait for something to do..."""
IDLE = 10.0
"""... for so many seconds, and then end."""

_Work = tuple[Callable[[], object], str]


class _Threads:
    """Threads that are used again: to start one takes longer than most of what is done in it."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)  # a process begins with one thread, and none of these

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[_Work]] = []

    def start(self, function: Callable[[], object], name: str) -> None:
        with self._lock:
            waiting = self._idle.pop() if self._idle else None
        if waiting is not None:
            waiting.put((function, name))
        else:
            threading.Thread(target=self._live, args=(function, name), name=name, daemon=True).start()

    def _live(self, function: Callable[[], object] | None, name: str) -> None:
        turn: SimpleQueue[_Work] = SimpleQueue()
        while function is not None:
            threading.current_thread().name = name
            try:
                function()
            except BaseException as error:
                _tell_of(error)
            del function  # what it holds is not held any longer
            threading.current_thread().name = "idle"
            function, name = self._next(turn)

    def _next(self, turn: SimpleQueue[_Work]) -> _Work | tuple[None, str]:
        with self._lock:
            if len(self._idle) >= MOST_IDLE:
                return None, ""
            self._idle.append(turn)
        try:
            return turn.get(timeout=IDLE)
        except Empty:
            with self._lock:
                if turn in self._idle:
                    self._idle.remove(turn)
                    return None, ""
            return turn.get()  # somebody has just found it


def _tell_of(error: BaseException) -> None:
    """Tell of what has ended a thread's work, as Python does where it ends the thread."""
    told = (type(error), error, error.__traceback__, threading.current_thread())
    threading.excepthook(threading.ExceptHookArgs(told))


_threads = _Threads()


class _MachineClock:
    monotonic = staticmethod(_time.monotonic)
    time = staticmethod(_time.time)
    sleep = staticmethod(_time.sleep)

    def new_event(self) -> Event:
        return threading.Event()

    def new_condition(self) -> Condition:
        return threading.Condition()

    def start_thread(self, function: Callable[[], object], name: str) -> None:
        _threads.start(function, name)


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
