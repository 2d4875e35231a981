"""What hosts and VMs have used, reading by reading, and how busy they were over a window of time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, func, insert, select

from mudanza.journal.database import Database, now, transaction
from mudanza.journal.database import reading as reading_only
from mudanza.journal.folding import count_of, fold, values_of
from mudanza.journal.schema import reading
from mudanza.model.counters import HostReading, Reading
from mudanza.model.load import HostLoad, Loads, VmLoad, spread_of

HOST, VM = "host", "vm"
AHEAD = 60.0
"""Seconds by which a reading may seem to lie ahead of the database's clock; one that lies further was written before
the clock was put back, and is no more of use."""
FOLDS = ((300.0, 1), (3600.0, 12))
"""Spans that readings are folded into, in seconds, and after how many times ``load.fine`` that is."""
MOST_FOLDS = 50
"""Spans that are folded at a time: more than come to be due between two times, so that what is left over is made up."""

AT_ONCE = 100
"""Subjects whose readings are folded in one transaction."""
IDS = 500
"""Numbers of rows in one statement: SQLite takes so many in any build."""


class LoadKeeper:
    """The readings of one database. All times are its own clock's."""

    def __init__(self, engine: Database) -> None:
        self._engine = engine

    def keep(self, readings: Iterable[HostReading]) -> int:
        """Write readings down, all of them or none; return how many. Raises JournalLostError."""
        found: list[dict[str, Any]] = []
        for host in readings:
            if host.whole is not None:
                found.append({"kind": HOST, "subject": host.host, "name": host.host, **_values(host.host, host.whole)})
            found += [
                {"kind": VM, "subject": vm.uuid, "name": vm.name, **_values(host.host, vm.used)} for vm in host.vms
            ]
        if not found:
            return 0
        with transaction(self._engine) as connection:
            at = connection.scalar(select(now(connection)))
            connection.execute(insert(reading), [{**values, "at": at} for values in found])
        return len(found)

    def loads(self, window: float) -> Loads:
        """Return how busy everybody was within so many seconds until now. Raises JournalLostError."""
        columns = [column for column in reading.c if column is not reading.c.id]
        with reading_only(self._engine) as connection:
            instant = connection.scalar(select(now(connection))) or 0.0
            recent = reading.c.at.between(instant - window, instant + AHEAD)
            rows = connection.execute(select(*columns).where(recent).order_by(reading.c.at, reading.c.id)).all()
        by_subject: dict[tuple[str, str], list[Row[Any]]] = defaultdict(list)
        for row in rows:
            by_subject[row.kind, row.subject].append(row)
        return Loads(
            vms={subject: _of_vm(subject, found) for (kind, subject), found in by_subject.items() if kind == VM},
            hosts={subject: _of_host(subject, found) for (kind, subject), found in by_subject.items() if kind == HOST},
        )

    def names(self, window: float) -> dict[str, tuple[str, str]]:
        """Return, by UUID, the name of each VM of which there is a reading, and where it was last."""
        with reading_only(self._engine) as connection:
            instant = connection.scalar(select(now(connection))) or 0.0
            recent = (reading.c.kind == VM) & (reading.c.at >= instant - window)
            last = select(reading.c.subject, func.max(reading.c.at).label("at")).where(recent)
            newest = last.group_by(reading.c.subject).subquery()
            mine = (reading.c.subject == newest.c.subject) & (reading.c.at == newest.c.at)
            found = select(reading.c.subject, reading.c.name, reading.c.host).join(newest, mine).where(recent)
            return {row.subject: (row.name, row.host) for row in connection.execute(found)}

    def fold(self, fine: float) -> int:
        """Fold readings that are older than so many seconds into one for each FOLDS, an old one into a coarser one;
        return how many rows there are less. Raises JournalLostError.

        At most MOST_FOLDS spans at a time, each in many small transactions: nobody waits for long.
        """
        gone, left = 0, MOST_FOLDS
        for wide, after in FOLDS:
            with transaction(self._engine) as connection:
                instant = connection.scalar(select(now(connection))) or 0.0
            until = (instant - fine * after) // wide * wide
            while left > 0 and (start := self._first_to_fold(wide, until)) is not None:
                gone += self._fold_span(start, wide)
                left -= 1
        return gone

    def _first_to_fold(self, wide: float, until: float) -> float | None:
        with reading_only(self._engine) as connection:
            first = connection.scalar(select(func.min(reading.c.at)).where(_finer_than(wide), reading.c.at < until))
        return None if first is None else first // wide * wide

    def _fold_span(self, start: float, wide: float) -> int:
        within = _finer_than(wide) & (reading.c.at >= start) & (reading.c.at < start + wide)
        with reading_only(self._engine) as connection:
            rows = connection.execute(select(reading).where(within).order_by(reading.c.at, reading.c.id)).all()
        groups: dict[tuple[str, str, str], list[Row[Any]]] = defaultdict(list)
        for row in rows:
            groups[row.kind, row.subject, row.host].append(row)
        found, gone = list(groups.values()), 0
        for first in range(0, len(found), AT_ONCE):
            gone += self._replace(found[first : first + AT_ONCE], wide, within)
        return gone

    def _replace(self, groups: Sequence[Sequence[Row[Any]]], wide: float, within: ColumnElement[bool]) -> int:
        """Put one row in the place of each group, unless another controller has done so; return how many went.

        SQLite gives the numbers of rows that went to new ones: a row is the one that was read only while it is
        ``within`` what is to be folded.
        """
        ids = [row.id for group in groups for row in group]
        new = [{**group[-1]._asdict(), "fold": wide, **fold(group)} for group in groups]
        for each in new:
            del each["id"]
        with transaction(self._engine) as connection:
            deleted = 0
            for first in range(0, len(ids), IDS):
                some = within & reading.c.id.in_(ids[first : first + IDS])
                deleted += connection.execute(delete(reading).where(some)).rowcount
            if deleted != len(ids):
                connection.rollback()
                return 0
            connection.execute(insert(reading), new)
        return len(ids) - len(new)

    def forget(self, older_than: float) -> int:
        """Remove readings from more than so many seconds ago, and those from a future that a clock which was put back
        has taken away; return how many went. Raises JournalLostError."""
        with transaction(self._engine) as connection:
            instant = connection.scalar(select(now(connection))) or 0.0
            useless = (reading.c.at < instant - older_than) | (reading.c.at > instant + AHEAD)
            return connection.execute(delete(reading).where(useless)).rowcount


