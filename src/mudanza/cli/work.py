"""``mudanza work``: a controller that does what was queued, and finishes what others left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import error_fields, show_error
from mudanza.cli.exit_codes import of_several
from mudanza.cli.migrate import print_report
from mudanza.cli.moving import Carrying, arrivals_of, judge_of, unexpected
from mudanza.cli.options import Output
from mudanza.cli.output import Format, say
from mudanza.cli.watching import View, emit, view_for
from mudanza.model.errors import MudanzaError
from mudanza.model.units import format_duration

if TYPE_CHECKING:
    from mudanza.journal.claimed import ClaimedJobs
    from mudanza.journal.jobs import Job, JobHandle
    from mudanza.migration.arrivals import Arrivals
    from mudanza.model.migration import MigrationReport

Once = Annotated[bool, typer.Option("--once", help="End when there is nothing to do.")]
Parallel = Annotated[int, typer.Option(min=1, max=8, help="How many at once.")]


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("work")(work)


def work(context: typer.Context, once: Once = False, parallel: Parallel = 2, output: Output = Format.TABLE) -> None:
    """Do what was put into the queue, and finish what controllers that are gone left behind.

    Several may work on one journal, on one machine or (PostgreSQL) on several: each job is done by one of them.
    Ctrl-C or SIGTERM: takes nothing more and ends when what it does has ended; a second one cancels that.
    """
    from mudanza.migration.worker import Worker

    app = app_of(context)
    forget_old(app)
    no_more, cancel = clock.new_event(), clock.new_event()
    with view_for(output) as view, _ending_at_signals(no_more, cancel):
        errand = Errand(app, arrivals_of(app), view, output, cancel)
        Worker(app.jobs, errand.carry_out, parallel, no_more, say).run(once=once)
    if not errand.codes:
        say("nothing to do")
    raise typer.Exit(of_several(errand.codes))


def forget_old(app: App) -> None:
    """Remove what is older than the settings keep, and say so."""
    keep = app.loaded.settings.history.keep
    if keep and (gone := app.jobs.forget(keep)):
        say(f"{gone} jobs that ended more than {format_duration(keep)} ago were removed from the journal")


class Errand:
    """Carries out jobs of the queue, each in a thread of its caller's, and tells how each one went."""

    def __init__(self, app: App, arrivals: Arrivals, view: View, output: Format, stop: clock.Event) -> None:
        """``stop``: set, it cancels what is under way."""
        self._app = app
        self._arrivals = arrivals
        self._view = view
        self._output = output
        self._stop = stop
        self.codes: list[int] = []
        """The exit codes of what was done."""

    def carry_out(self, job: Job) -> None:
        """Do a job that waits, or finish one that was left behind, unless another controller has taken it."""
        try:
            if job.is_queued:
                self._do(job)
            else:
                self._finish(job)
        except MudanzaError as error:
            self._failed(job, error)
        except Exception as error:
            self._failed(job, unexpected(job.vm_name, error))
        finally:
            self._arrivals.over(job.vm_uuid)
            self._view.on_end(job.vm_name)

    def _do(self, job: Job) -> None:
        from mudanza.journal.claimed import ClaimedJobs

        handle = self._app.jobs.claim([job.id])
        if handle is None:
            return
        jobs = ClaimedJobs(self._app.database, self._app.jobs.owner, handle, job.vm_uuid)
        try:
            self._ended(self._move(job, jobs, handle))
        except MudanzaError as error:
            jobs.end_undone(error)
            raise

    def _move(self, job: Job, jobs: ClaimedJobs, handle: JobHandle) -> MigrationReport | None:
        from mudanza.migration.asked import destination_of, read_back
        from mudanza.migration.claim import keeping

        begun, to = clock.monotonic(), destination_of(job.asked)
        with self._app.connections() as connections:
            carrying = Carrying(self._app, connections, self._view, self._output, self._stop, jobs)
            with keeping(handle):
                judge, cluster = judge_of(self._app, connections, self._arrivals, jobs)
                vm = cluster.find(job.vm_uuid, bound_for=to)
                prepared = carrying.prepare(judge, vm, to, read_back(job.asked), begun=begun)
            if prepared is None:
                jobs.end_unneeded(f"it is on {vm.host} already")
                return None
            return carrying.move(prepared, job.asked_by)

    def _finish(self, job: Job) -> None:
        say(f"{job.vm_name}: job {job.id} ({job.source} → {job.target}) was left behind by {job.owner}")
        with self._app.connections() as connections:
            carrying = Carrying(self._app, connections, self._view, self._output, self._stop)
            self._ended(carrying.finish(job))

    def _ended(self, report: MigrationReport | None) -> None:
        self.codes.append(0)
        if report is not None:
            print_report(report, self._output)

    def _failed(self, job: Job, error: MudanzaError) -> None:
        self.codes.append(error.exit_code)
        if self._output is Format.JSON:
            emit("error", vm=job.vm_name, job=job.id, **error_fields(error))
        say(f"job {job.id} ({job.vm_name}):")
        show_error(error)


@contextmanager
def _ending_at_signals(no_more: clock.Event, cancel: clock.Event) -> Iterator[None]:
    """At Ctrl-C or SIGTERM take nothing more; at a second one cancel what is under way."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if no_more.is_set():
            say("cancelling what is under way: VMs stay where they are …")
            cancel.set()
        else:
            say("taking nothing more; ending when what is under way has ended (once more: cancel it)")
            no_more.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
