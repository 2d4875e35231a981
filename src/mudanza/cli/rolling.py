"""``mudanza rolling``: a command run on one host after the other, each emptied before and filled again after."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.carrying import CarriedHere
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import errors_as_events
from mudanza.cli.exit_codes import PARTLY
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, print_rows, say
from mudanza.cli.watching import emit
from mudanza.model.carrying import CannotGo, OnFailure, RunPolicy
from mudanza.model.errors import MigrationFailedError, UsageError
from mudanza.model.plain import plain
from mudanza.model.rolling import Lap, Order, Rolling, RollingState
from mudanza.model.telling import error_from_data
from mudanza.model.units import format_duration, parse_duration

if TYPE_CHECKING:
    from mudanza.operations.outings import OutingOf
    from mudanza.operations.rolling import Roller

LISTED = 20
"""How many are listed, the newest first."""
Number = Annotated[int, typer.Argument(metavar="ID", help="Its number, see `mudanza rolling show`.")]

rolling_app = typer.Typer(invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.add_typer(rolling_app, name="rolling")


@rolling_app.callback()
def rolling(
    context: typer.Context,
    *,
    command: Annotated[
        str | None, typer.Option("--command", metavar="COMMAND", help="What is run on each host, by its shell.")
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option("--script", metavar="FILE", help="A script of ours instead; its first line may say #!."),
    ] = None,
    hosts: Annotated[
        list[str] | None, typer.Option("--hosts", metavar="A,B", help="Which, and in which order; else all.")
    ] = None,
    reboot: Annotated[
        bool, typer.Option("--reboot", help="The command has the host start anew; go on once it has.")
    ] = False,
    limit: Annotated[
        str, typer.Option("--limit", metavar="TIME", help="How long the command may take, with the new start.")
    ] = "1h",
    healthy: Annotated[
        str, typer.Option("--healthy", metavar="TIME", help="How long the host may take to be as before.")
    ] = "10m",
    cannot_go: Annotated[
        CannotGo,
        typer.Option(
            "--cannot-go-live",
            metavar="refuse|cold|shutdown|stay",
            help="VMs that cannot leave while they run: begin nothing; move them cold; shut them down, and start them "
            "again afterwards; or let them stay.",
        ),
    ] = CannotGo.REFUSE,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="How many VMs move at once.")] = 8,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; nothing is touched.")] = False,
    resume: Annotated[
        int | None, typer.Option("--resume", metavar="ID", help="Go on with one that has stopped, or was left.")
    ] = None,
    skip_command: Annotated[
        bool, typer.Option("--skip-command", help="With --resume: without the command on the host where it stands.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Run a command on one host after the other, each emptied of its VMs before; they come back before the next one.

    After the command the host's libvirt must answer, with its pools and networks active as before, and its VMs must be
    able to come back by every check. At the first fault it stops, with everything running, and says how to go on. The
    command is begun by ssh, and runs on whether its controller lives or not.

    Exit codes: 0 all hosts are done, 3 nothing was begun, 4 it has stopped at the first host, 7 at a later one.
    """
    if context.invoked_subcommand is not None:
        return
    with errors_as_events(output):
        if resume is not None:
            _resume(context=context, number=resume, skip=skip_command, output=output)
        else:
            text, shown = _asked(command, script)
            limits = {"limit": parse_duration(limit), "healthy": parse_duration(healthy)}
            policy = RunPolicy(OnFailure.STOP, total=parallel)
            names = tuple(name for each in hosts or () for name in each.split(",") if name)
            order = Order(names, text, shown, reboot, **limits, cannot_go=_answered(cannot_go), policy=policy)
            if dry_run:
                _tell_outings(app_of(context), order, output)
            else:
                _begin(context=context, order=order, output=output)


def _answered(cannot_go: CannotGo) -> CannotGo:
    if cannot_go is CannotGo.ASK:
        raise UsageError("nobody is asked at every host: --cannot-go-live refuse|cold|shutdown|stay")
    return cannot_go


def _asked(command: str | None, script: Path | None) -> tuple[str, str]:
    """Return the script that is to be run, and what people call it. Raises UsageError."""
    if (command is None) == (script is None):
        raise UsageError(
            "say what is to be run on each host: --command, or --script",
            remedy="mudanza rolling --command 'apt-get -y full-upgrade'; see those there were: mudanza rolling show",
        )
    if command is not None:
        return command, command
    assert script is not None
    try:
        return script.read_text(), str(script)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{script} cannot be read: {error}") from error


@audited
def _begin(*, context: typer.Context, order: Order, output: Format) -> None:
    app = app_of(context)
    if app.there is not None:
        from mudanza.cli.following_plans import plans_there

        with plans_there(app.there, output) as listener:
            found = app.there.roll(order, say, listener)
        _leave_with(found, output)
    from mudanza.operations.outings import arranged, outings, refuse_stuck

    order = arranged(app, order)
    refuse_stuck(outings(app, order, say))
    _leave_with(_roller(app, output).begin(order), output)


