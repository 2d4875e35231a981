"""Live migration: from two hosts that agreed to one VM that moved, every step journalled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

from mudanza.hypervisor.connections import Connections
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import LEASE, Job, JobHandle, Jobs, LeaseLostError, NewJob
from mudanza.migration.closing import Closing, Residue
from mudanza.migration.destination import volume_xml
from mudanza.migration.order import assert_unchanged, order_of
from mudanza.migration.prepare import Prepared
from mudanza.migration.record import CopiedDisk, MoveRecord
from mudanza.migration.settle import Settlement, Verdict
from mudanza.migration.transfer import Order, Steering, Transfer, TransferEnd
from mudanza.model.errors import (
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
    VmDownError,
)
from mudanza.model.migration import Answer, MigrationReport, Probe, Progress
from mudanza.model.vm import Vm, VmState
from mudanza.preflight.mapping import DiskPlan

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long what may take, in seconds."""

    no_progress: float = 600.0
    settle: float = 90.0


class LiveMigration:
    """Moves running VMs."""

    def __init__(
        self,
        connections: Connections,
        inventory: Inventory,
        jobs: Jobs,
        limits: Limits,
        on_progress: OnProgress,
    ) -> None:
        self._connections = connections
        self._inventory = inventory
        self._jobs = jobs
        self._limits = limits
        self._on_progress = on_progress

    def migrate(self, prepared: Prepared, asked_by: str, stop: threading.Event) -> MigrationReport:
        """Move one VM that was judged fit to go.

        Setting ``stop`` cancels it. Raises MigrationFailedError (it is at the source as before), VmDownError,
        NeedsPersonError; BlockedError when it has an unfinished job or is no longer what was judged.
        """
        record = self._record(prepared)
        order = order_of(prepared, record)
        handle = self._jobs.begin(
            NewJob(
                "live",
                record.uuid,
                record.name,
                record.source,
                record.target,
                _asked(prepared),
                asked_by,
            )
        )
        begun = time.monotonic()
        handle.done(handle.intend("decide", record.to_json()), {"tls": record.tls})
        end: TransferEnd | None = None
        problem: MudanzaError | None = None
        try:
            self._create_volumes(handle, prepared, record)
            if not stop.is_set():
                end = self._transfer(handle, order, self._steered(prepared, record, stop))
        except NeedsPersonError as error:
            raise _left_open(handle, error) from None
        except LeaseLostError:
            raise
        except MudanzaError as error:
            problem = error
        problem = problem or (end.error if end else None)
        self._unlearn_tls(record, problem)
        why = self._why(end, problem, stop)
        return self.close(handle, record, why, end, begun)

    def _record(self, prepared: Prepared) -> MoveRecord:
        vm = prepared.vm
        domains = self._connections.domains(vm.host)
        xml = domains.describe(vm.uuid, migratable=True)
        assert_unchanged(vm, domains.sighting(vm.uuid), xml)
        return MoveRecord(
            uuid=vm.uuid,
            name=vm.name,
            source=vm.host,
            target=prepared.chosen.target.name,
            was_paused=vm.state is VmState.PAUSED,
            persistent=vm.persistent,
            autostart=vm.autostart,
            keep_source=prepared.options.keep_source,
            tls=prepared.tls,
            xml=xml,
            inactive_xml=domains.describe(vm.uuid, inactive=True, migratable=True) if vm.persistent else None,
            disks=tuple(_copied(vm, plan, prepared) for plan in prepared.chosen.resolution.copies),
            warnings=tuple(finding.message for finding in prepared.chosen.findings),
        )

    def _create_volumes(self, handle: JobHandle, prepared: Prepared, record: MoveRecord) -> None:
        target = self._connections.volumes(record.target)
        for plan in prepared.chosen.resolution.copies:
            disk = next(disk for disk in record.disks if disk.target == plan.target)
            origin = None
            if disk.source_pool and disk.source_volume:
                origin = self._connections.volumes(record.source).describe(disk.source_pool, disk.source_volume)
            step = handle.intend(
                "create volume",
                {"pool": plan.pool, "volume": plan.volume, "path": plan.path, "size": plan.size},
            )
            try:
                made = target.create(plan.pool, volume_xml(plan, origin))
            except HypervisorError as error:
                # libvirt makes a volume whole or not at all, and says no before it touches one that exists.
                handle.done(step, {"error": str(error)})
                raise
            handle.done(step, {"made": made})

    def _steered(self, prepared: Prepared, record: MoveRecord, stop: threading.Event) -> Transfer:
        options = prepared.options
        steering = Steering(options.max_downtime, options.deadline, self._limits.no_progress)
        return Transfer(self._connections.domains(record.source), record.uuid, steering, stop)

    def _transfer(self, handle: JobHandle, order: Order, transfer: Transfer) -> TransferEnd:
        step = handle.intend("transfer", {"flags": list(order.flags), "peer": order.peer_uri})
        handle.enter("transferring")
        end = transfer.run(order, self._on_progress, _renewing(handle))
        if isinstance(end.error, HostUnreachableError):
            # Only our way to the source broke, it seems: libvirt carries the transfer on without us.
            end = replace(transfer.follow(self._on_progress, _renewing(handle)), error=end.error)
        handle.done(step, {"error": str(end.error or ""), "stopped": end.stopped_because})
        return end

    def _unlearn_tls(self, record: MoveRecord, error: MudanzaError | None) -> None:
        """Forget that TLS works between two hosts when it has just failed, so that it is tried anew next time."""
        words = str(error or "").lower()
        if record.tls and ("tls" in words or "certificate" in words):
            self._inventory.learn_tls(record.source, record.target, Probe(Answer.UNKNOWN, str(error)))

    @staticmethod
    def _why(end: TransferEnd | None, error: MudanzaError | None, stop: threading.Event) -> str:
        if end is not None and end.stopped_because:
            return end.stopped_because
        if error is not None:
            return str(error)
        return "cancelled on request" if end is None and stop.is_set() else ""

    def close(
        self, handle: JobHandle, record: MoveRecord, why: str, end: TransferEnd | None, begun: float
    ) -> MigrationReport:
        """Settle, clean up, close the job and report. ``why``: what went wrong as far as we were told."""
        closing = Closing(self._connections, self._inventory, handle, record)
        try:
            settled = closing.settle(self._limits.settle, _renewing(handle))
        except NeedsPersonError as error:
            error.remedy = f"{error.remedy} (what libvirt said: {why})" if why else error.remedy
            raise _left_open(handle, error) from None
        handle.enter("cleaning up")
        if settled.verdict is Verdict.MOVED:
            return self._close_moved(handle, record, closing, settled, end, begun)
        residue = closing.undo_at_target(self._jobs.get(handle.id))
        raise self._closed_unmoved(handle, record, settled, why, residue)

    def _close_moved(
        self,
        handle: JobHandle,
        record: MoveRecord,
        closing: Closing,
        settled: Settlement,
        end: TransferEnd | None,
        begun: float,
    ) -> MigrationReport:
        residue = closing.finish_at_target(settled)
        report = self._report(record, residue, end, time.monotonic() - begun)
        sentence = f"moved from {record.source} to {record.target}"
        handle.finish("done", sentence, 0, asdict(report))
        return report

    @staticmethod
    def _closed_unmoved(
        handle: JobHandle, record: MoveRecord, settled: Settlement, why: str, residue: Residue
    ) -> MudanzaError:
        left = (
            f"; left over: {', '.join(residue.kept)} (try again: mudanza job resume {handle.id})"
            if residue.kept
            else ""
        )
        kind = VmDownError if settled.verdict is Verdict.DOWN else MigrationFailedError
        error = kind(
            f"VM {record.name!r} was not moved from {record.source} to {record.target}: {why or settled.why}",
            vm_state=f"{settled.why} ({record.source}){left}",
            remedy="see what stands in the way: "
            f"mudanza check {record.uuid} --to {record.target}; what was done: mudanza job show {handle.id}",
        )
        state = "down" if settled.verdict is Verdict.DOWN else "failed"
        handle.finish(state, why or settled.why, kind.exit_code, {"left": list(residue.kept)})
        return error

    def _report(
        self, record: MoveRecord, residue: Residue, end: TransferEnd | None, total_time: float
    ) -> MigrationReport:
        figures = self._completed(record)
        last = end.last if end else Progress("", 0.0)
        memory = int(figures.get("memory_processed", 0)) or last.memory_sent
        disk = self._disk_bytes(record)
        busy = int(figures.get("time_elapsed", 0)) / 1000 or last.elapsed
        downtime = figures.get("downtime")
        return MigrationReport(
            vm=record.name,
            uuid=record.uuid,
            source=record.source,
            target=record.target,
            mode="live",
            total_time=total_time,
            downtime=int(downtime) / 1000 if downtime is not None else None,
            memory_bytes=memory,
            disk_bytes=disk,
            rate=(memory + disk) / busy if busy else 0.0,
            iterations=int(figures.get("memory_iteration", 0)) or last.iteration,
            tls=record.tls,
            transport=(
                f"{record.source} → {record.target} directly, "
                f"{'QEMU over TLS' if record.tls else 'QEMU over TCP, not encrypted'}; orders over libvirt"
            ),
            removed=residue.removed,
            kept=residue.kept,
            warnings=record.warnings + residue.warnings,
        )

    def _disk_bytes(self, record: MoveRecord) -> int:
        """Return what the copied disks hold at the target: libvirt's own figure counts holes and forgets itself."""
        volumes = self._connections.volumes(record.target)
        try:
            return sum(volumes.read(disk.pool, disk.volume).allocation or 0 for disk in record.disks)
        except (HypervisorError, HostUnreachableError):
            return 0

    def _completed(self, record: MoveRecord) -> Mapping[str, int | str]:
        try:
            return self._connections.domains(record.target).completed_job_stats(record.uuid)
        except (HypervisorError, HostUnreachableError):
            return {}  # the last sample seen on the way stands in

    def resume(self, job_id: int, stop: threading.Event) -> MigrationReport:
        """Finish a job that its controller left behind: wait for its transfer, then settle and clean up.

        Setting ``stop`` cancels a transfer under way. Raises what ``migrate`` raises; UsageError when it has ended.
        """
        found = self._jobs.get(job_id)
        handle = self._jobs.take_over(job_id)
        decided = found.steps_named("decide")
        if not decided:  # it died before anything was done
            handle.finish("failed", "its controller died before anything was done", MigrationFailedError.exit_code)
            raise MigrationFailedError(f"job {job_id} had done nothing yet", vm_state="the VM was not touched")
        record = MoveRecord.from_json(decided[0].intent)
        begun = time.monotonic()
        try:
            end = self._wait_for_transfer(handle, record, found, stop)
        except NeedsPersonError as error:
            raise _left_open(handle, error) from None
        why = (end.stopped_because if end else "") or _interrupted(found)
        return self.close(handle, record, why, end, begun)

    def clean_up(self, job_id: int) -> Residue:
        """Try once more to delete what an ended job, whose VM did not move, had to leave at the target."""
        found = self._jobs.get(job_id)
        if not found.report.get("left"):
            return Residue()
        record = MoveRecord.from_json(found.steps_named("decide")[0].intent)
        handle = self._jobs.reopen(job_id)
        residue = Residue(kept=tuple(found.report["left"]))
        try:
            closing = Closing(self._connections, self._inventory, handle, record)
            residue = closing.undo_at_target(found)
        finally:
            handle.finish(found.state, found.outcome, found.exit_code or 0, {"left": list(residue.kept)})
        return residue

    def _wait_for_transfer(
        self, handle: JobHandle, record: MoveRecord, job: Job, stop: threading.Event
    ) -> TransferEnd | None:
        """Follow a transfer that libvirt carries on without us, until it is over."""
        try:
            domains = self._connections.domains(record.source)
        except HostUnreachableError:
            return None  # settling asks again, and says what follows from it
        # Its deadline ran by the clock of a controller that is gone.
        steering = Steering(float(job.asked["max_downtime"]), None, self._limits.no_progress)
        return Transfer(domains, record.uuid, steering, stop).follow(self._on_progress, _renewing(handle))


