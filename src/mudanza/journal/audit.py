"""Who asked for what, when and from where, and what came of it. Rows are added here, and nowhere changed or removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select
from sqlalchemy.exc import IntegrityError

from mudanza.journal.database import Database, now, reading, transaction
from mudanza.journal.errors import JournalLostError
from mudanza.journal.requests import Request, earlier_of, keep_request
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
        """Write down what somebody asks for, before it is done; return its number.

        Raises BlockedError where that cannot be written down.
        """
        return self.asked_once(who, command, None)[0]

    def asked_once(
        self, who: Mapping[str, str | int], command: Sequence[str], request: Request | None
    ) -> tuple[int, bool]:
        """As ``asked``; and return whether it is asked for the first time under the key of ``request``: if it is not,
        the number is that of the first time. Raises UsageError where something else was asked for under that key."""
        try:
            with transaction(self._engine) as connection:
                if request is not None and (earlier := earlier_of(connection, request)) is not None:
                    return earlier, False
                number = _put(connection, who, command)
                if request is not None:
                    keep_request(connection, request, number)
                return number, True
        except IntegrityError:
            with reading(self._engine) as connection:  # the same request, come twice at one instant
                if request is not None and (earlier := earlier_of(connection, request)) is not None:
                    return earlier, False
            raise
        except JournalLostError as error:
            raise error.before_anything() from error

    def ended(self, n: int, exit_code: int, outcome: str) -> None:
        """Write down how that ended. Raises JournalLostError."""
        end = {"exit_code": exit_code, "outcome": without_secrets(outcome)}
        with transaction(self._engine) as connection:
            connection.execute(insert(audit).values(ends=n, at=now(connection), who="{}", command="[]", **end))

    def since(self, seconds: float | None) -> tuple[Asked, ...]:
        """Return what was asked for in the last ``seconds``, the oldest first; None: all there is."""
        with reading(self._engine) as connection:
            recent = select(audit).order_by(audit.c.id)
            if seconds is not None:
                recent = recent.where(audit.c.at >= now(connection) - seconds)
            rows = connection.execute(recent).all()
        ends = {row.ends: row for row in rows if row.ends is not None}
        return tuple(_asked(row, ends.get(row.id)) for row in rows if row.ends is None)

    def get(self, n: int) -> Asked | None:
        """Return what was asked for under a number; None: nothing was."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(audit).where((audit.c.id == n) | (audit.c.ends == n))).all()
        begun = next((row for row in rows if row.ends is None), None)
        return _asked(begun, next((row for row in rows if row.ends == n), None)) if begun is not None else None


def _put(connection: Connection, who: Mapping[str, str | int], command: Sequence[str]) -> int:
    words = {"who": json.dumps(without_secrets(who)), "command": json.dumps(without_secrets(list(command)))}
    row = insert(audit).values(at=now(connection), outcome="", **words)
    key = connection.execute(row).inserted_primary_key
    return int(key[0]) if key else 0


def _asked(row: Row[Any], end: Row[Any] | None) -> Asked:
    return Asked(
        row.id,
        row.at,
        json.loads(row.who),
        tuple(json.loads(row.command)),
        end.at if end is not None else None,
        end.exit_code if end is not None else None,
        end.outcome if end is not None else "",
    )
