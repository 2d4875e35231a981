"""After it is settled where the VM is: make it whole there, let go of the other side, delete what the journal owns."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import read_cluster, read_host
from mudanza.hypervisor.volumes import Volumes
from mudanza.hypervisor.xml.resources import Volume
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import LONG_LOOK, Job, JobHandle
from mudanza.migration.freight.room import Place, Room
from mudanza.migration.record import CopiedDisk, MoveRecord
from mudanza.migration.residue import Residue, definition_kept, disks_in_use, may_use, standing_places, why_keep
from mudanza.migration.settle import Settlement
from mudanza.migration.sighting import in_words, sight
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.migration import Side, Sighting

_GONE = {"done": True, "found": "gone already"}


class Closing:
    """Finishes one job from what its journal says and what both hosts say."""

    def __init__(
        self,
        connections: Connections,
        inventory: Inventory,
        handle: JobHandle,
        record: MoveRecord,
        deleted: frozenset[tuple[str, str, str]] = frozenset(),
    ) -> None:
        """``deleted``: host, pool and volume of what this job has deleted before; what is there now is another's."""
        self._deleted = deleted
        self._connections = connections
        self._inventory = inventory
        self._handle = handle
        self._record = record

    def _sight(self, host: str) -> Sighting:
        return sight(self._connections, host, self._record.uuid)

    def disarm(self) -> None:
        """Have the source not start the VM by itself from now on: should that host die over the move and come back, it
        may run at the target by then. Raises HypervisorError, HostUnreachableError."""
        record = self._record
        if record.persistent and record.autostart:
            source = self._connections.domains(record.source)
            off = partial(source.set_autostart, record.uuid, False)
            self._handle.perform("disarm", {"host": record.source}, off)

    def rearm(self, job: Job) -> tuple[str, ...]:
        """Undo that for a VM that stays; return in words where that fails."""
        record = self._record
        if not job.steps_named("disarm"):
            return ()
        return self._attempt(
            "rearm",
            {"host": record.source},
            lambda: self._connections.domains(record.source).set_autostart(record.uuid, True),
            f"{record.source} does not start it by itself any more, for autostart could not be switched on again",
        )

    def finish_at_target(self, settled: Settlement) -> Residue:
        """Make the target's copy complete and let go of the source's."""
        if not settled.arrived:
            self._record = replace(self._record, keep_source=True)
        record = self._record
        remarks = (settled.remark,) if settled.remark else ()
        undefined = self.define_at_target()
        if undefined:  # the source's definition is the only one then
            kept = tuple(f"{record.source}:{disk.source_path}" for disk in record.disks)
            return Residue(kept=kept, warnings=remarks + undefined)
        found = Residue(warnings=remarks + self._restore_autostart())
        source = self.release_source()
        if source.warnings:  # not let go of: its disks stay with it
            kept = tuple(f"{record.source}:{disk.source_path}" for disk in record.disks)
            return found + source + Residue(kept=kept, undeleted=() if record.keep_source else kept)
        return found + source + self._kept_definition() + self.remove_source_disks()

    def _kept_definition(self) -> Residue:
        """Say so where the source goes on to have the VM's definition."""
        record = self._record
        if not record.keep_source or self._sight(record.source).side is Side.ABSENT:
            return Residue()
        return Residue(warnings=(definition_kept(record.source, record.target),))

    def leave_down_at_target(self, *, ran_there: bool) -> Residue:
        """See to a VM that moved and has ended at the target since: no disk is deleted, nothing started.

        After post-copy the source still has its definition, with older disks: that one goes.
        """
        kept = tuple(f"{self._record.source}:{disk.source_path}" for disk in self._record.disks)
        found = Residue(kept=kept, warnings=self._restore_autostart())
        if ran_there and self._sight(self._record.target).persistent:
            found += self.release_source()
        return found

    def define_at_target(self) -> tuple[str, ...]:
        """Make the VM persistent at the target where the transfer was cut off before libvirt did."""
        record = self._record
        if not record.persistent or self._sight(record.target).persistent:
            return ()
        target = self._connections.domains(record.target)
        return self._attempt(
            "define",
            {"host": record.target},
            lambda: target.define(target.describe(record.uuid, inactive=True)),
            f"it could not be made persistent on {record.target}",
        )

    def _restore_autostart(self) -> tuple[str, ...]:
        record = self._record
        if not (record.persistent and record.autostart):
            return ()
        target = self._connections.domains(record.target)
        return self._attempt(
            "autostart",
            {"host": record.target},
            lambda: target.set_autostart(record.uuid, True),
            f"autostart could not be set on {record.target}",
        )

    def release_source(self) -> Residue:
        """Undefine the source's definition, or with keep_source disarm it."""
        record = self._record
        seen = self._sight(record.source)
        if seen.side is Side.ABSENT:
            return Residue()

        def release() -> None:
            if seen.side is Side.UNSEEN or seen.state.active:
                raise HypervisorError(record.source, f"it says {in_words(seen)} of the VM")
            domains = self._connections.domains(record.source)
            if record.keep_source:
                domains.set_autostart(record.uuid, False)
            else:
                domains.undefine(record.uuid, with_snapshots=True)  # they were put back at the target

        intent = {"host": record.source, "keep": record.keep_source}
        what = "disarmed (autostart)" if record.keep_source else "removed"
        failure = f"the definition on {record.source} could not be {what}"
        return Residue(warnings=self._attempt("release source", intent, release, failure))

    def _attempt(
        self, name: str, intent: Mapping[str, object], act: Callable[[], object], failure: str
    ) -> tuple[str, ...]:
        """Do one journalled step; return a warning when it fails."""
        try:
            self._handle.perform(name, intent, act)
        except (HypervisorError, HostUnreachableError) as error:
            return (f"{failure}: {error}",)
        return ()

    def remove_source_disks(self) -> Residue:
        """Delete the source's disks that were copied and that nothing refers to any more."""
        record = self._record
        if record.keep_source:
            return Residue(kept=tuple(f"{record.source}:{disk.source_path}" for disk in record.left_at_source))
        if not record.left_at_source:
            return Residue()
        found = Residue()
        self._handle.renew(LONG_LOOK)
        asked = may_use(record.left_at_source, record.source, self._inventory.hosts())
        cluster = read_cluster(asked, connections=self._connections, resources=False)
        for disk in record.left_at_source:
            where = f"{record.source}:{disk.source_path}"
            if (record.source, disk.source_pool, disk.source_volume) in self._deleted:
                continue
            reason = why_keep(disk, record.source, cluster) or self._built_upon(disk)
            if reason:
                undeleted = (where,) if disk.removable else ()
                found += Residue(kept=(where,), warnings=(f"{where} was kept: {reason}",), undeleted=undeleted)
            elif disk.source_pool and disk.source_volume:
                found += self._delete(record.source, disk.source_pool, disk.source_volume, where)
        if found.undeleted:
            found += Residue(warnings=(f"to try again to delete what was kept: mudanza job resume {self._handle.id}",))
        return found

    def _built_upon(self, disk: CopiedDisk) -> str:
        """Return why a volume must stay for the sake of another one in its pool, of which no domain needs to know."""
        if disk.source_pool is None:
            return "it is no volume of a pool"
        self._handle.hold_on(LONG_LOOK)
        try:
            volumes = self._connections.volumes(self._record.source)
            volumes.refresh(disk.source_pool)
            for name in volumes.names(disk.source_pool):
                found = _read(volumes, disk.source_pool, name)
                if found and found.backing and _absolute(found.backing.path, found.path) == disk.source_path:
                    return f"volume {name!r} of pool {disk.source_pool} is built upon it"
        except (HypervisorError, HostUnreachableError) as error:
            return f"what is built upon it could not be found out: {error}"
        return ""

    def drop_forgotten_copies(self) -> tuple[str, ...]:
        """Take out of the source's QEMU what a transfer that broke off has left; return a warning where that fails."""
        record = self._record
        return self._attempt(
            "drop forgotten copies",
            {"host": record.source},
            lambda: self._connections.domains(record.source).drop_forgotten_copies(record.uuid),
            f"whether the QEMU on {record.source} can migrate it again could not be made sure of",
        )

    def undo_at_target(self, job: Job) -> Residue:
        """Delete the volumes that this job's journal says it made at the target, and that no domain uses there."""
        found = Residue()
        self._handle.renew(LONG_LOOK)
        users = disks_in_use(self._inventory, self._connections, self._record.target)
        for step in standing_places(job):
            self._handle.hold_on(LONG_LOOK)
            pool, volume, path = (str(step.intent[key]) for key in ("pool", "volume", "path"))
            where = f"{self._record.target}:{path}"
            if step.outcome is None:
                if self._is_gone(self._record.target, pool, volume, refresh=True):
                    continue
                warning = f"{where} may be ours, but nobody saw it made: look at it"
                found += Residue(kept=(where,), warnings=(warning,))
                continue
            if users is None or path in users:
                reason = "the host cannot be asked who uses it" if users is None else f"domain {users[path]} uses it"
                found += Residue(kept=(where,), warnings=(f"{where} was kept: {reason}",))
                continue
            found += self._delete_place(Place(pool, volume, path), where)
        return found

    def _delete_place(self, place: Place, where: str) -> Residue:
        if place.pool:
            return self._delete(self._record.target, place.pool, place.volume, where)
        target = read_host(self._inventory.host(self._record.target), connections=self._connections)[0]
        try:
            Room(self._connections, self._handle, target).remove(place)
        except (HypervisorError, HostUnreachableError) as error:
            return Residue(kept=(where,), warnings=(f"{where} could not be deleted: {error}",))
        return Residue(removed=(where,))

    def _delete(self, host: str, pool: str, volume: str, where: str) -> Residue:
        intent = {"host": host, "pool": pool, "volume": volume}
        try:
            volumes = self._connections.volumes(host)
            self._handle.perform("delete volume", intent, lambda: volumes.delete(pool, volume))
        except (HypervisorError, HostUnreachableError) as error:
            if self._is_gone(host, pool, volume):
                self._handle.perform("delete volume", intent, lambda: None, lambda _: _GONE)
                return Residue()
            return Residue(kept=(where,), warnings=(f"{where} could not be deleted: {error}",), undeleted=(where,))
        return Residue(removed=(where,))

    def _is_gone(self, host: str, pool: str, volume: str, *, refresh: bool = False) -> bool:
        """Return whether the pool says that it has no such volume; False where it cannot be asked."""
        try:
            volumes = self._connections.volumes(host)
            if refresh:
                volumes.refresh(pool)
            return volume not in volumes.names(pool)
        except (HypervisorError, HostUnreachableError):
            return False


def _read(volumes: Volumes, pool: str, name: str) -> Volume | None:
    """Return a volume that was listed; None where another move has deleted it since."""
    try:
        return volumes.read(pool, name)
    except HypervisorError:
        if name in volumes.names(pool):
            raise
        return None


def _absolute(backing: str, image: str | None) -> str:
    """Return where a backing file lies: a relative name counts from the image that names it."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(image or ""), backing))
