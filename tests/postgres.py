"""A PostgreSQL server of the tests' own: in a temporary directory, on a unix socket, and gone with them."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

START_LIMIT = 60.0
"""Seconds a new server may take to answer."""
END_LIMIT = 60.0
"""Seconds a server may take to end."""
_numbers = itertools.count(1)

# Whatever ends the tests, SIGKILL too: the kernel tells the shell, which ends the server and removes its directory.
_RUN = """
trap 'rm -rf "$2"' EXIT
trap 'exit 1' INT TERM
"$1/initdb" --no-sync --auth=trust --encoding=UTF8 --locale=C.UTF-8 -U mudanza -D "$2/data" >"$2/log" 2>&1
# Nobody wants anything of it afterwards: it keeps nothing safe, and when it ends it does not tidy up (SIGQUIT).
keep_nothing="-c fsync=off -c full_page_writes=off -c autovacuum=off"
"$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c max_connections=200 $keep_nothing >>"$2/log" 2>&1 &
server=$!
trap 'kill -QUIT $server' INT TERM
wait $server; wait $server
"""


class Server:
    """One server; ``with`` starts it and ends it."""

    def __init__(self) -> None:
        self._binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        # PostgreSQL refuses to run as root; Debian's package has made a user for it.
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self._directory = Path()

    def __enter__(self) -> Server:
        self._directory = Path(tempfile.mkdtemp(prefix="mudanza-pg-"))
        if os.geteuid() == 0:
            shutil.chown(self._directory, self._user, self._user)
        try:
            words = ("setpriv", "--pdeathsig", "TERM", "sh", "-c", _RUN, "sh", self._binaries, self._directory)
            self._process = self._as_user(*words)
            self._await()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if hasattr(self, "_process"):
            self._process.terminate()
            self._process.wait(END_LIMIT)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _as_user(self, *words: str | Path) -> subprocess.Popen[bytes]:
        other = {"user": self._user, "group": self._user, "extra_groups": ()} if os.geteuid() == 0 else {}
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, cwd="/", start_new_session=True, **other)  # type: ignore[call-overload,no-any-return]

    def _await(self) -> None:
        until = time.monotonic() + START_LIMIT
        while True:
            try:
                self._execute("SELECT 1")
            except OperationalError:
                log = self._directory / "log"
                assert time.monotonic() < until, log.read_text() if log.exists() else "it did not start"
                time.sleep(0.05)
            else:
                return

    def url(self, database: str) -> str:
        """Return the URL of one of its databases, as an operator would write it."""
        return f"postgresql://mudanza@/{database}?host={self._directory}"

    def new_database(self) -> str:
        """Return the URL of a new, empty database."""
        name = f"journal{next(_numbers)}"
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def _execute(self, statement: str) -> None:
        engine = create_engine(self.url("postgres").replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(statement))
        engine.dispose()
