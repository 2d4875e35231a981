"""A job by which a switched-off VM moves, being worked on.

One loop does it: ask both hosts, decide by ``settle_cold``, take the one step that is safe. A job that its controller
left behind is finished by the same loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import JobHandle, Jobs, LeaseLostError
from mudanza.migration.asked import own_wishes
from mudanza.migration.claim import left_open
from mudanza.migration.closing import Closing
from mudanza.migration.cold.handover import ChangedError, HandOver, comparison_of, was_defined
from mudanza.migration.cold.settle import Next, Verdict, settle_cold
from mudanza.migration.cold.undo import kept_places, remove_places, remove_snapshot_memory, start_again
from mudanza.migration.forecast.keeping import forecast_on_record
from mudanza.migration.freight.comparison import not_compared
from mudanza.migration.freight.freight import Freight
from mudanza.migration.freight.left_behind import end_carriers
from mudanza.migration.freight.room import Room
from mudanza.migration.freight.turns import await_turn
from mudanza.migration.hooks import Hooks
from mudanza.migration.power import shut_down
from mudanza.migration.record import ColdRecord
from mudanza.migration.residue import Residue, definition_kept, deleted_by
from mudanza.migration.vm_claim import ClaimRefusedError, VmClaim
from mudanza.migration.wanted import CancelledError
from mudanza.model.errors import (
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
    VmDownError,
)
from mudanza.model.hook import When
from mudanza.model.host import Host
from mudanza.model.migration import MigrationOptions, MigrationReport, Progress, Side, Sighting

OnProgress = Callable[[Progress], None]

MOST_TURNS = 12
"""Steps after which a job that still finds something to do goes in circles."""


@dataclass
class ColdWork:
    """One such job."""

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
    hooks: Hooks
    begun: float = 0.0
    off_at: float | None = None
    verified: str = ""
    looked_again: bool = False
    asked_hooks: bool = False
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
                self._run_hooks_before()
                self._switch_off()
            case Next.CARRY:
                self._run_hooks_before()
                self.hand_over.refuse_changed()
                self.hand_over.remember()
                self._await_turn()
                self.verified = self.freight.bring(self.jobs.get(self.handle.id), see_off=False)
                self.freight.look()  # from here on it is too late to cancel
                self.claim.confirm_at(record.source)
                self.hand_over.define()
            case Next.HAND_OVER:
                self.handle.enter("handing over")
                self.verified = str((self.compared or {}).get("same", ""))
                self.hand_over.complete(self.jobs.get(self.handle.id), self.target)
                self.hand_over.disarm()  # it waits for whoever is about to start it there
                self.freight.see_off()
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

    def _run_hooks_before(self) -> None:
        if not self.asked_hooks:
            self.asked_hooks = True
            self.hooks.before(self.freight.turn, self.options.deadline, self.begun)
            self.hand_over.refuse_changed()

    def _await_turn(self) -> None:
        await_turn(
            self.jobs,
            self.handle.id,
            self.record.files,
            self.freight.turn,
            self.freight.tell,
            begun=self.begun,
            deadline=self.options.deadline,
        )

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
        if record.keep_source:
            residue += Residue(warnings=(definition_kept(record.source, record.target),))
        else:
            residue += remove_snapshot_memory(Room(self.connections, self.handle, self.source), record)
        residue += Residue(warnings=self.hooks.after(When.AFTER, "moved") + self.claim.release())
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
        told = self.hooks.after(When.FAILURE, "down" if down else "stayed", str(error))
        return self._closed(error, left, "; ".join(filter(None, (down, *told, *self.claim.release()))), down=bool(down))

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
        job = self.handle.id
        resume = f"go on where it stopped: mudanza job resume {job}"
        if isinstance(error, ChangedError):
            resume = (
                f"move it as it is now, with what is there already: mudanza migrate {record.uuid} --to {record.target}"
            )
        again = f"{resume}; give it up: mudanza job cancel {job}"
        told = kind(
            f"VM {record.name!r} was not moved from {record.source} to {record.target}: {error}",
            vm_state=f"it is {source.state} on {record.source}{f' ({remark})' if remark else ''}{kept}",
            remedy=(error.remedy or "") + ("; " if error.remedy and left else "") + (again if left else ""),
        )
        self.handle.finish("down" if down else "failed", str(error), kind.exit_code, {"left": list(left)}, told)
        return told

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
        record, job = self.record, self.jobs.get(self.handle.id)
        moving = clock.monotonic() - self.begun - self.hooks.took
        return MigrationReport(
            vm=record.name,
            uuid=record.uuid,
            source=record.source,
            target=record.target,
            mode="cold",
            moving_time=moving,
            total_time=moving + self.hooks.took + record.checking_time,
            hooks=self.hooks.done(),
            hooks_time=self.hooks.took or None,
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
            forecast=forecast_on_record(job),
            own_wishes=own_wishes(job.asked),
        )
