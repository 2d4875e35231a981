"""A VM's history, its snapshots and checkpoints, brought over a move: libvirt forgets it on the way, the journal not.

libvirt refuses to migrate a running VM that has snapshots, and loses its checkpoints over it. So all are written into
the journal before anything is taken away, and wherever the VM ends up libvirt is told of them anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.snapshots import SavedCheckpoint, SavedSnapshot
from mudanza.journal.jobs import Job, JobHandle
from mudanza.journal.secrets import HIDDEN
from mudanza.migration.history import moved
from mudanza.migration.record import ColdRecord, MoveRecord
from mudanza.migration.secrets import with_secrets_of
from mudanza.model.errors import HostUnreachableError, HypervisorError, NeedsPersonError
from mudanza.model.migration import Side

REMEMBER = "remember history"
SET_ASIDE = "set history aside"
PUT_BACK = "put history back"


class HistoryKeeper:
    """The journalled steps of one job. Each one can be repeated."""

    def __init__(self, connections: Connections, handle: JobHandle, record: MoveRecord | ColdRecord) -> None:
        self._connections = connections
        self._handle = handle
        self._record = record

    def remember(self, nics: Mapping[str, str]) -> tuple[SavedSnapshot, ...]:
        """Write the history at the source down, and return the snapshots of it.

        ``nics``: MAC address → network, bridge or device at the target. Done again, the later one counts.
        Raises HypervisorError, HostUnreachableError.
        """
        found = self._connections.snapshots(self._record.source)
        snapshots, checkpoints = found.snapshots(self._record.uuid), found.checkpoints(self._record.uuid)
        intent = {
            "snapshots": [asdict(each) for each in snapshots],
            "checkpoints": [asdict(each) for each in checkpoints],
            "nics": dict(nics),
        }
        self._handle.keep()
        self._handle.note(REMEMBER, intent, {"done": True})
        return snapshots

    def set_aside(self, nics: Mapping[str, str]) -> None:
        """Write the history down, then take from the source's libvirt what it would not migrate.

        Whatever comes of it, the history must be put back afterwards. Raises HypervisorError, HostUnreachableError.
        """
        names = [snapshot.name for snapshot in self.remember(nics)]
        if not names:
            return
        record = self._record
        known = self._connections.snapshots(record.source)
        intent = {"host": record.source, "snapshots": names}
        self._handle.perform(SET_ASIDE, intent, lambda: known.forget(record.uuid, names))

    def put_back(self, job: Job, host: str) -> tuple[str, ...]:
        """Tell the libvirt of the host where the VM ended up of its history; return what is to be known of it.

        ``job``: the journal as it is now. Done again, it also lists what somebody has deleted since. Raises
        NeedsPersonError when the host does not take it: it stays in the journal then, and nothing of the VM may be
        cleaned up before this was repeated.
        """
        remembered, record = job.steps_named(REMEMBER), self._record
        if not remembered:
            return ()
        snapshots, checkpoints = self._as_of(remembered[-1].intent, host)
        if not (snapshots or checkpoints):
            return ()
        step = self._handle.intend(PUT_BACK, {"host": host})
        try:
            if self._connections.domains(host).sighting(record.uuid).side is Side.ABSENT:
                self._handle.done(step, {"found": "no such VM"})
                return (f"{host} knows no VM any more that its snapshots could belong to",)
            lost = self._connections.snapshots(host).restore(record.uuid, self._secured(snapshots, host), checkpoints)
        except (HypervisorError, HostUnreachableError) as error:
            self._handle.done(step, {"error": str(error)})
            raise self._refused(host, error) from None
        self._handle.done(step, {"done": True, "lost": lost})
        return tuple(
            f"checkpoint {name!r} did not come along, the next backup has to be a full one: {why}"
            for name, why in lost.items()
        )

    def _as_of(self, kept: Mapping[str, Any], host: str) -> tuple[list[SavedSnapshot], list[SavedCheckpoint]]:
        """Return the history as it is told at that host: only at the target do files lie elsewhere."""
        there = host == self._record.target
        places, nics = (self._record.places, kept["nics"]) if there else ({}, {})
        snapshots = (SavedSnapshot(**each) for each in kept["snapshots"])
        checkpoints = (SavedCheckpoint(**each) for each in kept["checkpoints"])
        return (
            [replace(each, xml=moved(each.xml, places, nics)) for each in snapshots],
            [replace(each, xml=moved(each.xml, places, nics)) for each in checkpoints],
        )

    def _secured(self, snapshots: Sequence[SavedSnapshot], host: str) -> list[SavedSnapshot]:
        """Return them with the passwords the VM has now: the journal has none."""
        if not any(HIDDEN in each.xml for each in snapshots):
            return list(snapshots)
        secure = self._connections.domains(host).describe(self._record.uuid)
        return [replace(each, xml=with_secrets_of(each.xml, secure)) for each in snapshots]

    def _refused(self, host: str, error: Exception) -> NeedsPersonError:
        name, job = self._record.name, self._handle.id
        return NeedsPersonError(
            f"VM {name!r}: libvirt could not be told of its snapshots and checkpoints again: {error}",
            vm_state=f"it is whole on {host}; what libvirt knew of its snapshots is kept in the journal of job {job}.",
            remedy=f"mend what {host} complains of, then: mudanza job resume {job}; "
            f"the XML of each, to do it by hand (virsh snapshot-create --redefine): mudanza job show {job} -o json",
        )
