"""The cluster as the operator described it: hosts, and what was learnt about pairs of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, insert, select, update

from mudanza.journal.database import now, transaction
from mudanza.journal.jobs import unfinished_at
from mudanza.journal.schema import host, pair
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.host import HostEntry
from mudanza.model.migration import Answer, Probe


class Inventory:
    """Reads and writes the hosts of the cluster."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def hosts(self) -> tuple[HostEntry, ...]:
        """Return all hosts, by name."""
        with transaction(self._engine) as connection:
            return tuple(_entry(row) for row in connection.execute(select(host).order_by(host.c.name)))

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
            known = {row.name: _entry(row) for row in connection.execute(select(host))}
            for entry in entries:
                before = known.get(entry.name)
                if before == entry:
                    continue
                if before is not None and before.uri != entry.uri:
                    _refuse_while_used(connection, entry.name, "changed")
                changed.append(entry.name)
                connection.execute(delete(host).where(host.c.name == entry.name))
                connection.execute(insert(host).values(_values(entry)))
                connection.execute(delete(pair).where((pair.c.source == entry.name) | (pair.c.target == entry.name)))
        return tuple(changed)

    def remove_host(self, name: str) -> None:
        """Forget a host and what was learnt about it.

        Raises UsageError when it is not known, BlockedError while an unfinished job involves it.
        """
        self.host(name)
        with transaction(self._engine) as connection:
            _refuse_while_used(connection, name, "removed")
            connection.execute(delete(pair).where((pair.c.source == name) | (pair.c.target == name)))
            connection.execute(delete(host).where(host.c.name == name))

    def tls_between(self, source: str, target: str) -> Probe:
        """Return whether encrypted migration worked when last tried between two hosts."""
        with transaction(self._engine) as connection:
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


def _entry(row: Row[Any]) -> HostEntry:
    fields = dict(row._mapping)
    return HostEntry(**{**fields, "tags": tuple(json.loads(fields["tags"]))})
