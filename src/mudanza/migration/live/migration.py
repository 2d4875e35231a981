"""Live migration: from two hosts that agreed to one VM that moved, every step journalled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import MappingProxyType

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import read_host
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Job, JobHandle, Jobs, LeaseLostError, NewJob
from mudanza.migration.asked import read_back, stored
from mudanza.migration.claim import died_undecided, left_open, reason_on_record, renewing
from mudanza.migration.closing import Closing
from mudanza.migration.destination import volume_xml
from mudanza.migration.forecast.keeping import foreseen
from mudanza.migration.freight.freight import Freight, FreightLimits
from mudanza.migration.freight.left_behind import end_carriers
from mudanza.migration.freight.room import Room, make_volume
from mudanza.migration.freight.turns import await_turn
from mudanza.migration.guest_clock import ClockReport, ClockWatch
from mudanza.migration.history_keeper import HistoryKeeper
from mudanza.migration.hooks import Hooks
from mudanza.migration.left_at_source import clean_up_source, undeleted_of
from mudanza.migration.live.figures import completed, disk_bytes
from mudanza.migration.live.order import marked, order_of
from mudanza.migration.live.passage import Passage
from mudanza.migration.live.plan import below, live_record, steering_of
from mudanza.migration.live.reporting import ended_there, not_moved, report_of, what_is_left, with_what_was_beside
from mudanza.migration.live.settler import Settler
from mudanza.migration.outside import Outside, watching
from mudanza.migration.prepare import Prepared
from mudanza.migration.record import CopiedDisk, MoveRecord
from mudanza.migration.residue import Residue, deleted_by
from mudanza.migration.settle import Settlement, Verdict
from mudanza.migration.steering import ON_REQUEST, Steering
from mudanza.migration.transfer import Order, TransferEnd
from mudanza.migration.unchanged import look_again
from mudanza.migration.variables import remove_variables
from mudanza.migration.vm_claim import ClaimRefusedError, VmClaim
from mudanza.migration.wanted import Wanted
from mudanza.migration.wording import explained
from mudanza.model.errors import (
    HostUnreachableError,
    HypervisorError,
    MudanzaError,
    NeedsPersonError,
)
from mudanza.model.hook import Hook, When
from mudanza.model.host import Host
from mudanza.model.migration import Answer, GuestClock, MigrationReport, Probe, Progress
from mudanza.model.vm import VmState

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long what may take, in seconds."""

    no_progress: float = 300.0
    settle: float = 90.0
    postcopy_recovery: float = 3600.0
    """An interrupted post-copy to be resumed."""


