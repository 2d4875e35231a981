"""``mudanza jobs`` and ``mudanza job …``: what was done, and finishing what a controller left behind."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza.cli.context import app_of
from mudanza.cli.migrate import asking_at_ctrl_c, print_report
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, print_rows, say
from mudanza.cli.watching import view_for
from mudanza.model.errors import NeedsPersonError
from mudanza.model.migration import Progress

if TYPE_CHECKING:
    from mudanza.journal.jobs import Job
    from mudanza.migration.live import LiveMigration

Id = Annotated[int, typer.Argument(metavar="ID", help="The job's number, see `mudanza jobs`.")]

job_app = typer.Typer(no_args_is_help=True, help="Look at a job, or finish what a dead controller left.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("jobs")(jobs)
    app.add_typer(job_app, name="job")


def jobs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    output: Output = Format.TABLE,
) -> None:
    """List the jobs, the newest first."""
    found = app_of(context).jobs.latest(limit)
    rows = [
        {
            "id": job.id,
            "vm": job.vm_name,
            "from": job.source,
            "to": job.target,
            "state": state_of(job),
            "began": _clock(job.started_at),
            "took": f"{job.ended_at - job.started_at:.1f} s" if job.ended_at else "",
            "outcome": job.outcome,
        }
        for job in found
    ]
    columns = ("id", "vm", "from", "to", "state", "began", "took", "outcome")
    print_rows(rows, output, columns=columns, data=found, empty="no job yet")


def state_of(job: Job) -> str:
    """Return a job's state in words; one whose controller is gone says so."""
    return f"{job.state}, abandoned" if job.abandoned else job.state


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@job_app.command("show")
def show(context: typer.Context, job_id: Id, output: Output = Format.TABLE) -> None:
    """Show a job with every step: what was intended, and how it went."""
    job = app_of(context).jobs.get(job_id)
    if output in (Format.JSON, Format.YAML):
        print_data(job, output)
        return
    sys.stdout.write(
        f"job {job.id}: {job.kind} migration of {job.vm_name} ({job.vm_uuid}) from {job.source} to {job.target}\n"
        f"  asked by {job.asked_by}, {_clock(job.started_at)}\n"
        f"  {state_of(job)}{': ' + job.outcome if job.outcome else ''}\n"
    )
    for step in job.steps:
        outcome = "no outcome was written" if step.outcome is None else _short(step.outcome)
        sys.stdout.write(f"  {step.n:>2} {_clock(step.at)}  {step.name}: {_short(step.intent)} → {outcome}\n")


def _short(fields: Any) -> str:
    """Write a step's fields on one line, long texts (definitions) left out."""
    words = (f"{key}={value}" for key, value in fields.items() if len(str(value)) <= 120 and value not in ("", None))
    return ", ".join(words) or "done"


@job_app.command("resume")
def resume(context: typer.Context, job_id: Id, output: Output = Format.TABLE) -> None:
    """Finish a job whose controller is gone: wait for its transfer, ask both hosts, clean up.

    Of a job that has ended, what it could not delete then is deleted now.
    """
    from mudanza.migration.live import Limits, LiveMigration

    app = app_of(context)
    job = app.jobs.get(job_id)
    limits = app.loaded.settings.limits
    stop = threading.Event()
    with app.connections() as connections, view_for(output) as view, asking_at_ctrl_c(stop, view):

        def on_progress(progress: Progress) -> None:
            view.on_progress(job.vm_name, f"{job.source} → {job.target}", progress)

        mover = LiveMigration(
            connections, app.inventory, app.jobs, Limits(limits.no_progress, limits.settle), on_progress
        )
        if job.ended_at is not None:
            _clean_up(mover, job)
            return
        report = mover.resume(job_id, stop)
    print_report(report, output)


def _clean_up(mover: LiveMigration, job: Job) -> None:
    residue = mover.clean_up(job.id)
    for where in residue.removed:
        say(f"removed {where}")
    for warning in residue.warnings:
        say(f"! {warning}")
    if residue.kept:
        raise typer.Exit(NeedsPersonError.exit_code)
    if not residue.removed:
        say(f"job {job.id} has ended and left nothing: {job.outcome}")
