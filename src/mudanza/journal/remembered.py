"""The definitions of VMs as they were last seen, without passwords: for the day when the host that had them is gone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from mudanza.journal.database import Database, now, reading
from mudanza.journal.schema import remembered
from mudanza.journal.secrets import without_secrets
from mudanza.model.cluster import Cluster
from mudanza.model.vm import Vm

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Remembered:
    """One VM's definition for its next start."""

    uuid: str
    host: str
    """Where it was then."""
    at: float
    """When that was written down, by the database's clock: seconds since the epoch."""
    definition: str
    """With ``*****`` for passwords."""


class Definitions:
    """The definitions that one database remembers. Raises JournalLostError where that does not answer."""

    def __init__(self, engine: Database) -> None:
        self._engine = engine
        self._known: dict[str, int] = {}

    def changed(self, cluster: Cluster) -> Sequence[Vm]:
        """Return the VMs whose definitions this program has not written down as they are."""
        # Where two hosts list a VM, the one that runs it knows what it is.
        listed = {vm.uuid: vm for vm in sorted(cluster.vms, key=lambda vm: vm.state.active)}
        whole = (vm for vm in listed.values() if vm.inactive_xml is not None and vm.error is None)
        return [vm for vm in whole if self._known.get(vm.uuid) != _seal(vm)]

    def keep(self, connection: Connection, cluster: Cluster, changed: Sequence[Vm]) -> None:
        """Write definitions down, and forget those of VMs that no host has any more, within somebody's transaction."""
        seen = [host.name for host in cluster.hosts if host.seen]
        there = {vm.uuid for vm in cluster.vms}
        had = connection.execute(select(remembered.c.vm_uuid).where(remembered.c.host.in_(seen))).scalars()
        _forget(connection, [*(uuid for uuid in had if uuid not in there), *(vm.uuid for vm in changed)])
        if changed:
            at = connection.scalar(select(now(connection)))
            connection.execute(insert(remembered), [_values(vm, at) for vm in changed])

    def kept(self, changed: Sequence[Vm]) -> None:
        """Know that these are written down: their transaction is over."""
        self._known |= {vm.uuid: _seal(vm) for vm in changed}

    def of(self, uuids: Collection[str]) -> Mapping[str, Remembered]:
        """Return what is remembered of these VMs, by UUID."""
        found: dict[str, Remembered] = {}
        wanted = list(uuids)
        with reading(self._engine) as connection:
            for part in _portions(wanted):
                rows = connection.execute(select(remembered).where(remembered.c.vm_uuid.in_(part)))
                found |= {row.vm_uuid: _remembered(row) for row in rows}
        return found


def _seal(vm: Vm) -> int:
    return hash((vm.host, vm.inactive_xml))


def _values(vm: Vm, at: Any) -> dict[str, Any]:
    return {"vm_uuid": vm.uuid, "host": vm.host, "at": at, "definition": without_secrets(vm.inactive_xml)}


def _remembered(row: Row[Any]) -> Remembered:
    return Remembered(row.vm_uuid, row.host, row.at, row.definition)


def _forget(connection: Connection, uuids: Sequence[str]) -> None:
    for part in _portions(uuids):
        connection.execute(delete(remembered).where(remembered.c.vm_uuid.in_(part)))


def _portions(uuids: Sequence[str]) -> Sequence[Sequence[str]]:
    return [uuids[at : at + _AT_ONCE] for at in range(0, len(uuids), _AT_ONCE)]
