"""Jobs and their steps: what is intended is written before it is done, and who may act is fenced by an epoch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Table,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from mudanza import __version__, clock
from mudanza.journal.database import now, reading, transaction
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.filtering import ABANDONED, Filter, conditions
from mudanza.journal.handle import LEASE, LONG_LOOK, LONGEST_CALL, JobHandle, as_text, tell
from mudanza.journal.identity import journal_id, new_owner
from mudanza.journal.job import NEEDS_PERSON, QUEUED, Event, Job, NewJob, Step
from mudanza.journal.protocol import PROTOCOL, refuse_unknown
from mudanza.journal.requests import Request, earlier_of, keep_request
from mudanza.journal.schema import event, job, step
from mudanza.journal.tally import Tallies, tallies
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.units import format_duration

__all__ = [
    "ABANDONED",
    "LEASE",
    "LONGEST_CALL",
    "LONG_LOOK",
    "NEEDS_PERSON",
    "QUEUED",
    "Event",
    "Filter",
    "Job",
    "JobHandle",
    "Jobs",
    "JournalLostError",
    "LeaseLostError",
    "NewJob",
    "Step",
    "unfinished_at",
]

ADOPTED = "adopted"
"""The state of a job that another journal began, and that was lost with it."""
REOPENED = "opened again"
"""What is told of a job that had ended, and is worked on once more."""


class Jobs:
    """All jobs of the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.owner = new_owner()

    def _handle(self, job_id: int, epoch: int, since: float) -> JobHandle:
        return JobHandle(self._engine, job_id, epoch, self.owner, since)

    @cached_property
    def journal(self) -> str:
        """The random id of this journal."""
        return journal_id(self._engine)

    def begin(self, new: NewJob) -> JobHandle:
        """Open a job. Raises BlockedError when the VM has an unfinished one, or the journal cannot be written."""
        since = clock.monotonic()
        try:
            with transaction(self._engine) as connection:
                lease = {"owner": self.owner, "lease_until": now(connection) + LEASE}
                key = insert_job(connection, new, state="preparing", **lease)
                tell(connection, key, 1, self.owner, "preparing")
        except IntegrityError:
            raise self._busy(new) from None
        except JournalLostError as error:
            raise error.before_anything() from error
        return self._handle(key, 1, since)

    def adopt(self, new: NewJob, steps: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any] | None]]) -> int:
        """Write down a job that another journal began, with what is known of its steps (name, intent, outcome), as one
        that its controller has left behind; return its number. Raises BlockedError when the VM has an unfinished one.
        """
        try:
            with transaction(self._engine) as connection:
                key = insert_job(connection, new, state=ADOPTED, owner=self.owner, lease_until=0.0)
                tell(connection, key, 1, self.owner, ADOPTED)
                for n, (name, intent, outcome) in enumerate(steps, start=1):
                    told = {"outcome": as_text(outcome), "ended_at": now(connection)} if outcome is not None else {}
                    values = {"job": key, "n": n, "name": name, "intent": as_text(intent), "at": now(connection)}
                    connection.execute(insert(step).values(**values, **told))
        except IntegrityError:
            raise self._busy(new) from None
        return key

    def put_down(self, new: NewJob, request: Request | None = None) -> int:
        """Put a job into the queue for any controller to take; return its number. Raises what ``begin`` raises.

        ``request``: what it was asked for under; asked for again, it is the same job, whatever has become of it. Raises
        UsageError where something else was asked for under that key.
        """
        try:
            with transaction(self._engine) as connection:
                if request is not None and (earlier := earlier_of(connection, request)) is not None:
                    return earlier
                waiting = {"owner": "", "lease_until": 0.0, "queued_at": now(connection)}
                key = insert_job(connection, new, state=QUEUED, **waiting)
                tell(connection, key, 1, "", QUEUED)
                if request is not None:
                    keep_request(connection, request, key)
        except IntegrityError:
            with reading(self._engine) as connection:  # the same request, come twice at one instant
                if request is not None and (earlier := earlier_of(connection, request)) is not None:
                    return earlier
            raise self._busy(new) from None
        except JournalLostError as error:
            raise error.before_anything() from error
        return key

    def _busy(self, new: NewJob) -> BlockedError:
        unfinished = self.unfinished_of(new.vm_uuid)
        if unfinished is None:
            return BlockedError(f"another job of VM {new.vm_name!r} ended just now", remedy="try again")
        return BlockedError(
            f"VM {new.vm_name!r} has an unfinished job: number {unfinished.id}, {unfinished.state}, "
            f"from {unfinished.source} to {unfinished.target or 'the best host'}",
            remedy=unfinished.way_out,
        )

    def ask_to_cancel(self, job_id: int, who: str) -> None:
        """Have whoever works on an unfinished job cancel it; asked twice, the first one stands."""
        with transaction(self._engine) as connection:
            asked_first = (job.c.id == job_id) & job.c.ended_at.is_(None) & job.c.cancel_asked_by.is_(None)
            values = {"cancel_asked_by": who, "cancel_asked_at": now(connection)}
            if connection.execute(update(job).where(asked_first).values(**values)).rowcount:
                epoch = connection.scalar(select(job.c.epoch).where(job.c.id == job_id)) or 0
                tell(connection, job_id, epoch, who, "to be cancelled")

    def tune(self, job_id: int, changes: Mapping[str, Any], who: str) -> bool:
        """Change what is asked of an unfinished job, for whoever works on it; return whether it was unfinished."""
        with transaction(self._engine) as connection:
            unfinished = (job.c.id == job_id) & job.c.ended_at.is_(None)
            row = connection.execute(select(job.c.asked, job.c.epoch).where(unfinished).with_for_update()).first()
            if row is None:
                return False
            before = json.loads(row.asked)
            named = sorted({*before.get("named", ()), *changes})
            connection.execute(
                update(job).where(unfinished).values(asked=as_text({**before, **changes, "named": named}))
            )
            words = ", ".join(f"{name}={value}" for name, value in changes.items())
            tell(connection, job_id, row.epoch, who, "tuned", words)
            return True

    def claim(self, wanted: Sequence[int]) -> JobHandle | None:
        """Own the first of these jobs that still waits in the queue, or whose controller died before it decided
        anything; None: others were quicker, or they are no such jobs. Raises BlockedError for one that another version
        has put there."""
        for job_id in wanted:
            found = self.get(job_id)
            if not found.is_queued:
                continue
            refuse_unknown(found)
            since = clock.monotonic()
            with transaction(self._engine) as connection:
                free = (job.c.id == job_id) & (job.c.epoch == found.epoch) & job.c.ended_at.is_(None)
                free &= job.c.lease_until < now(connection)
                # One that another controller is just taking is left to it, and not waited for.
                row = connection.execute(select(job.c.id).where(free).with_for_update(skip_locked=True)).first()
                if row is None:
                    continue
                self._own(connection, found, state="preparing", started_at=now(connection))
                tell(connection, job_id, found.epoch + 1, self.owner, "preparing", "taken from the queue")
            return self._handle(job_id, found.epoch + 1, since)
        return None

    def _own(self, connection: Connection, found: Job, **values: Any) -> int:
        lease = {"epoch": found.epoch + 1, "owner": self.owner, "lease_until": now(connection) + LEASE}
        lease |= {"protocol": PROTOCOL, "written_by": __version__}
        as_found = (job.c.id == found.id) & (job.c.epoch == found.epoch)
        return connection.execute(update(job).where(as_found).values(**lease, **values)).rowcount

    def take_over(self, job_id: int) -> JobHandle:
        """Own an abandoned job from now on.

        Raises UsageError when it has ended; BlockedError while its owner lives, and for one of another version.
        """
        found = self.get(job_id)
        if found.ended_at is not None:
            raise UsageError(f"job {job_id} has ended: {found.outcome}")
        refuse_unknown(found)
        since = clock.monotonic()
        with transaction(self._engine) as connection:
            free = (job.c.id == job_id) & (job.c.epoch == found.epoch) & (job.c.lease_until < now(connection))
            row = connection.execute(select(job.c.id).where(free).with_for_update(skip_locked=True)).first()
            if row is None or self._own(connection, found) != 1:
                left = format_duration(max(found.lease_until - found.read_at, 1.0))
                raise BlockedError(
                    f"job {job_id} belongs to a controller that lives: {found.owner}",
                    remedy=f"if it does not: its lease, and the last call it may have made, are over in {left}",
                )
            tell(connection, job_id, found.epoch + 1, self.owner, "taken over", f"was {found.state}")
        return self._handle(job_id, found.epoch + 1, since)

    def reopen(self, job_id: int) -> JobHandle:
        """Own an ended job again, to clean up what it left. Raises BlockedError while the VM has another one."""
        found = self.get(job_id)
        refuse_unknown(found)
        since = clock.monotonic()
        try:
            with transaction(self._engine) as connection:
                ended = (job.c.id == job_id) & (job.c.epoch == found.epoch) & job.c.ended_at.is_not(None)
                row = connection.execute(select(job.c.id).where(ended).with_for_update()).first()
                # Whether it was to be cancelled was about the earlier try.
                again = {"ended_at": None, "busy": found.vm_uuid, "cancel_asked_by": None, "cancel_asked_at": None}
                if row is None or self._own(connection, found, **again) != 1:
                    raise BlockedError(f"job {job_id} is being worked on", remedy="try again")
                tell(connection, job_id, found.epoch + 1, self.owner, REOPENED, f"was {found.state}")
        except IntegrityError:
            other = self.unfinished_of(found.vm_uuid)
            raise BlockedError(
                f"VM {found.vm_name!r} has another job under way" + (f": {other.id}" if other else ""),
                remedy="try again when it has ended",
            ) from None
        return self._handle(job_id, found.epoch + 1, since)

    def get(self, job_id: int) -> Job:
        """Return one job with its steps. Raises UsageError when there is none of that number."""
        found = self.find(job_id)
        if found is None:
            raise UsageError(f"there is no job {job_id}", remedy="see them all: mudanza jobs")
        return found

    def find(self, job_id: int) -> Job | None:
        """Return one job with its steps, None when there is none of that number."""
        found = self._read(job.c.id == job_id)
        return found[0] if found else None

    def mark(self, job_id: int) -> str | None:
        """Return what is another word whenever something was written of a job, by the same small question however long
        its story is; None when there is none of that number."""
        told = select(func.count()).select_from(event).where(event.c.job == job_id).scalar_subquery()
        steps = select(func.count(), func.count(step.c.outcome)).where(step.c.job == job_id)
        query = select(job.c.state, job.c.cancel_asked_by, told.label("told")).where(job.c.id == job_id)
        with reading(self._engine) as connection:
            row = connection.execute(query).first()
            begun, done = connection.execute(steps).one()
        if row is None:
            return None
        asked = "c" if row.cancel_asked_by else ""
        return f"{row.told}.{begun}.{done}.{row.state.replace(' ', '-')}{asked}"

    def unfinished_of(self, vm_uuid: str) -> Job | None:
        """Return the unfinished job of a VM, None if it has none."""
        found = self._read(job.c.vm_uuid == vm_uuid, job.c.ended_at.is_(None))
        return found[0] if found else None

    def unfinished(self, *, brief: bool = False) -> tuple[Job, ...]:
        """Return all unfinished jobs, the oldest first. ``brief``: without their steps and events."""
        return self._read(job.c.ended_at.is_(None), brief=brief)[::-1]

    def newest_of(self, vm_uuid: str) -> Job | None:
        """Return the newest job of a VM, None if it never had one."""
        found = self._read(job.c.vm_uuid == vm_uuid, limit=1)
        return found[0] if found else None

    def left_by(self, vm_uuid: str) -> Job | None:
        """Return the newest job of a VM, if it has ended and left something at its target; else None."""
        return if_left(self._read(job.c.vm_uuid == vm_uuid, limit=1))

    def latest(self, limit: int, wanted: Filter | None = None, *, brief: bool = False) -> tuple[Job, ...]:
        """Return the newest jobs, the newest first. ``brief``: without their steps and events, in a fraction of the
        time."""
        wanted = wanted or Filter()
        with reading(self._engine) as connection:
            instant = connection.scalar(select(now(connection))) or 0.0
        return self._read(*conditions(wanted, instant), limit=limit, brief=brief)

    def _read(self, *conditions: ColumnElement[bool], limit: int | None = None, brief: bool = False) -> tuple[Job, ...]:
        """Return jobs with their steps and events, the newest first; ``brief``: without these."""
        with reading(self._engine) as connection:
            return _jobs(connection, conditions, limit, brief=brief)

    def counted(self) -> Tallies:
        """Return figures of all jobs that have ended since the journal was made, those forgotten since among them."""
        with reading(self._engine) as connection:
            return tallies(connection)

    def forget(self, older_than: float) -> int:
        """Remove what ended more than that many seconds ago; return how many jobs went.

        Unfinished jobs stay, and so do those that left something somewhere: nothing else tells of it.
        """
        with transaction(self._engine) as connection:
            old = job.c.ended_at < now(connection) - older_than
            rows = connection.execute(select(job.c.id, job.c.report).where(old)).all()
            gone = [row.id for row in rows if not _leaves(json.loads(row.report or "{}"))]
            for part in _portions(gone):
                connection.execute(delete(job).where(job.c.id.in_(part), job.c.ended_at.is_not(None)))
        return len(gone)


