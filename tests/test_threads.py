"""The machine's threads, which are used again."""

from __future__ import annotations

import os
import threading

import pytest

from mudanza import clock
from tests.lab.conftest import await_true


def in_a_thread() -> int:
    """Return the number of the thread in which something is done."""
    found: list[int] = []
    done = threading.Event()

    def work() -> None:
        found.append(threading.get_ident())
        done.set()

    clock.start_thread(work, "work")
    assert done.wait(60)
    return found[0]


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> clock._Threads:
    """Threads of the test's own: those that other tests have left come and go as they please."""
    threads = clock._Threads()
    monkeypatch.setattr(clock, "_threads", threads)
    return threads


def await_idle(threads: clock._Threads, count: int) -> None:
    await_true(lambda: len(threads._idle) == count, f"{count} wait for something to do")


def test_one_that_waits_is_used_again(own: clock._Threads) -> None:
    first = in_a_thread()
    await_idle(own, 1)
    assert in_a_thread() == first


def test_one_that_is_busy_is_not_waited_for(own: clock._Threads) -> None:
    over = threading.Event()
    clock.start_thread(over.wait, "busy")
    assert in_a_thread()
    over.set()
    await_idle(own, 2)


def test_what_fails_is_told_and_its_thread_goes_on(own: clock._Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def fail() -> None:
        raise ZeroDivisionError

    clock.start_thread(fail, "fails")
    await_idle(own, 1)
    assert [each.exc_type for each in told] == [ZeroDivisionError]
    assert told[0].thread is not None
    assert in_a_thread() == told[0].thread.ident


def test_those_who_wait_for_nothing_end(own: clock._Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "IDLE", 0.05)
    alive: list[threading.Thread] = []
    for _ in range(3):
        clock.start_thread(lambda: alive.append(threading.current_thread()), "short")
    await_true(lambda: len(alive) == 3 and not any(thread.is_alive() for thread in alive), "they have ended")
    await_idle(own, 0)


def test_a_process_that_is_forked_has_none_of_them(own: clock._Threads) -> None:
    in_a_thread()
    await_idle(own, 1)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            in_a_thread()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
