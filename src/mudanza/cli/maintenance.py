"""``mudanza maintenance enter`` and ``leave``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.bundles import with_bundles
from mudanza.cli.context import app_of
from mudanza.cli.errors import errors_as_events
from mudanza.cli.fleet import Cannot, Carried, Host, ask, begin_there, empty, follow_there
from mudanza.cli.output import say
from mudanza.model.carrying import CannotGo
from mudanza.operations import maintenance as operations

maintenance_app = typer.Typer(no_args_is_help=True, help="Empty a host and close it to newcomers; open it again.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    maintenance_app.command("enter")(enter)
    maintenance_app.command("leave")(leave)
    app.add_typer(maintenance_app, name="maintenance")


@audited
@with_bundles
def enter(
    context: typer.Context,
    host: Host,
    *,
    cannot_go: Cannot = CannotGo.ASK,
    with_off: Annotated[bool, typer.Option("--with-off", help="Also move those that are off.")] = False,
    carried: Carried,
) -> None:
    """Close a host to newcomers at once, and take its running VMs off it; `maintenance leave` brings them home.

    Who could not go is told before anything begins; where that keeps it from beginning, the host is open again.
    """
    app = app_of(context)
    with errors_as_events(carried.output):
        policy, there = carried.policy, app.there
        if there is not None:
            emptied = begin_there(
                lambda how: there.enter_maintenance(host, how, policy, with_off=with_off), cannot_go, may_shut_down=True
            )
            follow_there(app, there, emptied, carried)
        else:
            choose = partial(ask, may_shut_down=True)
            empty(app, operations.enter(app, host, cannot_go, policy, say, choose, with_off=with_off), carried)


@audited
@with_bundles
def leave(
    context: typer.Context,
    host: Host,
    *,
    stay: Annotated[bool, typer.Option("--stay-away", help="Open the host; nobody is brought home.")] = False,
    cannot_come: Annotated[
        CannotGo,
        typer.Option(
            "--cannot-go-live",
            metavar="stay|cold",
            help="VMs that cannot come home while they run: they stay where they are, or are moved cold.",
        ),
    ] = CannotGo.STAY,
    carried: Carried,
) -> None:
    """Open a host again, start what was shut down for its maintenance, and bring home those that left it."""
    app = app_of(context)
    with errors_as_events(carried.output):
        operations.refuse_other(cannot_come)
        policy, there = carried.policy, app.there
        if there is not None:
            emptied = there.leave_maintenance(host, cannot_come, policy, stay_away=stay)
            for each in emptied.said:
                say(each)
            if not stay:
                follow_there(app, there, emptied, carried)
            return
        wanted = operations.leave(app, host, cannot_come, policy, say, stay_away=stay)
        if wanted is not None:
            empty(app, wanted, carried)
