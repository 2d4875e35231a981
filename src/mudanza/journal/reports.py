"""What came of moves that went well, the newest first: what is to be learnt from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select

from mudanza.journal.database import now, reading
from mudanza.journal.protocol import MOVES
from mudanza.journal.schema import job
from mudanza.model.compression import Tried

LIVE = "live"
REMEMBERED = 20
"""How many of a VM's moves are looked at, the newest ones."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A move that went well, as far as its report tells."""

    id: int
    kind: str
    vm_uuid: str
    vm_name: str
    source: str
    target: str
    asked: Mapping[str, Any]
    report: Mapping[str, Any]
    ago: float
    """Seconds since it ended."""


def reports(engine: Engine, limit: int, *, source: str | None = None, target: str | None = None) -> tuple[Ended, ...]:
    """Return the newest moves that went well, of any pair or of one. One small read, without steps or events."""
    columns = (
        job.c.id,
        job.c.kind,
        job.c.vm_uuid,
        job.c.vm_name,
        job.c.source,
        job.c.target,
        job.c.asked,
        job.c.report,
        job.c.ended_at,
    )
    query = select(*columns).where(job.c.exit_code == 0, job.c.report != "", job.c.kind.in_(MOVES))
    if source is not None:
        query = query.where(job.c.source == source)
    if target is not None:
        query = query.where(job.c.target == target)
    with reading(engine) as connection:
        instant = connection.scalar(select(now(connection))) or 0.0
        rows = connection.execute(query.order_by(job.c.id.desc()).limit(limit)).all()
    return tuple(
        Ended(
            row.id,
            row.kind,
            row.vm_uuid,
            row.vm_name,
            row.source,
            row.target,
            json.loads(row.asked),
            json.loads(row.report),
            max(0.0, instant - (row.ended_at or instant)),
        )
        for row in rows
    )


class PastMoves:
    """What has come of earlier moves, for whoever foresees the next one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def between(self, source: str, target: str, limit: int) -> tuple[Ended, ...]:
        """Return the newest moves from a host to another one that went well, so many at the most."""
        return reports(self._engine, limit, source=source, target=target)

    def compressed(self, vm_uuid: str) -> Tried | None:
        """Return what came of compression when a VM was last moved with it, well or not; None: it was not lately."""
        query = select(job.c.report).where(job.c.vm_uuid == vm_uuid, job.c.kind == LIVE, job.c.report != "")
        with reading(self._engine) as connection:
            told = connection.scalars(query.order_by(job.c.id.desc()).limit(REMEMBERED)).all()
        found = (json.loads(report).get("compression") for report in told)
        return next((Tried.from_json(each) for each in found if each), None)


@dataclass(frozen=True, slots=True)
class Moved:
    """A VM that changed hosts, and how many seconds ago that was."""

    vm_uuid: str
    source: str
    target: str
    ago: float


def moved_within(engine: Engine, seconds: float) -> tuple[Moved, ...]:
    """Return who changed hosts in so many seconds until now, the last ones first."""
    with reading(engine) as connection:
        instant = connection.scalar(select(now(connection))) or 0.0
        recent = (job.c.exit_code == 0) & (job.c.ended_at >= instant - seconds) & (job.c.source != job.c.target)
        rows = connection.execute(
            select(job.c.vm_uuid, job.c.source, job.c.target, job.c.ended_at)
            .where(recent)
            .order_by(job.c.ended_at.desc())
        ).all()
    return tuple(Moved(row.vm_uuid, row.source, row.target, max(0.0, instant - row.ended_at)) for row in rows)
