"""Carrying several moves out at once, while one can watch and cancel."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.cli.context import App
from mudanza.cli.output import Format, plain, say
from mudanza.cli.watching import View, emit, view_for
from mudanza.model.errors import MigrationFailedError, MudanzaError
from mudanza.model.migration import MigrationOptions, MigrationReport, Progress

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.jobs import Job, Jobs
    from mudanza.migration.arrivals import Arrivals
    from mudanza.migration.cold.migration import ColdMigration
    from mudanza.migration.live.migration import LiveMigration
    from mudanza.migration.prepare import Judge, Prepared
    from mudanza.migration.relocation.relocation import Relocation
    from mudanza.model.cluster import Cluster
    from mudanza.model.vm import Vm

WAIT_STEP = 0.2
"""Seconds between two looks whether the migrations are over or somebody pressed Ctrl-C."""


def judge_of(app: App, connections: Connections, arrivals: Arrivals, jobs: Jobs | None = None) -> tuple[Judge, Cluster]:
    """Return who judges moves in a picture of the cluster taken now, and the picture. ``jobs``: see ``mover_of``."""
    from mudanza.migration.prepare import Judge

    connections.open_all([entry.name for entry in app.inventory.hosts()])
    expected = arrivals.expected()
    cluster = app.read_cluster(connections)
    return Judge(connections, app.inventory, jobs or app.jobs, cluster, arrivals, expected), cluster


def arrivals_of(app: App) -> Arrivals:
    from mudanza.migration.arrivals import Arrivals

    return Arrivals(app.jobs)


def mover_of(
    app: App, connections: Connections, kind: str, on_progress: Callable[[Progress], None], jobs: Jobs | None = None
) -> LiveMigration | ColdMigration | Relocation:
    """Return what carries out jobs of a kind: ``live``, ``cold``, or ``relocate`` for disks within one host.

    ``jobs``: the journal as whoever has claimed a job sees it, where a move is not to begin a job of its own.
    """
    limits, jobs = app.loaded.settings.limits, jobs or app.jobs
    if kind == "relocate":
        from mudanza.migration.relocation.relocation import Relocation

        return Relocation(connections, app.inventory, jobs, limits.no_progress, on_progress)
    if kind == "cold":
        from mudanza.migration.cold.migration import ColdLimits, ColdMigration

        return ColdMigration(connections, app.inventory, jobs, ColdLimits(limits.no_progress), on_progress)
    from mudanza.migration.live.migration import Limits, LiveMigration

    return LiveMigration(connections, app.inventory, jobs, Limits(limits.no_progress, limits.settle), on_progress)


@dataclass
class Outcome:
    """How one of the asked migrations ended."""

    vm: Vm
    report: MigrationReport | None = None
    error: MudanzaError | None = None


class Mover:
    """Moves several VMs, some at once, while one can watch and cancel."""

    def __init__(
        self,
        app: App,
        connections: Connections,
        arrivals: Arrivals,
        judge: Judge,
        options: MigrationOptions,
        output: Format,
        begun: float,
    ) -> None:
        self._app = app
        self._connections = connections
        self._arrivals = arrivals
        self._judge = judge
        self._options = options
        self._output = output
        self._begun = begun
        self._stop = clock.new_event()
        self._places = threading.Semaphore(1)

    def move(self, vms: Sequence[Vm], to: str | None, parallel: int) -> list[Outcome]:
        """Move them all; return how each one ended, in their order."""
        outcomes = [Outcome(vm) for vm in vms]
        self._places = threading.Semaphore(parallel)
        with view_for(self._output) as view, asking_at_ctrl_c(self._stop, view):
            threads = [
                threading.Thread(target=self._one, args=(outcome, to, view), name=outcome.vm.name, daemon=True)
                for outcome in outcomes
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(WAIT_STEP)
        return outcomes

    def _one(self, outcome: Outcome, to: str | None, view: View) -> None:
        at_once = self._places.acquire(blocking=False)
        if not at_once:
            self._places.acquire()
        try:
            if self._stop.is_set():
                outcome.error = _not_begun(outcome.vm)
            else:
                outcome.report = self._migrate(outcome.vm, to, view, fresh=at_once)
        except MudanzaError as error:
            outcome.error = error
        except Exception as error:  # a thread must end by saying what happened
            outcome.error = unexpected(outcome.vm.name, error)
        finally:
            self._arrivals.over(outcome.vm.uuid)
            self._places.release()
            view.on_end(outcome.vm.name)

    def _migrate(self, vm: Vm, to: str | None, view: View, *, fresh: bool) -> MigrationReport | None:
        judge, begun = self._judge, self._begun
        if self._finish_left_behind(vm, view) or not fresh:  # the picture is from before others were moved
            begun = clock.monotonic()
            view.on_progress(vm.name, _from_to(vm, to), Progress("checking", 0.0))
            judge, cluster = judge_of(self._app, self._connections, self._arrivals)
            vm = cluster.find(vm.uuid, bound_for=to)
        carrying = Carrying(self._app, self._connections, view, self._output, self._stop)
        prepared = carrying.prepare(judge, vm, to, self._options, begun=begun)
        return carrying.move(prepared, self._app.asked_by()) if prepared is not None else None

    def _finish_left_behind(self, vm: Vm, view: View) -> bool:
        """Finish what a controller that is gone has left undone with the VM; return whether there was something.

        Raises NeedsPersonError and VmDownError; that the VM stayed where it was stands in nobody's way.
        """
        from mudanza.journal.jobs import NEEDS_PERSON

        job = self._app.jobs.unfinished_of(vm.uuid)
        if job is None or not job.abandoned or job.is_queued or job.state == NEEDS_PERSON:
            return False
        say(f"{vm.name}: the controller of job {job.id} ({job.source} → {job.target}) is gone: that is finished first")
        try:
            Carrying(self._app, self._connections, view, self._output, self._stop).finish(job)
            say(f"{vm.name}: job {job.id} is finished: it is on {job.target}")
        except MigrationFailedError as error:
            say(f"{vm.name}: job {job.id} is finished: {error}")
        return True


class Carrying:
    """Carries one move out, or to its end, while one can watch."""

    def __init__(
        self,
        app: App,
        connections: Connections,
        view: View,
        output: Format,
        stop: clock.Event,
        jobs: Jobs | None = None,
    ) -> None:
        """``jobs``: see ``mover_of``."""
        self._app = app
        self._connections = connections
        self._view = view
        self._output = output
        self._stop = stop
        self._jobs = jobs

    def prepare(
        self, judge: Judge, vm: Vm, to: str | None, options: MigrationOptions, *, begun: float
    ) -> Prepared | None:
        """Check a move, choose where to, and tell; return None where the VM is there already.

        ``begun``: the monotonic time when checking it began. Raises what the judge raises.
        """
        if judge.is_there(vm, to, options):
            self._nothing_to_do(vm)
            return None
        self._view.on_progress(vm.name, _from_to(vm, to), Progress("checking", 0.0))
        prepared = judge.prepare(vm, to, options)
        self._announce(prepared)
        return replace(prepared, checking_time=clock.monotonic() - begun)

    def move(self, prepared: Prepared, asked_by: str) -> MigrationReport:
        """Move a VM that was judged fit to go. Raises what the movers raise."""
        mover = self._mover(_kind(prepared), prepared.vm.name, _way(prepared))
        # Whoever cancels this one through the journal means none of the others.
        return mover.migrate(prepared, asked_by, clock.EventOfOne(self._stop))

    def finish(self, job: Job) -> MigrationReport:
        """Take a job over that its controller left behind, and finish it. Raises what the movers raise."""
        mover = self._mover(job.kind, job.vm_name, f"{job.source} → {job.target}")
        return mover.resume(job.id, clock.EventOfOne(self._stop))

    def _mover(self, kind: str, vm: str, way: str) -> LiveMigration | ColdMigration | Relocation:
        def on_progress(progress: Progress) -> None:
            self._view.on_progress(vm, way, progress)

        return mover_of(self._app, self._connections, kind, on_progress, self._jobs)

    def _nothing_to_do(self, vm: Vm) -> None:
        if self._output is Format.JSON:
            emit("unchanged", vm=vm.name, uuid=vm.uuid, host=vm.host)
        say(f"{vm.name} is on {vm.host} already: nothing to do")

    def _announce(self, prepared: Prepared) -> None:
        warnings = prepared.chosen.findings
        if self._output is Format.JSON:
            emit(
                "start",
                vm=prepared.vm.name,
                source=prepared.vm.host,
                target=prepared.chosen.target.name,
                why=prepared.why,
                findings=plain(warnings),
                travels=plain(prepared.chosen.travels),
            )
            return
        if prepared.why:
            say(f"{prepared.vm.name}: {prepared.why}")
        for finding in warnings:
            say(f"! {finding.subject}: {finding.message} [{finding.code}]")


def _from_to(vm: Vm, to: str | None) -> str:
    return vm.host if vm.host == to else f"{vm.host} → {to or '?'}"


def _kind(prepared: Prepared) -> str:
    """Return the kind of job that a move is."""
    if prepared.is_in_place:
        return "relocate"
    return "cold" if prepared.options.is_cold(active=prepared.vm.state.active) else "live"


def _way(prepared: Prepared) -> str:
    if not prepared.is_in_place:
        return f"{prepared.vm.host} → {prepared.chosen.target.name}"
    pools = dict.fromkeys(plan.pool for plan in prepared.chosen.resolution.copies)
    return f"{prepared.vm.host}: disks → {', '.join(pools)}"


def _not_begun(vm: Vm) -> MudanzaError:
    return MigrationFailedError(
        f"VM {vm.name!r} was not moved: cancelled before its turn came",
        vm_state=f"it is on {vm.host} as before; nothing was touched",
    )


def unexpected(vm: str, cause: Exception) -> MudanzaError:
    """Return what is told of an error that nobody expected."""
    error = MudanzaError(
        f"VM {vm!r}: {type(cause).__name__}: {cause}",
        vm_state="nobody looked; a transfer that had begun goes on without us",
        remedy="see whether it has an unfinished job (mudanza jobs), and finish that: mudanza job resume ID",
    )
    error.__cause__ = cause
    return error


@contextmanager
def asking_at_ctrl_c(stop: clock.Event, view: View) -> Iterator[None]:
    """At Ctrl-C ask once whether to cancel; where nobody can answer, or at a second one, cancel."""

    def cancel() -> None:
        say("cancelling: the VM stays where it is …")
        stop.set()

    asking, over = threading.Event(), threading.Event()

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        if asking.is_set() or not (sys.stdin.isatty() and sys.stderr.isatty()):
            on_order(_signal, _frame)
            return
        if not stop.is_set():
            asking.set()
            threading.Thread(target=ask, daemon=True).start()

    def on_order(_signal: int, _frame: FrameType | None) -> None:
        if not stop.is_set():
            cancel()

    def ask() -> None:
        view.__exit__()
        say("\nThe migration goes on meanwhile. Cancel it? [y/N] (or Ctrl-C once more)")
        yes = sys.stdin.readline().strip().lower() in ("y", "yes")
        if over.is_set() or stop.is_set():
            return
        if yes:
            cancel()
            return
        say("it goes on")
        view.__enter__()
        asking.clear()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, on_interrupt)
    signal.signal(signal.SIGTERM, on_order)
    try:
        yield
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)
