"""Every schema there ever was becomes today's, with all that is in it, on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, text, update

from mudanza.journal import migrations, schema
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs
from mudanza.model.errors import UsageError

JOURNALS = Path(__file__).with_name("journals")
RELEASED = ("v1", "v2")


def load(database: str, version: str) -> None:
    """Fill an empty database with a journal of an older schema."""
    if "://" not in database:
        with sqlite3.connect(database) as raw:
            raw.executescript((JOURNALS / f"{version}.sqlite.sql").read_text())
        return
    engine = create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for statement in (JOURNALS / f"{version}.postgresql.sql").read_text().split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement.replace("%", "%%"))
    engine.dispose()


def tables(engine: Engine) -> dict[str, object]:
    """Return all that the database knows of its tables."""
    looked = inspect(engine)
    return {
        table: (
            {str(column["name"]): {**column, "type": str(column["type"])} for column in looked.get_columns(table)},
            looked.get_pk_constraint(table)["constrained_columns"],
            sorted(str(key["constrained_columns"]) for key in looked.get_foreign_keys(table)),
            sorted(str(key["column_names"]) for key in looked.get_unique_constraints(table)),
            sorted(str(index["column_names"]) for index in looked.get_indexes(table)),
        )
        for table in looked.get_table_names()
    }


@pytest.mark.parametrize("version", RELEASED)
def test_an_older_journal_is_taken_over_with_its_jobs(database: str, version: str) -> None:
    load(database, version)
    for _ in range(2):
        engine = open_database(database)
    assert Inventory(engine).host("h1").tags == ("rack a",)
    jobs = Jobs(engine)
    unfinished = jobs.get(2)
    assert (unfinished.state, unfinished.abandoned, unfinished.protocol) == ("transferring", True, 1)
    assert unfinished.steps_named("transfer")[0].outcome is None
    jobs.ask_to_cancel(2, "ana@laptop")
    assert jobs.take_over(2).cancel_asked() == {"v1": "ana@laptop", "v2": "bo@desk"}[version]
    assert jobs.get(1).outcome == "moved"


@pytest.mark.parametrize("version", RELEASED)
def test_an_upgraded_database_has_what_a_new_one_has(
    database: str, version: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    load(database, version)
    other = request.getfixturevalue("postgresql").new_database() if "://" in database else str(tmp_path / "new.db")
    upgraded, new = open_database(database), open_database(other)
    assert tables(upgraded) == tables(new)
    assert first_rows(upgraded) == first_rows(new)
    assert expected_otherwise(upgraded) == []


def first_rows(engine: Engine) -> dict[str, object]:
    """Return what every journal has of its own, whatever was done by it: all that is in a new one but its random id."""
    filled = [
        name for name in inspect(engine).get_table_names() if name not in ("host", "pair", "job", "step", "event")
    ]
    with engine.begin() as connection:
        rows = {name: connection.exec_driver_sql(f'SELECT * FROM "{name}"').all() for name in filled}
    assert [len(rows.pop("identity"))] == [1]
    return {name: found for name, found in rows.items() if found}


def expected_otherwise(engine: Engine) -> list[object]:
    """Return in what the program expects other tables than there are."""
    how = {"compare_type": True, "compare_server_default": True}
    with engine.begin() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=how), schema.metadata))


def test_a_new_database_has_what_the_program_expects(database: str) -> None:
    engine = open_database(database)
    assert expected_otherwise(engine) == []
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE job DROP COLUMN plan")
    assert expected_otherwise(engine)


def test_the_schemas_known_are_those_there_are() -> None:
    scripts = ScriptDirectory(migrations.__path__[0])
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == schema.REVISIONS


@pytest.mark.parametrize("version", [None, *RELEASED])
def test_of_several_programs_that_open_it_at_once_one_upgrades_it(database: str, version: str | None) -> None:
    if version:
        load(database, version)
    with ThreadPoolExecutor(6) as pool:
        engines = list(pool.map(open_database, [database] * 6))
    assert len({len(Jobs(engine).latest(9)) for engine in engines}) == 1


def test_a_newer_journal_is_refused_and_kept(database: str) -> None:
    engine = open_database(database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    before = tables(engine)
    for _ in range(2):
        with pytest.raises(UsageError, match="has schema 0099; this mudanza knows 0001 to"):
            open_database(database)
    assert tables(engine) == before


def test_a_journal_from_before_alembic_of_a_schema_nobody_released_is_refused(database: str) -> None:
    load(database, "v2")
    url = database.replace("postgresql:", "postgresql+psycopg:") if "://" in database else f"sqlite:///{database}"
    with create_engine(url).begin() as connection:
        connection.execute(update(schema.about).values(version=7))
    with pytest.raises(UsageError, match="has schema 7"):
        open_database(database)


def test_a_program_of_an_older_schema_sees_that_it_is_none_of_its_own(database: str) -> None:
    with open_database(database).begin() as connection:
        assert connection.scalar(text("SELECT version FROM about")) == 3


def test_passwords_that_earlier_versions_wrote_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    load(str(path), "v2")
    assert b"opensesame" in path.read_bytes()
    engine = open_database(str(path))
    decided = Jobs(engine).get(2).steps_named("decide")[0].intent
    assert "passwd='*****'" in decided["xml"]
    assert 'passwd="*****"' in decided["inactive_xml"]
    engine.dispose()
    for file in tmp_path.iterdir():
        assert b"opensesame" not in file.read_bytes(), file


def test_alembic_is_loaded_only_where_there_is_something_to_upgrade(database: str) -> None:
    code = "import sys; from mudanza.journal.database import open_database as o; o(sys.argv[1]); print(*sys.modules)"

    def loaded() -> bool:
        ran = subprocess.run([sys.executable, "-c", code, database], capture_output=True, text=True, check=True)
        return "alembic" in ran.stdout.split()

    load(database, "v2")
    assert [loaded(), loaded()] == [True, False]


def test_a_new_database_is_made_without_alembic(database: str) -> None:
    code = "import sys; from mudanza.journal.database import open_database as o; o(sys.argv[1]); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code, database], capture_output=True, text=True, check=True)
    assert "alembic" not in ran.stdout.split()
