"""Disks of a VM that is off, or is switched off for it: their bytes are carried as they are and compared, then the
definition names the new places."""

from __future__ import annotations

from mudanza import clock
from mudanza.hypervisor.own.carrier import end_carrier
from mudanza.hypervisor.own.throwaway import sweep
from mudanza.journal.jobs import Job
from mudanza.migration.cold.handover import HandOver
from mudanza.migration.cold.undo import start_again
from mudanza.migration.freight.freight import FreightLimits
from mudanza.migration.history_keeper import REMEMBER, HistoryKeeper
from mudanza.migration.power import shut_down
from mudanza.migration.record import ColdRecord
from mudanza.migration.relocation.freight import FreightInPlace
from mudanza.migration.relocation.settle import Next, Standing, Verdict, settle_off
from mudanza.migration.relocation.work import RelocationWork
from mudanza.migration.residue import Residue
from mudanza.migration.secrets import with_secrets_of
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.migration import MigrationReport, Progress
from mudanza.preflight.cargo import CargoFile

SWEEP_TIMEOUT = 10.0
"""Seconds that taking away what a dead controller left may take."""


class OffWork(RelocationWork):
    """One job whose VM is off while its disks move."""

    _verified = ""
    _off_at: float | None = None
    _downtime: float | None = None

    def take_up(self, job: Job) -> None:
        """End, too, what an earlier controller may have left at work on the same files."""
        super().take_up(job)
        seat = self.connections.get(self.host)
        left = [str(step.intent["carrier"]) for step in job.steps_named("carry") if step.outcome is None]
        for carrier in left:
            end_carrier(seat, carrier)
        if left:
            seat.ask(sweep, timeout=SWEEP_TIMEOUT)  # its overlays
        hosts = (self.about, self.about)
        limits = FreightLimits(self.no_progress, self.options.deadline, self.options.bandwidth)
        self._freight = FreightInPlace(
            self.connections, self.handle, self._cold, hosts, limits, self.stop, self.on_progress
        )
        self._hand_over = HandOver(self.connections, self.handle, self._cold)
        self._history = HistoryKeeper(self.connections, self.handle, self._cold)

    @property
    def _cold(self) -> ColdRecord:
        if self.record.cold is None:
            raise TypeError("a job of disks that move while their VM is off has a record of that")
        return self.record.cold

    def settle(self, standing: Standing) -> Verdict:
        """Decide what is to be done next."""
        runs_still = self._cold.was_running and not self._was_off()
        return settle_off(standing, wanted=not self.why, to_be_switched_off=runs_still)

    def _was_off(self) -> bool:
        return any("off" in (step.outcome or {}) for step in self.jobs.get(self.handle.id).steps_named("shut down"))

    def take(self, step: Next, _standing: Standing) -> None:
        """Take one step."""
        match step:
            case Next.SWITCH_OFF:
                self._switch_off()
            case Next.COPY:
                self._verified = self._freight.bring(self.jobs.get(self.handle.id))
                self._hand_it_over()

    def _switch_off(self) -> None:
        self.handle.enter("shutting down")
        self.on_progress(Progress("shutting down", 0.0))
        domains, options = self.connections.domains(self.host), self.options
        shut_down(
            domains,
            self.handle,
            self.uuid,
            limit=options.shutdown_limit,
            force=options.force_off,
            turn=self._freight.turn,
        )
        self._off_at = clock.monotonic()

    def _hand_it_over(self) -> None:
        """Have the definition name the new places, if nothing has changed since they were compared."""
        self.handle.enter("handing over")
        compared = self.jobs.get(self.handle.id).steps_named("compare")[-1].outcome or {}
        seen = self.sighting()
        changed = "it was started" if seen.state.active else self._freight.changed_at_source(compared)
        if changed:
            raise MigrationFailedError(f"it has changed while it was copied: {changed}")
        self._history.remember({})
        domains = self.connections.domains(self.host)
        self.claim.confirm_at(self.host)
        secure = domains.describe(self.uuid, inactive=True)
        xml = self.claim.on(with_secrets_of(self._cold.target_xml, secure))
        self.step("define", {"host": self.host}, lambda: domains.define(xml))

    def before_clean_up(self) -> tuple[str, ...]:
        """Have libvirt's records of its snapshots name the new places too, and let it run again if it ran."""
        job = self.jobs.get(self.handle.id)
        warnings = self._history.put_back(job, self.host) if job.steps_named(REMEMBER) else ()
        if not self._cold.was_running:
            return warnings
        try:
            self._hand_over.start(self.host)
            self._downtime = clock.monotonic() - self._off_at if self._off_at is not None else None
        except (HypervisorError, HostUnreachableError) as error:
            raise self.person(f"its disks have moved, and it does not start from the new places: {error}") from error
        return warnings

    def unproven(self) -> tuple[CargoFile, ...]:
        """Return what became another format and was not compared, though it should have been."""
        compared = [step.outcome or {} for step in self.jobs.get(self.handle.id).steps_named("compare")]
        return self._cold.unproven(tuple(compared[-1].get("by content", ())) if compared else ())

    def after_undo(self) -> str:
        """Start it again if it was shut down for the move."""
        return start_again(self._hand_over, self.jobs.get(self.handle.id), self._cold)

    def report(self, residue: Residue) -> MigrationReport:
        """Say how it went."""
        record, taken = self._cold, self.spent + clock.monotonic() - self.begun
        return MigrationReport(
            vm=record.name,
            uuid=record.uuid,
            source=self.host,
            target=self.host,
            mode="in place, off",
            moving_time=taken,
            total_time=taken + record.checking_time,
            downtime=self._downtime,
            memory_bytes=0,
            disk_bytes=self._freight.bytes_at_target(),
            rate=self._freight.rate,
            iterations=0,
            tls=False,
            transport=self._freight.transport,
            removed=residue.removed,
            kept=residue.kept,
            warnings=record.warnings + residue.warnings,
            verified=self._verified,
            own_wishes=self.own_wishes(),
        )
