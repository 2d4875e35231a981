"""``mudanza runs`` and ``mudanza run …``: plans that are carried out, whoever does it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.bundles import with_bundles
from mudanza.cli.carrying import as_data, await_end, conduct, is_left, leave_with
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import errors_as_events
from mudanza.cli.fleet import Carried
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, print_rows, say
from mudanza.model.carrying import MoveState, RunState, Wish
from mudanza.model.errors import BlockedError, UsageError

if TYPE_CHECKING:
    from mudanza.model.carrying import Run, RunMove

Id = Annotated[int, typer.Argument(metavar="ID", help="The plan's number, see `mudanza runs`.")]

run_app = typer.Typer(no_args_is_help=True, help="Look at a plan that is carried out, pause it, go on or cancel it.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("runs")(runs)
    app.add_typer(run_app, name="run")


def runs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
    output: Output = Format.TABLE,
) -> None:
    """List the plans that are or were carried out, the newest first."""
    found = app_of(context).asked.runs(limit)
    rows = [
        {
            "id": run.id,
            "what": f"{run.kind} {run.subject}".strip(),
            "state": run.state.value + (", abandoned" if is_left(run) else ""),
            "moves": f"{run.count(MoveState.DONE)} of {len(run.moves)}",
            "began": datetime.fromtimestamp(run.started_at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            "outcome": run.outcome,
        }
        for run in found
    ]
    columns = ("id", "what", "state", "moves", "began", "outcome")
    data = [as_data(run) for run in found]
    print_rows(rows, output, columns=columns, data=data, empty="no plan was carried out yet")


@run_app.command("show")
def show(context: typer.Context, number: Id, output: Output = Format.TABLE) -> None:
    """Show a plan with each of its moves."""
    from mudanza.fleet.outlook import seconds_left
    from mudanza.model.units import format_duration

    run = app_of(context).asked.run(number)
    if output in (Format.JSON, Format.YAML):
        print_data(as_data(run), output)
        return
    left = seconds_left(run) if run.ended_at is None else None
    sys.stdout.write(f"{run.in_words}{f'; about {format_duration(left)} left' if left else ''}\n")
    sys.stdout.write(f"{run.kind} {run.subject}".strip() + f", asked by {run.asked_by}: {run.plan.summary}\n")
    columns = ("move", "vm", "from", "to", "state", "job", "after", "outcome")
    print_rows([_row(move) for move in run.moves], output, columns=columns)
    if run.outcome:
        sys.stdout.write(f"{run.state.value}: {run.outcome}\n")


def _row(move: RunMove) -> dict[str, object]:
    return {
        "move": move.n,
        "vm": move.about.vm,
        "from": move.about.source,
        "to": move.about.target or "the best",
        "state": move.state.value,
        "job": move.job,
        "after": [str(number) for number in move.waits_for],
        "outcome": move.outcome,
    }


@run_app.command("watch")
def watch(context: typer.Context, number: Id, output: Output = Format.TABLE) -> None:
    """Show how a plan goes that another process carries out, until it has ended; leave with its exit code."""
    run = await_end(app_of(context), number, output)
    leave_with(run, output)


@run_app.command("pause")
@audited
def pause(context: typer.Context, number: Id) -> None:
    """Begin none of its moves any more until somebody says so; those under way end as they would."""
    asked = app_of(context).asked
    _refuse_asked(asked.run(number), "pause")
    asked.wish_of_run(number, Wish.PAUSE)
    say(f"plan {number} pauses; go on: mudanza run resume {number}")


@run_app.command("resume")
@audited
def resume(context: typer.Context, number: Id, output: Output = Format.TABLE) -> None:
    """Go on with a plan that was paused, or whose controller is gone."""
    app = app_of(context)
    with errors_as_events(output, plan=number):
        _refuse_asked(app.asked.run(number), "go on with")
        app.asked.wish_of_run(number, Wish.GO_ON)
        _carry_on(app, number, output)


def _refuse_asked(run: Run, what: str) -> None:
    """Raise UsageError for a plan that waits for a yes: there is nothing to do with it before."""
    if run.state is RunState.ASKED:
        raise UsageError(
            f"there is nothing to {what} yet: plan {run.id} waits for a yes",
            remedy=f"have it carried out: mudanza run approve {run.id}; or not: mudanza run cancel {run.id}",
        )


@run_app.command("approve")
@audited
@with_bundles
def approve(context: typer.Context, number: Id, carried: Carried) -> None:
    """Carry out a plan that waits for somebody's yes, if the world still is as it was when it was proposed.

    Where a controller balances or works on the queue, `--detach` leaves it to that one.
    """
    app = app_of(context)
    with errors_as_events(carried.output, plan=number):
        app.asked.approve(number, carried.policy)
        if carried.detach:
            say(f"plan {number} is approved; see how it goes: mudanza run watch {number}")
            return
        _carry_on(app, number, carried.output)


@run_app.command("cancel")
@audited
def cancel(context: typer.Context, number: Id, output: Output = Format.TABLE) -> None:
    """Cancel what is under way and begin nothing more. VMs that have moved stay where they are now."""
    app = app_of(context)
    with errors_as_events(output, plan=number):
        app.asked.wish_of_run(number, Wish.CANCEL)
        _carry_on(app, number, output)


def _carry_on(app: App, number: int, output: Format) -> NoReturn:
    """Carry a plan out here if nobody does, else wait until it has ended; a daemon does it if one was asked."""
    if app.server is not None:
        leave_with(await_end(app, number, output), output)
    from mudanza.journal.plans import Plans

    plans = Plans(app.database)
    try:
        handle = plans.take_over(number)
    except BlockedError:  # somebody does, or was quicker
        say(f"plan {number} is carried out by {plans.get(number).owner}")
        leave_with(await_end(app, number, output), output)
    leave_with(conduct(app, handle, output), output)
