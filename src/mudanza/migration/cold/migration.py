"""Cold migration: a switched-off VM, with everything it is, from one host to another, every step journalled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import read_host
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.migration.asked import still_to_decide, stored
from mudanza.migration.claim import died_undecided
from mudanza.migration.cold.handover import comparison_of
from mudanza.migration.cold.plan import cold_record
from mudanza.migration.cold.undo import remove_places
from mudanza.migration.cold.work import ColdWork, OnProgress
from mudanza.migration.forecast.keeping import foreseen
from mudanza.migration.freight.freight import Freight, FreightLimits
from mudanza.migration.freight.left_behind import end_carriers
from mudanza.migration.freight.room import Room
from mudanza.migration.hooks import Hooks
from mudanza.migration.left_at_source import clean_up_source, undeleted_of
from mudanza.migration.prepare import Prepared
from mudanza.migration.record import ColdRecord
from mudanza.migration.residue import Residue
from mudanza.migration.unchanged import look_again
from mudanza.migration.vm_claim import VmClaim
from mudanza.model.hook import Hook
from mudanza.model.host import Host
from mudanza.model.migration import MigrationOptions, MigrationReport


@dataclass(frozen=True, slots=True)
class ColdLimits:
    """How long what may take, in seconds."""

    no_progress: float = 300.0


class ColdMigration:
    """Moves VMs that are switched off, or switches them off for it."""

    def __init__(
        self,
        connections: Connections,
        inventory: Inventory,
        jobs: Jobs,
        limits: ColdLimits,
        on_progress: OnProgress,
        hooks: Mapping[str, Hook] = MappingProxyType({}),
    ) -> None:
        """``hooks``: those of the controller's settings, by name."""
        self._hooks = hooks
        self._connections = connections
        self._inventory = inventory
        self._jobs = jobs
        self._limits = limits
        self._on_progress = on_progress

    def migrate(self, prepared: Prepared, asked_by: str, stop: clock.Event) -> MigrationReport:
        """Move one VM that was judged fit to go.

        What an earlier job of the same VM has brought to the same target is compared and made use of. Setting
        ``stop`` cancels it. Raises MigrationFailedError (it is at the source as before), VmDownError,
        NeedsPersonError; BlockedError when it has an unfinished job or is no longer what was judged.
        """
        record = cold_record(prepared, self._connections)
        earlier = self._jobs.left_by(record.uuid)
        if earlier is not None and earlier.kind == "cold" and earlier.target == record.target:
            handle = self._jobs.reopen(earlier.id)
        else:
            asked = stored(prepared.options)
            new = NewJob("cold", record.uuid, record.name, record.source, record.target, asked, asked_by)
            handle = self._jobs.begin(new)
        handle.note("decide", record.to_json(), {"tls": record.tls, **foreseen(prepared)})
        over, domains = prepared.chosen.facts.claim, self._connections.domains(record.source)
        with acting_only_if(handle.assert_may_act):
            work = self._work(handle, record, (prepared.source, prepared.chosen.target), prepared.options, stop)
            return work.to_the_end(lambda: work.claim.take(lambda: look_again(prepared.vm, domains), over=over))

    def resume(self, job_id: int, stop: clock.Event) -> MigrationReport:
        """Go on with a job that its controller left behind, or that failed and left what it had brought.

        Raises what ``migrate`` raises.
        """
        found = self._jobs.get(job_id)
        handle = self._jobs.take_over(job_id) if found.ended_at is None else self._jobs.reopen(job_id)
        decided = found.steps_named("decide")
        if not decided:  # it died before anything was done
            raise died_undecided(handle)
        record = ColdRecord.from_json(decided[-1].intent)
        with acting_only_if(handle.assert_may_act):
            hosts = (self._read(record.source), self._read(record.target))
            work = self._work(handle, record, hosts, still_to_decide(found.asked), stop)
            return work.to_the_end(work.claim.look_after if found.ended_at is None else work.claim.take)

    def clean_up(self, job_id: int) -> Residue:
        """Give up what a failed job has brought to its target, and delete it there; or what one that went well could
        not delete at the source."""
        found = self._jobs.get(job_id)
        if undeleted_of(found):
            record = ColdRecord.from_json(found.steps_named("decide")[-1].intent)
            by_content = (comparison_of(found) or {}).get("by content", ())
            as_move = record.as_move(by_content)
            return clean_up_source(self._connections, self._inventory, self._jobs, found, as_move)
        made = left = tuple(str(path) for path in found.report.get("left", ()))
        if not made:
            return Residue()
        handle = self._jobs.reopen(job_id)
        try:
            with acting_only_if(handle.assert_may_act), VmClaim(self._connections, self._jobs, handle, {}).held():
                end_carriers(self._connections, handle, found)
                target = self._read(found.target)
                left = remove_places(Room(self._connections, handle, target), found, self._inventory, self._connections)
        finally:
            handle.finish(found.state, found.outcome, found.exit_code or 0, {"left": list(left)})
        return Residue(removed=tuple(path for path in made if path not in left), kept=left)

    def _read(self, host: str) -> Host:
        return read_host(self._inventory.host(host), connections=self._connections)[0]

    def _work(
        self,
        handle: JobHandle,
        record: ColdRecord,
        hosts: tuple[Host, Host],
        options: MigrationOptions,
        stop: clock.Event,
    ) -> ColdWork:
        limits = FreightLimits(self._limits.no_progress, options.deadline, options.bandwidth)
        freight = Freight(self._connections, handle, record, hosts, limits, stop, self._on_progress)
        return ColdWork(
            self._connections,
            self._inventory,
            self._jobs,
            handle,
            VmClaim(self._connections, self._jobs, handle, record.to_json()),
            record,
            options,
            freight,
            hosts[0],
            hosts[1],
            self._on_progress,
            Hooks(self._hooks, self._jobs, handle, record, "cold", self._on_progress),
        )
