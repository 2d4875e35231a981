"""Moving disks of a VM to other pools of the host it is on, while it runs or while it is off, every step journalled.

One loop does it: ask the host, decide, take the one step that is safe. A job that its controller left behind is
finished by the same loop.
"""

from __future__ import annotations

from collections.abc import Callable

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.connections import Connections
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.migration.asked import still_to_decide, stored
from mudanza.migration.claim import died_undecided
from mudanza.migration.closing import Closing
from mudanza.migration.forecast.keeping import foreseen
from mudanza.migration.prepare import Prepared
from mudanza.migration.relocation.off import OffWork
from mudanza.migration.relocation.plan import RelocationRecord, off_record, running_record
from mudanza.migration.relocation.running import RunningWork
from mudanza.migration.relocation.work import RelocationWork
from mudanza.migration.residue import Residue
from mudanza.migration.unchanged import look_again
from mudanza.migration.vm_claim import VmClaim
from mudanza.model.migration import MigrationOptions, MigrationReport, Progress

KIND = "relocate"
"""What such jobs are called in the journal."""


class Relocation:
    """Moves disks within one host."""

    def __init__(
        self,
        connections: Connections,
        inventory: Inventory,
        jobs: Jobs,
        no_progress: float,
        on_progress: Callable[[Progress], None],
    ) -> None:
        """``no_progress``: seconds after which a copy that comes no nearer to its end is given up."""
        self._connections = connections
        self._inventory = inventory
        self._jobs = jobs
        self._no_progress = no_progress
        self._on_progress = on_progress

    def migrate(self, prepared: Prepared, asked_by: str, stop: clock.Event) -> MigrationReport:
        """Move the disks of one VM that were judged fit to go.

        Setting ``stop`` cancels it. Raises MigrationFailedError (the VM is as before, or some of its disks have
        moved: ``vm_state`` says which), NeedsPersonError, VmDownError (it was switched off for it and does not start);
        BlockedError when it has an unfinished job or is no longer what was judged.
        """
        cold = prepared.options.is_cold(active=prepared.vm.state.active)
        record = (off_record if cold else running_record)(prepared, self._connections)
        vm = prepared.vm
        new = NewJob(KIND, vm.uuid, vm.name, vm.host, vm.host, stored(prepared.options), asked_by)
        handle = self._jobs.begin(new)
        handle.note("decide", record.to_json(), {"done": True, **foreseen(prepared)})
        over, domains = prepared.chosen.facts.claim, self._connections.domains(vm.host)
        with acting_only_if(handle.assert_may_act):
            work = self._work(handle, record, prepared.options, stop)
            return work.to_the_end(lambda: work.claim.take(lambda: look_again(vm, domains), over=over))

    def resume(self, job_id: int, stop: clock.Event) -> MigrationReport:
        """Finish a job that its controller left behind.

        Raises what ``migrate`` raises; UsageError when it has ended.
        """
        found = self._jobs.get(job_id)
        handle = self._jobs.take_over(job_id)
        decided = found.steps_named("decide")
        if not decided:
            raise died_undecided(handle)
        record = RelocationRecord.from_json(decided[0].intent)
        with acting_only_if(handle.assert_may_act):
            work = self._work(handle, record, still_to_decide(found.asked), stop)
            return work.to_the_end(work.claim.look_after)

    def clean_up(self, job_id: int) -> Residue:
        """Try once more to delete what an ended job had to leave at the place its disks did not get to."""
        found = self._jobs.get(job_id)
        if not found.report.get("left"):
            return Residue()
        record = RelocationRecord.from_json(found.steps_named("decide")[0].intent)
        handle = self._jobs.reopen(job_id)
        residue = Residue(kept=tuple(found.report["left"]))
        try:
            with acting_only_if(handle.assert_may_act), VmClaim(self._connections, self._jobs, handle, {}).held():
                residue = Closing(self._connections, self._inventory, handle, record.move).undo_at_target(found)
        finally:
            handle.finish(found.state, found.outcome, found.exit_code or 0, {"left": list(residue.kept)})
        return residue

    def _work(
        self, handle: JobHandle, record: RelocationRecord, options: MigrationOptions, stop: clock.Event
    ) -> RelocationWork:
        kind = OffWork if record.cold else RunningWork
        return kind(
            self._connections,
            self._inventory,
            self._jobs,
            handle,
            VmClaim(self._connections, self._jobs, handle, record.to_json()),
            record,
            options,
            self._no_progress,
            stop,
            self._on_progress,
        )
