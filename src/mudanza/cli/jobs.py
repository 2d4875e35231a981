"""``mudanza jobs`` and ``mudanza job …``: what is done and was, cancelling it, and finishing what was left behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import errors_as_events
from mudanza.cli.exit_codes import of_several
from mudanza.cli.finishers import finisher_of
from mudanza.cli.migrate import print_report
from mudanza.cli.moving import Carrying, asking_at_ctrl_c
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, print_rows, say
from mudanza.cli.watching import emit, view_for
from mudanza.cli.work import Errand
from mudanza.journal.job import CLOSED
from mudanza.model.errors import BlockedError, NeedsPersonError, UsageError
from mudanza.model.migration import MigrationReport
from mudanza.model.units import format_duration, parse_duration
from mudanza.operations.checking import arrivals_of
from mudanza.operations.jobs import goes_on, refuse_living, volumes_made

if TYPE_CHECKING:
    from mudanza.journal.jobs import Event, Job, Step
    from mudanza.remote.there import There

Id = Annotated[int, typer.Argument(metavar="ID", help="The job's number, see `mudanza jobs`.")]

job_app = typer.Typer(no_args_is_help=True, help="Look at a job, cancel it, or finish what a dead controller left.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    from mudanza.cli.cancelling import cancel
    from mudanza.cli.tuning import tune

    app.command("jobs")(jobs)
    job_app.command("cancel")(cancel)
    job_app.command("tune")(tune)
    app.add_typer(job_app, name="job")


def jobs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    vm: Annotated[str | None, typer.Option("--vm", metavar="VM", help="Only those of this VM (name or UUID).")] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE", help="Only those in this state; also: unfinished, abandoned."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only those that began within it, such as 7d.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """List the jobs, the newest first."""
    from mudanza.journal.jobs import Filter

    wanted = Filter(vm, state, parse_duration(since) if since else None)
    brief = output not in (Format.JSON, Format.YAML)
    found = app_of(context).asked.jobs(limit, wanted, brief=brief)
    rows = [
        {
            "id": job.id,
            "vm": job.vm_name,
            "from": job.source,
            "to": job.target or "the best",
            "state": state_of(job),
            "began": _clock(job.started_at),
            "took": f"{job.ended_at - job.started_at:.1f} s" if job.ended_at else "",
            "outcome": job.outcome,
        }
        for job in found
    ]
    columns = ("id", "vm", "from", "to", "state", "began", "took", "outcome")
    print_rows(rows, output, columns=columns, data=found, empty="no such job" if wanted != Filter() else "no job yet")


def state_of(job: Job) -> str:
    """Return a job's state in words: whether its controller is gone, and whether somebody wants it cancelled."""
    from mudanza.journal.jobs import NEEDS_PERSON, QUEUED

    if job.ended_at is not None or job.state == NEEDS_PERSON:
        return job.state
    words = [QUEUED if job.is_queued else job.state]
    if job.abandoned and not job.is_queued:
        words.append("abandoned")
    if job.cancel_asked_by:
        words.append("to be cancelled")
    return ", ".join(words)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@job_app.command("show")
def show(context: typer.Context, job_id: Id, output: Output = Format.TABLE) -> None:
    """Show a job with every step: what was intended, and how it went."""
    job = app_of(context).asked.job(job_id)
    if output in (Format.JSON, Format.YAML):
        print_data(job, output)
        return
    sys.stdout.write("\n".join(_story(job)) + "\n")


def _story(job: Job) -> Iterator[str]:
    """Tell a job from its beginning to its end: who asked for what, every step and every change of its state."""
    to = job.target or "the best host"
    if job.kind == "cpu":
        yield f"job {job.id}: another CPU for {job.vm_name} ({job.vm_uuid}) in its definition on {job.source}"
    elif not job.source:
        yield f"job {job.id}: {job.kind} of {job.vm_name} ({job.vm_uuid}) at {to}"
    else:
        yield f"job {job.id}: {job.kind} migration of {job.vm_name} ({job.vm_uuid}) from {job.source} to {to}"
    yield f"  asked by {job.asked_by}, {_clock(job.queued_at or job.started_at)}: {_short(job.asked)}"
    if job.plan is not None:
        yield f"  part of plan {job.plan}"
    yield f"  {state_of(job)}{': ' + job.outcome if job.outcome else ''}"
    if job.cancel_asked_by and job.cancel_asked_at:
        yield f"  {job.cancel_asked_by} asked to cancel it, {_clock(job.cancel_asked_at)}"
    told = [(step.at, _step_line(step)) for step in job.steps]
    told += [(event.at, _event_line(event)) for event in job.events]
    for at, line in sorted(told, key=itemgetter(0)):
        yield f"  {_clock(at)}  {line}"
    if job.report:
        yield f"  report: {_short(job.report)}"


def _step_line(step: Step) -> str:
    outcome = "no outcome was written" if step.outcome is None else _short(step.outcome)
    took = f" ({format_duration(step.ended_at - step.at)})" if step.ended_at else ""
    return f"{step.n:>2} {step.name}: {_short(step.intent)} → {outcome}{took}"


def _event_line(event: Event) -> str:
    by = f", by {event.owner}" if event.owner else ""
    return f"   {event.state}{': ' + event.detail if event.detail else ''} (epoch {event.epoch}{by})"


def _short(fields: Any) -> str:
    """Write a step's fields on one line, long texts (definitions) left out."""
    words = (f"{key}={value}" for key, value in fields.items() if len(str(value)) <= 120 and value not in ("", None))
    return ", ".join(words) or "done"


