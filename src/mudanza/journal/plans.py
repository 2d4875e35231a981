"""Plans that are carried out: what of them is begun and done, in the database, so that any controller can go on.

What is begun becomes a job in the same transaction in which the plan's move is marked as begun, and both only under the
current epoch: so no move is begun twice, whoever believes to hold the plan.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from mudanza import clock
from mudanza.journal.database import now, reading, transaction
from mudanza.journal.duty import DutyHandle
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.handle import LEASE, tell
from mudanza.journal.happenings import plan_proposed
from mudanza.journal.identity import new_owner
from mudanza.journal.job import QUEUED, NewJob
from mudanza.journal.jobs import insert_job
from mudanza.journal.requests import Request, earlier_of, keep_request
from mudanza.journal.schema import away, plan, plan_move
from mudanza.model.carrying import MoveState, Run, RunMove, RunPolicy, RunState, Wish
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.plan import MoveMode, Plan, PlannedMove, plan_from_json


class Plans:
    """All plans of the database that are or were carried out."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.owner = new_owner()

    def begin(
        self,
        new: Plan,
        policy: RunPolicy,
        asked_by: str,
        *,
        kind: str,
        subject: str = "",
        under: DutyHandle | None = None,
    ) -> PlanHandle:
        """Write down that a plan is to be carried out, and hold it. ``under``: as the one who balances.

        Raises BlockedError where an unfinished plan has one of its VMs, or the journal cannot be written;
        LeaseLostError where somebody else balances by now.
        """
        since = clock.monotonic()
        try:
            with transaction(self._engine) as connection:
                if under is not None:
                    under.guard(connection)
                _refuse_shared(connection, new.moves)
                lease = {"owner": self.owner, "lease_until": now(connection) + LEASE}
                about = {"kind": kind, "subject": subject, "asked_by": asked_by, "state": RunState.RUNNING.value}
                number = _put_down(connection, new, policy, **about, **lease)
        except JournalLostError as error:
            raise error.before_anything() from error
        return PlanHandle(self._engine, number, 1, self.owner, since)

    def put_down(
        self, new: Plan, policy: RunPolicy, asked_by: str, *, kind: str, subject: str, request: Request | None
    ) -> int:
        """Write down that a plan is to be carried out by whoever takes it; return its number, or that of the plan which
        was made when the ``request`` came first.

        Raises BlockedError where an unfinished plan has one of its VMs, or the journal cannot be written; UsageError
        where something else was asked for under the request's key.
        """
        try:
            with transaction(self._engine) as connection:
                if request is not None and (earlier := earlier_of(connection, request)) is not None:
                    return earlier
                _refuse_shared(connection, new.moves)
                nobody = {"owner": "", "lease_until": 0.0, "state": RunState.RUNNING.value}
                number = _put_down(connection, new, policy, kind=kind, subject=subject, asked_by=asked_by, **nobody)
                if request is not None:
                    keep_request(connection, request, number)
                return number
        except JournalLostError as error:
            raise error.before_anything() from error

    def earlier(self, request: Request) -> int | None:
        """Return the plan that was made when a request came first; None: it was not. Raises UsageError as above."""
        with reading(self._engine) as connection:
            return earlier_of(connection, request)

    def propose(
        self, new: Plan, policy: RunPolicy, asked_by: str, *, kind: str, under: DutyHandle, subject: str = ""
    ) -> int:
        """Put a plan down that waits for somebody's yes; return its number. Raises LeaseLostError where somebody else
        balances by now."""
        with transaction(self._engine) as connection:
            under.guard(connection)
            nobody = {"owner": "", "lease_until": 0.0, "state": RunState.ASKED.value}
            number = _put_down(connection, new, policy, kind=kind, subject=subject, asked_by=asked_by, **nobody)
            plan_proposed(connection, number, kind, len(new.moves))
        return number

    def approve(self, number: int, policy: RunPolicy, who: str) -> None:
        """Let a plan that waits for a yes be carried out, by whoever takes it.

        Raises UsageError for one that does not wait for it, BlockedError where an unfinished plan has one of its VMs.
        """
        found = self.get(number)
        with transaction(self._engine) as connection:
            waits = (plan.c.id == number) & (plan.c.state == RunState.ASKED.value)
            waits &= plan.c.wish.is_(None) | (plan.c.wish != Wish.CANCEL.value)
            _refuse_shared(connection, found.plan.moves, but=number)
            yes = {"state": RunState.RUNNING.value, "wish": Wish.GO_ON.value, "wish_by": who}
            values = {"asked": json.dumps(policy.as_data()), **yes}
            if connection.execute(update(plan).where(waits).values(**values)).rowcount != 1:
                raise UsageError(f"plan {number} does not wait for a yes: it is {found.state.value}")

    def withdraw(self, number: int, why: str, *, under: DutyHandle) -> None:
        """Close a plan that waits for a yes, unless it has got one by now. Raises LeaseLostError."""
        with transaction(self._engine) as connection:
            under.guard(connection)
            waits = (plan.c.id == number) & (plan.c.state == RunState.ASKED.value) & plan.c.wish.is_(None)
            end = {"state": RunState.WITHDRAWN.value, "outcome": why, "ended_at": now(connection)}
            if connection.execute(update(plan).where(waits).values(**end)).rowcount == 1:
                left_out = {"state": MoveState.LEFT_OUT.value, "outcome": why, "ended_at": now(connection)}
                connection.execute(update(plan_move).where(plan_move.c.plan == number).values(**left_out))

    def undone_within(self, kind: str, seconds: float) -> dict[str, str]:
        """Return, by UUID, what became of VMs that plans of a kind were to move in so many seconds until now, where
        their move failed or somebody did not want it."""
        failed = plan_move.c.state == MoveState.FAILED.value
        unwanted = (plan_move.c.state == MoveState.LEFT_OUT.value) & (plan.c.state == RunState.CANCELLED.value)
        columns = (plan_move.c.vm_uuid, plan_move.c.target, plan_move.c.outcome, plan.c.id)
        query = select(*columns).join(plan, plan.c.id == plan_move.c.plan).where(plan.c.kind == kind, failed | unwanted)
        with reading(self._engine) as connection:
            recent = plan_move.c.ended_at >= now(connection) - seconds
            rows = connection.execute(query.where(recent).order_by(plan_move.c.ended_at)).all()
        return {row.vm_uuid: f"it did not get to {row.target} with plan {row.id}: {row.outcome}" for row in rows}

    def take_over(self, number: int) -> PlanHandle:
        """Hold a plan that nobody carries out any more. Raises UsageError when it has ended, BlockedError while its
        controller lives."""
        found = self.get(number)
        if found.ended_at is not None:
            raise UsageError(f"plan {number} has ended: {found.outcome}")
        since = clock.monotonic()
        with transaction(self._engine) as connection:
            free = (plan.c.id == number) & (plan.c.epoch == found.epoch) & (plan.c.lease_until < now(connection))
            lease = {"epoch": found.epoch + 1, "owner": self.owner, "lease_until": now(connection) + LEASE}
            if connection.execute(update(plan).where(free).values(**lease)).rowcount != 1:
                raise BlockedError(
                    f"plan {number} is carried out by a controller that lives: {found.owner}",
                    remedy=f"see how it goes: mudanza run watch {number}",
                )
        return PlanHandle(self._engine, number, found.epoch + 1, self.owner, since)

    def wish(self, number: int, wish: Wish, who: str) -> None:
        """Tell whoever carries a plan out what is wanted. Raises UsageError when it has ended."""
        with transaction(self._engine) as connection:
            unfinished = (plan.c.id == number) & plan.c.ended_at.is_(None)
            # Who has cancelled it has: going on with what is being cancelled would be neither.
            unfinished &= plan.c.wish.is_(None) | (plan.c.wish != Wish.CANCEL.value)
            values = {"wish": wish.value, "wish_by": who}
            if connection.execute(update(plan).where(unfinished).values(**values)).rowcount:
                return
        found = self.get(number)
        if found.ended_at is not None:
            raise UsageError(f"plan {number} has ended already: {found.outcome}")

    def get(self, number: int) -> Run:
        """Return one plan with its moves. Raises UsageError when there is none of that number."""
        found = self._read((plan.c.id == number,), 1)
        if not found:
            raise UsageError(f"there is no plan {number} that is or was carried out", remedy="see them: mudanza runs")
        return found[0]

    def unfinished(self) -> tuple[Run, ...]:
        """Return all that have not ended, the oldest first."""
        return self._read((plan.c.ended_at.is_(None),), None)[::-1]

    def latest(self, limit: int) -> tuple[Run, ...]:
        """Return the newest ones, the newest first."""
        return self._read((), limit)

    def forget(self, older_than: float) -> int:
        """Remove those that ended more than so many seconds ago; return how many."""
        with transaction(self._engine) as connection:
            return connection.execute(delete(plan).where(plan.c.ended_at < now(connection) - older_than)).rowcount

    def _read(self, conditions: Iterable[ColumnElement[bool]], limit: int | None) -> tuple[Run, ...]:
        with reading(self._engine) as connection:
            query = select(plan, now(connection).label("read_at")).where(*conditions)
            rows = connection.execute(query.order_by(plan.c.id.desc()).limit(limit)).all()
            found = []
            for row in rows:
                mine = select(plan_move).where(plan_move.c.plan == row.id).order_by(plan_move.c.n)
                found.append(_run(row, connection.execute(mine).all()))
        return tuple(found)

    # Who is to come home.

    def away_from(self, host: str) -> dict[str, tuple[str, bool]]:
        """Return, by UUID, the name of each VM that left a host for its maintenance, and whether it ran then."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(away).where(away.c.host == host).order_by(away.c.vm_name)).all()
        return {row.vm_uuid: (row.vm_name, bool(row.runs)) for row in rows}

    def leaves(self, vm_uuid: str, name: str, host: str, *, runs: bool) -> None:
        """Write down that a VM leaves its home, before it does; one that is away already keeps the home it has."""
        with transaction(self._engine) as connection:
            if connection.scalar(select(away.c.host).where(away.c.vm_uuid == vm_uuid)) is None:
                values = {"vm_uuid": vm_uuid, "vm_name": name, "host": host, "runs": runs, "at": now(connection)}
                connection.execute(insert(away).values(**values))

    def is_home(self, vm_uuid: str) -> None:
        """Write down that a VM is to be brought home no more."""
        with transaction(self._engine) as connection:
            connection.execute(delete(away).where(away.c.vm_uuid == vm_uuid))


class PlanHandle:
    """The right to carry one plan out, as long as its epoch is the current one."""

    def __init__(self, engine: Engine, number: int, epoch: int, owner: str, since: float) -> None:
        """``since``: the monotonic time before the lease was asked for."""
        self._engine = engine
        self.id = number
        self.epoch = epoch
        self._owner = owner
        self._renew_at = since + LEASE / 3

    def keep(self) -> None:
        """Renew the lease if a third of it is over. Raises LeaseLostError and JournalLostError."""
        if clock.monotonic() >= self._renew_at:
            with transaction(self._engine) as connection:
                self._guarded(connection)
            self._renew_at = clock.monotonic() + LEASE / 3

    def _guarded(self, connection: Connection, **values: Any) -> None:
        mine = (plan.c.id == self.id) & (plan.c.epoch == self.epoch) & plan.c.ended_at.is_(None)
        lease = {"lease_until": now(connection) + LEASE}
        if connection.execute(update(plan).where(mine).values(**{**lease, **values})).rowcount != 1:
            raise LeaseLostError(
                f"plan {self.id} was taken over by another controller; this one begins nothing more for it",
                remedy=f"see how it goes there: mudanza run watch {self.id}",
            )

    def put_down(self, n: int, new: NewJob) -> int:
        """Begin a move: put its job into the queue; return the job's number.

        Raises BlockedError when its VM has an unfinished job, LeaseLostError; BlockedError also if it was begun before.
        """
        try:
            with transaction(self._engine) as connection:
                self._guarded(connection)
                waiting = {"owner": "", "lease_until": 0.0, "queued_at": now(connection), "plan": self.id}
                job = insert_job(connection, new, state=QUEUED, **waiting)
                tell(connection, job, 1, "", QUEUED, f"for plan {self.id}")
                mine = (plan_move.c.plan == self.id) & (plan_move.c.n == n)
                mine &= plan_move.c.state == MoveState.WAITING.value
                begun = {"state": MoveState.BEGUN.value, "job": job, "began_at": now(connection)}
                if connection.execute(update(plan_move).where(mine).values(**begun)).rowcount != 1:
                    raise BlockedError(f"move {n} of plan {self.id} is begun already")
        except IntegrityError:
            raise BlockedError(f"VM {new.vm_name!r} has another unfinished job") from None
        return job

    def ended(
        self, n: int, state: MoveState, outcome: str, exit_code: int | None, again: PlannedMove | None = None
    ) -> None:
        """Write down what became of a move; ``again``: add another one for its VM, after all there are.

        Raises LeaseLostError.
        """
        with transaction(self._engine) as connection:
            self._guarded(connection)
            mine = (plan_move.c.plan == self.id) & (plan_move.c.n == n)
            end = {"state": state.value, "outcome": outcome, "exit_code": exit_code, "ended_at": now(connection)}
            connection.execute(update(plan_move).where(mine).values(**end))
            if again is not None:
                last = connection.scalar(select(func.max(plan_move.c.n)).where(plan_move.c.plan == self.id)) or 0
                connection.execute(insert(plan_move).values(**{**_new_move(self.id, again), "n": last + 1}))

    def enter(self, state: RunState) -> None:
        """Write down how it stands, and that whoever wanted that has been heard. Raises LeaseLostError."""
        with transaction(self._engine) as connection:
            self._guarded(connection, state=state.value)

    def let_go(self) -> None:
        """Leave it for whoever goes on with it, who need not wait. Raises LeaseLostError."""
        with transaction(self._engine) as connection:
            self._guarded(connection, lease_until=0.0)

    def finish(self, state: RunState, outcome: str, exit_code: int) -> None:
        """Close it. Raises LeaseLostError."""
        with transaction(self._engine) as connection:
            end = {"state": state.value, "outcome": outcome, "exit_code": exit_code}
            self._guarded(connection, **end, ended_at=now(connection), lease_until=0.0)


def _refuse_shared(connection: Connection, moves: Iterable[PlannedMove], *, but: int = 0) -> None:
    """Raise BlockedError where a plan that is carried out has one of the VMs; one that waits for a yes has nobody, and
    the one of number ``but`` is left out."""
    if connection.dialect.name == "postgresql":  # two plans with one VM, begun at one instant
        connection.exec_driver_sql("LOCK TABLE plan IN SHARE ROW EXCLUSIVE MODE")
    open_moves = select(plan_move.c.vm_uuid, plan_move.c.vm_name, plan_move.c.plan).join(
        plan, plan.c.id == plan_move.c.plan
    )
    unfinished = (
        plan.c.ended_at.is_(None)
        & (plan.c.id != but)
        & (plan.c.state != RunState.ASKED.value)
        & plan_move.c.state.in_((MoveState.WAITING, MoveState.BEGUN))
    )
    wanted = {move.uuid for move in moves}
    for row in connection.execute(open_moves.where(unfinished)):
        if row.vm_uuid in wanted:
            raise BlockedError(
                f"VM {row.vm_name!r} is part of plan {row.plan}, which is being carried out",
                remedy=f"see how it goes: mudanza run show {row.plan}; or end it: mudanza run cancel {row.plan}",
            )


def _put_down(connection: Connection, new: Plan, policy: RunPolicy, **about: Any) -> int:
    """Write a plan and its moves; return its number."""
    when = {"epoch": 1, "started_at": now(connection), "outcome": ""}
    values = {"document": new.as_json(), "asked": json.dumps(policy.as_data()), **when, **about}
    key = connection.execute(insert(plan).values(**values)).inserted_primary_key
    number = int(key[0]) if key else 0
    for move in new.moves:
        connection.execute(insert(plan_move).values(**_new_move(number, move)))
    return number


def _new_move(number: int, move: PlannedMove) -> Mapping[str, Any]:
    about = {"vm_uuid": move.uuid, "vm_name": move.vm, "source": move.source, "target": move.target}
    texts = {"about": json.dumps(_as_data(move)), "waits_for": json.dumps(list(move.after)), "outcome": ""}
    return {"plan": number, "n": move.number, "state": MoveState.WAITING.value, **about, **texts}


def _as_data(move: PlannedMove) -> dict[str, Any]:
    values = {each.name: getattr(move, each.name) for each in fields(move)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}


def _from_data(data: Mapping[str, Any]) -> PlannedMove:
    known = {each.name for each in fields(PlannedMove)}
    values = {name: value for name, value in data.items() if name in known}
    numbers = {"after": tuple(data["after"]), "behind": tuple(data.get("behind", ()))}
    return PlannedMove(**{**values, "mode": MoveMode(data["mode"]), **numbers})


def _run(row: Row[Any], moves: Iterable[Row[Any]]) -> Run:
    return Run(
        id=row.id,
        kind=row.kind,
        subject=row.subject,
        plan=plan_from_json(row.document),
        policy=RunPolicy.from_data(json.loads(row.asked)),
        asked_by=row.asked_by,
        state=RunState(row.state),
        epoch=row.epoch,
        owner=row.owner,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        exit_code=row.exit_code,
        wish=Wish(row.wish) if row.wish else None,
        wish_by=row.wish_by,
        moves=tuple(_move(each) for each in moves),
        abandoned=row.ended_at is None and row.lease_until < row.read_at,
        read_at=row.read_at,
    )


def _move(row: Row[Any]) -> RunMove:
    return RunMove(
        n=row.n,
        about=_from_data(json.loads(row.about)),
        waits_for=tuple(json.loads(row.waits_for)),
        state=MoveState(row.state),
        job=row.job,
        outcome=row.outcome,
        exit_code=row.exit_code,
        began_at=row.began_at,
        ended_at=row.ended_at,
    )
