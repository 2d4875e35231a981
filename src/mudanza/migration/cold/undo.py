"""After a cold move that did not come to its end: the target cleaned, the VM at the source as it was."""

from __future__ import annotations

import posixpath
from collections.abc import Collection

from mudanza.hypervisor.connections import Connections
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Job
from mudanza.migration.cold.handover import HandOver
from mudanza.migration.freight.room import Place, Room, places_made
from mudanza.migration.record import ColdRecord
from mudanza.migration.residue import Residue, disks_in_use
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.migration import Side
from mudanza.preflight.cargo import Role


def remove_places(
    room: Room, job: Job, inventory: Inventory, connections: Connections, but: Collection[str] = ()
) -> tuple[str, ...]:
    """Delete what the job's journal says it made at the target and no domain uses there; return what stays.

    ``but``: paths that are left alone.
    """
    places = [place for place in places_made(job).values() if place.path not in but]
    room.hold()
    users = disks_in_use(inventory, connections, job.target) if places else {}
    left = []
    for place in places:
        if users is None or place.path in users:
            left.append(f"{job.target}:{place.path}")
            continue
        try:
            room.remove(place)
        except (HypervisorError, HostUnreachableError):
            left.append(f"{job.target}:{place.path}")
    return tuple(left)


def remove_snapshot_memory(room: Room, record: ColdRecord) -> Residue:
    """Delete the memory files of a moved VM's snapshots at the source, which nothing but it can use."""
    found = Residue()
    for file in record.files:
        if file.role is Role.SNAPSHOT:
            where = f"{record.source}:{file.source}"
            try:
                room.remove(Place("", posixpath.basename(file.source), file.source))
            except (HypervisorError, HostUnreachableError) as error:
                found += Residue(kept=(where,), warnings=(f"{where} could not be deleted: {error}",))
            else:
                found += Residue(removed=(where,))
    return found


def kept_places(job: Job) -> tuple[str, ...]:
    """Return what the job has made at the target and leaves there for a repeat."""
    return tuple(f"{job.target}:{path}" for path in places_made(job))


def start_again(hand_over: HandOver, job: Job, record: ColdRecord) -> str:
    """Start the VM at the source if it was shut down for the move; return why it is down, empty if it is as before."""
    # Of a controller that died over it nobody knows whether the guest obeyed; it is off, and ran when that was decided.
    shut_down = any(step.outcome is None or "off" in step.outcome for step in job.steps_named("shut down"))
    if not (record.was_running and shut_down):
        return ""
    seen = hand_over.sighting(record.source)
    if seen.side is Side.PRESENT and seen.state.active:
        return ""
    try:
        hand_over.start(record.source)
    except (HypervisorError, HostUnreachableError) as error:
        return f"it was shut down for the move and does not start again: {error}"
    return ""
