"""Carrying several moves out at once, while one can watch and cancel."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.cli.announcing import announce, nothing_to_do
from mudanza.cli.context import App
from mudanza.cli.finishers import finisher_of, mover_of
from mudanza.cli.output import Format, say
from mudanza.cli.watching import View, view_for
from mudanza.migration.stagger import Stagger, Turn
from mudanza.model.errors import MigrationFailedError, MudanzaError
from mudanza.model.migration import MigrationOptions, MigrationReport, Progress, with_wishes
from mudanza.operations.checking import judge_of
from mudanza.operations.foreseeing import foresight_of, with_forecast
from mudanza.operations.jobs import not_begun

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.jobs import Job, Jobs
    from mudanza.migration.arrivals import Arrivals
    from mudanza.migration.prepare import Judge, Prepared
    from mudanza.model.vm import Vm

FRESH = 30.0
"""Seconds for which a check counts that was made while others moved."""
WAITING = Progress("waiting for its turn", 0.0)
WAIT_STEP = 0.2
"""Seconds between two looks whether the migrations are over or somebody pressed Ctrl-C."""


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
        self._desks = threading.Semaphore(1)
        self._stagger = Stagger()

    def move(self, vms: Sequence[Vm], to: str | None, parallel: int) -> list[Outcome]:
        """Move them all; return how each one ended, in their order."""
        outcomes = [Outcome(vm) for vm in vms]
        self._places = threading.Semaphore(parallel)
        self._desks = threading.Semaphore(parallel)
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
        # A desk is left as soon as a place is taken: while that one moves, so that the link need not rest, the next
        # one is checked.
        desk = ExitStack()
        at_once = self._desks.acquire(blocking=False)
        if not at_once:
            self._desks.acquire()
        desk.callback(self._desks.release)
        try:
            if self._stop.is_set():
                outcome.error = not_begun(outcome.vm.name, outcome.vm.host)
            else:
                outcome.report = self._migrate(outcome.vm, to, view, desk, fresh=at_once)
        except MudanzaError as error:
            outcome.error = error
        except Exception as error:  # a thread must end by saying what happened
            outcome.error = unexpected(outcome.vm.name, error)
        finally:
            self._arrivals.over(outcome.vm.uuid)
            desk.close()
            view.on_end(outcome.vm.name)

    def _migrate(self, vm: Vm, to: str | None, view: View, desk: ExitStack, *, fresh: bool) -> MigrationReport | None:
        judge, begun = self._judge, self._begun
        if self._finish_left_behind(vm, view) or not fresh:  # the picture is from before others were moved
            begun, judge, vm = self._look_anew(vm, to, view)
        carrying = Carrying(self._app, self._connections, view, self._output, self._stop, stagger=self._stagger)
        prepared = carrying.prepare(judge, vm, to, self._options, begun=begun)
        checked = clock.monotonic()
        if prepared is None:
            return None
        with self._place(lambda: view.on_progress(vm.name, _from_to(vm, to), WAITING)):
            desk.close()
            if self._stop.is_set():
                raise not_begun(vm.name, vm.host)
            if clock.monotonic() - checked > FRESH:
                begun, judge, vm = self._look_anew(vm, to, view)
                prepared = carrying.prepare(judge, vm, to, self._options, begun=begun)
            if prepared is None:
                return None
            with carrying.turn(prepared) as turn:
                if self._stop.is_set():
                    raise not_begun(vm.name, vm.host)
                return carrying.move(prepared, self._app.asked_by(), turn)

    @contextmanager
    def _place(self, on_waiting: Callable[[], None]) -> Iterator[None]:
        """Be one of those that move while the block runs, as soon as there is a place."""
        if not self._places.acquire(blocking=False):
            on_waiting()
            self._places.acquire()
        try:
            yield
        finally:
            self._places.release()

    def _look_anew(self, vm: Vm, to: str | None, view: View) -> tuple[float, Judge, Vm]:
        """Return when that began, who judges in a picture of the cluster taken now, and the VM as it is in that."""
        begun = clock.monotonic()
        view.on_progress(vm.name, _from_to(vm, to), Progress("checking", 0.0))
        judge, cluster = judge_of(self._app, self._connections, self._arrivals)
        return begun, judge, cluster.find(vm.uuid, bound_for=to)

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
            with self._places:
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
        stagger: Stagger | None = None,
    ) -> None:
        """``jobs``: see ``mover_of``; ``stagger``: the one of all that move at the same time."""
        self._app = app
        self._connections = connections
        self._view = view
        self._output = output
        self._stop = stop
        self._jobs = jobs
        self._stagger = stagger or Stagger()

    def prepare(
        self, judge: Judge, vm: Vm, to: str | None, options: MigrationOptions, *, begun: float
    ) -> Prepared | None:
        """Check a move and choose where to; return None where the VM is there already.

        ``begun``: the monotonic time when checking it began. Raises what the judge raises.
        """
        if judge.is_there(vm, to, options):
            nothing_to_do(vm.name, vm.uuid, vm.host, self._output)
            return None
        self._view.on_progress(vm.name, _from_to(vm, to), Progress("checking", 0.0))
        options = with_wishes(options, vm.wishes)
        foresight = foresight_of(self._app, self._connections, vm)  # it measures while the judge probes
        prepared = with_forecast(foresight, judge.prepare(vm, to, options))
        return replace(prepared, checking_time=clock.monotonic() - begun)

    @contextmanager
    def turn(self, prepared: Prepared) -> Iterator[Turn]:
        """Be the one whose turn it is while the block runs: see ``Stagger``."""

        def on_waiting() -> None:
            self._view.on_progress(prepared.vm.name, _way(prepared), WAITING)

        with self._stagger.turn(prepared.vm.host, self._stop, on_waiting) as turn:
            yield turn

    def move(self, prepared: Prepared, asked_by: str, turn: Turn) -> MigrationReport:
        """Tell what is about to be, and move a VM that was judged fit to go. Raises what the movers raise."""
        from mudanza.migration.forecast.keeping import announcement

        announce(announcement(prepared), self._output)
        show = self._on_progress(prepared.vm.name, _way(prepared))

        def on_progress(progress: Progress) -> None:
            turn.heard(progress)
            show(progress)

        mover = mover_of(self._app, self._connections, prepared.kind, on_progress, self._jobs)
        # Whoever cancels this one through the journal means none of the others.
        return mover.migrate(prepared, asked_by, clock.EventOfOne(self._stop))

    def finish(self, job: Job) -> MigrationReport:
        """Take a job over that its controller left behind, and finish it. Raises what the movers raise."""
        on_progress = self._on_progress(job.vm_name, f"{job.source} → {job.target}")
        finisher = finisher_of(self._app, self._connections, job.kind, on_progress, self._jobs)
        return finisher.resume(job.id, clock.EventOfOne(self._stop))

    def _on_progress(self, vm: str, way: str) -> Callable[[Progress], None]:
        return lambda progress: self._view.on_progress(vm, way, progress)


def _from_to(vm: Vm, to: str | None) -> str:
    return vm.host if vm.host == to else f"{vm.host} → {to or '?'}"


def _way(prepared: Prepared) -> str:
    if not prepared.is_in_place:
        return f"{prepared.vm.host} → {prepared.chosen.target.name}"
    pools = dict.fromkeys(plan.pool for plan in prepared.chosen.resolution.copies)
    return f"{prepared.vm.host}: disks → {', '.join(pools)}"


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
