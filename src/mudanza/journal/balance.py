"""Who balances the cluster, one controller at a time, and what the rounds came to, so that another one goes on."""

from __future__ import annotations

from sqlalchemy import Engine, delete, insert, select

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.duty import Duties, Duty
from mudanza.journal.duty import DutyHandle as AnyDutyHandle
from mudanza.journal.schema import balance_round
from mudanza.model.balance import Round

BALANCE = Duty("balance", "the cluster is balanced", "balances the cluster", "mudanza balance")
KEPT = 7 * 86400.0
"""Seconds for which rounds are kept."""


class Balances(Duties):
    """The balance of one database's cluster."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, BALANCE)

    def take(self) -> DutyHandle:
        """Become the one who balances. Raises BlockedError while another one does, and JournalLostError."""
        return DutyHandle(self._engine, BALANCE, *self._taken())

    def rounds(self, limit: int) -> tuple[Round, ...]:
        """Return the last rounds, the oldest first."""
        with reading(self._engine) as connection:
            recent = balance_round.c.at >= now(connection) - KEPT
            query = (
                select(balance_round, now(connection).label("read_at"))
                .where(recent)
                .order_by(balance_round.c.id.desc())
                .limit(limit)
            )
            rows = connection.execute(query).all()
        return tuple(
            Round(row.said, row.asked, row.imbalance, row.plan, row.at, row.read_at - row.at) for row in rows[::-1]
        )


class DutyHandle(AnyDutyHandle):
    """The right to balance, as long as its epoch is the current one."""

    def note(self, found: Round) -> None:
        """Write down what a round came to, and forget those of long ago. Raises LeaseLostError."""
        values = {"asked": found.asked, "imbalance": found.imbalance, "plan": found.plan, "said": found.said}
        with transaction(self._engine) as connection:
            self.guard(connection)
            connection.execute(insert(balance_round).values(at=now(connection), **values))
            connection.execute(delete(balance_round).where(balance_round.c.at < now(connection) - KEPT))