class LiveMigration:
    """Moves running VMs."""

    def __init__(
        self,
        connections: Connections,
        inventory: Inventory,
        jobs: Jobs,
        limits: Limits,
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

        Setting ``stop`` cancels it. Raises MigrationFailedError (it is at the source as before), VmDownError,
        NeedsPersonError; BlockedError when it has an unfinished job or is no longer what was judged.
        """
        with watching(prepared.options.probe) as outside:
            return self._move(prepared, asked_by, stop, outside)

    def _move(self, prepared: Prepared, asked_by: str, stop: clock.Event, outside: Outside | None) -> MigrationReport:
        record = live_record(prepared, self._connections)
        order = order_of(prepared, record)
        handle = self._jobs.begin(
            NewJob(
                "live",
                record.uuid,
                record.name,
                record.source,
                record.target,
                stored(prepared.options),
                asked_by,
            )
        )
        with acting_only_if(handle.assert_may_act):
            return self._begin(handle, prepared, record, order, stop, outside)

    def _begin(
        self,
        handle: JobHandle,
        prepared: Prepared,
        record: MoveRecord,
        order: Order,
        stop: clock.Event,
        outside: Outside | None,
    ) -> MigrationReport:
        begun = clock.monotonic()
        handle.note("decide", record.to_json(), {"tls": record.tls, **foreseen(prepared)})
        claim = VmClaim(self._connections, self._jobs, handle, record.to_json())
        hooks = self._hooks_of(handle, record)
        end: TransferEnd | None = None
        problem: MudanzaError | None = None
        try:
            domains = self._connections.domains(record.source)
            claim.take(lambda: look_again(prepared.vm, domains), over=prepared.chosen.facts.claim)
            if record.hooks:
                hooks.before(Wanted(handle, stop).turn, prepared.options.deadline, begun)
                look_again(prepared.vm, domains)
            self._send_ahead(handle, prepared, record, stop, begun)
            self._create_volumes(handle, prepared, record, stop)
            if not _is_unwanted(handle, stop):
                HistoryKeeper(self._connections, handle, record).set_aside(prepared.chosen.resolution.nic_names)
                Closing(self._connections, self._inventory, handle, record).disarm()
                clock_watch = self._clock_watch(prepared)
                with claim.resting():
                    order = marked(order, claim.on)
                    end = self._passage(handle, prepared, record, stop, begun).go(order)
                    end = replace(end, outside=outside, clock_watch=clock_watch)
        except NeedsPersonError as error:
            raise left_open(handle, error) from None
        except (LeaseLostError, ClaimRefusedError):
            raise
        except MudanzaError as error:
            problem = error
        problem = problem or (end.error if end else None)
        self._unlearn_tls(record, problem)
        why = self._why(end, problem, stop)
        return self.close(handle, record, why, end, begun, claim, hooks)

    def _clock_watch(self, prepared: Prepared) -> ClockWatch | None:
        if prepared.options.guest_clock is GuestClock.LEAVE or prepared.vm.state is VmState.PAUSED:
            return None
        return ClockWatch(self._connections.domains(prepared.vm.host), prepared.vm)

    def _hooks_of(self, handle: JobHandle, record: MoveRecord) -> Hooks:
        return Hooks(self._hooks, self._jobs, handle, record, "live", self._on_progress)

    def _send_ahead(
        self, handle: JobHandle, prepared: Prepared, record: MoveRecord, stop: clock.Event, begun: float
    ) -> None:
        """Bring the images that disks build on, and whatever else the VM only reads, before the VM itself."""
        if not record.ahead:
            return
        deadline = prepared.options.deadline
        limits = FreightLimits(self._limits.no_progress, deadline, prepared.options.bandwidth)
        hosts = prepared.source, prepared.chosen.target
        freight = Freight(self._connections, handle, record.as_freight(), hosts, limits, stop, self._on_progress)
        turn, tell = freight.turn, freight.tell
        await_turn(self._jobs, handle.id, record.ahead, turn, tell, begun=begun, deadline=deadline)
        freight.bring(self._jobs.get(handle.id))

    def _create_volumes(self, handle: JobHandle, prepared: Prepared, record: MoveRecord, stop: clock.Event) -> None:
        target = self._connections.volumes(record.target)
        for plan in prepared.chosen.resolution.copies:
            if _is_unwanted(handle, stop):
                return
            disk = next(disk for disk in record.disks if disk.target == plan.target)
            origin = self._origin(record, disk)
            intent = {
                "pool": plan.pool,
                "volume": plan.volume,
                "path": plan.path,
                "size": plan.size,
                "device": plan.pool_is_block,
            }
            xml = volume_xml(plan, origin, below(prepared, plan, record))
            make_volume(handle, intent, partial(target.create, plan.pool, xml))

    def _origin(self, record: MoveRecord, disk: CopiedDisk) -> str | None:
        """Return the XML of the volume a disk is copied from, None where its pool does not know it."""
        found = self._connections.volumes(record.source).find(disk.source_path)
        return self._connections.volumes(record.source).describe(*found) if found else None

    def _passage(
        self, handle: JobHandle, prepared: Prepared, record: MoveRecord, stop: clock.Event, begun: float
    ) -> Passage:
        options, spent = prepared.options, clock.monotonic() - begun
        steering = steering_of(record, self._limits.no_progress, options, spent)
        return self._passage_of(handle, record, (prepared.source, prepared.chosen.target), steering, stop)

    def _passage_of(
        self, handle: JobHandle, record: MoveRecord, hosts: tuple[Host, Host], steering: Steering, stop: clock.Event
    ) -> Passage:
        limit = self._limits.postcopy_recovery
        closing = Closing(self._connections, self._inventory, handle, record)
        settler = Settler(self._connections, self._jobs, handle, record, closing.define_at_target)
        return Passage(
            self._connections,
            handle,
            record,
            hosts,
            steering,
            limit,
            stop,
            self._on_progress,
            settler.end_what_is_in_vain,
        )

    def _unlearn_tls(self, record: MoveRecord, error: MudanzaError | None) -> None:
        """Forget that TLS works between two hosts when it has just failed, so that it is tried anew next time."""
        words = str(error or "").lower()
        if record.tls and ("tls" in words or "certificate" in words):
            self._inventory.learn_tls(record.source, record.target, Probe(Answer.UNKNOWN, str(error)))

    @staticmethod
    def _why(end: TransferEnd | None, error: MudanzaError | None, stop: clock.Event) -> str:
        if end is not None and end.stopped_because:
            return end.stopped_because
        if error is not None:
            return str(error)
        return ON_REQUEST if end is None and stop.is_set() else ""

    def close(
        self,
        handle: JobHandle,
        record: MoveRecord,
        why: str,
        end: TransferEnd | None,
        begun: float,
        claim: VmClaim,
        hooks: Hooks,
    ) -> MigrationReport:
        """Settle, clean up, close the job and report. ``why``: what went wrong as far as we were told."""
        job = self._jobs.get(handle.id)
        closing = Closing(self._connections, self._inventory, handle, record, deleted_by(job))
        settler = Settler(self._connections, self._jobs, handle, record, closing.define_at_target)
        try:
            claim.confirm()
            settled = settler.settle(self._limits.settle, renewing(handle))
            claim.confirm()
            history = self._put_history_back(handle, record, settled)
        except NeedsPersonError as error:
            error.remedy = f"{error.remedy} (what libvirt said: {why})" if why else error.remedy
            raise left_open(handle, error) from None
        handle.enter("cleaning up")
        if settled.verdict is Verdict.MOVED:
            return self._close_moved(handle, record, closing, settled, end, begun, history, claim, hooks)
        if settled.verdict is Verdict.DOWN_THERE:
            kept = closing.leave_down_at_target(ran_there=settler.ran_there)
            history += hooks.after(When.FAILURE, "down", settled.why)
            history += claim.release()
            down = ended_there(record, settled, kept + Residue(warnings=history), handle.id)
            handle.finish("down", settled.why, down.exit_code, {"kept": list(kept.kept)}, down)
            raise down
        job = self._jobs.get(handle.id)  # with what settling has written since
        history += closing.rearm(job)
        if settled.verdict is Verdict.STAYED and record.disks and job.steps_named("transfer"):
            history += closing.drop_forgotten_copies()
        residue = closing.undo_at_target(job)
        why = explained(why, record.source, record.target, record.name)
        state = "down" if settled.verdict is Verdict.DOWN else "failed"
        history += hooks.after(When.FAILURE, "down" if state == "down" else "stayed", why or settled.why)
        history += claim.release()
        unmoved = not_moved(record, settled, why, residue, handle.id)
        unmoved.vm_state = "; ".join((unmoved.vm_state, *history))
        handle.finish(state, why or settled.why, unmoved.exit_code, what_is_left(residue, end), unmoved)
        raise unmoved

    def _close_moved(
        self,
        handle: JobHandle,
        record: MoveRecord,
        closing: Closing,
        settled: Settlement,
        end: TransferEnd | None,
        begun: float,
        history: tuple[str, ...],
        claim: VmClaim,
        hooks: Hooks,
    ) -> MigrationReport:
        told = self._see_to_clock(handle, record, end)
        residue = Residue(warnings=history) + closing.finish_at_target(settled)
        residue += remove_variables(self._connections, self._inventory, handle, record)
        residue += Residue(warnings=hooks.after(When.AFTER, "moved") + claim.release())
        end = end or TransferEnd(None, "", Progress("", 0.0))
        took = clock.monotonic() - begun - hooks.took
        silences = end.outside.heard(end.postcopy) if end.outside is not None else None
        figures = completed(self._connections, record)
        report = report_of(record, residue, end, figures, disk_bytes(self._connections, record), took, silences)
        report = with_what_was_beside(report, self._jobs.get(handle.id), hooks, told)
        sentence = f"moved from {record.source} to {record.target}"
        handle.finish("done", sentence, 0, asdict(report))
        return report

    def _see_to_clock(self, handle: JobHandle, record: MoveRecord, end: TransferEnd | None) -> ClockReport:
        if end is None or end.clock_watch is None:
            return ClockReport()  # whoever began with it did not look, or is gone
        return end.clock_watch.end(self._connections.domains(record.target), handle)

    def _put_history_back(self, handle: JobHandle, record: MoveRecord, settled: Settlement) -> tuple[str, ...]:
        """Give the VM its snapshots and checkpoints again where it is; return what is to be known of them."""
        moved = settled.verdict in (Verdict.MOVED, Verdict.DOWN_THERE)
        host = record.target if moved else record.source
        return HistoryKeeper(self._connections, handle, record).put_back(self._jobs.get(handle.id), host)

    def resume(self, job_id: int, stop: clock.Event) -> MigrationReport:
        """Finish a job that its controller left behind: wait for its transfer, then settle and clean up.

        Setting ``stop`` cancels a transfer under way. Raises what ``migrate`` raises; UsageError when it has ended.
        """
        found = self._jobs.get(job_id)
        handle = self._jobs.take_over(job_id)
        with acting_only_if(handle.assert_may_act):
            return self._go_on(handle, found, stop)

    def _go_on(self, handle: JobHandle, found: Job, stop: clock.Event) -> MigrationReport:
        decided = found.steps_named("decide")
        if not decided:  # it died before anything was done
            raise died_undecided(handle)
        record = MoveRecord.from_json(decided[0].intent)
        begun = clock.monotonic() - (found.read_at - found.started_at)
        claim = VmClaim(self._connections, self._jobs, handle, record.to_json())
        try:
            claim.look_after()
            self._end_carriers(handle, record, found)
            self._make_sure(handle, found)
            with claim.resting():
                end = self._wait_for_transfer(handle, record, found, stop)
        except NeedsPersonError as error:
            raise left_open(handle, error) from None
        why = (end.stopped_because if end else "") or reason_on_record(found)
        return self.close(handle, record, why, end, begun, claim, self._hooks_of(handle, record))

    def _make_sure(self, handle: JobHandle, job: Job) -> None:
        """Find out how making a volume went that its controller died over, as far as the target answers."""
        if all(step.outcome is not None for step in job.steps_named("create volume")):
            return
        target, _ = read_host(self._inventory.host(job.target), connections=self._connections)
        with suppress(HypervisorError, HostUnreachableError):  # then cleaning up tells of it
            Room(self._connections, handle, target).make_sure(job)

    def _end_carriers(self, handle: JobHandle, record: MoveRecord, job: Job) -> None:
        """End what may still bring files ahead of the VM: it would write into what is about to be deleted."""
        try:
            end_carriers(self._connections, handle, job)
        except (HypervisorError, HostUnreachableError) as error:
            raise NeedsPersonError(
                f"VM {record.name!r}: what brings its files ahead could not be ended: {error}",
                vm_state="its transfer had not begun",
                remedy=f"see that both hosts answer, then: mudanza job resume {handle.id}",
            ) from error

    def clean_up(self, job_id: int) -> Residue:
        """Try once more to delete what an ended job had to leave: at the target, or where its VM moved, the source."""
        found = self._jobs.get(job_id)
        if not (found.report.get("left") or undeleted_of(found)):
            return Residue()
        record = MoveRecord.from_json(found.steps_named("decide")[0].intent)
        if undeleted_of(found):
            return clean_up_source(self._connections, self._inventory, self._jobs, found, record)
        handle = self._jobs.reopen(job_id)
        residue = Residue(kept=tuple(found.report["left"]))
        try:
            with acting_only_if(handle.assert_may_act), VmClaim(self._connections, self._jobs, handle, {}).held():
                self._make_sure(handle, found)
                closing = Closing(self._connections, self._inventory, handle, record)
                residue = closing.undo_at_target(self._jobs.get(job_id))
        finally:
            report = {**found.report, "left": list(residue.kept)}
            handle.finish(found.state, found.outcome, found.exit_code or 0, report)
        return residue

    def _wait_for_transfer(
        self, handle: JobHandle, record: MoveRecord, job: Job, stop: clock.Event
    ) -> TransferEnd | None:
        """Follow a transfer that libvirt carries on without us, until it is over."""
        source, _ = read_host(self._inventory.host(record.source), connections=self._connections)
        target = Host(self._inventory.host(record.target))
        steering = steering_of(record, self._limits.no_progress, read_back(job.asked), job.read_at - job.started_at)
        return self._passage_of(handle, record, (source, target), steering, stop).go_on(job)


def _is_unwanted(handle: JobHandle, stop: clock.Event) -> bool:
    """Whether the move is to be cancelled before its transfer has begun, by whoever runs it or through the journal."""
    if handle.cancel_asked():
        stop.set()
    return stop.is_set()
