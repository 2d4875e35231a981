"""``mudanza work``: a controller that does what was queued, and finishes what others left behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import error_fields, show_error
from mudanza.cli.exit_codes import of_several
from mudanza.cli.finishers import restart_of
from mudanza.cli.migrate import print_report
from mudanza.cli.moving import Carrying, unexpected
from mudanza.cli.options import Output
from mudanza.cli.output import Format, say
from mudanza.cli.watching import Overheard, View, emit, view_for
from mudanza.journal.protocol import RESTART
from mudanza.migration.stagger import Stagger
from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.units import format_duration
from mudanza.operations.checking import arrivals_of, judge_of
from mudanza.operations.concern import About

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.claimed import ClaimedJobs
    from mudanza.journal.jobs import Job, JobHandle
    from mudanza.migration.arrivals import Arrivals
    from mudanza.migration.prepare import Prepared
    from mudanza.model.migration import MigrationReport, Progress
    from mudanza.model.vm import Vm

AGAIN = 0.5
"""Seconds between two looks into the queue while a plan goes on of which nothing is to be taken just now."""

Once = Annotated[bool, typer.Option("--once", help="End when there is nothing to do.")]
Parallel = Annotated[int, typer.Option(min=1, max=200, help="How many at once.")]


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("work")(work)


def work(context: typer.Context, once: Once = False, parallel: Parallel = 2, output: Output = Format.TABLE) -> None:
    """Do what was put into the queue, and finish what controllers that are gone left behind: moves and plans.

    Several may work on one journal, on one machine or (PostgreSQL) on several: each job is done by one of them.
    Ctrl-C or SIGTERM: takes nothing more and ends when what it does has ended; a second one cancels that.
    """
    from mudanza.cli.carrying import elsewhere_of
    from mudanza.fleet.minding import Minder
    from mudanza.journal.plans import Plans
    from mudanza.migration.worker import Worker

    app = app_of(context)
    forget_old(app)
    no_more, cancel = clock.new_event(), clock.new_event()
    with view_for(output) as view, ending_at_signals(no_more, cancel):
        errand = Errand(app, arrivals_of(app), view, output, cancel)
        minder = Minder(Plans(app.database), app.jobs, no_more, say, elsewhere_of(app))
        if not once:
            clock.start_thread(minder.watch, "plans")
        while True:
            begun = once and minder.take()
            Worker(app.jobs, errand.carry_out, parallel, no_more, say).run(once=once)
            if not once or no_more.is_set() or not (begun or minder.busy):
                break
            clock.sleep(AGAIN)
    if not errand.codes:
        say("nothing to do")
    raise typer.Exit(of_several(errand.codes))


def forget_old(app: App) -> None:
    """Remove what is older than the settings keep, and say so."""
    from mudanza.journal.outbox import Outbox

    Outbox(app.database).forget()
    keep = app.loaded.settings.history.keep
    if keep:
        from mudanza.journal.plans import Plans
        from mudanza.journal.rollings import Rollings

        Plans(app.database).forget(keep)
        Rollings(app.database).forget(keep)
    if keep and (gone := app.jobs.forget(keep)):
        say(f"{gone} jobs that ended more than {format_duration(keep)} ago were removed from the journal")


def _to_nobody(_job: int, _way: str, _progress: Progress | None) -> None:
    return


class Errand:
    """Carries out jobs of the queue, each in a thread of its caller's, and tells how each one went."""

    def __init__(
        self,
        app: App,
        arrivals: Arrivals,
        view: View,
        output: Format,
        stop: clock.Event,
        hear: Callable[[int, str, Progress | None], None] = _to_nobody,
    ) -> None:
        """``stop``: set, it cancels what is under way; ``hear`` is told how each job stands, too, by its number, and
        None when it is over."""
        self._hear = hear
        self._app = app
        self._arrivals = arrivals
        self._view = view
        self._output = output
        self._stop = stop
        self._stagger = Stagger()
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
            self._hear(job.id, "", None)

    def _carrying(self, job: Job, connections: Connections, jobs: ClaimedJobs | None = None) -> Carrying:
        view = Overheard(self._view, partial(self._hear, job.id))
        return Carrying(self._app, connections, view, self._output, self._stop, jobs, self._stagger)

    def _do(self, job: Job) -> None:
        from mudanza.journal.claimed import ClaimedJobs

        handle = self._app.jobs.claim([job.id])
        if handle is None:
            return
        jobs = ClaimedJobs(self._app.database, self._app.jobs.owner, handle, job.vm_uuid)
        try:
            self._ended(self._restart(job, handle) if job.kind == RESTART else self._move(job, jobs, handle))
        except MudanzaError as error:
            jobs.end_undone(error)
            raise

    def _move(self, job: Job, jobs: ClaimedJobs, handle: JobHandle) -> MigrationReport | None:
        from mudanza.migration.claim import keeping

        with self._app.connections() as connections, ExitStack() as until_moved:
            carrying = self._carrying(job, connections, jobs)
            with keeping(handle):
                prepared = self._prepared(job, connections, jobs, carrying)
                if prepared is None:
                    return None
                turn = until_moved.enter_context(carrying.turn(prepared))
            return carrying.move(prepared, job.asked_by, turn)

    def _prepared(self, job: Job, connections: Connections, jobs: ClaimedJobs, carrying: Carrying) -> Prepared | None:
        """Judge a move; None: there is nothing to do. The picture it is judged in is not held while it goes on."""
        from mudanza.migration.asked import destination_of, to_begin

        begun, to = clock.monotonic(), destination_of(job.asked)
        about = About(job.vm_uuid, to, job.source)
        judge, cluster = judge_of(self._app, connections, self._arrivals, jobs, about)
        vm = cluster.find(job.vm_uuid, bound_for=to)
        _refuse_elsewhere(job, vm)
        prepared = carrying.prepare(judge, vm, to, to_begin(job.asked), begun=begun)
        if prepared is None:
            jobs.end_unneeded(vm.host)
        return prepared

    def _restart(self, job: Job, handle: JobHandle) -> MigrationReport:
        with self._app.connections() as connections:
            return restart_of(self._app, connections).carry_out(job, handle)

    def _finish(self, job: Job) -> None:
        say(f"{job.vm_name}: job {job.id} ({job.way}) was left behind by {job.owner}")
        with self._app.connections() as connections:
            self._ended(self._carrying(job, connections).finish(job))

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


def _refuse_elsewhere(job: Job, vm: Vm) -> None:
    """Raise BlockedError where a VM is neither where its plan found it nor where it is to go."""
    from mudanza.migration.asked import destination_of, source_of

    source = source_of(job.asked)
    if source is not None and vm.host not in (source, destination_of(job.asked)):
        raise BlockedError(
            f"VM {vm.name!r} is on {vm.host}, and its plan is to move it from {source}",
            remedy="nothing was touched; make a new plan",
        )


@contextmanager
def ending_at_signals(no_more: clock.Event, cancel: clock.Event) -> Iterator[None]:
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
