"""Calls with a limit: libvirt's calls know none of their own, so each runs in a thread that can be left behind.

The threads are daemons: one that is stuck holds up neither its caller nor the end of the program.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from mudanza import clock

Item = TypeVar("Item")
Result = TypeVar("Result")

_numbers = itertools.count(1)


class Task(Generic[Result]):
    """A call under way in a thread of its own."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function: Callable[[], Result] | None = function
        self._ended = clock.new_event()
        self._results: list[Result] = []
        self._failure: BaseException | None = None
        clock.start_thread(self._run, f"mudanza-call-{next(_numbers)}")

    def _run(self) -> None:
        function, self._function = self._function, None
        if function is None:
            return
        try:
            self._results.append(function())
        except BaseException as failure:
            # Handed over to whoever waits for the result.
            self._failure = failure
        finally:
            self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether the call has returned or failed."""
        return self._ended.is_set()

    def wait(self, timeout: float) -> Result:
        """Return the call's result, or raise what it raised. TimeoutError: it still runs after ``timeout`` seconds."""
        if not self._ended.wait(max(timeout, 0.0)):
            raise TimeoutError(f"no answer within {timeout:.3g} s")
        if self._failure is not None:
            raise self._failure
        return self._results[0]


def bounded(function: Callable[[], Result], timeout: float) -> Result:
    """Return what ``function`` returns. TimeoutError after ``timeout`` seconds; the call is then left to itself."""
    return Task(function).wait(timeout)


class Deadline:
    """An instant by which several calls in a row have to be done."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._end = clock.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds to go, never below 0."""
        return max(self._end - clock.monotonic(), 0.0)


def for_each(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, timeout: float
) -> list[Result | BaseException]:
    """Call ``function`` with every item, ``workers`` at a time, and return results and failures in the items' order.

    An item whose call has not ended after ``timeout`` seconds stands there as TimeoutError. A stuck call takes
    its worker with it, and the other workers go on.
    """
    queue = iter(list(enumerate(items)))
    lock = threading.Lock()
    outcomes: list[Result | BaseException] = [TimeoutError(f"no answer within {timeout:.3g} s") for _ in items]

    def work() -> None:
        while True:
            with lock:
                turn = next(queue, None)
            if turn is None:
                return
            number, item = turn
            try:
                outcomes[number] = function(item)
            except Exception as failure:
                outcomes[number] = failure

    deadline = Deadline(timeout)
    tasks = [Task(work) for _ in range(min(workers, len(items)))]
    for task in tasks:
        _wait_quietly(task, deadline.left)
    # A worker left behind may still write: what is handed out must not change any more.
    return list(outcomes)


def _wait_quietly(task: Task[None], timeout: float) -> None:
    try:
        task.wait(timeout)
    except TimeoutError:
        return


def all_of(functions: Iterable[Callable[[], Result]], *, timeout: float) -> list[Result | BaseException]:
    """Call all functions at once and return results and failures in their order; see ``for_each``."""
    calls = list(functions)
    return for_each(lambda call: call(), calls, workers=max(len(calls), 1), timeout=timeout)
