"""What was on each host when it was last seen, so that it can be told when the host is gone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from mudanza.journal.database import Database, now, reading, transaction
from mudanza.journal.fences import void_proofs
from mudanza.journal.remembered import Definitions
from mudanza.journal.schema import sighting
from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.sighting import Sighting
from mudanza.model.vm import Vm

_NO_DEFINITION = "<domain/>"


class Sightings:
    """The last look at each host of one database."""

    def __init__(self, engine: Database) -> None:
        self._engine = engine
        self._definitions = Definitions(engine)

    def keep(self, cluster: Cluster) -> None:
        """Write down what is on each host that was seen, and what its VMs are defined as; forget hosts that are none of
        the cluster's any more. Nothing proves any more that a host is off which was seen.

        Raises JournalLostError. Of two that write at the same time one counts.
        """
        there = defaultdict[str, list[Vm]](list)
        for vm in cluster.vms:
            there[vm.host].append(vm)
        seen = {host.name: _text(host, there[host.name]) for host in cluster.hosts if host.seen}
        gone = sighting.c.host.not_in([host.name for host in cluster.hosts if not host.seen])
        changed = self._definitions.changed(cluster)
        try:
            with transaction(self._engine) as connection:
                at = connection.scalar(select(now(connection)))
                connection.execute(delete(sighting).where(gone))
                void_proofs(connection, seen)
                if seen:
                    rows = [{"host": name, "at": at, "seen": text} for name, text in seen.items()]
                    connection.execute(insert(sighting), rows)
                self._definitions.keep(connection, cluster, changed)
        except IntegrityError:
            return
        self._definitions.kept(changed)

    def last(self) -> dict[str, Sighting]:
        """Return the last look at each host, by name. What another version of mudanza has written, and this one does
        not understand, is left out. Raises JournalLostError."""
        from pydantic import TypeAdapter, ValidationError

        reader = TypeAdapter(Sighting)
        with reading(self._engine) as connection:
            rows = connection.execute(select(sighting)).all()
        found = {}
        for row in rows:
            try:
                found[row.host] = reader.validate_python({"at": row.at, **json.loads(row.seen)})
            except (ValidationError, ValueError):
                continue
        return found


def _text(host: Host, vms: Sequence[Vm]) -> str:
    """As JSON; without definitions, for these have passwords in them."""
    return json.dumps({"host": host, "vms": vms}, default=_fields)


def _fields(value: Any) -> Any:
    """Return what JSON knows of a model object, one level of it: the encoder asks for the next one itself, which takes
    a fifth of the time that a copy of the whole does."""
    if isinstance(value, frozenset):
        return sorted(value)
    kind: Any = type(value)
    told = {name: getattr(value, name) for name in _names(kind)}
    if isinstance(value, Vm):
        told |= {"xml": _NO_DEFINITION, "inactive_xml": value.inactive_xml and _NO_DEFINITION}
    return told


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
