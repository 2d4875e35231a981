"""Jobs and their steps: what is intended is written before it is done, and who may act is fenced by an epoch."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from mudanza.journal.database import now
from mudanza.journal.schema import job, step
from mudanza.model.errors import BlockedError, MudanzaError, UsageError

LEASE = 30.0
"""Seconds for which a controller owns a job without renewing its claim."""
NEEDS_PERSON = "needs a person"
"""The state of a job that was left to a person: nobody works on it, and it keeps other jobs away from its VM."""


class LeaseLostError(MudanzaError):
    """Another controller has taken the job over: this one must not act on it any more."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a job. ``outcome`` None: it was intended, and nobody wrote down how it went."""

    n: int
    name: str
    intent: Mapping[str, Any]
    outcome: Mapping[str, Any] | None
    at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """One job with its steps. Times in seconds since the epoch, by the database's clock."""

    id: int
    kind: str
    vm_uuid: str
    vm_name: str
    source: str
    target: str
    asked: Mapping[str, Any]
    asked_by: str
    state: str
    epoch: int
    owner: str
    lease_until: float
    started_at: float
    ended_at: float | None
    outcome: str
    exit_code: int | None
    report: Mapping[str, Any]
    cancel_asked_by: str | None
    cancel_asked_at: float | None
    steps: tuple[Step, ...]
    abandoned: bool
    """Unfinished, and its controller's lease has run out."""
    read_at: float
    """When this was read."""
    queued_at: float | None = None
    """When it was put down to be done; None where whoever asked for it began at once."""
    plan: int | None = None
    """The plan it belongs to."""
    protocol: int = 1
    written_by: str = ""

    def steps_named(self, name: str) -> tuple[Step, ...]:
        """Return the steps of that name, in their order."""
        return tuple(step for step in self.steps if step.name == name)

    @property
    def way_out(self) -> str:
        """What somebody can do in whose way this unfinished job stands."""
        if not self.abandoned:
            return f"wait for it (mudanza job watch {self.id}), or cancel it: mudanza job cancel {self.id}"
        if self.state == NEEDS_PERSON:
            return (
                f"look at both hosts, then: mudanza job resume {self.id}; "
                f"or, if you have put it right yourself: mudanza job close {self.id}"
            )
        return f"its controller is gone: finish or undo it with: mudanza job resume {self.id}"


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a new job is about."""

    kind: str
    vm_uuid: str
    vm_name: str
    source: str
    target: str
    asked: Mapping[str, Any]
    asked_by: str


class JobHandle:
    """The right to write into one job, as long as its epoch is the current one."""

    def __init__(self, engine: Engine, job_id: int, epoch: int) -> None:
        self._engine = engine
        self.id = job_id
        self.epoch = epoch

    def _guarded(self, connection: Connection, values: Mapping[str, Any]) -> None:
        mine = (job.c.id == self.id) & (job.c.epoch == self.epoch) & (job.c.ended_at.is_(None))
        if connection.execute(update(job).where(mine).values(**values)).rowcount != 1:
            raise LeaseLostError(
                f"job {self.id} was taken over by another controller",
                remedy=f"see how it goes there: mudanza job show {self.id}",
            )

    def renew(self) -> None:
        """Keep the job for another lease. Raises LeaseLostError."""
        with self._engine.begin() as connection:
            self._guarded(connection, {"lease_until": now(connection) + LEASE})

    def cancel_asked(self) -> str | None:
        """Return who wants the job cancelled; None: nobody does. One small read."""
        with self._engine.begin() as connection:
            return connection.scalar(select(job.c.cancel_asked_by).where(job.c.id == self.id))

    def let_go(self, state: str) -> None:
        """Leave the job open in that state for whoever takes it over, who need not wait. Raises LeaseLostError."""
        with self._engine.begin() as connection:
            self._guarded(connection, {"state": state, "lease_until": 0.0})

    def enter(self, state: str) -> None:
        """Write down which phase the job is in. Raises LeaseLostError."""
        with self._engine.begin() as connection:
            self._guarded(connection, {"state": state})

    def intend(self, name: str, intent: Mapping[str, Any]) -> int:
        """Write down what is about to be done, before it is done; return the step's number."""
        with self._engine.begin() as connection:
            self._guarded(connection, {"lease_until": now(connection) + LEASE})
            last = connection.scalar(select(func.max(step.c.n)).where(step.c.job == self.id)) or 0
            connection.execute(
                insert(step).values(job=self.id, n=last + 1, name=name, intent=json.dumps(intent), at=now(connection))
            )
        return int(last) + 1

    def done(self, n: int, outcome: Mapping[str, Any]) -> None:
        """Write down how a step went. Raises LeaseLostError."""
        with self._engine.begin() as connection:
            self._guarded(connection, {"lease_until": now(connection) + LEASE})
            connection.execute(
                update(step)
                .where(step.c.job == self.id, step.c.n == n)
                .values(outcome=json.dumps(outcome), ended_at=now(connection))
            )

    def finish(self, state: str, sentence: str, exit_code: int, report: Mapping[str, Any] | None = None) -> None:
        """Close the job. Raises LeaseLostError."""
        with self._engine.begin() as connection:
            self._guarded(
                connection,
                {
                    "state": state,
                    "outcome": sentence,
                    "exit_code": exit_code,
                    "report": json.dumps(report or {}),
                    "ended_at": now(connection),
                    "busy": None,
                },
            )


