"""What only one controller of a database does at a time: who has it, by a lease, so that another one can go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from mudanza import clock
from mudanza.journal.database import now, reading, transaction
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.handle import LEASE
from mudanza.journal.identity import new_owner
from mudanza.journal.schema import duty
from mudanza.model.balance import OnDuty
from mudanza.model.errors import BlockedError

KEEP_EVERY = 2.0
"""Seconds between two looks whether a lease has to be renewed."""


@dataclass(frozen=True, slots=True)
class Duty:
    """What is to be done by one, in words."""

    name: str
    taken: str
    """What stands in whose way it is with another one: "the cluster is balanced"."""
    lost: str
    """What another one does by now: "balances the cluster"."""
    see: str
    """How to see what that one does."""


class Duties:
    """One duty of one database's controllers."""

    def __init__(self, engine: Engine, what: Duty) -> None:
        self._engine = engine
        self._what = what
        self.owner = new_owner()

    def take(self) -> DutyHandle:
        """Be the one who does it. Raises BlockedError while another one does, and JournalLostError."""
        return DutyHandle(self._engine, self._what, *self._taken())

    def _taken(self) -> tuple[int, float]:
        """Return the epoch under which it is had, and the monotonic time before it was asked for."""
        since = clock.monotonic()
        try:
            with transaction(self._engine) as connection:
                epoch = self._take(connection)
        except IntegrityError:
            epoch = None  # two at once, and nobody had done it before
        if epoch is None:
            found = self.on_duty()
            raise BlockedError(
                f"{self._what.taken} by another controller: {found.owner if found else 'it has begun just now'}",
                remedy=f"see what it does: {self._what.see}",
            )
        return epoch, since

    def _take(self, connection: Connection) -> int | None:
        mine = duty.c.name == self._what.name
        lease = {"owner": self.owner, "lease_until": now(connection) + LEASE, "since": now(connection)}
        epoch = connection.scalar(select(duty.c.epoch).where(mine))
        if epoch is None:
            connection.execute(insert(duty).values(name=self._what.name, epoch=1, **lease))
            return 1
        free = mine & (duty.c.epoch == epoch) & (duty.c.lease_until < now(connection))
        taken = connection.execute(update(duty).where(free).values(epoch=epoch + 1, **lease)).rowcount
        return int(epoch) + 1 if taken == 1 else None

    def on_duty(self) -> OnDuty | None:
        """Return who does it, or did so last; None: nobody ever did."""
        return next((each for each in self.everybody() if each.name == self._what.name), None)

    def everybody(self) -> tuple[OnDuty, ...]:
        """Return who has which of all duties, or had it last, by the duties' names."""
        return on_duty(self._engine)


def on_duty(engine: Engine) -> tuple[OnDuty, ...]:
    """Return who has which duty, or had it last, by the duties' names."""
    with reading(engine) as connection:
        rows = connection.execute(select(duty, now(connection).label("read_at")).order_by(duty.c.name)).all()
    return tuple(OnDuty(row.owner, row.since, row.lease_until >= row.read_at, row.name, row.epoch) for row in rows)


class DutyHandle:
    """The right to do it, as long as its epoch is the current one."""

    def __init__(self, engine: Engine, what: Duty, epoch: int, since: float) -> None:
        """``since``: the monotonic time before it was asked for."""
        self._engine = engine
        self._what = what
        self.epoch = epoch
        self._renew_at = since + LEASE / 3

    def keep(self) -> None:
        """Renew the lease if a third of it is over. Raises LeaseLostError and JournalLostError."""
        if clock.monotonic() >= self._renew_at:
            begun = clock.monotonic()
            with transaction(self._engine) as connection:
                self.guard(connection)
            self._renew_at = begun + LEASE / 3

    def guard(self, connection: Connection, **values: Any) -> None:
        """Renew the lease within a transaction, which comes to nothing where another controller has the duty by now:
        raises LeaseLostError."""
        mine = (duty.c.name == self._what.name) & (duty.c.epoch == self.epoch)
        lease = {"lease_until": now(connection) + LEASE}
        if connection.execute(update(duty).where(mine).values(**{**lease, **values})).rowcount != 1:
            raise LeaseLostError(
                f"another controller {self._what.lost} by now; this one begins nothing more for it",
                remedy=f"see what it does: {self._what.see}",
            )

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the lease while the block runs. What is lost is noticed by whatever writes next."""
        over = clock.new_event()

        def keep() -> None:
            while not over.wait(KEEP_EVERY):
                try:
                    self.keep()
                except JournalLostError:
                    continue
                except LeaseLostError:
                    return

        clock.start_thread(keep, f"keep {self._what.name}")
        try:
            yield
        finally:
            over.set()

    def let_go(self) -> None:
        """Leave it to whoever wants it, who need not wait. Raises LeaseLostError."""
        with transaction(self._engine) as connection:
            self.guard(connection, lease_until=0.0)
