"""Requests that come twice, because whoever sent the first one heard no answer: the second one does nothing more."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from mudanza.journal.database import now
from mudanza.journal.schema import request as table
from mudanza.model.errors import UsageError

KEPT = 7 * 86400.0
"""Seconds for which a key is remembered."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for, under a key that they have chosen for it."""

    asker: str
    key: str
    digest: str
    """The same for the same things asked for; it begins with what is made of it, if that is no job: ``plan ``, or
    ``order `` for what the audit alone has a number of."""


def earlier_of(connection: Connection, request: Request) -> int | None:
    """Return the job, plan or order that was made when it came first; None: it comes for the first time.

    Raises UsageError where something else was asked for under that key.
    """
    same = (table.c.asker == request.asker) & (table.c.key == request.key)
    row = connection.execute(select(table).where(same, table.c.at >= now(connection) - KEPT)).one_or_none()
    if row is None:
        return None
    if row.digest != request.digest:
        kind, said, _ = row.digest.partition(" ")
        what = kind if said else "job"
        raise UsageError(
            f"something else was asked for under the key {request.key!r} before: {what} {row.job}",
            remedy="choose a new key for each thing that is asked for",
        )
    return int(row.job)


def keep_request(connection: Connection, request: Request, number: int) -> None:
    """Remember which job, plan or order was made, within the transaction in which it was; forget what is old."""
    connection.execute(delete(table).where(table.c.at < now(connection) - KEPT))
    about = {"asker": request.asker, "key": request.key, "digest": request.digest}
    connection.execute(insert(table).values(**about, job=number, at=now(connection)))
