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


def idle() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "idle"]


@pytest.fixture(autouse=True)
def _one_idle() -> None:
    in_a_thread()
    await_true(lambda: bool(idle()), "one waits for something to do")


def test_one_that_waits_is_used_again() -> None:
    waiting = {thread.ident for thread in idle()}
    assert in_a_thread() in waiting


def test_one_that_is_busy_is_not_waited_for() -> None:
    over = threading.Event()
    for _ in idle():
        clock.start_thread(over.wait, "busy")
    assert in_a_thread()
    over.set()


def test_what_fails_is_told_and_its_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def fail() -> None:
        raise ZeroDivisionError

    before = len(idle())
    clock.start_thread(fail, "fails")
    await_true(lambda: len(told) == 1 and len(idle()) == before, "it waits again")
    assert told[0].exc_type is ZeroDivisionError


def test_those_who_wait_for_nothing_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "IDLE", 0.05)
    in_a_thread()
    known = threading.active_count() - len(idle())
    for _ in range(len(idle()) + 1):
        clock.start_thread(lambda: None, "short")
    await_true(lambda: threading.active_count() <= known + 1, "they have ended", limit=60)


def test_a_process_that_is_forked_has_none_of_them() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if in_a_thread() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
