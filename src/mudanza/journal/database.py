"""Opening the database: SQLite with every write on the disk before it is reported, or PostgreSQL."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Float,
    cast,
    create_engine,
    event,
    func,
    literal_column,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.sql.elements import ColumnElement

from mudanza import clock
from mudanza.journal.errors import JournalLostError
from mudanza.journal.upgrading import bring_up_to_date
from mudanza.model.errors import BlockedError, UsageError

Database = Engine
"""An open database; what is in it is the journal's own business."""

BUSY_TIMEOUT = 30.0
"""Seconds that one writer waits for another one."""
IDLE_TIMEOUT = 10.0
"""Seconds that a transaction may rest in PostgreSQL before the server ends it."""
CONNECT_TIMEOUT = 10
"""Seconds that PostgreSQL may take to accept our connection."""
_ALIVE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20000,
}
"""How soon a server that has gone is noticed: seconds, and the last one milliseconds."""
_ONLY_READS = "mudanza_only_reads"
_ONE_WRITES = "mudanza_one_writes"
MAKE_ROOM = "make room on the disk that the journal is on"
_DISK_FULL = "53100"
"""What PostgreSQL calls it (``disk_full``)."""


def open_database(database: str) -> Database:
    """Open, and where it is new create, the database at a path or an SQLAlchemy URL; bring an older one up to date.

    Raises UsageError when it cannot be opened or was written by a newer mudanza; BlockedError where its disk is full.
    """
    try:
        engine = _engine(database)
        with engine.begin() as connection:
            bring_up_to_date(connection, shown(database))
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the database {shown(database)} needs the Python package {error.name}, which is not installed",
            remedy='install it for this mudanza: pip install "psycopg[binary]>=3.1" (Debian: python3-psycopg)',
        ) from error
    except (DBAPIError, ArgumentError, ValueError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error)
        if has_no_room(error, database):
            raise BlockedError(
                f"the database {shown(database)} cannot be opened, for its disk is full ({reason}): nothing was begun",
                remedy=f"{MAKE_ROOM}, then try again",
            ) from error
        raise UsageError(
            f"the database {shown(database)} cannot be opened: {reason}", remedy=_remedy(database)
        ) from error
    return engine


def _remedy(database: str) -> str:
    if "://" in database:
        return "check `database` in the configuration (postgresql://USER:PASSWORD@HOST/NAME), and that its server runs"
    return "check `database` in the configuration and the rights on its directory"


def _engine(database: str) -> Engine:
    if "://" not in database:
        return _sqlite(Path(database).expanduser())
    url = make_url(database)
    if url.drivername == "sqlite" and url.database:
        return _sqlite(Path(url.database))
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")  # SQLAlchemy 2.0 would look for its predecessor
    engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_TIMEOUT, **_ALIVE})

    @event.listens_for(engine, "connect")
    def _bounded(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = {int(BUSY_TIMEOUT * 1000)}")
            cursor.execute(f"SET lock_timeout = {int(BUSY_TIMEOUT * 1000)}")
            # A controller that was paused in the middle of writing holds nobody up for longer.
            cursor.execute(f"SET idle_in_transaction_session_timeout = {int(IDLE_TIMEOUT * 1000)}")
        connection.commit()

    return engine


def _sqlite(path: Path) -> Engine:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_TIMEOUT},
        execution_options={_ONE_WRITES: threading.Lock()},
    )

    @event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's BEGIN below is the only one
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")  # what is overwritten is not left in free pages
        connection.create_function("controller_clock", 0, clock.time)  # SQLite has no clock but its program's

    @event.listens_for(engine, "begin")
    def _write_lock_first(connection: Connection) -> None:
        if connection.get_execution_options().get(_ONLY_READS, False):
            # Takes no lock, so nothing can come of it; by way of SQLAlchemy it takes longer than most of what is read.
            connection.connection.cursor().execute("BEGIN")
        else:  # a read that turns into a write may fail as "locked" in the middle; taking the lock first cannot
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def transaction(engine: Database) -> Iterator[Connection]:
    """Do something in the database, all of it or nothing. Raises JournalLostError where it does not answer, UsageError
    for what it takes in no text."""
    try:
        with _turn_to_write(engine), engine.begin() as connection:
            yield connection
    except (DataError, UnicodeEncodeError) as error:  # PostgreSQL keeps no NUL, and nobody half a character
        raise UsageError(
            f"the database does not take that: {getattr(error, 'orig', None) or error}",
            remedy="leave out what cannot be printed",
        ) from error
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        place = engine.url.render_as_string(hide_password=True)
        if has_no_room(error, engine.url.database or ""):
            first, _, _ = reason.partition("\n")
            full = f"the journal {place} cannot be written, for its disk is full ({first})"
            raise JournalLostError(full, mend=MAKE_ROOM) from error
        raise JournalLostError(f"the journal {place} cannot be read or written: {reason}") from error


@contextmanager
def _turn_to_write(engine: Database) -> Iterator[None]:
    """Let a program's threads write one after the other where the database lets only one write at a time.

    Else each would wait in there with one of the program's connections in its hands, until nobody could read any more.
    """
    options = engine.get_execution_options()
    turn: threading.Lock | None = options.get(_ONE_WRITES)
    if turn is None or options.get(_ONLY_READS):
        yield
        return
    if not turn.acquire(timeout=BUSY_TIMEOUT):
        raise PoolTimeoutError(f"another thread has been writing for {BUSY_TIMEOUT:g} s")
    try:
        yield
    finally:
        turn.release()


@contextmanager
def reading(engine: Database) -> Iterator[Connection]:
    """Look at the database as it is at one instant, beside whoever writes: nobody waits for anybody. Nothing may be
    written in it. Raises JournalLostError where it does not answer."""
    with transaction(_reader_of(engine)) as connection:
        yield connection


@lru_cache(2)  # a program has one, and each that is held here keeps its files open
def _reader_of(engine: Database) -> Engine:
    if engine.dialect.name == "postgresql":
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return engine.execution_options(**{_ONLY_READS: True})


def has_no_room(error: Exception, database: str) -> bool:
    """Whether that is behind an error: the disk that a database is on is full."""
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) == _DISK_FULL or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    kind = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the rest tells what it was doing
    if kind == sqlite3.SQLITE_IOERR:  # its index of the log could not be made longer
        return free_bytes(database) == 0
    return kind == sqlite3.SQLITE_FULL


def free_bytes(database: str) -> int | None:
    """Return what is free where a file is; None where that cannot be told."""
    try:
        found = os.statvfs(Path(database).expanduser().parent)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def shown(database: str) -> str:
    """Return the database's name without a password in it."""
    if "://" not in database:
        return database
    try:
        return make_url(database).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return f"{database.partition('://')[0]}://…"


def now(connection: Connection) -> ColumnElement[float]:
    """Return the database's own clock as an SQL expression, in seconds since the epoch."""
    if connection.dialect.name == "sqlite":
        return literal_column("controller_clock()")
    return cast(func.extract("epoch", func.clock_timestamp()), Float)


def clock_offset(engine: Database) -> float:
    """Return the database's clock minus this machine's, in seconds, less half the time that asking took."""
    begun = clock.time()
    with reading(engine) as connection:
        theirs = float(connection.scalar(select(now(connection))) or 0.0)
    return theirs - (begun + clock.time()) / 2
