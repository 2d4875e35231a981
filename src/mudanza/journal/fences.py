"""What switches which host's power, and which hosts are proven off: as the database has it.

A proof is one of its host's as it was then: it ends when anybody sees the host alive again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, insert, select, update

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.duty import Duties, Duty, DutyHandle
from mudanza.journal.happenings import write_down
from mudanza.journal.schema import fence_device, fence_match, fence_test, fencing
from mudanza.journal.secrets import without_secrets
from mudanza.model.errors import UsageError
from mudanza.model.fencing import By, Device, DeviceTest, Fencing, Match
from mudanza.model.machine import Comparison, Verdict
from mudanza.model.notice import Kind

SEEN_ALIVE = "the host was seen alive"
WAKE = "(wake)"
"""What stands for a host's address for Wake-on-LAN among the names of its devices, none of which can be so called."""


class Fences:
    """The fence devices and the proofs of one database. Raises JournalLostError where that does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def devices(self) -> Mapping[str, tuple[Device, ...]]:
        """Return each host's devices, by level and name."""
        order = (fence_device.c.host, fence_device.c.level, fence_device.c.name)
        found: dict[str, tuple[Device, ...]] = {}
        with reading(self._engine) as connection:
            for row in connection.execute(select(fence_device).order_by(*order)):
                found[row.host] = (*found.get(row.host, ()), _device(row))
        return found

    def of(self, host: str) -> tuple[Device, ...]:
        """Return a host's devices, by level and name."""
        return self.devices().get(host, ())

    def own(self, host: str) -> tuple[Device, ...]:
        """Return a host's devices without the levels of those that are known to switch another machine."""
        devices = self.of(host)
        others = {each.device for each in self.matches() if each.host == host and each.verdict is Verdict.OTHER}
        levels = {device.level for device in devices if device.name in others}
        return tuple(device for device in devices if device.level not in levels)

    def put(self, host: str, devices: Iterable[Device]) -> bool:
        """Have exactly these devices for a host; return whether there were others before."""
        wanted = tuple(sorted(devices, key=lambda device: (device.level, device.name)))
        names = [device.name for device in wanted]
        if len({*names}) != len(names):
            raise UsageError(f"two fence devices of {host} have one name: {', '.join(names)}")
        before = self.of(host)
        if before == wanted:
            return False
        with transaction(self._engine) as connection:
            connection.execute(delete(fence_device).where(fence_device.c.host == host))
            connection.execute(delete(fence_test).where(fence_test.c.host == host))
            # What was compared of a device is known as long as that is the same.
            same = [device.name for device in wanted if device in before]
            other = (fence_match.c.host == host) & fence_match.c.name.not_in([*same, WAKE])
            connection.execute(delete(fence_match).where(other))
            for device in wanted:
                connection.execute(insert(fence_device).values(host=host, **_values(device)))
        return True

    def tests(self) -> tuple[DeviceTest, ...]:
        """Return what each device said when it was asked last, by host and name."""
        with reading(self._engine) as connection:
            query = select(fence_test, now(connection).label("read_at"))
            rows = connection.execute(query.order_by(fence_test.c.host, fence_test.c.name)).all()
        return tuple(DeviceTest(row.host, row.name, row.at, row.read_at - row.at, row.fault) for row in rows)

    def tested(self, host: str, device: Device, fault: str) -> bool:
        """Write down what a device said when it was asked; have it told, and return True, where it answers no more or
        answers again."""
        mine = (fence_test.c.host == host) & (fence_test.c.name == device.name)
        with transaction(self._engine) as connection:
            before = connection.scalar(select(fence_test.c.fault).where(mine)) or ""
            connection.execute(delete(fence_test).where(mine))
            values = {"host": host, "name": device.name, "fault": without_secrets(fault), "at": now(connection)}
            connection.execute(insert(fence_test).values(**values))
            if bool(before) == bool(fault):
                return False
            kind = Kind.FENCE_SILENT if fault else Kind.FENCE_BACK
            said = f"{device.shown} of {host} {fault or 'answers again'}"
            write_down(connection, kind, host, without_secrets(said), {"host": host, "device": device.name})
            return True

    def matches(self) -> tuple[Match, ...]:
        """Return of which devices it was compared whether they switch the hosts that they are said to."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(fence_match).order_by(fence_match.c.host, fence_match.c.name)).all()
        return tuple(Match(row.host, row.name, row.at, Verdict(row.verdict), row.said, row.asked_by) for row in rows)

    def matched(self, host: str, device: str, found: Comparison, asked_by: str = "") -> None:
        """Write down what was found out of a device. That nothing can be told takes nobody's word away, nor what was
        found out before. ``asked_by``: whose word it is that it is the host all the same."""
        mine = (fence_match.c.host == host) & (fence_match.c.name == device)
        with transaction(self._engine) as connection:
            if (
                found.verdict is Verdict.UNKNOWN
                and not asked_by
                and connection.execute(select(fence_match).where(mine)).first()
            ):
                return
            connection.execute(delete(fence_match).where(mine))
            values = {"verdict": found.verdict.value, "said": without_secrets(found.said), "asked_by": asked_by}
            connection.execute(insert(fence_match).values(host=host, name=device, at=now(connection), **values))

    def unmatch(self, host: str, device: str) -> None:
        """Forget what was found out of one."""
        with transaction(self._engine) as connection:
            connection.execute(delete(fence_match).where((fence_match.c.host == host) & (fence_match.c.name == device)))

    def begin(self, host: str, by: By, asked_by: str, silent: float | None = None) -> int:
        """Write down that somebody wants a host proven off, before anything is done; return its number. ``silent``:
        seconds for which nothing of it had answered."""
        first: dict[str, Any] = {
            "host": host,
            "by": by.value,
            "asked_by": asked_by,
            "proven": False,
            "said": "",
            "void_because": "",
        }
        first["silent"] = silent
        with transaction(self._engine) as connection:
            key = connection.execute(insert(fencing).values(**first, at=now(connection))).inserted_primary_key
        return int(key[0]) if key else 0

    def note(self, number: int, said: str, under: DutyHandle) -> None:
        """Write down what is about to be ordered. Raises LeaseLostError where another controller fences the host."""
        with transaction(self._engine) as connection:
            under.guard(connection)
            connection.execute(update(fencing).where(fencing.c.id == number).values(said=without_secrets(said)))

    def ended(self, number: int, said: str, *, proven: bool) -> None:
        """Write down what came of it."""
        with transaction(self._engine) as connection:
            values = {"proven": proven, "said": without_secrets(said), "ended_at": now(connection)}
            connection.execute(update(fencing).where(fencing.c.id == number).values(**values))

    def proof_of(self, host: str) -> Fencing | None:
        """Return what proves that a host is off; None: nothing does."""
        return self.proofs().get(host)

    def proofs(self) -> Mapping[str, Fencing]:
        """Return what proves hosts to be off, by host: the newest of each."""
        return {each.host: each for each in self._read(_holds()) if each.holds}

    def last(self) -> Mapping[str, Fencing]:
        """Return the last time that each host was to be proven off, whatever came of it."""
        return {each.host: each for each in self._read(fencing.c.id.is_not(None))}

    def seen_alive(self, hosts: Collection[str]) -> None:
        """Let nothing prove any more that these hosts are off: they answer."""
        with transaction(self._engine) as connection:
            void_proofs(connection, hosts)

    def _read(self, condition: ColumnElement[bool]) -> tuple[Fencing, ...]:
        with reading(self._engine) as connection:
            rows = connection.execute(select(fencing).where(condition).order_by(fencing.c.id)).all()
        return tuple(Fencing(**{**row._mapping, "by": By(row.by)}) for row in rows)


def void_proofs(connection: Connection, hosts: Collection[str]) -> None:
    """Let nothing prove any more that these hosts are off, within somebody's transaction."""
    alive = _holds() & fencing.c.host.in_(list(hosts))
    connection.execute(update(fencing).where(alive).values(void_at=now(connection), void_because=SEEN_ALIVE))


def fences_of_one(engine: Engine, host: str) -> Duties:
    """Return the right to fence a host, which one controller has at a time."""
    see = "mudanza fence show"
    return Duties(engine, Duty(f"fence {host}", f"host {host} is being fenced", f"fences host {host}", see))


def _holds() -> ColumnElement[bool]:
    return fencing.c.proven & fencing.c.void_at.is_(None) & fencing.c.ended_at.is_not(None)


def _values(device: Device) -> dict[str, Any]:
    options, secrets = json.dumps(dict(device.options)), json.dumps(dict(device.secrets))
    return {
        "name": device.name, "agent": device.agent, "level": device.level, "options": options, "secrets": secrets
    }  # fmt: skip


def _device(row: Any) -> Device:
    return Device(row.name, row.agent, row.level, json.loads(row.options), json.loads(row.secrets))
