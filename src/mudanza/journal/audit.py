"""Who asked for what, when and from where, and what came of it. Rows are added here, and nowhere changed or removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select

from mudanza.journal.database import Database, now, transaction
from mudanza.journal.schema import audit
from mudanza.journal.secrets import without_secrets


@dataclass(frozen=True, slots=True)
class Asked:
    """One command that was to change something. Times in seconds since the epoch, by the database's clock."""

    n: int
    at: float
    who: Mapping[str, str | int]
    command: tuple[str, ...]
    ended_at: float | None
    """None: it goes on, or nobody could write down how it ended."""
    exit_code: int | None
    outcome: str


class Audit:
    """The audit of one database."""

    def __init__(self, engine: Database) -> None:
        self._engine = engine

    def asked(self, who: Mapping[str, str | int], command: Sequence[str]) -> int:
        """Write down what somebody asks for, before it is done; return its number. Raises JournalLostError."""
        words = {"who": json.dumps(without_secrets(who)), "command": json.dumps(without_secrets(list(command)))}
        with transaction(self._engine) as connection:
            row = insert(audit).values(at=now(connection), outcome="", **words)
            key = connection.execute(row).inserted_primary_key
        return int(key[0]) if key else 0

    def ended(self, n: int, exit_code: int, outcome: str) -> None:
        """Write down how that ended. Raises JournalLostError."""
        end = {"exit_code": exit_code, "outcome": without_secrets(outcome)}
        with transaction(self._engine) as connection:
            connection.execute(insert(audit).values(ends=n, at=now(connection), who="{}", command="[]", **end))

    def since(self, seconds: float | None) -> tuple[Asked, ...]:
        """Return what was asked for in the last ``seconds``, the oldest first; None: all there is."""
        with transaction(self._engine) as connection:
            recent = select(audit).order_by(audit.c.id)
            if seconds is not None:
                recent = recent.where(audit.c.at >= now(connection) - seconds)
            rows = connection.execute(recent).all()
        ends = {row.ends: row for row in rows if row.ends is not None}
        return tuple(
            Asked(
                row.id,
                row.at,
                json.loads(row.who),
                tuple(json.loads(row.command)),
                end.at if end is not None else None,
                end.exit_code if end is not None else None,
                end.outcome if end is not None else "",
            )
            for row in rows
            if row.ends is None
            for end in (ends.get(row.id),)
        )
