"""Calls with a limit: libvirt's calls know none of their own, so each runs in a thread that can be left behind.

The threads are daemons: one that is stuck holds up neither its caller nor the end of the program.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
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


def for_many(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    at_once: int,
    patience: float,
    timeout: float,
    gap: float = 0.0,
) -> list[Result | BaseException]:
    """Like ``for_each``, for more items than there should be threads: ``at_once`` calls at a time, each of which may
    take ``timeout`` seconds; ``gap``: seconds from the begin of one to that of the next, at the least.

    One that takes longer than ``patience`` seconds counts no more among those, so that any number that hangs holds up
    no other for longer than that.
    """
    turns = _Turns(at_once, patience)
    begun: list[tuple[Task[Result], Deadline]] = []
    next_at = clock.monotonic()
    for item in items:
        done = turns.take()
        if gap:
            clock.sleep(max(next_at - clock.monotonic(), 0.0))
            next_at = clock.monotonic() + gap
        begun.append((Task(partial(_ending, function, item, done)), Deadline(timeout)))
    outcomes: list[Result | BaseException] = []
    for task, deadline in begun:
        try:
            outcomes.append(task.wait(deadline.left))
        except Exception as failure:
            outcomes.append(failure)
    return outcomes


def _ending(function: Callable[[Item], Result], item: Item, done: Callable[[], None]) -> Result:
    try:
        return function(item)
    finally:
        done()


class _Turns:
    """Lets so many begin as have room beside those who have begun of late and not ended."""

    def __init__(self, at_once: int, patience: float) -> None:
        self._at_once = at_once
        self._patience = patience
        self._changed = clock.new_condition()
        self._numbers = itertools.count()
        self._busy: dict[int, float] = {}

    def take(self) -> Callable[[], None]:
        """Wait for a turn; return what ends it."""
        with self._changed:
            while len(self._busy) >= self._at_once:
                oldest = next(iter(self._busy))
                left = self._busy[oldest] + self._patience - clock.monotonic()
                if left <= 0:
                    del self._busy[oldest]
                else:
                    self._changed.wait(left)
            number = next(self._numbers)
            self._busy[number] = clock.monotonic()
        return partial(self._end, number)

    def _end(self, number: int) -> None:
        with self._changed:
            self._busy.pop(number, None)
            self._changed.notify()


def one_by_one(
    function: Callable[[Item], Result], items: Sequence[Item], *, timeout: float, deadline: Deadline
) -> list[Result | BaseException]:
    """Call ``function`` with every item, one after the other, and return results and failures in the items' order.

    The calls share a thread, for starting one costs more than most calls. One that takes longer than ``timeout``
    seconds stands there as TimeoutError: it is left to itself with that thread, and another one goes on with the next
    item. After the deadline nothing more is called.
    """
    outcomes: list[Result | BaseException] = []
    while len(outcomes) < len(items) and deadline.left:
        outcomes += _Row(function, items[len(outcomes) :]).await_all(timeout, deadline)
    return outcomes + [TimeoutError(f"no answer within {deadline.timeout:.3g} s") for _ in items[len(outcomes) :]]


class _Row(Generic[Item, Result]):
    """Calls one after the other, in a thread of their own."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self._function = function
        self._items = items
        self._changed = clock.new_condition()
        self._outcomes: list[Result | BaseException] = []
        self._since = clock.monotonic()
        self._given_up = False
        clock.start_thread(self._run, f"mudanza-calls-{next(_numbers)}")

    def _run(self) -> None:
        for item in self._items:
            outcome = self._outcome(item)
            with self._changed:
                if self._given_up:
                    return
                self._outcomes.append(outcome)
                self._since = clock.monotonic()
                if len(self._outcomes) == len(self._items):
                    self._changed.notify()

    def _outcome(self, item: Item) -> Result | BaseException:
        try:
            return self._function(item)
        except Exception as failure:
            return failure

    def await_all(self, timeout: float, deadline: Deadline) -> list[Result | BaseException]:
        """Return the outcomes; after one that took too long there are no more."""
        with self._changed:
            while len(self._outcomes) < len(self._items):
                left = min(self._since + timeout - clock.monotonic(), deadline.left)
                if left <= 0:
                    self._given_up = True
                    return [*self._outcomes, TimeoutError(f"no answer within {timeout:.3g} s")]
                self._changed.wait(left)
            return self._outcomes
