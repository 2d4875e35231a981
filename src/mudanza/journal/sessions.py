"""Sessions of those who look at the daemon's pages. What opens one is never kept, only its hash; see ``tokens``."""

from __future__ import annotations

import json
import secrets

from sqlalchemy import Engine, delete, insert, select

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.schema import session, token
from mudanza.journal.tokens import hash_of
from mudanza.model.access import Asker, Scope

LASTS = 12 * 3600.0
"""Seconds after which one has to log in again."""
SECRET_BYTES = 32


class Sessions:
    """All sessions of the database, so that any controller knows who has logged in at another one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, asker: Asker, key: str | None = None) -> str:
        """Begin one, and return what opens it. ``key``: the token it was begun with, and ends with; None: none."""
        opens = secrets.token_urlsafe(SECRET_BYTES)
        about = {
            "hash": hash_of(opens),
            "name": asker.name,
            "token": hash_of(key) if key is not None else None,
            "scopes": json.dumps(sorted(asker.scopes)),
            "hosts": json.dumps(sorted(asker.hosts)),
            "tags": json.dumps(sorted(asker.tags)),
        }
        with transaction(self._engine) as connection:
            instant = now(connection)
            connection.execute(delete(session).where(session.c.expires_at <= instant))
            connection.execute(insert(session).values(**about, made_at=instant, expires_at=instant + LASTS))
        return opens

    def whose(self, opens: str) -> Asker | None:
        """Return whose it is; None where it opens nothing, or nothing any more: it, or its token, has ended."""
        with reading(self._engine) as connection:
            instant = now(connection)
            found = (session.c.hash == hash_of(opens)) & (session.c.expires_at > instant)
            row = connection.execute(select(session).where(found)).one_or_none()
            if row is None:
                return None
            good = token.c.revoked_at.is_(None) & (token.c.expires_at.is_(None) | (token.c.expires_at > instant))
            mine = select(token.c.name).where(good & (token.c.hash == row.token))
            if row.token is not None and connection.scalar(mine) is None:
                return None
        scopes = frozenset(map(Scope, json.loads(row.scopes)))
        return Asker(row.name, scopes, frozenset(json.loads(row.hosts)), frozenset(json.loads(row.tags)))

    def end(self, opens: str) -> None:
        """End one, if it is there."""
        with transaction(self._engine) as connection:
            connection.execute(delete(session).where(session.c.hash == hash_of(opens)))
