"""Who is on the way where: VMs this command has accepted, and those of all unfinished jobs in the journal."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from mudanza.journal.jobs import Job, Jobs
from mudanza.model.vm import Vm
from mudanza.preflight.arrivals import Arrival, ArrivingVolume
from mudanza.preflight.mapping import Resolution


class Arrivals:
    """Keeps two moves to one host from counting on the same memory and space. Used from several threads at once."""

    def __init__(self, jobs: Jobs) -> None:
        self.admission = threading.Lock()
        """Held from the look at who is on the way until the next VM is accepted."""
        self._jobs = jobs
        self._accepted: dict[str, Arrival] = {}

    def expected(self) -> dict[str, Arrival]:
        """Return by UUID each VM that is on its way somewhere, or accepted for it."""
        accepted = dict(self._accepted)
        return {job.vm_uuid: _of_job(job) for job in self._jobs.unfinished() if not job.is_queued} | accepted

    def accept(self, vm: Vm, target: str, resolution: Resolution) -> None:
        """Count on a VM's arrival from now on."""
        sources = {disk.target: disk.source or "" for disk in vm.disks}
        volumes = tuple(
            ArrivingVolume(plan.pool, plan.volume, sources[plan.target], plan.size) for plan in resolution.copies
        )
        self._accepted[vm.uuid] = Arrival(vm.uuid, vm.name, target, volumes, will_run=vm.state.active)

    def over(self, vm_uuid: str) -> None:
        """Count on it no more: it is there, or will not come."""
        self._accepted.pop(vm_uuid, None)


def _of_job(job: Job) -> Arrival:
    decided = job.steps_named("decide")
    record: Mapping[str, Any] = decided[0].intent if decided else {}
    # A live move's disks, a cold one's files.
    volumes = [_volume(each) for each in (*record.get("disks", ()), *record.get("files", ())) if each["pool"]]
    will_run = bool(record.get("was_running", True))
    return Arrival(job.vm_uuid, job.vm_name, job.target, tuple(volumes), will_run)


def _volume(stored: Mapping[str, Any]) -> ArrivingVolume:
    source = stored.get("source_path") or stored.get("source") or ""
    return ArrivingVolume(stored["pool"], stored["volume"], source, stored["size"])
