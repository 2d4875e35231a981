"""Hosts are told before the journal's modules are loaded as the journal tells them, or not at all."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

from mudanza.cli.context import App
from mudanza.journal.database import open_database
from mudanza.journal.early import hosts_at_first_glance
from mudanza.journal.inventory import Inventory
from mudanza.model.host import HostEntry

NAMED = HostEntry(
    "h1",
    "qemu+tls://h1/system",
    "qemu+tls://h1.lan/system",
    "10.0.0.1",
    "h1.lan",
    maintenance=True,
    tags=("rack a", "x"),
)
PLAIN = HostEntry("h2", "qemu+ssh://root@h2/system")


def journal(path: Path) -> Inventory:
    kept = Inventory(open_database(str(path)))
    kept.put_hosts((PLAIN, NAMED))
    return kept


def test_they_are_the_journals_own(tmp_path: Path) -> None:
    path = tmp_path / "odd name.db"
    kept = journal(path)
    assert hosts_at_first_glance(str(path)) == kept.hosts() == (NAMED, PLAIN)


def test_what_cannot_be_told_at_once_is_left_to_the_journal(tmp_path: Path) -> None:
    missing, other, newer = tmp_path / "none.db", tmp_path / "other.db", tmp_path / "newer.db"
    other.write_text("no database")
    journal(newer)
    with sqlite3.connect(newer) as raw:
        raw.execute("ALTER TABLE host ADD COLUMN of_a_later_version TEXT")
    told = [hosts_at_first_glance(str(each)) for each in (missing, other, newer, "postgresql://a@b/c")]
    assert told == [()] * 4
    assert not missing.exists()


def test_it_needs_nothing_that_takes_long_to_load() -> None:
    seen = "import sys, mudanza.journal.early; print('sqlalchemy' in sys.modules, 'libvirt' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", seen], text=True).split() == ["False", "False"]


def test_connections_are_those_that_were_begun_unless_the_hosts_have_changed(tmp_path: Path) -> None:
    kept = journal(tmp_path / "a.db")
    config = tmp_path / "a.toml"
    config.write_text(f'database = "{tmp_path / "a.db"}"\n')
    app = App(config, debug=False)
    app.begin_to_connect()
    begun = app._begun
    assert begun is not None
    assert app.connections() is begun
    app.begin_to_connect()
    kept.remove_host("h2")
    with app.connections() as anew:
        assert anew.entries == (NAMED,)
    begun.close()