def insert_job(connection: Connection, new: NewJob, **values: Any) -> int:
    """Write a new job down, within somebody's transaction; return its number. Raises IntegrityError where its VM has an
    unfinished one."""
    about = {
        "kind": new.kind,
        "vm_uuid": new.vm_uuid,
        "busy": new.vm_uuid,
        "vm_name": new.vm_name,
        "source": new.source,
        "target": new.target,
        "asked": as_text(new.asked),
        "asked_by": new.asked_by,
        "started_at": now(connection),
        "protocol": PROTOCOL,
        "written_by": __version__,
    }
    key = connection.execute(insert(job).values(**about, **values)).inserted_primary_key
    return int(key[0]) if key else 0


def _leaves(report: dict[str, Any]) -> bool:
    return any(report.get(what) for what in ("left", "stays", "undeleted"))


def if_left(found: Sequence[Job]) -> Job | None:
    """Return the first of these jobs, if it has ended and left something at its target; else None."""
    newest = found[0] if found else None
    return newest if newest and newest.ended_at is not None and newest.report.get("left") else None


def unfinished_at(connection: Connection, host: str) -> tuple[Job, ...]:
    """Return the unfinished jobs that move a VM from or to a host, the oldest first."""
    involved = ((job.c.source == host) | (job.c.target == host)) & job.c.ended_at.is_(None)
    return _jobs(connection, (involved,), None)[::-1]


