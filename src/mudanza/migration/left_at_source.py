"""Letting the source of a VM that has moved go, once more, where that failed when its job ended."""

from __future__ import annotations

from dataclasses import replace

from mudanza.hypervisor.connections import Connections
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Job, JobHandle, Jobs
from mudanza.migration.closing import Closing
from mudanza.migration.record import MoveRecord
from mudanza.migration.residue import Residue
from mudanza.migration.sighting import sight
from mudanza.model.migration import Side


def undeleted_of(job: Job) -> tuple[str, ...]:
    """Return what a job, whose VM has moved, could not delete at the source; empty for any other job."""
    return tuple(job.report.get("undeleted", ())) if job.exit_code == 0 else ()


def clean_up_source(
    connections: Connections, inventory: Inventory, jobs: Jobs, job: Job, record: MoveRecord
) -> Residue:
    """Delete it now, if the VM is still where this job has brought it, and nothing else has moved it since.

    Raises BlockedError while the VM has another job.
    """
    before = undeleted_of(job)
    newest = jobs.newest_of(job.vm_uuid)
    if newest is None or newest.id != job.id:
        return _kept(before, "the VM was moved again since: look at it yourself")
    handle = jobs.reopen(job.id)
    found = Residue(kept=before, undeleted=before)
    try:
        found = _clean_up(connections, inventory, handle, record, before)
    finally:
        report = {**job.report, "kept": list(found.kept), "undeleted": list(found.undeleted)}
        handle.finish(job.state, job.outcome, 0, report)
    return found


def _clean_up(
    connections: Connections, inventory: Inventory, handle: JobHandle, record: MoveRecord, before: tuple[str, ...]
) -> Residue:
    closing = Closing(connections, inventory, handle, record)
    if sight(connections, record.target, record.uuid).side is not Side.PRESENT:
        # Without it the source's may be the only one there is.
        return _kept(before, f"{record.target} does not say that it has the VM")
    source = closing.release_source()
    if source.warnings:
        return source + _kept(before, "its definition is still there")
    gone = tuple(disk for disk in record.disks if f"{record.source}:{disk.source_path}" in before)
    ahead = tuple(file for file in record.ahead if f"{record.source}:{file.source}" in before)
    return Closing(connections, inventory, handle, replace(record, disks=gone, ahead=ahead)).remove_source_disks()


def _kept(places: tuple[str, ...], why: str) -> Residue:
    return Residue(kept=places, undeleted=places, warnings=tuple(f"{where} was kept: {why}" for where in places))
