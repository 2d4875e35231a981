"""A clock that a test sets: nothing passes unless it says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mudanza import clock


class SetClock:
    """Time stands still; ``pass_time`` lets it go on, for everybody who looks."""

    def __init__(self) -> None:
        self._now = 1_000.0

    def pass_time(self, seconds: float) -> None:
        self._now += seconds

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return 1_700_000_000.0 + self._now

    def sleep(self, seconds: float) -> None:
        self.pass_time(seconds)

    def new_event(self) -> clock.Event:
        return threading.Event()

    def new_condition(self) -> clock.Condition:
        return threading.Condition()

    def start_thread(self, function: Callable[[], object], name: str) -> None:
        threading.Thread(target=function, name=name, daemon=True).start()


@contextmanager
def set_clock() -> Iterator[SetClock]:
    """Have everything live by a clock of the test's own."""
    own = SetClock()
    with clock.replaced_by(own):
        yield own
