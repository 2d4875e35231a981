"""``mudanza standby …``: the controller's own loss. Its journal and settings are kept at another machine, too."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import app_of
from mudanza.cli.errors import show_error
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.errors import UsageError
from mudanza.model.outcomes import of_several
from mudanza.model.units import format_duration, format_size, parse_duration

if TYPE_CHECKING:
    from mudanza.operations.standby import Sent

Place = Annotated[
    str, typer.Argument(metavar="PLACE", help="A host's name, or where ssh leads: ssh://root@ADDRESS[:PORT].")
]

standby_app = typer.Typer(
    no_args_is_help=True, help="Keep the journal and the settings at another machine, and carry them on from there."
)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(standby_app, name="standby")


@standby_app.command("add")
@audited
def add(
    context: typer.Context,
    place: Place,
    every: Annotated[str, typer.Option("--every", metavar="TIME", help="How old the copy may get.")] = "60s",
    directory: Annotated[
        str, typer.Option("--directory", metavar="PATH", help="Where; else below /var/lib/mudanza/standby.")
    ] = "",
) -> None:
    """Have copies of the journal and the settings be kept at another machine, and send the first one now.

    It takes ssh without a password, and a shell with tar and coreutils there. Files with secrets that the settings name
    are not sent: bring them there once.
    """
    from mudanza.operations import standby

    app, seconds = app_of(context), parse_duration(every)
    if seconds < 1:
        raise UsageError("copies are a second apart at least")
    say(standby.add(app, place, directory, seconds, app.asked_by()))
    _tell(standby.send(app, place))


@standby_app.command("remove")
@audited
def remove(context: typer.Context, place: Place) -> None:
    """Have none be sent there any more."""
    from mudanza.operations import standby

    say(standby.remove(app_of(context), place))


@standby_app.command("show")
def show(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List where copies are kept, and how old the newest is that is there."""
    from mudanza.journal.standbys import Standbys

    store = Standbys(app_of(context).database)
    reign = store.reign()
    rows = [
        {
            "name": each.name,
            "directory": each.directory,
            "state": "replaced" if reign.replaced else "late" if each.late else "on",
            "generation": each.generation,
            "lag": "no copy yet" if each.lag is None else format_duration(each.lag),
            "lag_seconds": each.lag,
            "every_seconds": each.every,
            "size_bytes": each.size,
            "said": each.said,
        }
        for each in store.all()
    ]
    columns = ("name", "directory", "state", "generation", "lag", "said")
    data = {"journal": reign.journal, "reign": reign.number, "replaced": reign.replaced, "places": rows}
    print_rows(rows, output, columns=columns, data=data, empty="there is none; have one: mudanza standby add PLACE")
    if reign.replaced:
        say(f"! this controller does nothing any more, for its journal is carried on elsewhere: {reign.replaced}")


@standby_app.command("send")
@audited
def send(context: typer.Context, place: Place) -> None:
    """Send a copy now."""
    from mudanza.operations import standby

    _tell(standby.send(app_of(context), place))


@standby_app.command("run")
def run(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Send what is due, and end.")] = False,
) -> None:
    """Send copies whenever they are due, until Ctrl-C or SIGTERM. `mudanza serve` does so, too."""
    from mudanza.operations.standby import Keeper

    keeper = Keeper(app_of(context), say, show_error)
    if once:
        raise typer.Exit(of_several(keeper.turn()))
    over = clock.new_event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    keeper.run(over)


@standby_app.command("take")
@audited
def take(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where the copies are, on this machine.")],
    main_is_gone: Annotated[
        bool, typer.Option("--main-is-gone", help="Your word that the controller there is dead, or is to act no more.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the hosts and jobs that this database has.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Carry on here the journal of a controller that is gone, from the newest copy that was kept on this machine.

    It begins a new reign, of which all hosts are told that answer: if the old controller comes back it finds that out,
    and does nothing any more. No VM is touched; bring them up then: mudanza failover plan NAME --source-is-dead.
    """
    from mudanza.operations import standby

    app = app_of(context)
    app.refuse_there()
    if not main_is_gone:
        raise UsageError(
            "the controller that the copies are of does nothing any more after this",
            remedy="if it is gone, or is to act no more: --main-is-gone",
        )
    done = standby.take(app, directory, say, force=force)
    row = {
        "generation": done.generation,
        "reign": done.reign,
        "age": format_duration(done.age),
        "hosts": done.hosts,
        "age_seconds": done.age,
        "unfinished": list(done.unfinished),
        "unmarked": dict(done.unmarked),
        "lacking": list(done.lacking),
    }
    print_rows([row], output, columns=("generation", "reign", "age", "hosts"), data=row)
    for host, why in done.unmarked.items():
        say(f"! {host} does not know of it yet: {why}; once it answers: mudanza standby mark")
    for number in done.unfinished:
        say(f"! job {number} was unfinished then, and may have gone on since: mudanza job resume {number}")
    for file in done.lacking:
        say(f"! {file} is not here, which the settings name")
    say(f"the settings of the old controller: {directory / standby.CURRENT / standby.SETTINGS}")
    say("see where the VMs are: mudanza vms; bring them up: mudanza failover plan NAME --source-is-dead")


@standby_app.command("mark")
@audited
def mark(context: typer.Context) -> None:
    """Have all hosts know of the reign that was begun here: those, too, that did not answer when it was."""
    from mudanza.operations.reigning import mark_hosts

    told = mark_hosts(app_of(context))
    for host, why in told.items():
        say(f"! {host}: {why}" if why else f"{host} knows of it")
    raise typer.Exit(of_several([3 if why else 0 for why in told.values()]))


def _tell(sent: Sent) -> None:
    say(f"{sent.name}: generation {sent.generation} is there, {format_size(sent.size)}")
    for file in sent.lacking:
        say(f"! {file} is not there, which the settings name: bring it there once")
