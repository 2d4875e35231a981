"""What the restarts of VMs took, as the database has it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import ColumnElement, Engine, insert, select
from sqlalchemy.exc import IntegrityError

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.protocol import FAILOVER, RESTART
from mudanza.journal.schema import answered, fencing, job, kept_up, step
from mudanza.model.restarts import Awaited, Restarted

PROVE = "prove"
"""The step that names the proof."""


def restarts() -> ColumnElement[bool]:
    """Return which jobs start VMs anew by themselves. A failover whose source is said is one: of others a person has
    given their word that it is dead."""
    return (job.c.kind == RESTART) | ((job.c.kind == FAILOVER) & (job.c.source != ""))


class Restarts:
    """The restarts of one database. Raises JournalLostError where that does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def latest(self, limit: int) -> tuple[Restarted, ...]:
        """Return the newest ones that went well, the newest first."""
        done = select(job, answered.c.at.label("answered_at"), answered.c.said).join(
            answered, answered.c.job == job.c.id, isouter=True
        )
        done = done.where(restarts() & (job.c.exit_code == 0)).order_by(job.c.id.desc()).limit(limit)
        with reading(self._engine) as connection:
            rows = connection.execute(done).all()
            wanted = step.c.job.in_([row.id for row in rows]) & (step.c.name == PROVE)
            notes = {row.job: row for row in connection.execute(select(step).where(wanted))}
            proofs = {key: json.loads(row.outcome or "{}").get("fencing") for key, row in notes.items()}
            known = fencing.c.id.in_([each for each in proofs.values() if each is not None])
            fenced = {row.id: row for row in connection.execute(select(fencing).where(known))}
        return tuple(_restarted(row, fenced.get(proofs.get(row.id))) for row in rows)

    def awaited(self, within: float) -> tuple[Awaited, ...]:
        """Return those that were started within so many seconds, and whose guests are to answer and have not."""
        with reading(self._engine) as connection:
            instant = float(connection.scalar(select(now(connection))) or 0.0)
            query = select(job, kept_up.c.answers).join(kept_up, kept_up.c.vm_uuid == job.c.vm_uuid)
            query = query.join(answered, answered.c.job == job.c.id, isouter=True)
            mine = restarts() & (job.c.exit_code == 0) & (job.c.ended_at >= instant - within)
            mine &= (kept_up.c.answers != "") & answered.c.job.is_(None)
            rows = connection.execute(query.where(mine).order_by(job.c.id)).all()
        return tuple(
            Awaited(row.id, row.vm_name, row.vm_uuid, row.target, row.answers, max(instant - row.ended_at, 0.0))
            for row in rows
        )

    def answered(self, number: int, said: str, *, in_time: bool) -> None:
        """Write down that a guest answers now, or did not in time. Of two that write it down the first one counts."""
        try:
            with transaction(self._engine) as connection:
                at = now(connection) if in_time else None
                connection.execute(insert(answered).values(job=number, at=at, said=said))
        except IntegrityError:
            return


def _restarted(row: Any, proof: Any) -> Restarted:
    proven = proof is not None and proof.ended_at is not None
    return Restarted(
        row.id, row.vm_name, row.vm_uuid, row.source, row.target, row.ended_at,
        silent=proof.silent if proof is not None else None,
        fencing=proof.ended_at - proof.at if proven else None,
        starting=max(row.ended_at - proof.ended_at, 0.0) if proven else None,
        answering=max(row.answered_at - row.ended_at, 0.0) if row.answered_at is not None else None,
        answer=row.said or "",
    )  # fmt: skip
