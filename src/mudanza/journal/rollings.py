"""Commands that are run on one host after the other: how far each one is, in the database, so that any controller can
go on. Whoever carries one out has the duty of it; nothing is written without."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, delete, insert, select, update

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.duty import Duties, Duty, DutyHandle
from mudanza.journal.errors import JournalLostError
from mudanza.journal.schema import rolling, rolling_host
from mudanza.journal.secrets import without_secrets
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.rolling import Before, Lap, Order, Rolling, RollingState, Stage

ROLLING = Duty("rolling", "maintenance rolls over hosts", "has maintenance roll over hosts", "mudanza rolling show")
MOST = 1024 * 1024
"""Characters of a command's output that are kept, the first ones."""
MOST_READ = 1000
"""That are looked at for one that was left."""
LEFT_OUT = "\n… and more, which was left out\n"


class Rollings(Duties):
    """All of them in one database. Raises JournalLostError where that does not answer."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, ROLLING)

    def begin(self, order: Order, asked_by: str, under: DutyHandle, ordered: int | None = None) -> int:
        """Write down what is asked; return its number. ``ordered``: the order of a daemon's that it is done by.

        Raises BlockedError where an unfinished one has one of its hosts, or the journal cannot be written;
        LeaseLostError.
        """
        try:
            with transaction(self._engine) as connection:
                under.guard(connection)
                _refuse_shared(connection, order)
                values = {"asked": json.dumps(order.as_data()), "asked_by": asked_by, "outcome": "", "wish_by": ""}
                first = {"state": RollingState.RUNNING.value, "started_at": now(connection), "ordered": ordered}
                key = connection.execute(insert(rolling).values(**values, **first)).inserted_primary_key
                number = int(key[0]) if key else 0
                for n, host in enumerate(order.hosts, start=1):
                    connection.execute(insert(rolling_host).values(**_new_lap(number, n, host)))
                return number
        except JournalLostError as error:
            raise error.before_anything() from error

    def get(self, number: int) -> Rolling:
        """Return one. Raises UsageError where there is none of that number."""
        found = self._read((rolling.c.id == number,), 1)
        if not found:
            raise UsageError(f"there is no rolling maintenance {number}", remedy="see them: mudanza rolling show")
        return found[0]

    def latest(self, limit: int) -> tuple[Rolling, ...]:
        """Return the newest ones, the newest first."""
        return self._read((), limit)

    def enter(self, number: int, n: int, stage: Stage, under: DutyHandle, **values: Any) -> None:
        """Write down how far a host is. Raises LeaseLostError."""
        if isinstance(before := values.get("before"), Before):
            values["before"] = json.dumps(asdict(before))
        self._write(number, n, under, stage=stage.value, said="", **values)

    def begun(self, number: int, n: int, under: DutyHandle) -> None:
        """Write down that a host's command runs since now. Raises LeaseLostError."""
        self._write(number, n, under, begun_at=_NOW)

    def printed(self, number: int, lap: Lap, text: str, size: int, under: DutyHandle) -> None:
        """Write down what a command printed since, of so many bytes. Raises LeaseLostError."""
        output = lap.output
        if not output.endswith(LEFT_OUT):
            output += without_secrets(text)
            output = output if len(output) <= MOST else output[:MOST] + LEFT_OUT
        self._write(number, lap.n, under, output=output, taken=lap.taken + size)

    def ended(self, number: int, n: int, exit_code: int | None, under: DutyHandle) -> None:
        """Write down how a command has ended. Raises LeaseLostError."""
        self._write(number, n, under, exit_code=exit_code)

    def stop(self, number: int, n: int, said: str, under: DutyHandle) -> None:
        """Write down that it has stopped at a host, and why. Raises LeaseLostError."""
        with transaction(self._engine) as connection:
            under.guard(connection)
            mine = (rolling_host.c.rolling == number) & (rolling_host.c.n == n)
            connection.execute(update(rolling_host).where(mine).values(said=without_secrets(said)))
            stopped = {"state": RollingState.STOPPED.value, "outcome": without_secrets(said), "wish_by": ""}
            connection.execute(update(rolling).where(rolling.c.id == number).values(**stopped))

    def left(self) -> Rolling | None:
        """Return the oldest that is to go on, and that nobody carries out; None: there is none. One that was stopped
        waits for somebody."""
        holder = self.on_duty()
        if holder is not None and holder.alive:
            return None
        found = self._read((rolling.c.state == RollingState.RUNNING.value,), MOST_READ)
        return found[-1] if found else None

    def taken_up(self, number: int, ordered: int | None, under: DutyHandle) -> None:
        """Write down by which order it is gone on with that its controller has left. Raises UsageError where it does
        not run any more; LeaseLostError."""
        with transaction(self._engine) as connection:
            under.guard(connection)
            mine = (rolling.c.id == number) & (rolling.c.state == RollingState.RUNNING.value)
            changed = connection.execute(update(rolling).where(mine).values(ordered=ordered)).rowcount
        if changed != 1:
            raise UsageError(f"rolling maintenance {number} is {self.get(number).state.value} by now")

    def go_on(self, number: int, under: DutyHandle, ordered: int | None = None) -> None:
        """Write down that it goes on. Raises UsageError where it has ended; LeaseLostError."""
        with transaction(self._engine) as connection:
            under.guard(connection)
            mine = (rolling.c.id == number) & rolling.c.ended_at.is_(None)
            running = {"state": RollingState.RUNNING.value, "outcome": "", "wish_by": "", "ordered": ordered}
            changed = connection.execute(update(rolling).where(mine).values(**running)).rowcount
        if changed != 1:
            found = self.get(number)
            raise UsageError(f"rolling maintenance {number} is {found.state.value}: {found.outcome}")

    def finish(self, number: int, state: RollingState, outcome: str, under: DutyHandle) -> None:
        """Close it. Raises LeaseLostError."""
        with transaction(self._engine) as connection:
            under.guard(connection)
            end = {"state": state.value, "outcome": without_secrets(outcome), "ended_at": now(connection)}
            connection.execute(update(rolling).where(rolling.c.id == number).values(**end))

    def wish_stopped(self, number: int, who: str) -> None:
        """Have whoever carries it out stop after what is under way. Raises UsageError where it has ended."""
        with transaction(self._engine) as connection:
            mine = (rolling.c.id == number) & (rolling.c.state == RollingState.RUNNING.value)
            changed = connection.execute(update(rolling).where(mine).values(wish_by=who)).rowcount
        if changed != 1:
            found = self.get(number)
            raise UsageError(f"rolling maintenance {number} is {found.state.value} already: {found.outcome}")

    def forget(self, older_than: float) -> int:
        """Remove those that ended more than so many seconds ago; return how many."""
        with transaction(self._engine) as connection:
            return connection.execute(delete(rolling).where(rolling.c.ended_at < now(connection) - older_than)).rowcount

    def _write(self, number: int, n: int, under: DutyHandle, **values: Any) -> None:
        with transaction(self._engine) as connection:
            under.guard(connection)
            values = {name: now(connection) if value is _NOW else value for name, value in values.items()}
            mine = (rolling_host.c.rolling == number) & (rolling_host.c.n == n)
            connection.execute(update(rolling_host).where(mine).values(**values))

    def _read(self, conditions: tuple[ColumnElement[bool], ...], limit: int) -> tuple[Rolling, ...]:
        with reading(self._engine) as connection:
            rows = connection.execute(select(rolling).where(*conditions).order_by(rolling.c.id.desc()).limit(limit))
            found = []
            for row in rows.all():
                query = select(rolling_host, now(connection).label("read_at")).order_by(rolling_host.c.n)
                laps = connection.execute(query.where(rolling_host.c.rolling == row.id)).all()
                found.append(_rolling(row, laps))
        return tuple(found)


