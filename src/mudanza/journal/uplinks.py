"""Hosts whose guests have lost their network, as the database has it: so that the host is opened again by whichever
controller sees it well."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, delete, insert, select, update

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.schema import host, uplink_loss


@dataclass(frozen=True, slots=True)
class UplinkLoss:
    """What one host has lost."""

    host: str
    at: float
    """Since when, by the database's clock: seconds since the epoch."""
    networks: tuple[str, ...]
    closed: bool
    """Whether it was closed to newcomers for it, having been open."""


class UplinkLosses:
    """The losses of one database. Raises JournalLostError where that does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> Mapping[str, UplinkLoss]:
        """Return what is lost, by host."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(uplink_loss).order_by(uplink_loss.c.host)).all()
        return {row.host: UplinkLoss(row.host, row.at, tuple(json.loads(row.networks)), row.closed) for row in rows}

    def begin(self, name: str, networks: Sequence[str], *, close: bool) -> bool:
        """Write down what a host has lost and, if it is to be and is open, close it to newcomers, both at once; return
        whether it was closed. One that was closed for it before, and is open, a person has opened: it stays so."""
        names = json.dumps(list(networks))
        with transaction(self._engine) as connection:
            mine = uplink_loss.c.host == name
            before = connection.execute(select(uplink_loss).where(mine)).first()
            was_closed = before is not None and bool(before.closed)
            closing = update(host).where((host.c.name == name) & host.c.maintenance.is_(False))
            wanted = close and not was_closed
            closed = wanted and connection.execute(closing.values(maintenance=True)).rowcount == 1
            values = {"networks": names, "closed": was_closed or closed}
            if before is None:
                connection.execute(insert(uplink_loss).values(host=name, at=now(connection), **values))
            else:
                connection.execute(update(uplink_loss).where(mine).values(**values))
        return closed

    def end(self, name: str) -> bool:
        """Forget it, and open the host again if it was closed for it; return whether that was so."""
        with transaction(self._engine) as connection:
            mine = uplink_loss.c.host == name
            was_closed = connection.scalar(select(uplink_loss.c.closed).where(mine))
            connection.execute(delete(uplink_loss).where(mine))
            opening = update(host).where((host.c.name == name) & host.c.maintenance.is_(True))
            return bool(was_closed) and connection.execute(opening.values(maintenance=False)).rowcount == 1
