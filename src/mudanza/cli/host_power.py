"""``mudanza power …``: what hosts draw, and which of them are off on purpose."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.bundles import with_bundles
from mudanza.cli.carrying import conduct
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import errors_as_events
from mudanza.cli.exit_codes import PARTLY
from mudanza.cli.fleet import Cannot, Carried, ask, tell_unmoved
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.carrying import CannotGo, MoveState
from mudanza.model.errors import UsageError
from mudanza.model.host_power import HostPower, Switching
from mudanza.model.watts import PowerModel

if TYPE_CHECKING:
    from mudanza.journal.host_power import HostPowers
    from mudanza.model.fencing import Match
    from mudanza.operations.emptying import Emptying
    from mudanza.operations.saving import Saver
    from mudanza.operations.switching import Switcher

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
    from mudanza.operations.host_power import compare_mac, put

    app = app_of(context)
    known, card = _powers(app).of(host), None
    if watts is not None:
        known = replace(known, watts=_model(watts) if watts else None)
    if mac is not None:
        known = replace(known, mac=mac.lower() or None)
        if known.mac is not None:
            card = compare_mac(app, host, known.mac, unmatched=unmatched)
    if keep_on is not None:
        known = replace(known, keep_on=keep_on)
    changed = put(app, host, known, card, app.asked_by())
    say(f"{host}: {_in_words(known)}" if changed else f"nothing to change: {_in_words(known)}")


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
        closed = app.inventory.host(host).maintenance
        switcher = switcher_of(app)
        choose = partial(ask, may_shut_down=False)
        wanted = switcher.empty(host, cannot_go, carried.policy, choose, with_off=with_off, force=force)
        if not _emptied(app, wanted, carried):
            app.inventory.set_maintenance(host, on=closed)
            say(f"! {host} is not empty, and stays on")
            raise typer.Exit(PARTLY)
        switcher.off(host, closed=closed)


def _emptied(app: App, wanted: Emptying, carried: Carried) -> bool:
    """Carry out what empties a host; return whether it is empty then."""
    from mudanza.journal.plans import Plans

    tell_unmoved(wanted.plan.unmoved)
    if wanted.stay:
        return False
    if not wanted.plan.moves:
        return True
    plans, who = Plans(app.database), app.asked_by()
    handle = plans.begin(wanted.plan, wanted.policy, who, kind=wanted.kind, subject=wanted.host)
    say(f"plan {handle.id}: {wanted.plan.summary}: {len(wanted.plan.moves)} moves")
    run = conduct(app, handle, carried.output)
    return run.ended_at is not None and run.count(MoveState.DONE) == len(run.moves)


@power_app.command("on")
@audited
def on(context: typer.Context, host: Host) -> None:
    """Wake a host by its fence device or Wake-on-LAN; open it to VMs once it has shown that it is well.

    Exit code 5 where it is not well in time: it stays closed.
    """
    switcher_of(app_of(context)).on(host)


@power_app.command("once")
@audited
def once(context: typer.Context) -> None:
    """Make one round of saving, as from a timer: say which host can be off or has to be woken, or do it.

    How far it goes says `power.saving` of the settings; where that is off, it is only said. Plans that come of it are
    carried out by `mudanza work` or `mudanza serve`, which also makes rounds.
    """
    say(saver_of(app_of(context)).once())


def saver_of(app: App) -> Saver:
    """Return who saves power."""
    from mudanza.operations.saving import Saver

    return Saver(app, app.loaded.settings.power, switcher_of(app), app.asked_by(), say)


def switcher_of(app: App) -> Switcher:
    """Return who switches hosts."""
    from mudanza.operations.fencing import agents_of
    from mudanza.operations.switching import Switcher

    settings = app.loaded.settings
    return Switcher(app, agents_of(settings.fencing), settings.power, app.asked_by(), say)


def _model(text: str) -> PowerModel:
    try:
        return PowerModel(tuple(float(each) for each in text.split(",")))
    except ValueError as error:
        raise UsageError(
            f"{text!r} are no watts", remedy="write them like 95,190: idle, and with all CPUs in use"
        ) from error


def _in_words(known: HostPower) -> str:
    words = [f"{known.watts.idle:g} W idle, {known.watts.peak:g} W busy"] if known.watts else ["nobody knows its watts"]
    words += [f"woken at {known.mac}"] if known.mac else []
    words += ["never switched off"] if known.keep_on else []
    return "; ".join(words)


@power_app.command("show")
def show(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List what is known of hosts' power, and which are off on purpose."""
    from mudanza.journal.fences import WAKE, Fences

    app = app_of(context)
    known, last = _powers(app).all(), _powers(app).last()
    wakes = {each.host: each for each in Fences(app.database).matches() if each.device == WAKE}
    rows = [
        _row(entry.name, known.get(entry.name, HostPower()), last.get(entry.name), wakes.get(entry.name))
        for entry in app.inventory.hosts()
    ]
    columns = ("host", "is", "idle W", "peak W", "wake", "card", "keep on", "last")
    print_rows(rows, output, columns=columns, empty="no host is known")


def _row(host: str, known: HostPower, last: Switching | None, wake: Match | None) -> dict[str, Any]:
    return {
        "host": host,
        "is": str(last.standing) if last else "awake",
        "idle W": known.watts.idle if known.watts else None,
        "peak W": known.watts.peak if known.watts else None,
        "wake": known.mac,
        "card": (wake.in_words if wake else "never compared") if known.mac else "",
        "keep on": known.keep_on,
        "last": _told(last) if last else "",
    }


def _told(last: Switching) -> str:
    when = datetime.fromtimestamp(last.at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if last.ended_at is None:
        return f"{when}: {last.wish} by {last.asked_by}: under way, or its controller died over it"
    return f"{when}: {last.wish} by {last.asked_by}: {last.said}"


def _powers(app: App) -> HostPowers:
    from mudanza.journal.host_power import HostPowers

    return HostPowers(app.database)
