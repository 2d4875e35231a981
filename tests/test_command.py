"""Programs on this machine are run within their limit, and ended with what they have begun."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mudanza.migration.command import KEPT, Ended, run

LIMIT = 20.0
SHORT = 2.0
"""Seconds in which a shell has surely begun, also where many tests run side by side."""


def idle() -> None:
    """Nothing is to be done meanwhile."""


def shell(script: str, limit: float = LIMIT, turn: Callable[[], None] = idle, **environment: str) -> Ended:
    return run(["/bin/sh", "-c", script], {**os.environ, **environment}, limit, turn)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def await_gone(pid: int) -> None:
    until = time.monotonic() + LIMIT
    while not is_gone(pid):
        assert time.monotonic() < until, pid
        time.sleep(0.01)


def test_how_it_ended_and_what_it_said_last_is_told() -> None:
    assert shell("echo one; echo two >&2; echo; exit 3") == Ended(3, "two")
    assert shell("exit 3").fault == "failed (exit 3)"
    assert shell("echo no room; exit 3").fault == "failed (exit 3): no room"
    assert shell("echo fine") == Ended(0, "fine")
    assert shell("echo fine").fault == ""
    assert shell("kill -9 $$").fault == "was ended by signal 9"


def test_much_output_stops_nobody_and_its_end_is_kept() -> None:
    ended = shell("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end")
    assert ended == Ended(0, "end")
    assert len(shell("head -c 300000 /dev/zero | tr '\\0' x").said) == KEPT


def test_a_program_with_very_many_open_files_hears_it_too() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = 1100  # select() takes no number from 1024 on
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(many + 500, hard)), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(many)]
    try:
        assert shell("echo heard").said == "heard"
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_names_are_no_shell_words(tmp_path: Path) -> None:
    evil = f"$(touch {tmp_path}/evil); `touch {tmp_path}/evil`"
    assert shell('printf "%s" "$MUDANZA_VM"', MUDANZA_VM=evil).said == evil
    assert not (tmp_path / "evil").exists()


def test_what_takes_too_long_is_ended_with_all_it_has_begun(tmp_path: Path) -> None:
    ended = shell(f"sleep 1000 & echo $! > {tmp_path}/pid; echo waiting; wait", limit=SHORT)
    assert ended.fault == "took too long and was ended: waiting"
    await_gone(int((tmp_path / "pid").read_text()))


def test_what_does_not_heed_the_order_to_end_is_killed(tmp_path: Path) -> None:
    ended = shell(f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done", limit=SHORT)
    assert ended.code is None
    await_gone(int((tmp_path / "pid").read_text()))


def test_it_is_ended_when_nobody_wants_it_any_more(tmp_path: Path) -> None:
    class UnwantedError(Exception):
        pass

    def turn() -> None:
        if (tmp_path / "pid").exists():
            raise UnwantedError

    with pytest.raises(UnwantedError):
        shell(f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000", turn=turn)
    await_gone(int((tmp_path / "pid").read_text()))


def test_what_it_leaves_behind_lives_on_and_is_not_waited_for(tmp_path: Path) -> None:
    ended = shell(f"sleep 1000 & echo $! > {tmp_path}/pid; echo done")
    left = int((tmp_path / "pid").read_text())
    assert ended == Ended(0, "done")
    assert not is_gone(left)
    os.kill(left, 9)


def test_one_that_closes_its_output_is_waited_for_all_the_same() -> None:
    assert shell("exec >&- 2>&-; sleep 0.3; exit 4") == Ended(4, "")


def test_what_cannot_be_started_says_why() -> None:
    with pytest.raises(FileNotFoundError):
        run(["/no/such/program"], {}, LIMIT, idle)