class Jobs:
    """All jobs of the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def begin(self, new: NewJob) -> JobHandle:
        """Open a job. Raises BlockedError when the VM has an unfinished one."""
        try:
            with self._engine.begin() as connection:
                inserted = connection.execute(
                    insert(job).values(
                        kind=new.kind,
                        vm_uuid=new.vm_uuid,
                        busy=new.vm_uuid,
                        vm_name=new.vm_name,
                        source=new.source,
                        target=new.target,
                        asked=json.dumps(new.asked),
                        asked_by=new.asked_by,
                        state="preparing",
                        owner=self.owner,
                        lease_until=now(connection) + LEASE,
                        started_at=now(connection),
                    )
                )
        except IntegrityError:
            raise self._busy(new) from None
        key = inserted.inserted_primary_key
        return JobHandle(self._engine, int(key[0]) if key else 0, 1)

    def _busy(self, new: NewJob) -> BlockedError:
        unfinished = self.unfinished_of(new.vm_uuid)
        if unfinished is None:
            return BlockedError(f"another job of VM {new.vm_name!r} ended just now", remedy="try again")
        return BlockedError(
            f"VM {new.vm_name!r} has an unfinished job: number {unfinished.id}, {unfinished.state}, "
            f"from {unfinished.source} to {unfinished.target}",
            remedy=unfinished.way_out,
        )

    def ask_to_cancel(self, job_id: int, who: str) -> None:
        """Have whoever works on an unfinished job cancel it; asked twice, the first one stands."""
        with self._engine.begin() as connection:
            asked_first = (job.c.id == job_id) & job.c.ended_at.is_(None) & job.c.cancel_asked_by.is_(None)
            values = {"cancel_asked_by": who, "cancel_asked_at": now(connection)}
            connection.execute(update(job).where(asked_first).values(**values))

    def take_over(self, job_id: int) -> JobHandle:
        """Own an abandoned job from now on. Raises UsageError, or BlockedError while its owner lives."""
        found = self.get(job_id)
        if found.ended_at is not None:
            raise UsageError(f"job {job_id} has ended: {found.outcome}")
        with self._engine.begin() as connection:
            free = (job.c.id == job_id) & (job.c.epoch == found.epoch) & (job.c.lease_until < now(connection))
            taken = connection.execute(
                update(job)
                .where(free)
                .values(epoch=found.epoch + 1, owner=self.owner, lease_until=now(connection) + LEASE)
            )
            if taken.rowcount != 1:
                raise BlockedError(
                    f"job {job_id} belongs to a controller that lives: {found.owner}",
                    remedy=f"try again when its lease has run out, within {LEASE:.0f} s",
                )
        return JobHandle(self._engine, job_id, found.epoch + 1)

    def reopen(self, job_id: int) -> JobHandle:
        """Own an ended job again, to clean up what it left. Raises BlockedError while the VM has another one."""
        found = self.get(job_id)
        try:
            with self._engine.begin() as connection:
                ended = (job.c.id == job_id) & (job.c.epoch == found.epoch) & job.c.ended_at.is_not(None)
                values = {"epoch": found.epoch + 1, "owner": self.owner, "ended_at": None, "busy": found.vm_uuid}
                values |= {"cancel_asked_by": None, "cancel_asked_at": None}  # that was about the earlier try
                lease = {"lease_until": now(connection) + LEASE}
                if connection.execute(update(job).where(ended).values(**values, **lease)).rowcount != 1:
                    raise BlockedError(f"job {job_id} is being worked on", remedy="try again")
        except IntegrityError:
            other = self.unfinished_of(found.vm_uuid)
            raise BlockedError(
                f"VM {found.vm_name!r} has another job under way" + (f": {other.id}" if other else ""),
                remedy="try again when it has ended",
            ) from None
        return JobHandle(self._engine, job_id, found.epoch + 1)

    def get(self, job_id: int) -> Job:
        """Return one job with its steps. Raises UsageError when there is none of that number."""
        with self._engine.begin() as connection:
            row = connection.execute(_with_clock(connection).where(job.c.id == job_id)).first()
            if row is None:
                raise UsageError(f"there is no job {job_id}", remedy="see them all: mudanza jobs")
            return _job(connection, row)

    def unfinished_of(self, vm_uuid: str) -> Job | None:
        """Return the unfinished job of a VM, None if it has none."""
        with self._engine.begin() as connection:
            row = connection.execute(
                _with_clock(connection).where(job.c.vm_uuid == vm_uuid, job.c.ended_at.is_(None))
            ).first()
            return _job(connection, row) if row else None

    def unfinished(self) -> tuple[Job, ...]:
        """Return all unfinished jobs, the oldest first."""
        with self._engine.begin() as connection:
            open_ones = _with_clock(connection).where(job.c.ended_at.is_(None)).order_by(job.c.id)
            return tuple(_job(connection, row) for row in connection.execute(open_ones).all())

    def left_by(self, vm_uuid: str) -> Job | None:
        """Return the newest job of a VM, if it has ended and left something at its target; else None."""
        with self._engine.begin() as connection:
            query = _with_clock(connection).where(job.c.vm_uuid == vm_uuid).order_by(job.c.id.desc()).limit(1)
            row = connection.execute(query).first()
            found = _job(connection, row) if row else None
        return found if found and found.ended_at is not None and found.report.get("left") else None

    def latest(self, limit: int) -> tuple[Job, ...]:
        """Return the newest jobs, the newest first."""
        with self._engine.begin() as connection:
            rows = connection.execute(_with_clock(connection).order_by(job.c.id.desc()).limit(limit)).all()
            return tuple(_job(connection, row) for row in rows)


def unfinished_at(connection: Connection, host: str) -> tuple[Job, ...]:
    """Return the unfinished jobs that move a VM from or to a host, the oldest first."""
    involved = ((job.c.source == host) | (job.c.target == host)) & job.c.ended_at.is_(None)
    rows = connection.execute(_with_clock(connection).where(involved).order_by(job.c.id)).all()
    return tuple(_job(connection, row) for row in rows)


def _with_clock(connection: Connection) -> Any:
    return select(job, now(connection).label("read_at"))


def _job(connection: Connection, row: Row[Any]) -> Job:
    fields = dict(row._mapping)
    fields.pop("busy")
    steps = connection.execute(select(step).where(step.c.job == row.id).order_by(step.c.n))
    return Job(
        **{
            **fields,
            "asked": json.loads(fields["asked"]),
            "report": json.loads(fields["report"] or "{}"),
            "steps": tuple(_step(entry) for entry in steps),
            "abandoned": fields["ended_at"] is None and fields["lease_until"] < fields["read_at"],
        }
    )


def _step(row: Row[Any]) -> Step:
    outcome = json.loads(row.outcome) if row.outcome is not None else None
    return Step(row.n, row.name, json.loads(row.intent), outcome, row.at, row.ended_at)
