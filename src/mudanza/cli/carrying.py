"""Conducting a plan and doing its moves, while one can watch, pause and cancel."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import typer

from mudanza import clock
from mudanza.cli.context import App
from mudanza.cli.exit_codes import PARTLY
from mudanza.cli.output import Format, say
from mudanza.cli.watching import emit, view_for
from mudanza.cli.work import Errand
from mudanza.model.carrying import MoveState, Run, RunState, Wish
from mudanza.model.errors import BlockedError, MigrationFailedError, MudanzaError
from mudanza.model.plain import plain
from mudanza.model.units import format_duration
from mudanza.operations.checking import arrivals_of
from mudanza.operations.handed_on import as_event

if TYPE_CHECKING:
    from mudanza.fleet.elsewhere import Elsewhere
    from mudanza.journal.plans import PlanHandle
    from mudanza.operations.emptying import Emptying

WORKERS = 8
"""Moves that one controller works on at once, at most."""
LOOK_AGAIN = 0.5
"""Seconds between two looks whether a plan has ended."""
TAKEN = 30.0
"""Seconds within which a daemon takes a plan that nobody carries out, and goes on with what another one has left."""
ENDING = 3600.0
"""Seconds that moves which are under way may take to end once nothing more is begun."""


@dataclass
class Teller:
    """Tells how a plan stands, whenever that changes."""

    output: Format
    _told: str = field(default="", init=False)

    def __call__(self, run: Run, left: float | None) -> None:
        """Tell, if there is something new."""
        words = run.in_words
        if words == self._told:
            return
        self._told = words
        if self.output is Format.JSON:
            emit(**as_event(run, left))
        soon = f"; done in about {format_duration(left)}" if left else ""
        say(f"{words}{soon}")


def conduct(app: App, handle: PlanHandle, output: Format) -> Run:
    """Carry out a plan that is held, until it has ended or is left paused. Raises LeaseLostError.

    Ctrl-C or SIGTERM: nothing more is begun, what is under way ends, and the plan waits; once more: it is cancelled.
    """
    from mudanza.fleet.conducting import Conductor
    from mudanza.hypervisor.bounded import Task
    from mudanza.journal.plans import Plans
    from mudanza.migration.worker import Worker

    plans = Plans(app.database)
    leave, no_more, never = clock.new_event(), clock.new_event(), clock.new_event()
    with view_for(output) as view, _ending_at_signals(app, handle.id, leave):
        errand = Errand(app, arrivals_of(app), view, output, never)
        parallel = min(plans.get(handle.id).policy.total, WORKERS)
        worker = Worker(app.jobs, errand.carry_out, parallel, no_more, say, mine=lambda job: job.plan == handle.id)
        working = Task(lambda: worker.run(once=False))
        try:
            elsewhere = elsewhere_of(app)
            return Conductor(plans, app.jobs, handle, Teller(output), leave, say, elsewhere=elsewhere).run()
        finally:
            no_more.set()
            working.wait(ENDING)


@dataclass
class CarriedHere:
    """Plans are carried out here, as by `mudanza maintenance`."""

    app: App
    output: Format

    def carry_out(self, wanted: Emptying) -> Run:
        """Begin it, and conduct it to its end."""
        from mudanza.journal.plans import Plans

        handle = Plans(self.app.database).begin(
            wanted.plan, wanted.policy, self.app.asked_by(), kind=wanted.kind, subject=wanted.host
        )
        say(f"plan {handle.id}: {wanted.plan.summary}: {len(wanted.plan.moves)} moves")
        return conduct(self.app, handle, self.output)

    def go_on(self, number: int) -> Run:
        """Conduct one that was left, or see how it goes with whoever has it."""
        from mudanza.journal.plans import Plans

        plans = Plans(self.app.database)
        plans.wish(number, Wish.GO_ON, self.app.asked_by())
        try:
            handle = plans.take_over(number)
        except BlockedError:
            return await_end(self.app, number, self.output)
        return conduct(self.app, handle, self.output)


def elsewhere_of(app: App) -> Elsewhere:
    """Return who finds other hosts for VMs that could not get to theirs."""
    from mudanza.fleet.elsewhere import Elsewhere

    return Elsewhere(app.inventory, app.jobs, app.loads, app.connections)


def leave_with(run: Run, output: Format, *, stay: int = 0) -> NoReturn:
    """Tell how a plan ended, and leave with the exit code that says it; ``stay``: how many could not be planned for."""
    if run.ended_at is None:
        done = run.count(MoveState.DONE)
        say(f"plan {run.id} is paused, {done} of {len(run.moves)} moves are done; go on: mudanza run resume {run.id}")
        raise typer.Exit(PARTLY if done else MigrationFailedError.exit_code)
    if output is Format.JSON:
        emit("plan ended", plan=run.id, state=run.state.value, outcome=run.outcome, exit_code=run.exit_code)
    say(f"plan {run.id} is {run.state.value}: {run.outcome}")
    for move in run.moves:
        if move.state in (MoveState.FAILED, MoveState.LEFT_OUT):
            job = f" (mudanza job show {move.job})" if move.job else ""
            say(f"  {move.about.vm}, {move.about.source} → {move.about.target or 'the best host'}: {move.outcome}{job}")
    raise typer.Exit(run.exit_code or (PARTLY if stay else 0))


def as_data(run: Run) -> object:
    """Return a run as JSON values."""
    return {
        "id": run.id,
        "kind": run.kind,
        "subject": run.subject,
        "state": run.state.value,
        "summary": run.plan.summary,
        "asked_by": run.asked_by,
        "outcome": run.outcome,
        "exit_code": run.exit_code,
        "abandoned": run.abandoned,
        "moves": [
            {
                "n": move.n,
                "vm": move.about.vm,
                "uuid": move.about.uuid,
                "source": move.about.source,
                "target": move.about.target,
                "state": move.state.value,
                "job": move.job,
                "outcome": move.outcome,
                "after": plain(move.waits_for),
            }
            for move in run.moves
        ],
    }


def is_left(run: Run) -> bool:
    """Whether nobody carries out what is to be carried out now."""
    waits = run.state in (RunState.PAUSED, RunState.ASKED) or not run.policy.allows(run.read_at)
    return run.abandoned and (not waits or run.count(MoveState.BEGUN) > 0)


def await_end(app: App, number: int, output: Format) -> Run:
    """Show how a plan goes that somebody else carries out, and return it once it has ended.

    Raises BlockedError where nobody does; of a plan that a daemon was asked for, once nobody has for ``TAKEN`` seconds.
    """
    from mudanza.fleet.outlook import seconds_left

    tell, patience = Teller(output), TAKEN if app.server is not None else 0.0
    until = clock.monotonic() + patience
    try:
        while (run := app.asked.run(number)).ended_at is None:
            if not is_left(run):
                until = clock.monotonic() + patience
            elif clock.monotonic() >= until:
                raise BlockedError(
                    f"nobody carries plan {number} out any more",
                    remedy=f"go on with it: mudanza run resume {number}; `mudanza work` does, too",
                )
            tell(run, seconds_left(run))
            clock.sleep(LOOK_AGAIN)
    except KeyboardInterrupt:
        say(f"plan {number} goes on; look again: mudanza run watch {number}")
        raise
    return run


@contextmanager
def _ending_at_signals(app: App, number: int, leave: clock.Event) -> Iterator[None]:
    """At Ctrl-C or SIGTERM begin nothing more; at a second one cancel."""
    from mudanza.journal.plans import Plans

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if not leave.is_set():
            say("beginning nothing more; ending when what is under way has ended (once more: cancel it)")
            leave.set()
            return
        say("cancelling: VMs that are under way stay where they are …")
        clock.start_thread(cancel, "cancel")  # the signal may have come in the middle of a transaction

    def cancel() -> None:
        try:
            Plans(app.database).wish(number, Wish.CANCEL, app.asked_by())
        except MudanzaError as error:
            say(f"! {error}")

    before = {each: signal.signal(each, on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