def _values(host: str, used: Reading) -> dict[str, Any]:
    figures = {"cpus": used.cpus, "memory": used.memory, "disk": used.disk, "network": used.network}
    return {"host": host, "span": used.span, "steal": used.steal, **figures}


def _finer_than(wide: float) -> ColumnElement[bool]:
    return reading.c.fold.is_(None) | (reading.c.fold < wide)


def _of_vm(uuid: str, rows: Sequence[Row[Any]]) -> VmLoad:
    cpus, memory, disk, network, steal = (
        spread_of(values_of(rows, name)) for name in ("cpus", "memory", "disk", "network", "steal")
    )
    return VmLoad(uuid, cpus, memory, disk, network, _samples(rows), _span(rows), steal)


def _of_host(name: str, rows: Sequence[Row[Any]]) -> HostLoad:
    cpus, memory, disk, network = (
        spread_of(values_of(rows, figure)) for figure in ("cpus", "memory", "disk", "network")
    )
    return HostLoad(name, cpus, memory, disk, network, _samples(rows), _span(rows))


def _samples(rows: Sequence[Row[Any]]) -> int:
    return sum(count_of(row) for row in rows)


def _span(rows: Sequence[Row[Any]]) -> float:
    return float(max(0.0, rows[-1].at - rows[0].at) + rows[0].span)
