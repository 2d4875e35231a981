"""``mudanza jobs`` and ``mudanza job …``: what is done and was, cancelling it, and finishing what was left behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import errors_as_events
from mudanza.cli.exit_codes import of_several
from mudanza.cli.migrate import print_report
from mudanza.cli.moving import Carrying, arrivals_of, asking_at_ctrl_c, mover_of
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, print_rows, say
from mudanza.cli.watching import emit, view_for
from mudanza.cli.work import Errand
from mudanza.model.errors import BlockedError, MigrationFailedError, MudanzaError, NeedsPersonError, UsageError
from mudanza.model.migration import MigrationReport
from mudanza.model.units import format_duration, parse_duration

if TYPE_CHECKING:
    from mudanza.journal.jobs import Event, Job, JobHandle, Step

CANCEL_LIMIT = 300.0
"""Seconds a living controller may take to cancel: libvirt may heed late, and then both hosts have to agree."""
CLOSED = "closed"
"""The state of a job that a person ended without anything being done."""
LOOK_AGAIN = 0.3
"""Seconds between two looks whether a job has ended."""

Id = Annotated[int, typer.Argument(metavar="ID", help="The job's number, see `mudanza jobs`.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the job has ended.")]

job_app = typer.Typer(no_args_is_help=True, help="Look at a job, cancel it, or finish what a dead controller left.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("jobs")(jobs)
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
    found = app_of(context).jobs.latest(limit, wanted)
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
    job = app_of(context).jobs.get(job_id)
    if output in (Format.JSON, Format.YAML):
        print_data(job, output)
        return
    sys.stdout.write("\n".join(_story(job)) + "\n")


def _story(job: Job) -> Iterator[str]:
    """Tell a job from its beginning to its end: who asked for what, every step and every change of its state."""
    to = job.target or "the best host"
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
    job = app.jobs.get(job_id)
    with errors_as_events(output, vm=job.vm_name):
        if job.is_queued:
            _do_queued(app, job, output)
        elif job.ended_at is None or (job.kind == "cold" and job.report.get("left")):
            print_report(finish(app, job, output, clock.new_event()), output)
        else:
            _clean_up(app, job, output)


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


def _clean_up(app: App, job: Job, output: Format) -> None:
    with app.connections() as connections:
        residue = mover_of(app, connections, job.kind, lambda _: None).clean_up(job.id)
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
    from mudanza.cli.job_watch import follow, report_of

    app = app_of(context)
    job = app.jobs.get(job_id)
    with errors_as_events(output, vm=job.vm_name):
        try:
            with app.connections() as connections, view_for(output) as view:
                job = follow(app.jobs, connections, job_id, view)
        except KeyboardInterrupt:
            say(f"job {job_id} goes on; look again: mudanza job watch {job_id}")
            raise
        report = report_of(job)
        if report is None:
            say(f"job {job_id} has ended: {job.outcome}")
        else:
            print_report(report, output)


@job_app.command("cancel")
@audited
def cancel(context: typer.Context, job_id: Id, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Cancel a job that another process runs: the VM stays where it is.

    Whoever runs it is asked, and waited for. If nobody does any more, it is cancelled here. Exit codes: 0 it is
    cancelled, 3 it came too late, else how the job ended.
    """
    app = app_of(context)
    job = app.jobs.get(job_id)
    with errors_as_events(output, vm=job.vm_name):
        if job.is_queued:
            job = _cancel_queued(app, job)
        if job.ended_at is None:
            app.jobs.ask_to_cancel(job_id, app.asked_by())
            by = "its controller is gone, so it is done here" if job.abandoned else f"its controller is {job.owner}"
            say(f"job {job_id} ({job.vm_name}, {job.source} → {job.target}) is to be cancelled; {by}")
            if not wait and not job.abandoned:
                return
            job = _await_cancelled(app, job_id, output)
        elif job.report.get("left"):
            _clean_up(app, job, output)
            job = app.jobs.get(job_id)  # what was left over is gone
        _tell_cancelled(job, output)


def _cancel_queued(app: App, job: Job) -> Job:
    """End a job that has not begun; return it as it is now, which is begun if a controller was quicker."""
    who = app.asked_by()
    app.jobs.ask_to_cancel(job.id, who)
    if (handle := app.jobs.claim([job.id])) is not None:
        handle.finish("failed", f"cancelled on request of {who} before it began", MigrationFailedError.exit_code)
    return app.jobs.get(job.id)


