"""Where a copy of the journal is kept, how old it is there, and whether the journal has been taken over elsewhere: as
the database has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select, update

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.schema import identity, reign, standby
from mudanza.model.errors import UsageError

LATE = 2
"""Of how many intervals a copy may be old before it is said to be late."""


LOOK_EVERY = 10.0
"""Seconds after which it is looked again whether a journal of which copies are sent was taken over."""
LOOK_SELDOM = 60.0
"""The same of one that was taken over itself, and of which none are sent: from where it was, it may be once more."""


@dataclass(frozen=True, slots=True)
class Standby:
    """One place where a copy is kept. Times in seconds since the epoch, by the database's clock."""

    name: str
    """A host's, or ``ssh://[USER@]ADDRESS[:PORT]``."""
    directory: str
    every: float
    """Seconds between two copies."""
    generation: int
    """The newest copy that is there; 0: none yet."""
    taken_at: float | None
    """The instant that it is of."""
    size: int | None
    """Bytes."""
    tried_at: float | None
    said: str
    """Why the last one was not brought there; empty: it was."""
    made_by: str
    made_at: float
    read_at: float

    @property
    def lag(self) -> float | None:
        """Seconds since the instant of the newest copy: what would be lost now. None: there is none yet."""
        return self.read_at - self.taken_at if self.taken_at is not None else None

    @property
    def late(self) -> bool:
        """Whether the newest copy is older than it should be."""
        return self.lag is None or self.lag > LATE * self.every

    @property
    def overdue(self) -> bool:
        """Whether it is late, and not only because nobody has had the time to send the first one."""
        return self.late and self.read_at - self.made_at > LATE * self.every

    @property
    def due(self) -> bool:
        """Whether one is to be sent now."""
        return self.tried_at is None or self.read_at - self.tried_at >= self.every


@dataclass(frozen=True, slots=True)
class Reign:
    """How this copy of the journal stands among others that there may be."""

    journal: str
    number: int
    """How often it has been taken over at another machine."""
    replaced: str
    """How it was found out that another copy is carried on since; empty: it was not."""
    due: bool
    """Whether it is to be looked whether that is so: never, where no copy was ever sent, and it is none itself."""


class Standbys:
    """The places of one database. Raises JournalLostError where that does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def instant(self) -> float:
        """Return the database's clock."""
        with reading(self._engine) as connection:
            return float(connection.scalar(select(now(connection))) or 0.0)

    def all(self) -> tuple[Standby, ...]:
        """Return every place, by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(standby, now(connection).label("read_at")).order_by(standby.c.name)).all()
        return tuple(Standby(**row._mapping) for row in rows)

    def get(self, name: str) -> Standby:
        """Return one place. Raises UsageError where there is none of that name."""
        for each in self.all():
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.all()) or "none"
        raise UsageError(f"there is no standby {name!r} (known: {known})", remedy="mudanza standby add HOST")

    def put(self, name: str, directory: str, every: float, made_by: str) -> None:
        """Have copies be kept at a place, or change how."""
        with transaction(self._engine) as connection:
            mine = standby.c.name == name
            how = {"directory": directory, "every": every}
            if connection.execute(update(standby).where(mine).values(**how)).rowcount:
                return
            about = {"name": name, "generation": 0, "said": "", "made_by": made_by, "made_at": now(connection)}
            connection.execute(insert(standby).values(**how, **about))

    def remove(self, name: str) -> None:
        """Have none be sent there any more."""
        with transaction(self._engine) as connection:
            connection.execute(delete(standby).where(standby.c.name == name))

    def tried(self, name: str) -> None:
        """Write down that one is being sent."""
        self._change(name, tried_at=self.instant())

    def sent(self, name: str, generation: int, taken_at: float, size: int) -> None:
        """Write down that one is there."""
        self._change(name, generation=generation, taken_at=taken_at, size=size, said="")

    def failed(self, name: str, why: str) -> None:
        """Write down why one is not."""
        self._change(name, said=why)

    def _change(self, name: str, **values: Any) -> None:
        with transaction(self._engine) as connection:
            connection.execute(update(standby).where(standby.c.name == name).values(**values))

    # Who carries this journal on.

    def reign(self) -> Reign:
        """Return how this copy of the journal stands."""
        with reading(self._engine) as connection:
            journal = select(identity.c.journal).scalar_subquery().label("journal")
            row = connection.execute(select(journal, reign, now(connection).label("read_at"))).one()
            places = connection.scalar(select(func.count()).select_from(standby)) or 0
        due = row.read_at - row.looked_at >= (LOOK_EVERY if places else LOOK_SELDOM)
        return Reign(row.journal, row.number, row.replaced, due=due and (places > 0 or row.number > 0))

    def looked(self) -> None:
        """Write down that it was looked just now, and nobody has taken it over."""
        with transaction(self._engine) as connection:
            connection.execute(update(reign).values(looked_at=now(connection)))

    def replaced(self, how: str) -> None:
        """Write down for good that another copy is carried on: nothing is done by this one any more."""
        with transaction(self._engine) as connection:
            connection.execute(update(reign).values(replaced=how))

    def take(self, at_least: int) -> int:
        """Have this copy be the one that is carried on, and forget where it was sent; return the number of its reign,
        beyond its own and ``at_least``."""
        with transaction(self._engine) as connection:
            mine = connection.scalar(select(reign.c.number)) or 0
            number = max(mine, at_least) + 1
            connection.execute(update(reign).values(number=number, replaced="", looked_at=0.0))
            connection.execute(delete(standby))
        return number
