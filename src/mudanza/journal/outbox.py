"""What others are still to be told: written in the transaction of what it tells of, and kept until they have taken it.

A happening is written down once, whoever listens. One controller at a time writes down who is to be told of it, and
tells them (see ``service.notifying``): each at least once, in the order in which things happened.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.duty import Duty, DutyHandle
from mudanza.journal.happenings import write_down
from mudanza.journal.schema import delivery, happening
from mudanza.model.errors import UsageError
from mudanza.model.notice import Delivery, DeliveryState, Happening, Kind, Webhook

NOTIFY = Duty("notify", "others are told of what happens", "tells others of what happens", "mudanza notify list")
STALE = 86400.0
"""Seconds after which what nobody has told is news no more."""
KEPT = 7 * 86400.0
"""Seconds for which it is kept what was told, or could not be."""


class Outbox:
    """All that is to be told, or was."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write_down(self, kind: Kind, subject: str, said: str, about: Mapping[str, Any]) -> int:
        """Write down something that has happened; return its number."""
        with transaction(self._engine) as connection:
            return write_down(connection, kind, subject, said, about)

    def last_about(self, kinds: Iterable[Kind]) -> dict[str, Kind]:
        """Return, by subject, the last of these kinds that was written down of it."""
        wanted = [kind.value for kind in kinds]
        with reading(self._engine) as connection:
            newest = select(func.max(happening.c.id)).where(happening.c.kind.in_(wanted)).group_by(happening.c.subject)
            rows = connection.execute(select(happening).where(happening.c.id.in_(newest))).all()
        return {row.subject: Kind(row.kind) for row in rows}

    def hand_out(self, webhooks: Iterable[Webhook], under: DutyHandle) -> None:
        """Write down who is to be told of what nobody has looked at yet, and forget what is old.

        Raises LeaseLostError where another controller does so by now.
        """
        with transaction(self._engine) as connection:
            under.guard(connection)
            fresh = happening.c.given_at.is_(None) & (happening.c.at >= now(connection) - STALE)
            for row in connection.execute(select(happening).where(fresh).order_by(happening.c.id)).all():
                for webhook in webhooks:
                    if webhook.wants(row.kind):
                        _put_down(connection, row.id, webhook.name)
                given = {"given_at": now(connection)}
                connection.execute(update(happening).where(happening.c.id == row.id).values(**given))
            _forget(connection)

    def give(self, number: int, webhook: str) -> int:
        """Write down that one receiver is to be told of a happening, and nobody else; return the delivery's number."""
        with transaction(self._engine) as connection:
            given = {"given_at": now(connection)}
            connection.execute(update(happening).where(happening.c.id == number).values(**given))
            return _put_down(connection, number, webhook)

    def due(self, webhook: str) -> tuple[Delivery, ...]:
        """Return what a receiver is to be told now, in its order: nothing as long as the first is not due again."""
        found = self._read(delivery.c.webhook == webhook, delivery.c.state == DeliveryState.WAITING.value)[::-1]
        return found if found and found[0].due_in <= 0 else ()

    def ended(self, number: int, state: DeliveryState, answer: str, under: DutyHandle | None = None) -> None:
        """Write down that a receiver has taken it, or will not be asked again. Raises LeaseLostError."""
        with transaction(self._engine) as connection:
            values = {"state": state.value, "ended_at": now(connection), "answer": answer}
            _tried(connection, number, values, under)

    def put_off(self, number: int, wait: float, answer: str, under: DutyHandle) -> None:
        """Write down that it was not taken, and is tried again after so many seconds. Raises LeaseLostError."""
        with transaction(self._engine) as connection:
            _tried(connection, number, {"next_at": now(connection) + wait, "answer": answer}, under)

    def again(self, number: int) -> Delivery:
        """Have one that was given up be tried anew; return it. Raises UsageError where it was not given up."""
        with transaction(self._engine) as connection:
            dead = (delivery.c.id == number) & (delivery.c.state == DeliveryState.DEAD.value)
            values = {"state": DeliveryState.WAITING.value, "tries": 0, "next_at": now(connection), "ended_at": None}
            if connection.execute(update(delivery).where(dead).values(**values)).rowcount != 1:
                raise UsageError(f"there is no delivery {number} that was given up", remedy="mudanza notify list")
        return self._read(delivery.c.id == number)[0]

    def forget(self) -> None:
        """Remove what is old; what still waits goes with it."""
        with transaction(self._engine) as connection:
            _forget(connection)

    def latest(self, limit: int, state: DeliveryState | None = None) -> tuple[Delivery, ...]:
        """Return what was, or is to be, told; the newest first."""
        wanted = () if state is None else (delivery.c.state == state.value,)
        return self._read(*wanted, limit=limit)

    def _read(self, *conditions: Any, limit: int | None = None) -> tuple[Delivery, ...]:
        with reading(self._engine) as connection:
            columns = (delivery, happening, (delivery.c.next_at - now(connection)).label("due_in"))
            query = select(*columns).join(happening, happening.c.id == delivery.c.happening).where(*conditions)
            rows = connection.execute(query.order_by(delivery.c.id.desc()).limit(limit)).all()
        return tuple(map(_delivery, rows))


def _forget(connection: Connection) -> None:
    connection.execute(delete(happening).where(happening.c.at < now(connection) - KEPT))


def _put_down(connection: Connection, number: int, webhook: str) -> int:
    new = {"happening": number, "webhook": webhook, "state": DeliveryState.WAITING.value, "tries": 0, "answer": ""}
    key = connection.execute(insert(delivery).values(next_at=now(connection), **new)).inserted_primary_key
    return int(key[0]) if key else 0


def _tried(connection: Connection, number: int, values: Mapping[str, Any], under: DutyHandle | None) -> None:
    if under is not None:
        under.guard(connection)
    more = {"tries": delivery.c.tries + 1, **values}
    connection.execute(update(delivery).where(delivery.c.id == number).values(**more))


def _delivery(row: Row[Any]) -> Delivery:
    told = row._mapping
    about = json.loads(row.about)
    what = Happening(told[happening.c.id], row.at, row.kind, row.subject, row.said, about)
    state = DeliveryState(row.state)
    return Delivery(told[delivery.c.id], row.webhook, state, row.tries, row.due_in, row.answer, what)
