"""Tokens: named keys for those who ask the daemon from elsewhere. What opens is never kept, only its hash.

A token is 256 bits of chance, so its hash needs no salt and no slow function: there is nothing to be guessed.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.schema import token
from mudanza.model.access import Asker, Scope
from mudanza.model.errors import UsageError

PREFIX = "mudanza_"
"""What tokens begin with, so that those who look for leaked keys know them."""
SECRET_BYTES = 32
USE_NOTED = 60.0
"""Seconds within which a further use is not written down."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token. Times in seconds since the epoch, by the database's clock."""

    name: str
    scopes: frozenset[Scope]
    hosts: frozenset[str]
    tags: frozenset[str]
    made_at: float
    made_by: str
    expires_at: float | None
    revoked_at: float | None
    used_at: float | None
    """Within the last minute or so; None: never."""
    read_at: float

    @property
    def state(self) -> str:
        """Whether it opens anything: ``good``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= self.read_at else "good"


class Tokens:
    """All tokens of the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def make(
        self,
        name: str,
        scopes: Iterable[Scope],
        made_by: str,
        *,
        hosts: Iterable[str] = (),
        tags: Iterable[str] = (),
        lasts: float | None = None,
    ) -> str:
        """Make a token, and return what opens: it cannot be had again. ``lasts``: seconds; None: until it is revoked.

        Raises UsageError where there is, or was, one of that name.
        """
        opens = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        lists = {"scopes": _listed(scopes), "hosts": _listed(hosts), "tags": _listed(tags)}
        try:
            with transaction(self._engine) as connection:
                ends = {"expires_at": now(connection) + lasts} if lasts is not None else {}
                about = {"name": name, "hash": hash_of(opens), "made_at": now(connection), "made_by": made_by}
                connection.execute(insert(token).values(**about, **lists, **ends))
        except IntegrityError as error:
            raise UsageError(
                f"there is, or was, a token {name!r}: the audit tells tokens by their names",
                remedy="choose another name; see them: mudanza token list",
            ) from error
        return opens

    def all(self) -> tuple[Token, ...]:
        """Return every token that ever was, by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(token, now(connection).label("read_at")).order_by(token.c.name)).all()
        return tuple(map(_token, rows))

    def revoke(self, name: str) -> None:
        """Let a token open nothing any more, from now on. Raises UsageError where there is none of that name."""
        with transaction(self._engine) as connection:
            mine = token.c.name == name
            if connection.scalar(select(token.c.name).where(mine)) is None:
                raise UsageError(f"there is no token {name!r}", remedy="see them: mudanza token list")
            connection.execute(
                update(token).where(mine & token.c.revoked_at.is_(None)).values(revoked_at=now(connection))
            )

    def whose(self, opens: str) -> Asker | None:
        """Return who has that token; None where it opens nothing, or nothing any more."""
        with reading(self._engine) as connection:
            query = select(token, now(connection).label("read_at")).where(token.c.hash == hash_of(opens))
            row = connection.execute(query).one_or_none()
        found = None if row is None else _token(row)
        if found is None or found.state != "good":
            return None
        if found.used_at is None or found.read_at - found.used_at > USE_NOTED:
            with transaction(self._engine) as connection:
                connection.execute(update(token).where(token.c.name == found.name).values(used_at=found.read_at))
        return Asker(f"token {found.name}", found.scopes, found.hosts, found.tags)


def hash_of(opens: str) -> str:
    """Return what is kept of what opens."""
    return hashlib.sha256(opens.encode("utf-8", "surrogatepass")).hexdigest()


def _listed(words: Iterable[str]) -> str:
    return json.dumps(sorted(words))


def _token(row: Any) -> Token:
    return Token(
        row.name,
        frozenset(map(Scope, json.loads(row.scopes))),
        frozenset(json.loads(row.hosts)),
        frozenset(json.loads(row.tags)),
        row.made_at,
        row.made_by,
        row.expires_at,
        row.revoked_at,
        row.used_at,
        row.read_at,
    )
