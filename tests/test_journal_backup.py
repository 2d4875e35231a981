"""Backing a journal up and bringing it back, from either kind of database to either kind."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update

from mudanza.journal import schema
from mudanza.journal.audit import Audit
from mudanza.journal.backup import _TABLES, EPOCHS_ON, back_up, restore
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs, LeaseLostError, NewJob
from mudanza.journal.schema import metadata
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.host import HostEntry
from tests.test_journal_upgrade import load

NEW = NewJob("live", "u-1", "db", "h1", "h2", {"to": "h2"}, "ana@laptop")


@pytest.fixture
def engine(database: str) -> Engine:
    """A journal with hosts, an ended job and an unfinished one that nobody works on."""
    engine = open_database(database)
    Inventory(engine).put_hosts([HostEntry("h1", "a:///", tags=("rack a",)), HostEntry("h2", "b:///")])
    number = Audit(engine).asked({"user": "ana"}, ["migrate", "db"])
    Audit(engine).ended(number, 0, "")
    Jobs(engine).begin(NEW).finish("done", "moved", 0, {"vm": "db"})
    handle = Jobs(engine).begin(NEW)
    handle.done(handle.intend("decide", {"uuid": "u-1"}), {"tls": True})
    handle.intend("transfer", {})
    abandon(engine)
    return engine


def abandon(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(update(schema.job).values(lease_until=0.0))


@pytest.fixture(params=["sqlite", "postgresql"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """An empty journal to restore into."""
    if request.param == "sqlite":
        return open_database(str(tmp_path / "other.db"))
    return open_database(request.getfixturevalue("postgresql").new_database())


def rows(engine: Engine, name: str) -> list[tuple[object, ...]]:
    table = schema.metadata.tables[name]
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]


def test_all_of_it_comes_back(engine: Engine, other: Engine, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    assert (back_up(engine, file).hosts, back_up(engine, tmp_path / "again.db").unfinished) == (2, (2,))
    assert file.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.iterdir() if "backup" in path.name) == ["backup.db"]
    found = restore(other, file)
    assert (found.hosts, found.jobs, found.unfinished) == (2, 2, (2,))
    for name in ("identity", "host", "pair", "step", "event", "audit"):
        assert rows(other, name) == rows(engine, name), name
    assert replace(Jobs(other).get(1), read_at=0.0) == replace(Jobs(engine).get(1), read_at=0.0)
    unfinished = Jobs(other).get(2)
    assert unfinished.abandoned
    assert unfinished.epoch == Jobs(engine).get(2).epoch + EPOCHS_ON
    number = Jobs(other).begin(NewJob("live", "u-9", "new", "h1", "h2", {}, "ana@laptop")).id
    assert number > 2, "new rows are numbered after those that were brought"
    Audit(other).asked({"user": "bo"}, ["work"])


def test_who_held_a_job_before_the_restore_holds_it_no_more(engine: Engine, tmp_path: Path) -> None:
    back_up(engine, tmp_path / "b.db")
    held = Jobs(engine).take_over(2)
    abandon(engine)
    restore(engine, tmp_path / "b.db", force=True)
    Jobs(engine).take_over(2)
    with pytest.raises(LeaseLostError):
        held.renew()


def test_a_journal_that_is_not_empty_is_left_alone(engine: Engine, tmp_path: Path) -> None:
    back_up(engine, tmp_path / "b.db")
    Jobs(engine).put_down(NewJob("move", "u-5", "five", "h1", "", {}, "ana@laptop"))
    before = {name: rows(engine, name) for name in schema.metadata.tables}
    with pytest.raises(BlockedError, match="2 hosts and 3 jobs"):
        restore(engine, tmp_path / "b.db")
    assert {name: rows(engine, name) for name in schema.metadata.tables} == before
    Audit(engine).asked({"user": "bo"}, ["journal", "restore"])
    restore(engine, tmp_path / "b.db", force=True)
    assert [job.id for job in Jobs(engine).latest(9)] == [2, 1]
    assert [asked.command for asked in Audit(engine).since(None)] == [("migrate", "db"), ("journal", "restore")]


def test_a_journal_that_is_worked_on_is_not_replaced(engine: Engine, tmp_path: Path) -> None:
    back_up(engine, tmp_path / "b.db")
    Jobs(engine).take_over(2)
    with pytest.raises(BlockedError, match="being worked on"):
        restore(engine, tmp_path / "b.db", force=True)


def test_a_backup_taken_while_others_write_is_of_one_instant(engine: Engine, tmp_path: Path) -> None:
    jobs = Jobs(engine)

    def write() -> None:
        for number in range(30):
            handle = jobs.begin(NewJob("live", f"w-{number}", "w", "h1", "h2", {}, "ana@laptop"))
            handle.done(handle.intend("decide", {}), {})
            handle.finish("done", "moved", 0)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        for number in range(3):
            back_up(engine, tmp_path / f"{number}.db")
        writing.result()
    for number in range(3):
        with sqlite3.connect(tmp_path / f"{number}.db") as raw:
            assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
            [(torn,)] = raw.execute(
                "SELECT count(*) FROM job WHERE state = 'done' AND vm_name = 'w' AND id NOT IN (SELECT job FROM step)"
            )
            assert torn == 0


def test_a_backup_of_an_older_version_is_brought_up_to_date(other: Engine, tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    load(str(old), "v1")
    before = old.read_bytes()
    restore(other, old)
    assert [job.id for job in Jobs(other).latest(9)] == [2, 1]
    assert old.read_bytes() == before, "the backup itself stays as it is"


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "foreign"])
def test_what_is_no_whole_backup_is_refused(engine: Engine, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "b.db"
    if damage == "text":
        file.write_text("dear reader " * 100)
    elif damage == "cut":
        back_up(engine, file)
        file.write_bytes(file.read_bytes()[:-8192])
    elif damage == "foreign":
        with sqlite3.connect(file) as raw:
            raw.execute("CREATE TABLE cat (name)")
    before = rows(engine, "job")
    with pytest.raises(UsageError, match="cannot be restored"):
        restore(engine, file, force=True)
    assert rows(engine, "job") == before


def test_nothing_is_written_over(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        back_up(engine, file)
    assert file.read_text() == "x"
    with pytest.raises(UsageError, match="cannot be written"):
        back_up(engine, tmp_path / "no" / "such" / "place")


def test_no_table_is_left_out() -> None:
    left_out = {"about", "session"}  # who has logged in to the pages does so again
    assert {table.name for table in _TABLES} == set(metadata.tables) - left_out
