"""``mudanza power …``: what hosts draw, and which of them are off on purpose."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.bundles import with_bundles
from mudanza.cli.carrying import CarriedHere
from mudanza.cli.context import app_of
from mudanza.cli.errors import errors_as_events
from mudanza.cli.exit_codes import PARTLY
from mudanza.cli.fleet import Cannot, Carried, ask
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.carrying import CannotGo
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.host_power import HostPower, Switching
from mudanza.model.watts import PowerModel
from mudanza.operations.emptying import IN_THE_WAY
from mudanza.operations.host_off import Off, PutOff, put_off

if TYPE_CHECKING:
    from mudanza.operations.host_power import PowerOf
    from mudanza.remote.there import There

power_app = typer.Typer(no_args_is_help=True, help="Say what hosts draw; have them off while they are not needed.")

Host = Annotated[str, typer.Argument(metavar="HOST", help="Its name.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(power_app, name="power")


@power_app.command("set")
@audited
def set_(
    context: typer.Context,
    host: Host,
    watts: Annotated[
        str | None,
        typer.Option("--watts", metavar="IDLE,PEAK", help='What it draws; more figures lie between; "" forgets it.'),
    ] = None,
    mac: Annotated[
        str | None, typer.Option("--mac", metavar="MAC", help='Where it hears Wake-on-LAN; "" forgets it.')
    ] = None,
    keep_on: Annotated[
        bool | None,
        typer.Option("--keep-on/--may-be-off", help="Never switch it off: it serves storage, or something else."),
    ] = None,
    unmatched: Annotated[
        bool, typer.Option("--unmatched", help="You know that it is the host's address, where nothing can tell that.")
    ] = False,
) -> None:
    """Say what a host draws, how it is woken, and whether it has to stay on. What is left out stays as it is.

    An address for Wake-on-LAN is compared with those of the host's network cards: another one is not taken.
    """
    changes: dict[str, Any] = {}
    if watts is not None:
        changes["watts"] = _model(watts) if watts else None
    if mac is not None:
        changes["mac"] = mac.lower() or None
    if keep_on is not None:
        changes["keep_on"] = keep_on
    HostPower(**changes)  # what cannot be is refused before anybody is asked
    say(app_of(context).asked.change_power(host, changes, unmatched=unmatched))


@power_app.command("off")
@audited
@with_bundles
def off(
    context: typer.Context,
    host: Host,
    *,
    cannot_go: Cannot = CannotGo.ASK,
    with_off: Annotated[bool, typer.Option("--with-off", help="Also move those that are off.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if it has to stay on.")] = False,
    carried: Carried,
) -> None:
    """Empty a host, shut its system down by ssh, and see it off by its fence device. It takes no newcomers meanwhile.

    Nobody takes it for dead then: see `mudanza power show`. `power on` wakes it.
    """
    app = app_of(context)
    with errors_as_events(carried.output):
        how = Off(cannot_go, carried.policy, with_off=with_off, force=force)
        if app.there is not None:
            done = _off_there(app.there, host, how)
        else:
            carrying = CarriedHere(app, carried.output)
            done = put_off(app, host, how, carrying, app.asked_by(), say, partial(ask, may_shut_down=False))
        if not done.off:
            raise typer.Exit(PARTLY)


def _off_there(there: There, host: str, how: Off) -> PutOff:
    """Have a daemon put a host off; what becomes of those that cannot go is asked here, if need be."""
    told: list[str] = []

    def hear(line: str) -> None:
        if line not in told:
            told.append(line)
            say(line)

    try:
        refusing = how.cannot_go is CannotGo.ASK
        return there.put_off(host, replace(how, cannot_go=CannotGo.REFUSE) if refusing else how, hear)
    except BlockedError:
        stuck = sum(line.startswith(IN_THE_WAY) for line in told)
        chosen = ask(stuck, may_shut_down=False) if refusing and stuck else CannotGo.REFUSE
        if chosen is CannotGo.REFUSE:
            raise
    return there.put_off(host, replace(how, cannot_go=chosen), hear)


@power_app.command("on")
@audited
def on(context: typer.Context, host: Host) -> None:
    """Wake a host by its fence device or Wake-on-LAN; open it to VMs once it has shown that it is well.

    Exit code 5 where it is not well in time: it stays closed.
    """
    app_of(context).asked.wake(host, say)


@power_app.command("once")
@audited
def once(context: typer.Context) -> None:
    """Make one round of saving, as from a timer: say which host can be off or has to be woken, or do it.

    How far it goes says `power.saving` of the settings; where that is off, it is only said. Plans that come of it are
    carried out by `mudanza work` or `mudanza serve`, which also makes rounds.
    """
    say(app_of(context).asked.save_once(say))


def _model(text: str) -> PowerModel:
    try:
        return PowerModel(tuple(float(each) for each in text.split(",")))
    except ValueError as error:
        raise UsageError(
            f"{text!r} are no watts", remedy="write them like 95,190: idle, and with all CPUs in use"
        ) from error


@power_app.command("show")
def show(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List what is known of hosts' power, and which are off on purpose."""
    rows = [_row(each) for each in app_of(context).asked.powers()]
    columns = ("host", "is", "idle W", "peak W", "wake", "card", "keep on", "last")
    print_rows(rows, output, columns=columns, empty="no host is known")


def _row(found: PowerOf) -> dict[str, Any]:
    known, last = found.known, found.last
    return {
        "host": found.host,
        "is": str(last.standing) if last else "awake",
        "idle W": known.watts.idle if known.watts else None,
        "peak W": known.watts.peak if known.watts else None,
        "wake": known.mac,
        "card": (found.card.in_words if found.card else "never compared") if known.mac else "",
        "keep on": known.keep_on,
        "last": _told(last) if last else "",
    }


def _told(last: Switching) -> str:
    when = datetime.fromtimestamp(last.at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if last.ended_at is None:
        return f"{when}: {last.wish} by {last.asked_by}: under way, or its controller died over it"
    return f"{when}: {last.wish} by {last.asked_by}: {last.said}"