def _jobs(
    connection: Connection, conditions: Iterable[ColumnElement[bool]], limit: int | None, *, brief: bool = False
) -> tuple[Job, ...]:
    has_begun = exists().where(step.c.job == job.c.id).label("has_begun")
    query = select(job, has_begun, now(connection).label("read_at")).where(*conditions)
    found = connection.execute(query.order_by(job.c.id.desc()).limit(limit))
    names = tuple(found.keys())
    rows = [dict(zip(names, row, strict=True)) for row in found]
    if brief:
        return tuple(_job(row, (), ()) for row in rows)
    numbers = [row["id"] for row in rows]
    steps, events = _of_jobs(connection, step, step.c.n, numbers), _of_jobs(connection, event, event.c.id, numbers)
    return tuple(_job(row, steps[row["id"]], events[row["id"]]) for row in rows)


def _of_jobs(
    connection: Connection, table: Table, order: Column[Any], numbers: Sequence[int]
) -> Mapping[int, list[Row[Any]]]:
    """Return the rows of a table that belong to these jobs, by job, in their order."""
    found: dict[int, list[Row[Any]]] = {number: [] for number in numbers}
    for part in _portions(numbers):
        for row in connection.execute(select(table).where(table.c.job.in_(part)).order_by(order)):
            found[row.job].append(row)
    return found


def _portions(numbers: Sequence[int]) -> Iterable[Sequence[int]]:
    """Yield as many at a time as go into one statement."""
    return (numbers[at : at + 500] for at in range(0, len(numbers), 500))


def _job(fields: dict[str, Any], steps: Iterable[Row[Any]], events: Iterable[Row[Any]]) -> Job:
    fields.pop("busy")
    runs = fields["ended_at"] is None and fields["state"] != QUEUED
    return Job(
        **{
            **fields,
            "asked": json.loads(fields["asked"]),
            "report": json.loads(fields["report"] or "{}"),
            "steps": tuple(_step(entry) for entry in steps),
            "events": tuple(Event(each.at, each.epoch, each.owner, each.state, each.detail) for each in events),
            "has_begun": bool(fields["has_begun"]),
            "abandoned": runs and fields["lease_until"] < fields["read_at"],
        }
    )


def _step(row: Row[Any]) -> Step:
    outcome = json.loads(row.outcome) if row.outcome is not None else None
    return Step(row.n, row.name, json.loads(row.intent), outcome, row.at, row.ended_at)
