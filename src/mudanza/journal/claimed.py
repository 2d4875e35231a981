"""The journal as whoever carries out a job from the queue sees it: what a move begins there is that job."""

from __future__ import annotations

from sqlalchemy import Engine

from mudanza.journal.handle import JobHandle
from mudanza.journal.job import Job, NewJob
from mudanza.journal.jobs import Jobs, if_left
from mudanza.journal.schema import job
from mudanza.model.errors import BlockedError, MudanzaError


class ClaimedJobs(Jobs):
    """As ``Jobs``, for the one who has claimed ``handle``'s job, of that VM."""

    def __init__(self, engine: Engine, owner: str, handle: JobHandle, vm_uuid: str) -> None:
        super().__init__(engine)
        self.owner = owner
        self._claimed = handle
        self._vm_uuid = vm_uuid

    def begin(self, new: NewJob) -> JobHandle:
        """Go on with the claimed job as what it turned out to be. Raises LeaseLostError."""
        if new.vm_uuid != self._vm_uuid:
            return super().begin(new)
        self._claimed.become(new)
        return self._claimed

    def reopen(self, job_id: int) -> JobHandle:
        """End the claimed job in favour of an earlier one of its VM, that left what can be made use of."""
        self._claimed.finish("merged", f"job {job_id}, which left something, goes on instead", 0, {"instead": job_id})
        return super().reopen(job_id)

    def unfinished_of(self, vm_uuid: str) -> Job | None:
        """Return another unfinished job of a VM."""
        found = super().unfinished_of(vm_uuid)
        return None if found is not None and found.id == self._claimed.id else found

    def left_by(self, vm_uuid: str) -> Job | None:
        """Return the newest other job of a VM, if it has ended and left something at its target; else None."""
        return if_left(self._read(job.c.vm_uuid == vm_uuid, job.c.id != self._claimed.id, limit=1))

    def end_undone(self, error: MudanzaError) -> None:
        """Write down why nothing came of the claimed job, if it has not begun; else whoever began it has said so."""
        found = self.get(self._claimed.id)
        if found.ended_at is None and found.epoch == self._claimed.epoch and not found.steps:
            state = "refused" if isinstance(error, BlockedError) else "failed"
            self._claimed.finish(state, str(error), error.exit_code, error=error)

    def end_unneeded(self, host: str) -> None:
        """Write down that there was nothing to do: the VM is on that host already. Raises LeaseLostError."""
        self._claimed.finish("done", f"it is on {host} already", 0, {"unchanged": host})
