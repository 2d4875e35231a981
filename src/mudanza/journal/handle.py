"""The right to act for one job: a lease in the database, an epoch that fences off whoever lost it, and a deadline of
the holder's own.

Nobody but the database knows who holds a job, and libvirt knows nothing of it: a controller that was paused may wake up
and act. So the holder begins nothing after a deadline by its own monotonic clock, counted from before its lease was
asked for; what it begins is written down before, which the database refuses to anybody but the holder; and nobody
takes the job over before the lease and the longest call that may still be under way are over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, func, insert, select, update

from mudanza import __version__, clock
from mudanza.journal.database import now, reading, transaction
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.happenings import job_ended, job_left
from mudanza.journal.job import NewJob
from mudanza.journal.protocol import PROTOCOL
from mudanza.journal.schema import event, job, step
from mudanza.journal.secrets import without_secrets
from mudanza.journal.tally import count
from mudanza.model.errors import HostUnreachableError, HypervisorError, MudanzaError
from mudanza.model.telling import error_as_data
from mudanza.model.units import format_duration

LEASE = 30.0
"""Seconds for which a controller owns a job without renewing its claim."""
MARGIN = 5.0
"""Seconds before the end of its lease from which on a controller begins nothing any more."""
LONGEST_CALL = 130.0
"""Seconds beyond a lease for which others stay away while a step is under way: longer than any call to a host lasts
(120 s: making or deleting a volume, starting or ending a guest)."""
LONG_LOOK = 120.0
"""Seconds that a look at pools with many volumes may take, before something is deleted from one."""
TRY_AGAIN = 1.0
"""Seconds after which a journal that did not answer is asked again."""

Result = TypeVar("Result")
_DONE: Mapping[str, Any] = {"done": True}


class Follower(Protocol):
    """Somebody who keeps in step with the journal what must be known without it."""

    def renewed(self) -> None:
        """Hear that the job was kept for another lease."""

    def done(self, name: str, intent: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        """Hear how a step went, once that is written down."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A step that is under way."""

    what: str
    """In words."""
    until: float
    """By when its call is over, by the monotonic clock."""


