"""Bringing a database to the schema of this program, once, whoever else opens it at the same time."""

from __future__ import annotations

import secrets
from pathlib import Path

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    insert,
    inspect,
    select,
    text,
)

from mudanza.journal.schema import HEAD, REVISIONS, about, identity, metadata, reign
from mudanza.model.errors import UsageError

_OLDER = {1: "0001", 2: "0002"}
"""What the table ``about`` says in a database from before Alembic → its schema."""
_LOCK = 0x6D7564616E7A61
"""The number under which PostgreSQL knows our lock: "mudanza"."""
_FIRST_ROWS = (
    (about, {"version": 3}),
    (reign, {"id": 1, "number": 0, "replaced": "", "looked_at": 0.0}),
)
"""What is in a new database from the start, but for its own random id."""
_alembic_version = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own table, as it makes it."""


def bring_up_to_date(connection: Connection, shown: str) -> None:
    """Make the tables in an empty database, or upgrade an older one, with all that is in it; all or nothing.

    Takes no time where nothing is to be done. ``shown``: what the database is called. Raises UsageError for one of a
    newer schema, or none of ours.
    """
    if _recorded(connection) == HEAD:
        return
    if connection.dialect.name == "postgresql":  # SQLite holds its write lock already
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    standing = _standing(connection, shown)  # the one who had the lock before may have done it
    if standing is None:
        _make(connection)
    elif standing != HEAD:
        _upgrade(connection, standing)


def _recorded(connection: Connection) -> str | None:
    """Return the schema that Alembic has written down, None where it never did."""
    if "alembic_version" not in inspect(connection).get_table_names():
        return None
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def _standing(connection: Connection, shown: str) -> str | None:
    """Return the database's schema, None where there is nothing yet; asked while nobody else upgrades it."""
    found: str | int | None = _recorded(connection)
    if found is not None:
        known = next((revision for revision in REVISIONS if revision == found), None)
    elif about.name in inspect(connection).get_table_names():
        found = connection.scalar(select(about.c.version))
        known = _OLDER.get(found or 0)
    else:
        return None
    if known is None:
        raise UsageError(
            f"the database {shown} has schema {found}; this mudanza knows {REVISIONS[0]} to {HEAD}",
            remedy="use the mudanza that wrote it (a newer one has upgraded it), or another database",
        )
    return known


def _make(connection: Connection) -> None:
    """Make today's tables at once: to go through every schema there was takes longer than all else that a command does.

    That both ways come to the same is held by tests.
    """
    metadata.create_all(connection, checkfirst=False)
    _alembic_version.create(connection, checkfirst=False)
    for table, row in (*_FIRST_ROWS, (identity, {"journal": secrets.token_hex(16)})):
        connection.execute(insert(table).values(**row))
    connection.execute(insert(_alembic_version).values(version_num=HEAD))


def _upgrade(connection: Connection, standing: str) -> None:
    # Imported where it is needed: it takes longer to load than everything else together.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    if "alembic_version" not in inspect(connection).get_table_names():
        command.stamp(config, standing)
    command.upgrade(config, "head")
