"""A journal in a file, taken while others write, and brought back. The file is a journal of its own, in SQLite, of
whichever kind the database is: one format, that any later version reads as it reads an older database.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select, text

from mudanza.journal.database import Database, now, open_database, transaction
from mudanza.journal.schema import (
    answered,
    audit,
    away,
    balance_round,
    delivery,
    duty,
    event,
    fence_device,
    fence_match,
    fence_test,
    fencing,
    happening,
    host,
    host_power,
    identity,
    job,
    kept_up,
    measured_link,
    pair,
    plan,
    plan_move,
    protection,
    reading,
    recovery_plan,
    reign,
    remembered,
    request,
    restore_point,
    rolling,
    rolling_host,
    rules,
    session,
    sighting,
    standby,
    step,
    switching,
    tally,
    token,
    trial,
    uplink_loss,
)
from mudanza.model.errors import BlockedError, UsageError

_TABLES = (
    identity,
    host,
    pair,
    measured_link,
    job,
    step,
    event,
    answered,
    plan,
    plan_move,
    away,
    reading,
    rules,
    duty,
    balance_round,
    token,
    request,
    tally,
    happening,
    delivery,
    sighting,
    remembered,
    protection,
    restore_point,
    trial,
    recovery_plan,
    standby,
    reign,
    fence_device,
    fence_test,
    fence_match,
    fencing,
    kept_up,
    host_power,
    switching,
    uplink_loss,
    rolling,
    rolling_host,
    audit,
)
"""What is kept, each one after those it refers to."""
_AT_ONCE = 500
_NUMBERED = (
    *(job, event, plan, reading, balance_round, happening, delivery),
    *(protection, fencing, switching, rolling, audit),
)
EPOCHS_ON = 1000
"""How far the epochs of unfinished jobs go on in a restored journal, beyond any that a controller may still hold."""

_RESTORED = "the journal was restored from a backup since"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a backup holds: how many hosts and jobs, and the numbers of the jobs that were unfinished."""

    hosts: int
    jobs: int
    unfinished: tuple[int, ...]


def back_up(engine: Database, file: Path) -> Contents:
    """Write all of a journal, as it is at one instant, into a new file; it is there whole and checked, or not at all.

    Raises UsageError when there is such a file, or it cannot be written; JournalLostError.
    """
    if file.exists():
        raise UsageError(f"{file} exists already", remedy="choose another name, with the date in it for one")
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        _copy_into(engine, part)
        _check(part)
        found = _contents(part)
        _settle_on_disk(part, file)
    except (OSError, sqlite3.Error) as error:
        raise UsageError(f"the backup {file} cannot be written: {error}") from error
    finally:
        for left in (part, *file.parent.glob(f"{part.name}-*")):
            with suppress(OSError):
                left.unlink(missing_ok=True)
    return found


