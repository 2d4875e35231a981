"""Which hosts a journal knows, told before SQLAlchemy is loaded: that takes as long as logging in to them does.

A first guess, of SQLite only. Whoever uses it looks into the journal itself before anything is done.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from mudanza.model.host import HostEntry


def hosts_at_first_glance(database: str) -> tuple[HostEntry, ...]:
    """Return the hosts, by name; none where they cannot be told at once: there is no such file, somebody holds it, it
    is of another schema, or no SQLite."""
    if "://" in database:
        return ()
    path = Path(database).expanduser()
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=0)) as raw:
            raw.row_factory = sqlite3.Row
            return tuple(_entry(row) for row in raw.execute("SELECT * FROM host ORDER BY name"))
    except (sqlite3.Error, TypeError, ValueError):
        return ()


def _entry(row: sqlite3.Row) -> HostEntry:
    fields = dict(row)
    tags, maintenance = tuple(json.loads(fields["tags"])), bool(fields["maintenance"])
    return HostEntry(**{**fields, "tags": tags, "maintenance": maintenance})
