"""Saying how a migration ended: pure, from what was asked for and what was found."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mudanza.migration.closing import Residue
from mudanza.migration.record import MoveRecord
from mudanza.migration.settle import Settlement, Verdict
from mudanza.migration.steering import is_wish
from mudanza.model.errors import MigrationFailedError, MudanzaError, VmDownError
from mudanza.model.migration import MigrationReport, Progress

_PLAIN = re.compile(r"\w[\w.-]*")


def report_of(
    record: MoveRecord,
    residue: Residue,
    last: Progress,
    figures: Mapping[str, int | str],
    disk_bytes: int,
    moving_time: float,
) -> MigrationReport:
    """Return the report on a VM that moved.

    ``figures``: libvirt's own on the finished job, empty where there are none; the ``last`` sample then stands in.
    """
    memory = int(figures.get("memory_processed", 0)) or last.memory_sent
    busy = int(figures.get("time_elapsed", 0)) / 1000 or last.elapsed
    downtime = figures.get("downtime")
    return MigrationReport(
        vm=record.name,
        uuid=record.uuid,
        source=record.source,
        target=record.target,
        mode="live",
        moving_time=moving_time,
        total_time=moving_time + record.checking_time,
        downtime=int(downtime) / 1000 if downtime is not None else None,
        memory_bytes=memory,
        disk_bytes=disk_bytes,
        rate=(memory + disk_bytes) / busy if busy else 0.0,
        iterations=int(figures.get("memory_iteration", 0)) or last.iteration,
        tls=record.tls,
        transport=(
            f"{record.source} → {record.target} directly, "
            f"{'QEMU over TLS' if record.tls else 'QEMU over TCP, not encrypted'}; orders over libvirt"
            + ("; its disks mirrored synchronously, for it writes much" if record.synchronous else "")
        ),
        removed=residue.removed,
        kept=residue.kept,
        undeleted=residue.undeleted,
        warnings=record.warnings + residue.warnings,
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
    if is_wish(why):
        return ""  # nothing stands in the way
    return f"see what stands in the way: mudanza check {record.uuid} --to {record.target}; "