def _copy_into(engine: Database, part: Path) -> None:
    part.touch(mode=0o600, exist_ok=False)
    if engine.dialect.name == "sqlite":
        with closing(sqlite3.connect(part)) as copy, closing(engine.raw_connection()) as connection:
            original: Any = connection.driver_connection
            original.backup(copy)
    else:
        copied = open_database(str(part))
        whole = engine.execution_options(isolation_level="REPEATABLE READ")  # all tables as of one instant
        with transaction(whole) as connection, copied.begin() as target:
            target.execute(delete(identity))  # the copy is the same journal
            target.execute(delete(reign))
            for table in _TABLES:
                _copy(connection, target, table)
        copied.dispose()
    with closing(sqlite3.connect(part)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, and nothing beside it


def _copy(source: Connection, target: Connection, table: Table) -> None:
    for rows in source.execute(select(table)).mappings().partitions(_AT_ONCE):
        target.execute(insert(table), [dict(row) for row in rows])


def _check(file: Path) -> None:
    """Raise sqlite3.DatabaseError for a file that is no whole journal."""
    with closing(sqlite3.connect(f"file:{_quoted(file)}?mode=ro", uri=True)) as raw:
        [(verdict,)] = raw.execute("PRAGMA integrity_check(1)").fetchall()
        dangling = raw.execute("PRAGMA foreign_key_check").fetchall()
        tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if verdict != "ok" or dangling:
        raise sqlite3.DatabaseError(f"it is damaged: {verdict}{' (rows refer to none)' if dangling else ''}")
    if not {"about", "host", "job", "step"} <= tables:
        raise sqlite3.DatabaseError("it is no journal of mudanza")


def _quoted(file: Path) -> str:
    return str(file.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _contents(file: Path) -> Contents:
    with closing(sqlite3.connect(file)) as raw:
        [(hosts,)] = raw.execute("SELECT count(*) FROM host")
        [(jobs,)] = raw.execute("SELECT count(*) FROM job")
        unfinished = raw.execute("SELECT id FROM job WHERE ended_at IS NULL ORDER BY id").fetchall()
    return Contents(hosts, jobs, tuple(number for (number,) in unfinished))


def _settle_on_disk(part: Path, file: Path) -> None:
    with part.open("rb") as written:
        os.fsync(written.fileno())
    os.link(part, file)  # unlike a renaming this never replaces what came there meanwhile
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def restore(engine: Database, file: Path, *, force: bool = False) -> Contents:
    """Fill a journal from a backup, all of it or nothing.

    One that has hosts or jobs is refused, with ``force`` replaced. The audit of both is kept. Unfinished jobs are as
    abandoned as they can be: they may have gone on since, so nobody's claim on them holds any more. Raises UsageError
    for a file that is no whole backup or of a newer schema, BlockedError.
    """
    with tempfile.TemporaryDirectory(prefix="mudanza-restore-") as directory:
        copy = Path(directory, "journal.db")
        try:
            _check(file)
            shutil.copyfile(file, copy)
        except (OSError, sqlite3.Error) as error:
            raise UsageError(f"{file} cannot be restored: {error}") from error
        backup = open_database(str(copy))  # which brings an older one up to date
        with transaction(engine) as target, backup.begin() as source:
            reigned = _reign_of(target)
            _make_room(target, force=force)
            for table in _TABLES:
                (_add_audit if table is audit else _copy)(source, target, table)
            _reign_on(target, reigned)
            _free_unfinished(target)
            _go_on_counting(target)
        backup.dispose()
        return _contents(copy)


def _make_room(connection: Connection, *, force: bool) -> None:
    if connection.dialect.name == "postgresql":
        names = ", ".join(table.name for table in _TABLES if table not in (identity, pair))
        connection.execute(text(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"))
    hosts, jobs = (connection.scalar(select(func.count()).select_from(table)) for table in (host, job))
    if (hosts or jobs) and not force:
        raise BlockedError(
            f"the journal is not empty: it has {hosts} hosts and {jobs} jobs; nothing was restored",
            remedy="restore into a new one (`database` in the settings), or replace what is there: --force",
        )
    living = job.c.ended_at.is_(None) & (job.c.lease_until >= now(connection))
    if busy := connection.execute(select(job.c.id, job.c.owner).where(living)).first():
        raise BlockedError(
            f"job {busy.id} is being worked on by {busy.owner}; nothing was restored",
            remedy=f"wait for it, or cancel it: mudanza job cancel {busy.id}",
        )
    for table in (session, *reversed(_TABLES)):
        if table is not audit:
            connection.execute(delete(table))


def _reign_of(connection: Connection) -> tuple[str, int, str]:
    """Return which journal this is, how often it was taken over, and whether it has been since."""
    row = connection.execute(select(reign.c.number, reign.c.replaced)).one()
    return str(connection.scalar(select(identity.c.journal))), row.number, row.replaced


def _reign_on(connection: Connection, before: tuple[str, int, str]) -> None:
    """Have an older backup of the same journal not fall behind what hosts know of it, nor a journal act again that was
    taken over elsewhere."""
    journal, number, replaced = _reign_of(connection)
    if journal == before[0]:
        connection.execute(reign.update().values(number=max(number, before[1]), replaced=before[2] or replaced))


def _add_audit(source: Connection, target: Connection, _table: Table) -> None:
    """Add what the backup knows and the journal does not, under new numbers."""
    known = {(row.at, row.who, row.command) for row in target.execute(select(audit))}
    numbers: dict[int, int] = {}
    for row in source.execute(select(audit).order_by(audit.c.id)).mappings():
        ends = row["ends"]
        if ends is None and (row["at"], row["who"], row["command"]) in known:
            continue
        if ends is not None and ends not in numbers:
            continue
        values = {**row, "ends": None if ends is None else numbers[ends]}
        number = values.pop("id")
        key = target.execute(insert(audit).values(**values)).inserted_primary_key
        numbers[number] = int(key[0]) if key else 0


def _free_unfinished(connection: Connection) -> None:
    unfinished = job.c.ended_at.is_(None)
    connection.execute(job.update().where(unfinished).values(epoch=job.c.epoch + EPOCHS_ON, lease_until=0.0))
    carried_out = plan.c.ended_at.is_(None)
    connection.execute(plan.update().where(carried_out).values(epoch=plan.c.epoch + EPOCHS_ON, lease_until=0.0))
    connection.execute(duty.update().values(epoch=duty.c.epoch + EPOCHS_ON, lease_until=0.0))
    # A host that was proven off then may have been switched on since.
    old = fencing.c.proven & fencing.c.void_at.is_(None)
    connection.execute(fencing.update().where(old).values(void_at=now(connection), void_because=_RESTORED))


def _go_on_counting(connection: Connection) -> None:
    """Have PostgreSQL number new rows after those that were brought with their numbers; SQLite does by itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in _NUMBERED:
        highest = connection.scalar(select(func.max(table.c.id)))
        if highest is not None:
            number = func.pg_get_serial_sequence(table.name, "id")
            connection.execute(select(func.setval(number, highest)))
