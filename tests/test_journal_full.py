"""The disk below the journal is full: nothing is begun that cannot be written down, and it is told what to do."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from mudanza.journal.database import has_no_room, open_database
from mudanza.journal.jobs import Jobs, JournalLostError, NewJob
from mudanza.model.errors import BlockedError

NEW = NewJob("live", "u-1", "db", "h1", "h2", {}, "ana@laptop")
MUCH = {"xml": "x" * 100_000}
"""More than has room in the pages that a database has."""
LIMIT = 60.0
"""Seconds that commands may take on a loaded machine."""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(str(tmp_path / "m.db"))


def fill(engine: Engine, *, up: bool = True) -> None:
    """Have SQLite take the disk for full, or not any more: its file may have no more pages than it has."""
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one() if up else 2**30
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def test_what_has_no_room_in_the_journal_is_not_done(engine: Engine) -> None:
    jobs, acts = Jobs(engine), list[str]()
    mine = jobs.begin(NEW)
    mine.intend("transfer", {"peer": "h2"})
    fill(engine)
    with pytest.raises(JournalLostError, match=r"job 1: .*m\.db cannot be written, for its disk is full") as lost:
        mine.perform("define", MUCH, lambda: acts.append("defined"))
    assert acts == []
    assert lost.value.exit_code == 5
    assert "step 1 transfer (peer=h2)" in lost.value.vm_state, "which may go on"
    assert "make room" in lost.value.remedy
    assert "mudanza job resume 1" in lost.value.remedy
    assert "INSERT" not in str(lost.value)
    fill(engine, up=False)
    mine.perform("define", MUCH, lambda: acts.append("defined"))
    assert acts == ["defined"]
    assert [step.name for step in jobs.get(1).steps] == ["transfer", "define"]


def test_a_job_that_has_no_room_is_not_begun(engine: Engine) -> None:
    fill(engine)
    for begin in (Jobs(engine).begin, Jobs(engine).put_down):
        with pytest.raises(BlockedError, match=r"its disk is full.*nothing was begun") as blocked:
            begin(NewJob("live", "u-1", "db", "h1", "h2", MUCH, "ana@laptop"))
        assert blocked.value.exit_code == 3
        assert "make room" in blocked.value.remedy
    assert Jobs(engine).unfinished() == ()


ON_A_TINY_DISK = """
disk=$1 python=$2
add_host() { "$python" -m mudanza host add "$1" qemu+unix:///system?socket=/nonexistent --force 2>&1; echo "exit $?"; }
fill() { head --bytes=3M /dev/zero >"$disk/$1" 2>/dev/null; }
mount -t tmpfs -o size=2M none "$disk"
export MUDANZA_CONFIG="$disk/mudanza.toml"
echo "database = '$disk/m.db'" >"$MUDANZA_CONFIG"
add_host h1; echo ---
fill one; add_host h2; echo ---
rm "$disk/one"
"$python" -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute("VACUUM")' "$disk/m.db"  # removes its log
fill two; add_host h2; echo ---
rm "$disk/two"; add_host h2
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a tiny disk")
def test_commands_on_a_full_disk(tmp_path: Path) -> None:
    argv = ["unshare", "--mount", "sh", "-c", ON_A_TINY_DISK, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=True)
    first, refused, unopened, again = done.stdout.split("---\n")
    assert "exit 0" in first
    assert "cannot be written, for its disk is full (database or disk is full): nothing was begun" in refused
    assert "cannot be opened, for its disk is full" in unopened
    for said in (refused, unopened):
        assert "what to do: make room" in said
        assert "exit 3" in said
    assert "exit 0" in again


def failed(cause: Exception) -> OperationalError:
    return OperationalError("INSERT INTO job", {}, cause)


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("it failed")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("cause", "full"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), True),
        (sqlite_error(sqlite3.SQLITE_IOERR_WRITE), False),
        (sqlite_error(sqlite3.SQLITE_BUSY), False),
        (psycopg.errors.DiskFull("could not extend file"), True),
        (psycopg.OperationalError("the connection is lost"), False),
    ],
)
def test_a_full_disk_is_told_from_other_trouble(tmp_path: Path, cause: Exception, full: bool) -> None:
    assert has_no_room(failed(cause), str(tmp_path / "m.db")) == full