_NOW = object()


def _refuse_shared(connection: Connection, order: Order) -> None:
    """Raise BlockedError where one that has not ended has one of the hosts."""
    open_laps = select(rolling_host.c.rolling, rolling_host.c.host).join(
        rolling, rolling.c.id == rolling_host.c.rolling
    )
    unfinished = rolling.c.ended_at.is_(None) & rolling_host.c.host.in_(order.hosts)
    row = connection.execute(open_laps.where(unfinished)).first()
    if row is not None:
        raise BlockedError(
            f"host {row.host} is part of rolling maintenance {row.rolling}, which has not ended",
            remedy=f"go on with it: mudanza rolling --resume {row.rolling}; or end it: "
            f"mudanza rolling give-up {row.rolling}",
        )


def _new_lap(number: int, n: int, host: str) -> dict[str, Any]:
    texts = {"before": "", "boot": "", "output": "", "said": ""}
    return {"rolling": number, "n": n, "host": host, "stage": Stage.WAITING.value, "taken": 0, **texts}


def _rolling(row: Row[Any], laps: Any) -> Rolling:
    return Rolling(
        id=row.id,
        order=Order.from_data(json.loads(row.asked)),
        asked_by=row.asked_by,
        state=RollingState(row.state),
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        wish_by=row.wish_by,
        laps=tuple(_lap(each) for each in laps),
        ordered=row.ordered,
    )


def _lap(row: Row[Any]) -> Lap:
    return Lap(
        n=row.n,
        host=row.host,
        stage=Stage(row.stage),
        before=Before.from_data(json.loads(row.before)) if row.before else None,
        boot=row.boot,
        begun=row.begun_at is not None,
        for_seconds=max(row.read_at - row.begun_at, 0.0) if row.begun_at is not None else 0.0,
        exit_code=row.exit_code,
        output=row.output,
        taken=row.taken,
        said=row.said,
    )
