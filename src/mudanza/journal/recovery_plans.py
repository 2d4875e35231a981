"""Plans for recovery, as the database has them: their text."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, delete, insert, select

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.schema import recovery_plan
from mudanza.model.errors import UsageError


@dataclass(frozen=True, slots=True)
class Kept:
    """One plan. ``made_at``: seconds since the epoch, by the database's clock."""

    name: str
    text: str
    """TOML."""
    made_by: str
    made_at: float


class RecoveryPlans:
    """All plans for recovery of the database. Raises JournalLostError where that does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def keep(self, name: str, text: str, made_by: str) -> None:
        """Write a plan down, in place of one of that name."""
        with transaction(self._engine) as connection:
            connection.execute(delete(recovery_plan).where(recovery_plan.c.name == name))
            about = {"name": name, "text": text, "made_by": made_by}
            connection.execute(insert(recovery_plan).values(**about, made_at=now(connection)))

    def all(self) -> tuple[Kept, ...]:
        """Return every plan, by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(recovery_plan).order_by(recovery_plan.c.name)).all()
        return tuple(Kept(row.name, row.text, row.made_by, row.made_at) for row in rows)

    def get(self, name: str) -> Kept:
        """Return a plan. Raises UsageError where there is none of that name."""
        for each in self.all():
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.all()) or "none"
        raise UsageError(
            f"there is no recovery plan {name!r} (known: {known})", remedy="bring it in: mudanza recovery import FILE"
        )

    def remove(self, name: str) -> None:
        """Forget a plan, if there is one of that name."""
        with transaction(self._engine) as connection:
            connection.execute(delete(recovery_plan).where(recovery_plan.c.name == name))
