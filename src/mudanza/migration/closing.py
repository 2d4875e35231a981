"""After the transfer: ask both hosts where the VM is, bring them in line, and clean up what the journal owns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reader import read_cluster, read_host
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Job, JobHandle
from mudanza.migration.record import CopiedDisk, MoveRecord
from mudanza.migration.settle import Act, Settlement, Verdict, settle
from mudanza.model.errors import HostUnreachableError, HypervisorError, NeedsPersonError
from mudanza.model.migration import Side, Sighting
from mudanza.model.vm import Disk, Vm

LOOK_AGAIN = 0.2
"""Seconds between two questions to both hosts."""
SIGHTING_TIMEOUT = 5.0
"""Seconds a host may take to say what it knows of a VM."""
UNSEEN_PATIENCE = 15.0
"""Seconds a host that does not answer is asked again, before what the other one says has to do."""


@dataclass(frozen=True, slots=True)
class Residue:
    """What was removed, what was left, and why."""

    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __add__(self, other: Residue) -> Residue:
        return Residue(self.removed + other.removed, self.kept + other.kept, self.warnings + other.warnings)


class Closing:
    """Finishes one job from what its journal says and what both hosts say."""

    def __init__(self, connections: Connections, inventory: Inventory, handle: JobHandle, record: MoveRecord) -> None:
        self._connections = connections
        self._inventory = inventory
        self._handle = handle
        self._record = record

    def look(self) -> tuple[Sighting, Sighting]:
        """Ask both hosts once."""
        source, target = (
            self._connections.domains(host).sighting(self._record.uuid, timeout=SIGHTING_TIMEOUT)
            for host in (self._record.source, self._record.target)
        )
        return source, target

    def settle(self, limit: float, keep_claim: Callable[[], None]) -> Settlement:
        """Ask both hosts until they agree, and do what brings them in line.

        Raises NeedsPersonError when they do not within ``limit`` seconds, or leave no safe action.
        """
        begun = time.monotonic()
        self._handle.enter("settling")
        while True:
            keep_claim()
            source, target = self.look()
            found = settle(source, target, was_paused=self._record.was_paused)
            waited = time.monotonic() - begun
            if found.verdict is Verdict.WAIT or (
                Side.UNSEEN in (source.side, target.side) and waited < UNSEEN_PATIENCE
            ):
                if waited > limit:
                    raise self._needs_person(found, source, target)
                time.sleep(LOOK_AGAIN)
                continue
            if found.verdict is Verdict.PERSON:
                raise self._needs_person(found, source, target)
            if not found.acts:
                return found
            self._carry_out(found)

    def _carry_out(self, found: Settlement) -> None:
        for act in found.acts:
            step = self._handle.intend("settle", {"act": act.value, "why": found.why})
            self._do(act)
            self._handle.done(step, {"done": True})

    def _do(self, act: Act) -> None:
        record = self._record
        source = self._connections.domains(record.source)
        target = self._connections.domains(record.target)
        match act:
            case Act.DROP_SOURCE_COPY:
                source.destroy(record.uuid)
            case Act.RESUME_SOURCE:
                source.resume(record.uuid)
            case Act.RESUME_TARGET:
                target.resume(record.uuid)
            case Act.END_TARGET_COPY:
                target.destroy(record.uuid)

    def _needs_person(self, found: Settlement, source: Sighting, target: Sighting) -> NeedsPersonError:
        record = self._record
        return NeedsPersonError(
            f"VM {record.name!r}: {found.why}",
            vm_state=(
                f"{record.source} says: {_words(source)}; {record.target} says: {_words(target)}. "
                "Nothing was started, stopped or deleted because of it."
            ),
            remedy=(
                f"look at both hosts (virsh domstate --reason {record.uuid}), "
                f"then: mudanza job resume {self._handle.id}"
            ),
        )

    def finish_at_target(self) -> Residue:
        """Make the target's copy complete and let go of the source's."""
        record = self._record
        target = self._connections.domains(record.target)
        warnings: tuple[str, ...] = ()
        if record.persistent and record.autostart:
            step = self._handle.intend("autostart", {"host": record.target})
            try:
                target.set_autostart(record.uuid, True)
                self._handle.done(step, {"done": True})
            except (HypervisorError, HostUnreachableError) as error:
                self._handle.done(step, {"error": str(error)})
                warnings = (f"autostart could not be set on {record.target}: {error}",)
        source = self._release_source()
        if source.warnings:  # not let go of: its disks stay with it
            return Residue(kept=tuple(disk.source_path for disk in record.disks), warnings=warnings) + source
        return Residue(warnings=warnings) + source + self._remove_source_disks()

    def _release_source(self) -> Residue:
        """Undefine the source's definition, or with keep_source disarm it."""
        record = self._record
        domains = self._connections.domains(record.source)
        seen = domains.sighting(record.uuid, timeout=SIGHTING_TIMEOUT)
        if seen.side is Side.ABSENT:
            return Residue()
        step = self._handle.intend("release source", {"host": record.source, "keep": record.keep_source})
        try:
            if seen.side is Side.UNSEEN or seen.state.active:
                raise HypervisorError(record.source, f"it says {_words(seen)} of the VM")
            if record.keep_source:
                domains.set_autostart(record.uuid, False)
            else:
                domains.undefine(record.uuid)
            self._handle.done(step, {"done": True})
            return Residue()
        except (HypervisorError, HostUnreachableError) as error:
            self._handle.done(step, {"error": str(error)})
            return Residue(warnings=(f"the definition on {record.source} could not be removed: {error}",))

    def _remove_source_disks(self) -> Residue:
        record = self._record
        if record.keep_source:
            return Residue(kept=tuple(f"{record.source}:{disk.source_path}" for disk in record.disks))
        if not record.disks:
            return Residue()
        vms = self._domains_in_sight()
        found = Residue()
        for disk in record.disks:
            where = f"{record.source}:{disk.source_path}"
            reason = why_keep(disk, record, vms)
            if reason:
                found += Residue(kept=(where,), warnings=(f"{where} was kept: {reason}",))
            elif disk.source_pool and disk.source_volume:
                found += self._delete(record.source, disk.source_pool, disk.source_volume, where)
        return found

    def _domains_in_sight(self) -> tuple[Vm, ...] | None:
        """Return every domain of every host; None when one could not be asked all."""
        cluster = read_cluster(self._inventory.hosts(), connections=self._connections)
        unknown = any(not host.seen for host in cluster.hosts) or any(vm.error for vm in cluster.vms)
        return None if unknown else cluster.vms

    def undo_at_target(self, job: Job) -> Residue:
        """Delete the volumes that this job's journal says it made at the target, and that no domain uses there."""
        found = Residue()
        users = self._disks_in_use(self._record.target)
        gone = {
            (step.intent["pool"], step.intent["volume"])
            for step in job.steps_named("delete volume")
            if step.intent["host"] == self._record.target and step.outcome and step.outcome.get("done")
        }
        for step in job.steps_named("create volume"):
            pool, volume, path = (str(step.intent[key]) for key in ("pool", "volume", "path"))
            where = f"{self._record.target}:{path}"
            if (pool, volume) in gone or (step.outcome and step.outcome.get("error")):
                continue
            if step.outcome is None:
                warning = f"{where} may be ours, but nobody saw it made: look at it"
                found += Residue(kept=(where,), warnings=(warning,))
                continue
            if users is None or path in users:
                reason = "the host cannot be asked who uses it" if users is None else f"domain {users[path]} uses it"
                found += Residue(kept=(where,), warnings=(f"{where} was kept: {reason}",))
                continue
            found += self._delete(self._record.target, pool, volume, where)
        return found

    def _disks_in_use(self, host: str) -> Mapping[str, str] | None:
        """Return path → domain of every image some domain of a host refers to; None when it cannot be asked."""
        entry, vms = read_host(self._inventory.host(host), connections=self._connections)
        if not entry.seen or any(vm.error for vm in vms):
            return None
        return {path: vm.name for vm in vms for disk in vm.disks for path in _paths(disk)}

    def _delete(self, host: str, pool: str, volume: str, where: str) -> Residue:
        step = self._handle.intend("delete volume", {"host": host, "pool": pool, "volume": volume})
        try:
            self._connections.volumes(host).delete(pool, volume)
            self._handle.done(step, {"done": True})
            return Residue(removed=(where,))
        except (HypervisorError, HostUnreachableError) as error:
            self._handle.done(step, {"error": str(error)})
            return Residue(kept=(where,), warnings=(f"{where} could not be deleted: {error}",))


def why_keep(disk: CopiedDisk, record: MoveRecord, vms: tuple[Vm, ...] | None) -> str:
    """Return why a source volume must not be deleted; empty when it may be. Pure.

    ``vms``: every domain in sight, None when a host could not be asked.
    """
    if not disk.removable:
        return "it is read-only, shared or no volume of a pool"
    if vms is None:
        return "a host could not be asked whether it uses it"
    for vm in vms:
        if vm.uuid == record.uuid and vm.host == record.target:
            continue
        if vm.host != record.source and not disk.seen_by_both:
            continue
        if any(disk.source_path in _paths(other) for other in vm.disks):
            return f"domain {vm.name!r} on {vm.host} refers to it"
    return ""


def _paths(disk: Disk) -> frozenset[str]:
    return frozenset({disk.source or "", *(image.path for image in disk.backing)})


def _words(sighting: Sighting) -> str:
    if sighting.side is Side.PRESENT:
        return f"{sighting.state} ({sighting.reason})" if sighting.reason else str(sighting.state)
    return "no answer" if sighting.side is Side.UNSEEN else "no such VM"