def _await_cancelled(app: App, job_id: int, output: Format) -> Job:
    """Return the job once it has ended; where its controller is gone, end it here."""
    until = clock.monotonic() + CANCEL_LIMIT
    try:
        while (job := app.jobs.get(job_id)).ended_at is None:
            if job.abandoned:
                stop = clock.new_event()
                stop.set()
                with suppress(MigrationFailedError):  # which is what was asked for; the journal has it
                    finish(app, job, output, stop)
            elif clock.monotonic() > until:
                raise MudanzaError(
                    f"job {job_id} has not ended within {format_duration(CANCEL_LIMIT)}: {job.state}",
                    vm_state=f"whoever works on it ({job.owner}) still does",
                    remedy=f"the request stands; see how it goes: mudanza job watch {job_id}",
                )
            else:
                clock.sleep(LOOK_AGAIN)
    except KeyboardInterrupt:
        say(f"not waited for any longer; the request stands: mudanza job watch {job_id}")
        raise
    return job


def _tell_cancelled(job: Job, output: Format) -> None:
    """Say how a job ended that was to be cancelled. Raises an error unless the VM is as before."""
    from mudanza.cli.job_watch import ended_badly

    if not job.exit_code:
        raise BlockedError(
            f"job {job.id} was not cancelled, it has ended: {job.outcome}",
            remedy=f"move it back: mudanza migrate {job.vm_uuid} --to {job.source}",
        )
    end = ended_badly(job)
    if end.exit_code != MigrationFailedError.exit_code:
        raise end
    if output is Format.JSON:
        emit("cancelled", vm=job.vm_name, job=job.id, message=str(end), vm_state=end.vm_state)
    say(f"{end}\n  the VM: {end.vm_state}")


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
    app = app_of(context)
    job = app.jobs.get(job_id)
    if job.ended_at is not None:
        say(f"job {job_id} has ended already: {job.outcome}: nothing to do")
        return
    if not job.abandoned:
        raise BlockedError(f"job {job_id} belongs to a controller that lives: {job.owner}", remedy=job.way_out)
    for line in _what_closing_means(job):
        say(line)
    if not yes:
        _ask_whether_to_close(job)
    who = app.asked_by()
    handle = app.jobs.take_over(job_id)
    handle.done(handle.intend("close", {"by": who}), {"touched": "nothing"})
    _take_claim_off(app, handle)
    sentence = f"closed by {who}, who has looked; nothing was touched"
    stays = {"stays": [f"{job.target}:{path}" for path in _volumes_made(job)]}
    handle.finish(CLOSED, sentence, NeedsPersonError.exit_code, {**job.report, **stays})
    say(f"job {job_id} is {sentence}")


def _take_claim_off(app: App, handle: JobHandle) -> None:
    """Have other controllers see that the job has ended, as far as its hosts answer."""
    from mudanza.migration.vm_claim import VmClaim

    try:
        with app.connections() as connections:
            for warning in VmClaim(connections, app.jobs, handle, {}).release():
                say(f"! {warning}")
    except UsageError as error:
        say(f"! whether the VM still carries the job's claim was not looked at: {error}")


def _what_closing_means(job: Job) -> Iterator[str]:
    yield f"job {job.id}: {job.vm_name} ({job.vm_uuid}) from {job.source} to {job.target}, {state_of(job)}"
    if volumes := _volumes_made(job):
        yield f"  volumes it made at {job.target}, which stay there: {', '.join(volumes)}"
    yield "  Nothing is touched but its claim on the VM, and other jobs may work on the VM from then on."


def _volumes_made(job: Job) -> list[str]:
    """Return the paths of what the journal says the job made, or began to make, and has not deleted."""
    gone = [step.intent["volume"] for step in job.steps_named("delete volume") if (step.outcome or {}).get("done")]
    made = [step for step in job.steps_named("create volume") if not (step.outcome or {}).get("error")]
    return [str(step.intent["path"]) for step in made if step.intent["volume"] not in gone]


def _ask_whether_to_close(job: Job) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            "closing a job asks first, and nobody can answer here",
            remedy=f"if you have looked at both hosts: mudanza job close {job.id} --yes",
        )
    if not typer.confirm(f"Have you looked, and does {job.vm_name} run in one place at the most?", err=True):
        say("not closed; nothing was changed")
        raise typer.Exit(BlockedError.exit_code)
