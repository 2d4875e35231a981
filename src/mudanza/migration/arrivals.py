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
        self._decided: dict[int, Arrival] = {}
        """Of unfinished jobs that were decided about, by number: that decision is what it was when it was read."""

    def expected(self) -> dict[str, Arrival]:
        """Return by UUID each VM that is on its way somewhere, or accepted for it."""
        accepted = dict(self._accepted)
        unfinished = self._jobs.unfinished(brief=True)
        under_way = [job for job in unfinished if not job.is_queued and job.kind != "cpu"]
        decided = {job.id: self._of(job) for job in under_way}
        self._decided = {number: found for number, (found, is_decided) in decided.items() if is_decided}
        return {job.vm_uuid: decided[job.id][0] for job in under_way} | accepted

    def _of(self, job: Job) -> tuple[Arrival, bool]:
        """Return the arrival that a job is about, and whether that will not change any more."""
        if (known := self._decided.get(job.id)) is not None:
            return known, True
        if not job.has_begun:
            return _of_job(job), False
        whole = self._jobs.find(job.id) or job  # None: it was forgotten just now
        return _of_job(whole), bool(whole.steps_named("decide"))

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