@job_app.command("resume")
@audited
def resume(context: typer.Context, job_id: Id, output: Output = Format.TABLE) -> None:
    """Finish a job whose controller is gone: wait for its transfer, ask both hosts, clean up.

    A cold move that failed goes on where it stopped. Of any other job that has ended, what it could not delete then is
    deleted now.
    """
    app = app_of(context)
    job = app.asked.job(job_id)
    with errors_as_events(output, vm=job.vm_name):
        if not goes_on(job):
            clean_up(app, job, output)
        elif app.there is not None:
            _finish_there(app.there, job, output)
        elif job.is_queued:
            _do_queued(app, job, output)
        else:
            print_report(finish(app, job, output, clock.new_event()), output)


def _finish_there(there: There, job: Job, output: Format) -> None:
    from mudanza.cli.following import MovesThere

    there.resume_job(job.id)
    report = MovesThere(there, output).finish(job)
    if report is not None:
        print_report(report, output)


def _do_queued(app: App, job: Job, output: Format) -> None:
    """Do one job of the queue now, as `mudanza work` would."""
    stop = clock.new_event()
    with view_for(output) as view, asking_at_ctrl_c(stop, view):
        errand = Errand(app, arrivals_of(app), view, output, stop)
        errand.carry_out(job)
    raise typer.Exit(of_several(errand.codes))


def finish(app: App, job: Job, output: Format, stop: clock.Event) -> MigrationReport:
    """Take an abandoned job over and finish it, while one can watch and cancel."""
    with app.connections() as connections, view_for(output) as view, asking_at_ctrl_c(stop, view):
        try:
            return Carrying(app, connections, view, output, stop).finish(job)
        finally:
            view.on_end(job.vm_name)


def clean_up(app: App, job: Job, output: Format) -> None:
    """Delete what an ended job has left. Raises NeedsPersonError where some of it stays."""
    if app.there is not None:
        residue = app.there.clean_up(job.id)
    else:
        with app.connections() as connections:
            residue = finisher_of(app, connections, job.kind, lambda _: None).clean_up(job.id)
    if output is Format.JSON:
        emit("cleanup", vm=job.vm_name, removed=residue.removed, kept=residue.kept, warnings=residue.warnings)
    for where in residue.removed:
        say(f"removed {where}")
    for warning in residue.warnings:
        say(f"! {warning}")
    if residue.kept:
        raise NeedsPersonError(
            f"job {job.id} has ended and left something: {', '.join(residue.kept)}",
            remedy=f"see why above, and try again: mudanza job resume {job.id}",
        )
    if not residue.removed:
        left = f"what it made at {job.target} stays" if job.state == CLOSED else "it left nothing"
        say(f"job {job.id} has ended, {left}: {job.outcome}")


@job_app.command("watch")
def watch(context: typer.Context, job_id: Id, output: Output = Format.TABLE) -> None:
    """Show how a job goes that another process runs, until it has ended; leave with its exit code.

    Nothing is touched; Ctrl-C ends the watching, not the job.
    """
    from mudanza.cli.job_watch import TAKEN, follow, report_of

    app = app_of(context)
    job = app.asked.job(job_id)
    with errors_as_events(output, vm=job.vm_name):
        try:
            with app.asked.looking(job_id) as look, view_for(output) as view:
                follow(look, job.vm_name, view, TAKEN if app.server is not None else 0.0)
        except KeyboardInterrupt:
            say(f"job {job_id} goes on; look again: mudanza job watch {job_id}")
            raise
        job = app.asked.job(job_id)
        report = report_of(job)
        if report is None:
            say(f"job {job_id} has ended: {job.outcome}")
        else:
            print_report(report, output)


@job_app.command("close")
@audited
def close(
    context: typer.Context,
    job_id: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Close a job that needs a person, once somebody has looked. Nothing is touched but the job's claim on the VM.

    Prefer `job resume`, which asks both hosts; this is for a VM that you have put right yourself.
    """
    asked = app_of(context).asked
    job = asked.job(job_id)
    refuse_living(job)
    if job.ended_at is None:
        for line in _what_closing_means(job):
            say(line)
        if not yes:
            _ask_whether_to_close(job)
    say(asked.close_job(job_id, say))


def _what_closing_means(job: Job) -> Iterator[str]:
    yield f"job {job.id}: {job.vm_name} ({job.vm_uuid}) from {job.source} to {job.target}, {state_of(job)}"
    if volumes := volumes_made(job):
        yield f"  volumes it made at {job.target}, which stay there: {', '.join(volumes)}"
    if _autostart_is_off(job):
        yield f"  autostart, which it switched off at {job.source}, stays off; where the VM is to start by itself:"
        yield f"    virsh autostart {job.vm_uuid}"
    yield "  Nothing is touched but its claim on the VM, and other jobs may work on the VM from then on."


def _autostart_is_off(job: Job) -> bool:
    """Whether the job switched autostart off at the source, as far as the journal tells, and on again nowhere since."""
    off = False
    for step in job.steps:
        failed = bool((step.outcome or {}).get("error"))
        if step.name == "disarm" and not failed:
            off = True
        elif step.name in ("rearm", "autostart") and step.outcome is not None and not failed:
            off = False
    return off


def _ask_whether_to_close(job: Job) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            "closing a job asks first, and nobody can answer here",
            remedy=f"if you have looked at both hosts: mudanza job close {job.id} --yes",
        )
    if not typer.confirm(f"Have you looked, and does {job.vm_name} run in one place at the most?", err=True):
        say("not closed; nothing was changed")
        raise typer.Exit(BlockedError.exit_code)
