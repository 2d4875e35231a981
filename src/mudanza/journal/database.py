"""Opening the database: SQLite with every write on the disk before it is reported, or PostgreSQL."""

from __future__ import annotations

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
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.sql.elements import ColumnElement

from mudanza import clock
from mudanza.journal import schema
from mudanza.model.errors import UsageError

Database = Engine
"""An open database; what is in it is the journal's own business."""

BUSY_TIMEOUT = 30.0
"""Seconds that one writer waits for another one of the same SQLite file."""


def open_database(database: str) -> Database:
    """Open, and where it is new create, the database at a path or an SQLAlchemy URL; bring an older one up to date.

    Raises UsageError when it cannot be opened or was written by a newer mudanza.
    """
    try:
        engine = _engine(database)
        with engine.begin() as connection:
            schema.metadata.create_all(connection)
            _bring_up_to_date(connection, database)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the database {_shown(database)} needs the Python package {error.name}, which is not installed",
            remedy='install it for this mudanza: pip install "psycopg[binary]>=3.1" (Debian: python3-psycopg)',
        ) from error
    except (DBAPIError, ArgumentError, ValueError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error)
        raise UsageError(
            f"the database {_shown(database)} cannot be opened: {reason}", remedy=_remedy(database)
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
    return create_engine(url)


def _sqlite(path: Path) -> Engine:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)  # definitions are kept with their passwords
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT})

    @event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # SQLAlchemy's BEGIN below is the only one
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.create_function("controller_clock", 0, clock.time)  # SQLite has no clock but its program's

    @event.listens_for(engine, "begin")
    def _write_lock_first(connection: Connection) -> None:
        # A read that turns into a write may fail as "locked" in the middle; taking the lock first cannot.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _bring_up_to_date(connection: Connection, database: str) -> None:
    # Locked, so that of two programs that find an old database one upgrades it and the other finds it done.
    version = connection.scalar(select(schema.about.c.version).with_for_update())
    if version is None:
        connection.execute(insert(schema.about).values(version=schema.VERSION))
        return
    while version in schema.UPGRADES:
        for statement in schema.UPGRADES[version]:
            connection.execute(text(statement))
        version += 1
        connection.execute(update(schema.about).values(version=version))
    if version != schema.VERSION:
        raise UsageError(
            f"the database {_shown(database)} has schema {version}; this mudanza knows {schema.VERSION}",
            remedy="use the mudanza that wrote it, or another database",
        )


def _shown(database: str) -> str:
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
