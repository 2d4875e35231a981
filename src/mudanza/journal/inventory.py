"""The cluster as the operator described it: hosts, rules of places, and what was learnt about pairs of hosts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select, update

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.jobs import unfinished_at
from mudanza.journal.schema import (
    fence_device,
    fence_match,
    fence_test,
    fencing,
    host,
    host_power,
    measured_link,
    pair,
    rules,
    switching,
    uplink_loss,
)
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.host import HostEntry
from mudanza.model.link import MeasuredLink
from mudanza.model.migration import Answer, Probe
from mudanza.model.rules import Rules, rules_as_data, rules_from_data


class Inventory:
    """Reads and writes the hosts of the cluster."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def hosts(self) -> tuple[HostEntry, ...]:
        """Return all hosts, by name."""
        with reading(self._engine) as connection:
            found = connection.execute(select(host).order_by(host.c.name))
            names = tuple(found.keys())
            return tuple(_entry(dict(zip(names, row, strict=True))) for row in found)

    def host(self, name: str) -> HostEntry:
        """Return one host. Raises UsageError when it is not known."""
        found = next((entry for entry in self.hosts() if entry.name == name), None)
        if found is None:
            known = ", ".join(entry.name for entry in self.hosts()) or "none"
            raise UsageError(f"there is no host {name!r} (known: {known})", remedy="add it: mudanza host add NAME URI")
        return found

    def add_host(self, entry: HostEntry) -> None:
        """Add a host. Raises UsageError when the name is taken."""
        with transaction(self._engine) as connection:
            if connection.execute(select(host.c.name).where(host.c.name == entry.name)).first():
                raise UsageError(
                    f"there is a host {entry.name!r} already",
                    remedy=f"change it: mudanza host edit {entry.name} …",
                )
            connection.execute(insert(host).values(_values(entry)))

    def put_hosts(self, entries: Iterable[HostEntry]) -> tuple[str, ...]:
        """Add or overwrite hosts, all or none; return the names of those that changed.

        Raises BlockedError for another URI of a host that an unfinished job involves.
        """
        changed = []
        with transaction(self._engine) as connection:
            known = {row.name: _entry(row._asdict()) for row in connection.execute(select(host))}
            for entry in entries:
                before = known.get(entry.name)
                if before == entry:
                    continue
                if before is not None and before.uri != entry.uri:
                    _refuse_while_used(connection, entry.name, "changed")
                changed.append(entry.name)
                connection.execute(delete(host).where(host.c.name == entry.name))
                connection.execute(insert(host).values(_values(entry)))
                _forget_pairs(connection, entry.name)
        return tuple(changed)

    def set_maintenance(self, name: str, *, on: bool) -> None:
        """Close a host to newcomers, or open it again. Raises UsageError when it is not known.

        One that is closed stays so, even if it was closed for its uplink before, and that is well again.
        """
        self.host(name)
        with transaction(self._engine) as connection:
            connection.execute(update(host).where(host.c.name == name).values(maintenance=on))
            if on:
                connection.execute(update(uplink_loss).where(uplink_loss.c.host == name).values(closed=False))

    def remove_host(self, name: str) -> None:
        """Forget a host and what was learnt about it.

        Raises UsageError when it is not known, BlockedError while an unfinished job involves it.
        """
        self.host(name)
        with transaction(self._engine) as connection:
            _refuse_while_used(connection, name, "removed")
            _forget_pairs(connection, name)
            for table in (fence_device, fence_match, fence_test, fencing, host_power, switching, uplink_loss):
                connection.execute(delete(table).where(table.c.host == name))
            connection.execute(delete(host).where(host.c.name == name))

    def rules(self) -> Rules:
        """Return what the operator wants of places; as usual where nothing was said. Raises UsageError for rules that
        this program does not know."""
        with reading(self._engine) as connection:
            found = connection.scalar(select(rules.c.wanted).where(rules.c.id == 1))
        return rules_from_data(json.loads(found)) if found else Rules()

    def put_rules(self, wanted: Rules) -> bool:
        """Keep what the operator wants of places, instead of what was wanted before; return whether that changed."""
        if self.rules() == wanted:
            return False
        with transaction(self._engine) as connection:
            connection.execute(delete(rules))
            connection.execute(insert(rules).values(id=1, wanted=json.dumps(rules_as_data(wanted))))
        return True

    def tls_between(self, source: str, target: str) -> Probe:
        """Return whether encrypted migration worked when last tried between two hosts."""
        with reading(self._engine) as connection:
            row = connection.execute(select(pair).where(pair.c.source == source, pair.c.target == target)).first()
        return Probe(Answer(row.tls), row.detail) if row else Probe()

    def learn_tls(self, source: str, target: str, probe: Probe) -> None:
        """Keep what was found out about encrypted migration between two hosts."""
        values: dict[str, Any] = {"tls": probe.answer.value, "detail": probe.detail}
        with transaction(self._engine) as connection:
            where = (pair.c.source == source) & (pair.c.target == target)
            values["seen_at"] = connection.scalar(select(now(connection)))
            if not connection.execute(update(pair).where(where).values(values)).rowcount:
                connection.execute(insert(pair).values(source=source, target=target, **values))

    def link_between(self, source: str, target: str) -> MeasuredLink | None:
        """Return what got across between two hosts when that was last measured; None: it never was."""
        there = (measured_link.c.source == source) & (measured_link.c.target == target)
        with reading(self._engine) as connection:
            row = connection.execute(select(measured_link).where(there)).first()
            instant = connection.scalar(select(now(connection))) or 0.0
        return MeasuredLink(row.one, row.several, row.connections, max(instant - row.measured_at, 0.0)) if row else None

    def keep_link(self, source: str, target: str, found: MeasuredLink) -> None:
        """Keep what has just been measured, in place of what was before."""
        there = (measured_link.c.source == source) & (measured_link.c.target == target)
        figures = {"one": found.one, "several": found.several, "connections": found.connections}
        with transaction(self._engine) as connection:
            instant = connection.scalar(select(now(connection)))
            connection.execute(delete(measured_link).where(there))
            connection.execute(
                insert(measured_link).values(source=source, target=target, measured_at=instant, **figures)
            )


def _forget_pairs(connection: Connection, name: str) -> None:
    """Forget what was found out about a host's ways to and from others."""
    for table in (pair, measured_link):
        connection.execute(delete(table).where((table.c.source == name) | (table.c.target == name)))


def _refuse_while_used(connection: Connection, name: str, change: str) -> None:
    """Raise BlockedError while a job must still find that host under the name and URI it knows."""
    for job in unfinished_at(connection, name):
        raise BlockedError(
            f"host {name!r} was not {change}: job {job.id} is unfinished, {job.state}: "
            f"VM {job.vm_name!r} from {job.source} to {job.target}",
            remedy=job.way_out,
        )


def _values(entry: HostEntry) -> dict[str, Any]:
    return {**asdict(entry), "tags": json.dumps(entry.tags)}


def _entry(fields: Mapping[str, Any]) -> HostEntry:
    return HostEntry(**{**fields, "tags": tuple(json.loads(fields["tags"]))})
