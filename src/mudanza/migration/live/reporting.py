"""Saying how a migration ended: pure, from what was asked for and what was found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from mudanza.journal.job import Job
from mudanza.migration.asked import own_wishes
from mudanza.migration.forecast.keeping import forecast_on_record
from mudanza.migration.guest_clock import ClockReport
from mudanza.migration.hooks import Hooks, is_of_hook
from mudanza.migration.outside import Silences
from mudanza.migration.progress import read_compressed
from mudanza.migration.record import MoveRecord
from mudanza.migration.residue import Residue
from mudanza.migration.settle import Settlement, Verdict
from mudanza.migration.steering import is_wish
from mudanza.migration.transfer import TransferEnd
from mudanza.model.compression import Compressed
from mudanza.model.errors import MigrationFailedError, MudanzaError, VmDownError
from mudanza.model.migration import MigrationReport
from mudanza.model.units import format_duration

_PLAIN = re.compile(r"\w[\w.-]*")


def report_of(
    record: MoveRecord,
    residue: Residue,
    end: TransferEnd,
    figures: Mapping[str, int | str],
    disk_bytes: int,
    moving_time: float,
    heard: Silences | None = None,
) -> MigrationReport:
    """Return the report on a VM that moved.

    ``figures``: libvirt's own on the finished job, empty where there are none; the last sample seen then stands in.
    ``heard``: what a client outside heard of it; None: nobody listened.
    """
    last = end.last
    memory = int(figures.get("memory_processed", 0)) or last.memory_sent
    busy = int(figures.get("time_elapsed", 0)) / 1000 or last.elapsed
    downtime = figures.get("downtime")
    compressed = read_compressed(figures) or last.compressed
    return MigrationReport(
        vm=record.name,
        uuid=record.uuid,
        source=record.source,
        target=record.target,
        mode="live",
        postcopy_time=end.postcopy_time,
        moving_time=moving_time,
        total_time=moving_time + record.checking_time,
        downtime=int(downtime) / 1000 if downtime is not None else None,
        memory_bytes=memory,
        disk_bytes=disk_bytes,
        rate=(memory + disk_bytes) / busy if busy else 0.0,
        iterations=int(figures.get("memory_iteration", 0)) or last.iteration,
        streams=record.streams,
        compression=compressed.to_json(arrived=end.postcopy_time is None) if compressed else None,
        memory_rate=float(figures.get("memory_bps", 0)) or None,
        tls=record.tls,
        transport=(
            f"{record.source} → {record.target} directly, "
            f"{'QEMU over TLS' if record.tls else 'QEMU over TCP, not encrypted'}; orders over libvirt"
            + (f"; its memory by {record.streams} connections" if record.streams > 1 else "")
            + _compressed_in_words(compressed)
            + ("; its disks mirrored synchronously, for it writes much" if record.synchronous else "")
        ),
        removed=residue.removed,
        kept=residue.kept,
        undeleted=residue.undeleted,
        blackout=heard.longest if heard is not None else None,
        silent_time=heard.total if heard is not None else None,
        silences=heard.spells if heard is not None else 0,
        longest_stall=heard.stall if heard is not None else None,
        stalled_time=heard.stalled if heard is not None else None,
        warnings=record.warnings + residue.warnings + _darkness(record, heard),
    )


def _compressed_in_words(compressed: Compressed | None) -> str:
    if compressed is None or compressed.share is None:
        return ""
    return f"; pages that had changed again took {compressed.share:.0%} of their size (xbzrle)"


def what_is_left(residue: Residue, end: TransferEnd | None) -> dict[str, object]:
    """Return what the journal keeps of a move that did not come to its end: what it left, and what it has taught."""
    compressed = end.last.compressed if end is not None else None
    taught = {"compression": compressed.to_json(arrived=False)} if compressed and compressed.pages else {}
    return {"left": list(residue.kept), **taught}


def with_what_was_beside(report: MigrationReport, job: Job, hooks: Hooks, told: ClockReport) -> MigrationReport:
    """Return a report with what was asked and foreseen, and with what was done beside the move itself."""
    return replace(
        report,
        total_time=report.total_time + hooks.took,
        guest_clock=told.words,
        clock_drift=told.drift,
        clock_left=told.left,
        hooks=hooks.done(),
        hooks_time=hooks.took or None,
        forecast=forecast_on_record(job),
        own_wishes=own_wishes(job.asked),
    )


def _darkness(record: MoveRecord, heard: Silences | None) -> tuple[str, ...]:
    if heard is None or not heard.dark:
        return ()
    return (
        f"nobody has answered for {format_duration(heard.longest)}, though the VM runs on {record.target}: look at "
        f"its network there",
    )


def not_moved(record: MoveRecord, settled: Settlement, why: str, residue: Residue, job_id: int) -> MudanzaError:
    """Return the error about a VM that did not move. ``why``: what went wrong, as far as it is known."""
    left = f"; left over: {', '.join(residue.kept)} (try again: mudanza job resume {job_id})" if residue.kept else ""
    kind = VmDownError if settled.verdict is Verdict.DOWN else MigrationFailedError
    return kind(
        f"VM {record.name!r} was not moved from {record.source} to {record.target}: {why or settled.why}",
        vm_state=f"{settled.why} (source {record.source}, target {record.target}){left}",
        remedy=f"{_remedy(record, settled, why)}what was done: mudanza job show {job_id}",
    )


def ended_there(record: MoveRecord, settled: Settlement, residue: Residue, job_id: int) -> VmDownError:
    """Return the error about a VM that moved, and does not run any more where it is now."""
    kept = f"; kept at {record.source}: {', '.join(residue.kept)}" if residue.kept else ""
    return VmDownError(
        f"VM {record.name!r} moved from {record.source} to {record.target} and ended there",
        vm_state="; ".join((f"{settled.why}; it was not started again{kept}", *residue.warnings)),
        remedy=f"why it ended: /var/log/libvirt/qemu/{record.name}.log on {record.target}; start it there: "
        f"mudanza start {record.name if _PLAIN.fullmatch(record.name) else record.uuid}; "
        f"what was done: mudanza job show {job_id}",
    )


def _remedy(record: MoveRecord, settled: Settlement, why: str) -> str:
    if settled.verdict is Verdict.DOWN:
        vm = record.name if _PLAIN.fullmatch(record.name) else record.uuid
        log = f"/var/log/libvirt/qemu/{record.name}.log"
        return f"start it on {record.source}, where it lies: mudanza start {vm}; why it ended: {log} there; "
    if is_wish(why) or is_of_hook(why):
        return ""  # nothing stands in the way
    return f"see what stands in the way: mudanza check {record.uuid} --to {record.target}; "
