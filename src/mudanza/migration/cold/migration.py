"""Cold migration: a switched-off VM, with everything it is, from one host to another, every step journalled.

One loop does it: ask both hosts, decide by ``settle_cold``, take the one step that is safe. A job that its controller
left behind is finished by the same loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import read_host
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import JobHandle, Jobs, LeaseLostError, NewJob
from mudanza.migration.asked import still_to_decide, stored
from mudanza.migration.claim import left_open
from mudanza.migration.closing import Closing, Residue, deleted_by
from mudanza.migration.cold.handover import ChangedError, HandOver, comparison_of, was_defined
from mudanza.migration.cold.plan import cold_record
from mudanza.migration.cold.settle import Next, Verdict, settle_cold
from mudanza.migration.cold.undo import (
    kept_places,
    remove_places,
    remove_snapshot_memory,
    start_again,
)
from mudanza.migration.freight.comparison import not_compared
from mudanza.migration.freight.freight import CancelledError, Freight, FreightLimits
from mudanza.migration.freight.left_behind import end_carriers
from mudanza.migration.freight.room import Room
from mudanza.migration.freight.turns import await_turn
from mudanza.migration.left_at_source import clean_up_source, undeleted_of
from mudanza.migration.power import shut_down
from mudanza.migration.prepare import Prepared
from mudanza.migration.record import ColdRecord
from mudanza.migration.unchanged import look_again
from mudanza.migration.vm_claim import ClaimRefusedError, VmClaim
from mudanza.model.errors import (
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
    VmDownError,
)
from mudanza.model.host import Host
from mudanza.model.migration import MigrationOptions, MigrationReport, Progress, Side, Sighting

OnProgress = Callable[[Progress], None]

MOST_TURNS = 12
"""Steps after which a job that still finds something to do goes in circles."""


@dataclass(frozen=True, slots=True)
class ColdLimits:
    """How long what may take, in seconds."""

    no_progress: float = 300.0


class ColdMigration:
    """Moves VMs that are switched off, or switches them off for it."""

    def __init__(
        self, connections: Connections, inventory: Inventory, jobs: Jobs, limits: ColdLimits, on_progress: OnProgress
    ) -> None:
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
        handle.done(handle.intend("decide", record.to_json()), {"tls": record.tls})
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
            handle.finish("failed", "its controller died before anything was done", MigrationFailedError.exit_code)
            raise MigrationFailedError(f"job {job_id} had done nothing yet", vm_state="the VM was not touched")
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
    ) -> _Work:
        limits = FreightLimits(self._limits.no_progress, options.deadline, options.bandwidth)
        freight = Freight(self._connections, handle, record, hosts, limits, stop, self._on_progress)
        return _Work(
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
        )


@dataclass
class _Work:
    """One job being worked on."""

    connections: Connections
    inventory: Inventory
    jobs: Jobs
    handle: JobHandle
    claim: VmClaim
    record: ColdRecord
    options: MigrationOptions
    freight: Freight
    source: Host
    target: Host
    on_progress: OnProgress
    begun: float = 0.0
    off_at: float | None = None
    verified: str = ""
    looked_again: bool = False
    compared: Mapping[str, Any] | None = None

    def to_the_end(self, begin: Callable[[], None]) -> MigrationReport:
        """Do whatever is to be done next until nothing is. ``begin`` sees to the claim on the VM."""
        self.begun = clock.monotonic()
        self.hand_over = HandOver(self.connections, self.handle, self.record, self.claim.on)
        try:
            begin()
            self._take_up()
            for _ in range(MOST_TURNS):
                report = self._turn_or_look_again()
                if report is not None:
                    return report
            raise NeedsPersonError(f"VM {self.record.name!r}: the job goes in circles")
        except NeedsPersonError as error:
            raise left_open(self.handle, error) from None
        except (LeaseLostError, ClaimRefusedError):
            raise
        except MudanzaError as error:
            raise self._give_up(error) from error

    def _take_up(self) -> None:
        """End what an earlier controller has left at work, and see what it left unsaid."""
        self.hand_over.end_tpm_carriers()
        job = self.jobs.get(self.handle.id)
        end_carriers(self.connections, self.handle, job)
        Room(self.connections, self.handle, self.target).make_sure(job)

    def _verdict(self) -> Verdict:
        job = self.jobs.get(self.handle.id)
        source, target = self.hand_over.look()
        self.compared = comparison_of(job)
        return settle_cold(
            source,
            target,
            compared=self.compared is not None,
            defined=was_defined(job),
            let_go=bool(job.steps_named("release source")),
        )

    def _turn_or_look_again(self) -> MigrationReport | None:
        """Take a turn; of a VM that is the target's, a second one where the first one failed: maybe it only seemed so,
        for the answer was lost."""
        try:
            return self._turn(self._verdict())
        except (HypervisorError, HostUnreachableError):
            if self.looked_again or self._verdict().next is not Next.FINISH:
                raise
        self.looked_again = True
        return None

    def _turn(self, verdict: Verdict) -> MigrationReport | None:
        record = self.record
        match verdict.next:
            case Next.STAY if record.was_running and self.off_at is None:
                self._switch_off()
            case Next.CARRY:
                self.hand_over.refuse_changed()
                self.hand_over.remember()
                await_turn(self.jobs, self.handle.id, self.record.files, self.freight.turn, self.freight.tell)
                self.verified = self.freight.bring(self.jobs.get(self.handle.id))
                self.freight.turn()  # from here on it is too late to cancel
                self.claim.confirm_at(record.source)
                self.hand_over.define()
            case Next.HAND_OVER:
                self.handle.enter("handing over")
                self.verified = str((self.compared or {}).get("same", ""))
                self.hand_over.complete(self.jobs.get(self.handle.id), self.target)
                self.hand_over.disarm()  # it waits for whoever is about to start it there
                self.hand_over.last_look(lambda: self.freight.changed_at_source(self.compared or {}))
                self.claim.confirm()
                return self._finish()
            case Next.TAKE_BACK:
                self.hand_over.take_back()
            case Next.FINISH:
                return self._finish()
            case Next.STAY:
                raise MigrationFailedError(f"{verdict.why}: somebody started it meanwhile")
            case Next.PERSON:
                raise self._person(verdict.why)
        return None

    def _switch_off(self) -> None:
        self.handle.enter("shutting down")
        self.on_progress(Progress("shutting down", 0.0))
        shut_down(
            self.connections.domains(self.record.source),
            self.handle,
            self.record.uuid,
            limit=self.options.shutdown_limit,
            force=self.options.force_off,
            turn=self.freight.turn,
        )
        self.off_at = clock.monotonic()

    def _finish(self) -> MigrationReport:
        """It is the target's: let it run there if it ran, and clean the source."""
        record = self.record
        self.claim.confirm()
        if record.was_running:
            self._start_there()
        downtime = clock.monotonic() - self.off_at if self.off_at is not None else None
        self.hand_over.release()
        self.handle.enter("cleaning up")
        warnings = self.hand_over.lost + self.hand_over.restore_autostart()
        deleted = deleted_by(self.jobs.get(self.handle.id))
        closing = Closing(self.connections, self.inventory, self.handle, record.as_move(self._by_content), deleted)
        residue = Residue(warnings=warnings) + closing.remove_source_disks() + self._keep_unproven()
        residue += self._remove_unused()
        if not record.keep_source:
            residue += remove_snapshot_memory(Room(self.connections, self.handle, self.source), record)
        residue += Residue(warnings=self.claim.release())
        report = self._report(residue, downtime)
        self.handle.finish("done", f"moved from {record.source} to {record.target}", 0, asdict(report))
        return report

    def _remove_unused(self) -> Residue:
        """Delete what an earlier try brought to places that this one did not need."""
        room, job = Room(self.connections, self.handle, self.target), self.jobs.get(self.handle.id)
        left = remove_places(room, job, self.inventory, self.connections, self.record.places.values())
        return Residue(kept=left, warnings=tuple(f"{where}, of an earlier try, could not be deleted" for where in left))

    @property
    def _by_content(self) -> Collection[str]:
        return tuple((self.compared or {}).get("by content", ()))

    def _keep_unproven(self) -> Residue:
        files = self.record.unproven(self._by_content)
        kept = tuple(f"{self.record.source}:{file.source}" for file in files)
        return Residue(kept=kept, warnings=tuple(not_compared(file) for file in files))

    def _start_there(self) -> None:
        """Start it at the target; where that fails, the source has it still. Raises MigrationFailedError."""
        record = self.record
        try:
            self.hand_over.start(record.target)
        except (HypervisorError, HostUnreachableError) as error:
            source, target = self.hand_over.look()
            if target.running and not source.state.active:
                return  # only the answer was lost
            if target.state.active or source.state.active:
                raise self._person(f"starting it failed, and it seems to run: {error}") from error
            if source.side is not Side.PRESENT:
                raise self._person(f"{record.source} has let it go, and it does not start: {error}") from error
            self.hand_over.take_back()
            raise MigrationFailedError(f"it does not start on {record.target}: {error}") from error

    def _give_up(self, error: MudanzaError) -> MudanzaError:
        """Leave the VM at the source as it was; what was brought stays for a repeat, unless it was cancelled."""
        record = self.record
        verdict = self._verdict()
        if verdict.next is Next.PERSON:
            return left_open(self.handle, self._person(f"{error}; {verdict.why}"))
        if verdict.next is Next.FINISH:
            return left_open(self.handle, self._person(f"it is at {record.target}, and not all was done: {error}"))
        if verdict.next in (Next.TAKE_BACK, Next.HAND_OVER):
            try:
                self.hand_over.take_back()
            except (HypervisorError, HostUnreachableError) as failure:
                return left_open(self.handle, self._person(f"{error}; {record.target} still knows it: {failure}"))
        try:
            self.claim.confirm()
        except NeedsPersonError as lost:
            return left_open(self.handle, lost)
        left = self._leave_target(cancelled=isinstance(error, CancelledError))
        job = self.jobs.get(self.handle.id)
        self.hand_over.rearm(job)
        down = start_again(self.hand_over, job, record)
        return self._closed(error, left, "; ".join(filter(None, (down, *self.claim.release()))), down=bool(down))

    def _leave_target(self, *, cancelled: bool) -> tuple[str, ...]:
        """End what still carries; delete what was brought if the move was cancelled; return what stays there."""
        job = self.jobs.get(self.handle.id)
        if self.hand_over.sighting(self.record.target).side is Side.UNSEEN:
            return kept_places(job)
        try:
            end_carriers(self.connections, self.handle, job)
            room = Room(self.connections, self.handle, self.target)
            room.make_sure(job)
        except (HypervisorError, HostUnreachableError):
            return kept_places(job)  # it may still write there: whoever goes on with the job ends it first
        job = self.jobs.get(self.handle.id)
        return remove_places(room, job, self.inventory, self.connections) if cancelled else kept_places(job)

    def _closed(self, error: MudanzaError, left: tuple[str, ...], remark: str, *, down: bool) -> MudanzaError:
        record = self.record
        kind: type[MudanzaError] = VmDownError if down else MigrationFailedError
        source = self.hand_over.sighting(record.source)
        kept = "; it was asked to shut down and may do so yet" if self._may_go_down(source) else ""
        if left:
            kept += f"; what was brought to {record.target} is kept for a repeat: {', '.join(left)}"
        self.handle.finish("down" if down else "failed", str(error), kind.exit_code, {"left": list(left)})
        job = self.handle.id
        resume = f"go on where it stopped: mudanza job resume {job}"
        if isinstance(error, ChangedError):
            resume = (
                f"move it as it is now, with what is there already: mudanza migrate {record.uuid} --to {record.target}"
            )
        again = f"{resume}; give it up: mudanza job cancel {job}"
        return kind(
            f"VM {record.name!r} was not moved from {record.source} to {record.target}: {error}",
            vm_state=f"it is {source.state} on {record.source}{f' ({remark})' if remark else ''}{kept}",
            remedy=(error.remedy or "") + ("; " if error.remedy and left else "") + (again if left else ""),
        )

    def _may_go_down(self, source: Sighting) -> bool:
        """Whether a guest that runs was asked to shut down, and nobody waited for that any longer."""
        asked = self.jobs.get(self.handle.id).steps_named("shut down")
        return source.state.active and bool(asked) and (asked[-1].outcome or {"asked": True}).get("asked", False)

    def _person(self, why: str) -> NeedsPersonError:
        record = self.record
        return NeedsPersonError(
            f"VM {record.name!r}: {why}",
            vm_state=f"what was done about it: mudanza job show {self.handle.id}",
            remedy=f"look at both hosts (virsh domstate --reason {record.uuid}), "
            f"then: mudanza job resume {self.handle.id}",
        )

    def _report(self, residue: Residue, downtime: float | None) -> MigrationReport:
        record = self.record
        moving = clock.monotonic() - self.begun
        return MigrationReport(
            vm=record.name,
            uuid=record.uuid,
            source=record.source,
            target=record.target,
            mode="cold",
            moving_time=moving,
            total_time=moving + record.checking_time,
            downtime=downtime,
            memory_bytes=0,
            disk_bytes=self.freight.bytes_at_target(),
            rate=self.freight.rate,
            iterations=0,
            tls=record.tls,
            transport=self.freight.transport,
            removed=residue.removed,
            kept=residue.kept,
            undeleted=residue.undeleted,
            warnings=record.warnings + residue.warnings,
            verified=self.verified,
        )
