"""Following a job that another process runs: read-only, from the journal and the source host's own figures."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.migration.progress import Trend, read_progress, told
from mudanza.model.errors import MigrationFailedError, MudanzaError, NeedsPersonError, VmDownError
from mudanza.model.migration import MigrationReport, Progress

if TYPE_CHECKING:
    from mudanza.cli.watching import View
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.jobs import Job, Jobs

LOOK_EVERY = 0.5
"""Seconds between two looks at the journal and the host."""

_VM_STATES = {
    MigrationFailedError.exit_code: "it is on {source} as before",
    VmDownError.exit_code: "it is down, its disks are whole",
}
"""What a job's exit code says of its VM: the journal keeps no more."""


def follow(jobs: Jobs, connections: Connections, job_id: int, view: View) -> Job:
    """Show how a job goes until it has ended or its controller is gone, and return it as it is then.

    Ends: a controller that does not renew its lease is gone. Raises UsageError when there is no such job.
    """
    trend = Trend()
    while True:
        job = jobs.get(job_id)
        if job.ended_at is not None or job.abandoned:
            view.on_end(job.vm_name)
            return job
        progress, trend = _look(connections, job, trend)
        view.on_progress(job.vm_name, f"{job.source} → {job.target}", progress)
        clock.sleep(LOOK_EVERY)


def _look(connections: Connections, job: Job, trend: Trend) -> tuple[Progress, Trend]:
    elapsed = job.read_at - job.started_at
    without_figures = Progress(job.state, elapsed)
    if job.state != "transferring":
        return without_figures, trend
    try:
        stats = connections.domains(job.source).job_stats(job.vm_uuid)
    except MudanzaError:
        return without_figures, trend  # the journal still tells
    if not stats.get("type"):
        return without_figures, trend
    progress = read_progress(stats, elapsed)
    trend = trend.after(progress)
    return told(progress, trend), trend


def report_of(job: Job) -> MigrationReport | None:
    """Return the report of a job that ended well; None where the journal has none that this version can read.

    Raises NeedsPersonError while nobody works on the job, and what its end means when it did not end well.
    """
    if job.ended_at is None:
        raise NeedsPersonError(
            f"job {job.id} is unfinished and nobody works on it: {job.state}",
            vm_state=f"nobody has asked {job.source} and {job.target} since",
            remedy=job.way_out,
        )
    if job.exit_code:
        raise ended_badly(job)
    known = {field.name for field in fields(MigrationReport)}
    try:
        return MigrationReport(**{name: value for name, value in job.report.items() if name in known})
    except TypeError:
        return None


def ended_badly(job: Job) -> MudanzaError:
    """Return what a job's end means, with the exit code that its own controller left with."""
    left = ", ".join(job.report.get("left", ()))
    state = _VM_STATES.get(job.exit_code or 0, "").format(source=job.source)
    error = MudanzaError(
        f"job {job.id} (VM {job.vm_name!r}, {job.source} → {job.target}) has ended, {job.state}: {job.outcome}",
        vm_state=state + (f"; left over: {left} (try again: mudanza job resume {job.id})" if left else ""),
        remedy=f"see what was done: mudanza job show {job.id}",
    )
    error.exit_code = job.exit_code or MudanzaError.exit_code
    return error
