"""What tests without a lab share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Connection, event

from mudanza.journal.schema import metadata
from tests.postgres import Server
from tests.program import Program

LONGEST = ("tests/twin/test_model.py",)
"""What takes so long by itself that it must not come last where several processes share the tests."""

# How long something takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_in_the_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever opens a way to a host by ssh keeps a script there."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Have SIGINT be heard as in a program on a terminal: who runs tests in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _tables_are_put_into_words_once() -> Iterator[None]:
    """To say in SQL what the tables are like takes most of the time of a new database, and thousands are made."""
    said: dict[str, list[str]] = {}
    create_all = metadata.create_all

    def say_again(connection: Connection, checkfirst: bool = True) -> None:
        words = said.get(connection.dialect.name)
        if checkfirst:
            create_all(connection)
        elif words is not None:
            cursor = connection.connection.cursor()
            for each in words:
                cursor.execute(each)
        else:
            new: list[str] = []

            def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
                new.append(statement)

            event.listen(connection, "before_cursor_execute", listen)
            create_all(connection, checkfirst=False)
            event.remove(connection, "before_cursor_execute", listen)
            said[connection.dialect.name] = new

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "create_all", say_again)
        yield


@pytest.fixture
def mudanza(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A PostgreSQL server for all tests that need one."""
    with Server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database of either kind, as the settings would name it."""
    if request.param == "sqlite":
        return str(tmp_path / "m.db")
    server: Server = request.getfixturevalue("postgresql")
    return server.new_database()