class JobHandle:
    """The right to act for one job, as long as its epoch is the current one and its lease lasts."""

    def __init__(self, engine: Engine, job_id: int, epoch: int, owner: str, since: float) -> None:
        """``since``: the monotonic time before the lease was asked for."""
        self._engine = engine
        self.id = job_id
        self.epoch = epoch
        self._owner = owner
        self._under_way: dict[int, _Begun] = {}
        self.follower: Follower | None = None
        self._held_from(since, 0.0)

    def _held_from(self, since: float, longer: float) -> None:
        self._act_until = since + LEASE + longer - MARGIN
        self._renew_at = since + LEASE / 3

    def assert_held(self) -> None:
        """Raise LeaseLostError when the lease may be over by our own clock. Asks nobody."""
        late = clock.monotonic() - self._act_until
        if late >= 0:
            raise LeaseLostError(
                f"the lease on job {self.id} was not renewed in time, {format_duration(late)} ago: this controller "
                "was paused, or its journal did not answer; it does nothing more for it",
                vm_state=self._residue(),
                remedy=f"let the hosts be asked where it stands: mudanza job resume {self.id}",
            )

    def assert_may_act(self) -> None:
        """Raise LeaseLostError where another controller has taken the job: this one was stopped for too long.

        Asks its own clock only, as long as the lease cannot have run out, so that it can be asked before every call to
        a host. A lease that has is had again if nobody has taken the job over.
        """
        if clock.monotonic() >= self._act_until:
            self.renew()

    def _residue(self) -> str:
        """Return in words what was begun here and not written down as ended."""
        if not self._under_way:
            return "nothing was under way here; what was done is in the journal"
        steps = "; ".join(f"{n} {begun.what}" for n, begun in list(self._under_way.items()))
        return f"begun here, with no word about how it went: step {steps}; who goes on with the job looks first"

    def _writing(self) -> AbstractContextManager[Connection]:
        return self._in_the_journal(transaction)

    def _reading(self) -> AbstractContextManager[Connection]:
        """Look at it beside whoever writes."""
        return self._in_the_journal(reading)

    @contextmanager
    def _in_the_journal(self, way: Callable[[Engine], AbstractContextManager[Connection]]) -> Iterator[Connection]:
        try:
            with way(self._engine) as connection:
                yield connection
        except JournalLostError as error:
            raise JournalLostError(
                f"job {self.id}: {error}; what cannot be written down is not done",
                mend=error.mend,
                then=f"go on with the job: mudanza job resume {self.id}",
                vm_state=self._residue(),
            ) from error

    def _guarded(self, connection: Connection, values: Mapping[str, Any]) -> None:
        mine = (job.c.id == self.id) & (job.c.epoch == self.epoch) & (job.c.ended_at.is_(None))
        if connection.execute(update(job).where(mine).values(**values)).rowcount != 1:
            raise LeaseLostError(
                f"job {self.id} was taken over by another controller; this one does nothing more for it",
                vm_state=self._residue(),
                remedy=f"see how it goes there: mudanza job show {self.id}",
            )

    def _hold(self, connection: Connection, longer: float = 0.0, *, ended: int = 0, **values: Any) -> None:
        """Have the lease last anew, ``longer`` seconds more, and no shorter than any step under way has it last but
        ``ended``."""
        others = [begun.until for n, begun in list(self._under_way.items()) if n != ended]
        longer = max(longer, *(until - clock.monotonic() for until in others), 0.0)
        self._guarded(connection, {"lease_until": now(connection) + LEASE + longer, **values})

    def _tell(self, connection: Connection, state: str, detail: str = "") -> None:
        tell(connection, self.id, self.epoch, self._owner, state, detail)

    def renew(self, longer: float = 0.0) -> None:
        """Keep the job for another lease, ``longer`` seconds more if something takes its time. Raises LeaseLostError.

        Also a lease that has run out is had again if nobody has taken the job over: whoever calls this looks at the
        hosts before acting.
        """
        since = clock.monotonic()
        with self._writing() as connection:
            self._hold(connection, longer)
        self._held_from(since, longer)
        if self.follower is not None:
            self.follower.renewed()

    def hold_on(self, longer: float) -> None:
        """Keep the job ``longer`` seconds more than a lease, for something that takes its time and upon whose look
        what follows rests. Raises LeaseLostError, also when the lease has run out."""
        self.assert_held()
        self.renew(longer)

    def keep(self) -> None:
        """Renew the lease if a third of it is over. Raises LeaseLostError.

        A journal that does not answer is asked again as long as the lease lasts.
        """
        if clock.monotonic() < self._renew_at:
            return
        try:
            self.renew()
        except JournalLostError:
            self._renew_at = clock.monotonic() + TRY_AGAIN
            self._while_held()

    def _while_held(self) -> None:
        """Let an exception pass by as long as the lease lasts; else raise it again."""
        if clock.monotonic() >= self._act_until:
            raise  # noqa: PLE0704 - called by those who handle one

    def cancel_asked(self) -> str | None:
        """Return who wants the job cancelled; None: nobody does, or the journal does not answer."""
        return self.wishes()[0]

    def wishes(self) -> tuple[str | None, Mapping[str, Any] | None]:
        """Return who wants the job cancelled, and what is asked of it by now; None twice where the journal does not
        answer. One small read, beside whoever writes."""
        try:
            with self._reading() as connection:
                row = connection.execute(select(job.c.cancel_asked_by, job.c.asked).where(job.c.id == self.id)).first()
        except JournalLostError:
            self._while_held()
            return None, None
        return (row.cancel_asked_by, json.loads(row.asked)) if row is not None else (None, {})

    def let_go(self, state: str, error: MudanzaError | None = None) -> None:
        """Leave the job open in that state for whoever takes it over, who need not wait; ``error``: why. Raises
        LeaseLostError."""
        with self._writing() as connection:
            why = {}
            if error is not None:
                before = connection.scalar(select(job.c.report).where(job.c.id == self.id))
                why["report"] = as_text({**json.loads(before or "{}"), **_why(error)})
            self._guarded(connection, {"state": state, "lease_until": 0.0, **why})
            self._tell(connection, state)
            job_left(connection, connection.execute(select(job).where(job.c.id == self.id)).one(), state)

    def enter(self, state: str) -> None:
        """Write down which phase the job is in. Raises LeaseLostError."""
        with self._writing() as connection:
            self._guarded(connection, {"state": state})
            self._tell(connection, state)

    def become(self, new: NewJob) -> None:
        """Write down what a job that waited in the queue turns out to be. Raises LeaseLostError."""
        since = clock.monotonic()
        with self._writing() as connection:
            about: dict[str, Any] = {
                "kind": new.kind,
                "source": new.source,
                "target": new.target,
                "asked": as_text(new.asked),
            }
            self._hold(connection, **about)
        self._held_from(since, 0.0)

    def intend(self, name: str, intent: Mapping[str, Any], lasts: float = LONGEST_CALL) -> int:
        """Write down what is about to be done, before it is done; return the step's number.

        Others stay away for ``lasts`` seconds more than the lease, or until the outcome is written. Raises
        LeaseLostError. Between this and the act itself only ``perform`` makes sure that no pause lies.
        """
        self.assert_held()
        since = clock.monotonic()
        with self._writing() as connection:
            self._hold(connection, lasts, protocol=PROTOCOL, written_by=__version__)
            n = self._add(connection, name, intent)
        self._held_from(since, 0.0)
        self._under_way[n] = _Begun(_described(name, intent), since + lasts)
        return n

    def _add(self, connection: Connection, name: str, intent: Mapping[str, Any], **ended: Any) -> int:
        """Add a step and return its number."""
        n = int(connection.scalar(select(func.max(step.c.n)).where(step.c.job == self.id)) or 0) + 1
        begun = {"job": self.id, "n": n, "name": name, "intent": as_text(intent), "at": now(connection)}
        connection.execute(insert(step).values(**begun, **ended))
        return n

    def note(self, name: str, intent: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
        """Write down a step in which nothing is done to a host, so that its outcome is known with what was intended:
        one write in place of two. Raises LeaseLostError."""
        self.assert_held()
        since = clock.monotonic()
        with self._writing() as connection:
            self._hold(connection, protocol=PROTOCOL, written_by=__version__)
            self._add(connection, name, intent, outcome=as_text(outcome), ended_at=now(connection))
        self._held_from(since, 0.0)
        if self.follower is not None:
            self.follower.done(name, json.loads(as_text(intent)), outcome)

    def done(self, n: int, outcome: Mapping[str, Any]) -> None:
        """Write down how a step went. Raises LeaseLostError."""
        since = clock.monotonic()
        with self._writing() as connection:
            self._hold(connection, ended=n)
            connection.execute(
                update(step)
                .where(step.c.job == self.id, step.c.n == n)
                .values(outcome=as_text(outcome), ended_at=now(connection))
            )
            row = connection.execute(select(step.c.name, step.c.intent).where(step.c.job == self.id, step.c.n == n))
            told = row.first()
        self._held_from(since, 0.0)
        self._under_way.pop(n, None)
        if self.follower is not None and told is not None:
            self.follower.done(told.name, json.loads(told.intent), outcome)

    def perform(
        self,
        name: str,
        intent: Mapping[str, Any],
        act: Callable[[], Result],
        outcome: Callable[[Result], Mapping[str, Any]] = lambda _: _DONE,
        lasts: float = LONGEST_CALL,
    ) -> Result:
        """Do one journalled step: write down what is intended, do it if the job is still ours at that instant, and
        write down how it went. Everything that cannot be undone goes through here.

        Raises LeaseLostError; HypervisorError and HostUnreachableError of ``act``, which are written down.
        """
        n = self.intend(name, intent, lasts)
        self.assert_held()  # the last thing before the act: this process may have slept since it wrote
        try:
            result = act()
        except (HypervisorError, HostUnreachableError) as error:
            self.done(n, {"error": str(error)})
            raise
        self.done(n, outcome(result))
        return result

    def finish(
        self,
        state: str,
        sentence: str,
        exit_code: int,
        report: Mapping[str, Any] | None = None,
        error: MudanzaError | None = None,
    ) -> None:
        """Close the job; ``error``: what whoever asked for it is told, which is kept with the report. Raises
        LeaseLostError."""
        report = {**(report or {}), **_why(error)}
        with self._writing() as connection:
            before = connection.execute(select(job).where(job.c.id == self.id)).first()
            end = {"state": state, "outcome": without_secrets(sentence), "exit_code": exit_code}
            self._guarded(connection, {**end, "report": as_text(report), "ended_at": now(connection), "busy": None})
            self._tell(connection, state, sentence)
            if before is not None and before.exit_code is None:  # one that was opened again has been counted
                count(connection, before.kind, exit_code, report)
                job_ended(connection, before, state, sentence, exit_code)


def _why(error: MudanzaError | None) -> dict[str, Any]:
    return {"error": error_as_data(error)} if error is not None else {}


def tell(connection: Connection, job_id: int, epoch: int, owner: str, state: str, detail: str = "") -> None:
    """Add one event to a job's story."""
    words = {"owner": owner, "state": state, "detail": without_secrets(detail)}
    connection.execute(insert(event).values(job=job_id, at=now(connection), epoch=epoch, **words))


def as_text(value: Mapping[str, Any]) -> str:
    """Return what is stored of it: JSON without passwords."""
    return json.dumps(without_secrets(value))


def _described(name: str, intent: Mapping[str, Any]) -> str:
    words = (f"{key}={value}" for key, value in intent.items() if value not in ("", None) and len(str(value)) <= 80)
    return f"{name} ({', '.join(words)})"