def _left_open(handle: JobHandle, error: NeedsPersonError) -> NeedsPersonError:
    """Leave a job to a person: it owns the VM until somebody has looked, and `job resume` goes on from here."""
    handle.let_go("needs a person")
    error.remedy = error.remedy or "look at both hosts"
    if "job resume" not in error.remedy:
        error.remedy += f"; then: mudanza job resume {handle.id}"
    return error


def _interrupted(job: Job) -> str:
    transfers = job.steps_named("transfer")
    if transfers and transfers[-1].outcome:
        return str(transfers[-1].outcome.get("stopped") or transfers[-1].outcome.get("error") or "")
    return "its controller was interrupted"


def _renewing(handle: JobHandle) -> Callable[[], None]:
    """Return a function that keeps the claim on a job when a third of the lease is over."""
    next_at = time.monotonic() + LEASE / 3

    def renew() -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            handle.renew()
            next_at = time.monotonic() + LEASE / 3

    return renew


def _copied(vm: Vm, plan: DiskPlan, prepared: Prepared) -> CopiedDisk:
    disk = next(disk for disk in vm.disks if disk.target == plan.target)
    shared = prepared.chosen.facts.shared.get(plan.target, Probe())
    pooled = disk.pool is not None and disk.volume is not None
    return CopiedDisk(
        target=plan.target,
        source_path=disk.source or "",
        source_pool=disk.pool,
        source_volume=disk.volume,
        pool=plan.pool,
        volume=plan.volume,
        path=plan.path,
        size=plan.size,
        removable=pooled and disk.device == "disk" and not disk.readonly and not disk.shareable,
        seen_by_both=shared.answer is not Answer.NO,
    )


def _asked(prepared: Prepared) -> dict[str, object]:
    """Return what was asked for, as the journal stores it."""
    options = prepared.options
    return {
        "max_downtime": options.max_downtime,
        "bandwidth": options.bandwidth,
        "deadline": options.deadline,
        "map_storage": dict(options.map_storage),
        "map_network": dict(options.map_network),
        "keep_source": options.keep_source,
        "tls": options.tls.value,
    }
