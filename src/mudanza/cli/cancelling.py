"""``mudanza job cancel``: having whoever works on a job cancel it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import errors_as_events
from mudanza.cli.jobs import Id, clean_up, finish
from mudanza.cli.options import Output
from mudanza.cli.output import Format, say
from mudanza.cli.watching import emit
from mudanza.journal.protocol import MOVES
from mudanza.model.errors import BlockedError, MigrationFailedError, MudanzaError
from mudanza.model.units import format_duration

if TYPE_CHECKING:
    from mudanza.journal.job import Job

CANCEL_LIMIT = 300.0
"""Seconds a living controller may take to cancel: libvirt may heed late, and then both hosts have to agree."""
LOOK_AGAIN = 0.3
"""Seconds between two looks whether a job has ended."""

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the job has ended.")]


@audited
def cancel(context: typer.Context, job_id: Id, wait: Wait = True, output: Output = Format.TABLE) -> None:
    """Cancel a job that another process runs: the VM stays where it is.

    Whoever runs it is asked, and waited for. If nobody does any more, it is cancelled here. A recovery plan begins
    nothing more, lets come up what is being brought up, and leaves what is up. Exit codes: 0 it is cancelled, 3 it came
    too late, else how the job ended.
    """
    app = app_of(context)
    job = app.asked.job(job_id)
    with errors_as_events(output, vm=job.vm_name):
        if job.ended_at is None:
            job = app.asked.cancel_job(job_id)
            if job.ended_at is None:
                _tell_asked(app, job)
                if not wait and not job.abandoned:
                    return
                job = _await_cancelled(app, job_id, output)
        elif job.report.get("left"):
            clean_up(app, job, output)
            job = app.asked.job(job_id)  # what was left over is gone
        _tell_cancelled(job, output)


def _tell_asked(app: App, job: Job) -> None:
    by = f"its controller is {job.owner}"
    if job.abandoned:
        by = f"its controller is gone, so {'it is done here' if app.there is None else 'the daemon does it'}"
    say(f"job {job.id} ({job.vm_name}, {job.way}) is to be cancelled; {by}")


def _await_cancelled(app: App, job_id: int, output: Format) -> Job:
    """Return the job once it has ended; where its controller is gone, have it ended."""
    until, handed_on = clock.monotonic() + CANCEL_LIMIT, False
    try:
        while (job := app.asked.job(job_id)).ended_at is None:
            if job.abandoned and app.there is None:
                stop = clock.new_event()
                stop.set()
                with suppress(MigrationFailedError):  # which is what was asked for; the journal has it
                    finish(app, job, output, stop)
            elif clock.monotonic() > until or (handed_on and job.left_to_person):
                raise MudanzaError(
                    f"job {job_id} has not ended within {format_duration(CANCEL_LIMIT)}: {job.state}",
                    vm_state=f"whoever works on it ({job.owner}) still does",
                    remedy=f"the request stands; see how it goes: mudanza job watch {job_id}",
                )
            else:
                if app.there is not None and job.abandoned and not handed_on:
                    app.there.resume_job(job_id)
                    handed_on = True
                clock.sleep(LOOK_AGAIN)
    except KeyboardInterrupt:
        say(f"not waited for any longer; the request stands: mudanza job watch {job_id}")
        raise
    return job


def _tell_cancelled(job: Job, output: Format) -> None:
    """Say how a job ended that was to be cancelled. Raises an error unless the VM is as before."""
    from mudanza.cli.job_watch import ended_badly

    if not job.exit_code:
        back = f"move it back: mudanza migrate {job.vm_uuid} --to {job.source}"
        raise BlockedError(
            f"job {job.id} was not cancelled, it has ended: {job.outcome}",
            remedy=back if job.kind in MOVES else f"see what it did: mudanza job show {job.id}",
        )
    end = ended_badly(job)
    if end.exit_code != MigrationFailedError.exit_code:
        raise end
    if output is Format.JSON:
        emit("cancelled", vm=job.vm_name, job=job.id, message=str(end), vm_state=end.vm_state)
    say(f"{end}\n  the VM: {end.vm_state}" if end.vm_state else str(end))
