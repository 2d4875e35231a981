"""What is known of hosts' power, and each time that one was to be switched off or on, as the database has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select, update

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.duty import Duties, Duty, DutyHandle
from mudanza.journal.schema import host_power, switching
from mudanza.journal.secrets import without_secrets
from mudanza.model.host_power import HostPower, Switching, Wish
from mudanza.model.watts import PowerModel

NOTHING = HostPower()


class HostPowers:
    """The hosts' power of one database. Raises JournalLostError where that does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> Mapping[str, HostPower]:
        """Return what was said of hosts' power, by host."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(host_power).order_by(host_power.c.host)).all()
        return {row.host: _power(row) for row in rows}

    def of(self, host: str) -> HostPower:
        """Return what was said of one host's power."""
        return self.all().get(host, NOTHING)

    def put(self, host: str, wanted: HostPower) -> bool:
        """Keep exactly this of a host; return whether it was something else before."""
        if self.of(host) == wanted:
            return False
        watts = json.dumps(wanted.watts.watts if wanted.watts else [])
        with transaction(self._engine) as connection:
            connection.execute(delete(host_power).where(host_power.c.host == host))
            if wanted != NOTHING:
                values = {"watts": watts, "mac": wanted.mac, "keep_on": wanted.keep_on}
                connection.execute(insert(host_power).values(host=host, **values))
        return True

    def begin(self, host: str, wish: Wish, asked_by: str, under: DutyHandle, *, closed: bool) -> int:
        """Write down that a host is to be switched, before anything is done; return the number. Raises LeaseLostError
        where another controller switches it."""
        values = {"host": host, "wish": wish.value, "asked_by": asked_by, "done": False, "said": "", "closed": closed}
        with transaction(self._engine) as connection:
            under.guard(connection)
            key = connection.execute(insert(switching).values(**values, at=now(connection))).inserted_primary_key
        return int(key[0]) if key else 0

    def ended(self, number: int, said: str, *, done: bool) -> None:
        """Write down what came of it."""
        with transaction(self._engine) as connection:
            values = {"done": done, "said": without_secrets(said), "ended_at": now(connection)}
            connection.execute(update(switching).where(switching.c.id == number).values(**values))

    def last(self) -> Mapping[str, Switching]:
        """Return the last switching of each host."""
        newest = select(func.max(switching.c.id)).group_by(switching.c.host)
        with reading(self._engine) as connection:
            rows = connection.execute(select(switching).where(switching.c.id.in_(newest))).all()
        return {row.host: Switching(**{**row._mapping, "wish": Wish(row.wish)}) for row in rows}


def power_of_one(engine: Engine, host: str) -> Duties:
    """Return the right to switch a host, which one controller has at a time."""
    return Duties(
        engine, Duty(f"power {host}", f"host {host} is being switched", f"switches host {host}", "mudanza power")
    )


def _power(row: Any) -> HostPower:
    watts = tuple(json.loads(row.watts))
    return HostPower(PowerModel(watts) if watts else None, row.mac, row.keep_on)