@audited
def _resume(*, context: typer.Context, number: int, skip: bool, output: Format) -> None:
    app = app_of(context)
    if app.there is not None:
        from mudanza.cli.following_plans import plans_there

        with plans_there(app.there, output) as listener:
            found = app.there.resume_rolling(number, say, listener, skip=skip)
        _leave_with(found, output)
    _leave_with(_roller(app, output).resume(number, skip=skip), output)


@rolling_app.command("stop")
@audited
def stop(context: typer.Context, number: Number) -> None:
    """Have one stop after what is under way; it can be gone on with."""
    say(app_of(context).asked.stop_rolling(number))


@rolling_app.command("give-up")
@audited
def give_up(context: typer.Context, number: Number) -> None:
    """Go on no more with one that has stopped. The host where it stands is left as it is."""
    found = app_of(context).asked.give_up_rolling(number)
    say(f"rolling maintenance {number} is given up, {found.done} of {len(found.laps)} hosts are done")
    lap = found.current
    if lap is not None and lap.before is not None:
        say(f"  {lap.host} may be in maintenance still, and its VMs elsewhere: mudanza maintenance leave {lap.host}")


def _tell_outings(app: App, order: Order, output: Format) -> None:
    found = app.asked.outings(order, say)
    if output in (Format.JSON, Format.YAML):
        print_data([_as_data(each) for each in found.hosts], output)
    else:
        rows = [row for n, each in enumerate(found.hosts, start=1) for row in _rows(n, each)]
        print_rows(rows, output, columns=("host", "turn", "vm", "to", "how", "there and back"))
        total = sum(each.seconds for each in found.hosts)
        say(f"then on each: {order.shown}; its VMs are on the way for about {format_duration(total)} in all")
    if found.error is not None:
        raise error_from_data(found.error)


def _rows(turn: int, outing: OutingOf) -> list[dict[str, object]]:
    first = {"host": outing.host, "turn": turn}
    rows: list[dict[str, object]] = [
        {
            **first,
            "vm": move["vm"],
            "to": move["target"],
            "how": move["mode"],
            "there and back": format_duration(2 * (move["seconds"] or 0.0)),
        }
        for move in (outing.plan["moves"] if outing.plan is not None else ())
    ]
    return rows or [{**first, "how": outing.blocked or "nobody is to leave"}]


def _as_data(outing: OutingOf) -> dict[str, object]:
    blocked = outing.blocked or None
    return {"host": outing.host, "seconds": outing.seconds, "blocked": blocked, "plan": outing.plan}


def _roller(app: App, output: Format) -> Roller:
    from mudanza.operations.rolling import Roller
    from mudanza.operations.rolling_kept import Telling, as_event

    def changed(found: Rolling) -> None:
        if output is Format.JSON and (event := as_event(found)) is not None:
            emit(**event)

    return Roller(app, CarriedHere(app, output), app.asked_by(), say, Telling(say, changed))


def _leave_with(found: Rolling, output: Format) -> NoReturn:
    """Tell how it stands, and leave with the exit code that says it."""
    code = 0 if found.state is RollingState.DONE else PARTLY if found.done else MigrationFailedError.exit_code
    if output is Format.JSON:
        emit("rolling ended", rolling=found.id, state=found.state.value, outcome=found.outcome, exit_code=code)
    say(f"rolling maintenance {found.id} is {found.state.value}: {found.outcome}")
    if found.state is RollingState.STOPPED:
        say(f"  {found.done} of {len(found.laps)} hosts are done; go on once that is mended:")
        say(f"  mudanza rolling --resume {found.id}; or without the command there: add --skip-command")
    raise typer.Exit(code)


@rolling_app.command("show")
def show(
    context: typer.Context,
    number: Annotated[int | None, typer.Argument(metavar="ID", help="One, with what its command printed.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List them, the newest first; or show one."""
    asked = app_of(context).asked
    if number is None:
        listed = asked.rollings(LISTED)
        columns = ("id", "command", "state", "hosts", "began", "outcome")
        rows = [_listed(each, left=listed.is_left(each)) for each in listed.found]
        print_rows(rows, output, columns=columns, data=plain(listed.found), empty="no maintenance has rolled yet")
        return
    one = asked.rolling(number)
    print_rows(
        [_row(lap) for lap in one.laps], output, columns=("host", "stands", "exit code", "said"), data=plain(one)
    )
    if output is Format.TABLE:
        for lap in one.laps:
            sys.stdout.writelines(f"{lap.host} | {line}\n" for line in lap.output.splitlines())


def _row(lap: Lap) -> dict[str, object]:
    return {
        "host": lap.host,
        "stands": lap.stage.value,
        "exit code": "" if lap.exit_code is None else lap.exit_code,
        "said": lap.said,
    }


def _listed(found: Rolling, *, left: bool) -> dict[str, object]:
    return {
        "id": found.id,
        "command": found.order.shown,
        "state": f"{found.state.value}{', abandoned' if left else ''}",
        "hosts": f"{found.done} of {len(found.laps)}",
        "began": datetime.fromtimestamp(found.started_at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "outcome": found.outcome,
    }
