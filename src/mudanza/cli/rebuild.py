"""``mudanza rebuild``: what jobs without a journal have left on the hosts, and making it this journal's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import show_error
from mudanza.cli.jobs import finish
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, say
from mudanza.model.errors import BlockedError, MigrationFailedError, MudanzaError, NeedsPersonError, UsageError

if TYPE_CHECKING:
    from mudanza.migration.rebuild.orphans import Orphan
    from mudanza.migration.rebuild.rebuild import Rebuild
    from mudanza.model.cluster import Cluster

ALL = "all"

Adopt = Annotated[
    list[str] | None,
    typer.Option("--adopt", metavar="NAME", help="Make a job of this journal of it, for `job resume`; or: all."),
]
Remove = Annotated[
    list[str] | None,
    typer.Option("--remove", metavar="NAME", help="Give that job up, or take that thing of ours away; or: all."),
]


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("rebuild")(rebuild)


def rebuild(
    context: typer.Context,
    adopt: Adopt = None,
    remove: Remove = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """List what no journal of ours knows: claims on VMs, VMs in two places or in between, throw-away things of ours.

    For a journal that was lost: name the hosts first (host add, import). Nothing is touched unless you say so.
    Exit codes: 0 there is nothing (left), 5 there is.
    """
    from mudanza.migration.rebuild.rebuild import Rebuild

    app = app_of(context)
    with app.connections() as connections:
        connections.open_all()
        cluster = app.read_cluster(connections)
        work = Rebuild(connections, app.jobs, cluster)
        found = work.find()
        if not adopt and not remove:
            _print(found, cluster, output)
            if found or not all(host.seen for host in cluster.hosts):
                raise typer.Exit(NeedsPersonError.exit_code)
            return
        to_adopt = _chosen(found, adopt, "adopt")
        to_remove = [orphan for orphan in _chosen(found, remove, "remove") if orphan not in to_adopt]
        if not yes:
            _ask(to_adopt, to_remove)
        actions: list[tuple[Orphan, Callable[[Orphan], None]]] = [
            *((orphan, lambda each: _adopt(app, work, each)) for orphan in to_adopt),
            *((orphan, lambda each: _remove(app, work, each, output)) for orphan in to_remove),
        ]
        failed = [orphan.name for orphan, act in actions if not _done(orphan, act)]
    untouched = [orphan.name for orphan in found if orphan not in (*to_adopt, *to_remove)]
    if failed or untouched:
        say(f"left as it is: {', '.join((*failed, *untouched))}")
        raise typer.Exit(NeedsPersonError.exit_code)


def _print(found: Sequence[Orphan], cluster: Cluster, output: Format) -> None:
    if output in (Format.JSON, Format.YAML):
        unseen = {host.name: host.error for host in cluster.hosts if not host.seen}
        print_data({"orphans": found, "unseen": unseen}, output)
    elif output is Format.NAME:
        for orphan in found:
            sys.stdout.write(f"{orphan.name}\n")
    else:
        for orphan in found:
            since = f", since {orphan.since}" if orphan.since else ""
            sys.stdout.write(f"{orphan.name}  [{orphan.kind}] on {', '.join(orphan.where)}{since}\n")
            for label, text in (("what", orphan.what), ("seems", orphan.truth), ("would", orphan.would)):
                sys.stdout.write(f"  {label:<7}{text}\n")
        if not found:
            say("nothing is left that this journal does not know of, on the hosts that were seen")


def _chosen(found: Sequence[Orphan], names: Sequence[str] | None, verb: str) -> list[Orphan]:
    """Return the orphans of those names. Raises UsageError for a name there is none of, BlockedError for one with
    which that cannot be done."""
    can = {orphan.name: orphan for orphan in found if (orphan.adoptable if verb == "adopt" else orphan.removable)}
    if names and ALL in names:
        return list(can.values())
    for name in names or ():
        orphan = next((each for each in found if each.name == name), None)
        if orphan is None:
            raise UsageError(f"there is no orphan {name!r}", remedy="see them all: mudanza rebuild")
        if name not in can:
            raise BlockedError(f"{name} cannot be {verb}{'d' if verb[-1] == 'e' else 'ed'}", remedy=orphan.would)
    return [can[name] for name in dict.fromkeys(names or ())]


def _ask(to_adopt: Sequence[Orphan], to_remove: Sequence[Orphan]) -> None:
    """Have a person say yes. Raises UsageError where there is none to be asked, BlockedError for a no."""
    for verb, orphans in (("adopt", to_adopt), ("remove", to_remove)):
        for orphan in orphans:
            say(f"{verb} {orphan.name}: {orphan.what}\n  {orphan.truth}")
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked whether to do that", remedy="say so beforehand: --yes")
    if not typer.confirm("Do that?", err=True):
        raise BlockedError("nothing was done", remedy="see what is left: mudanza rebuild")


def _done(orphan: Orphan, act: Callable[[Orphan], None]) -> bool:
    """Do one thing; tell of an error and go on with the others."""
    try:
        act(orphan)
    except MudanzaError as error:
        show_error(error)
        return False
    return True


def _adopt(app: App, work: Rebuild, orphan: Orphan) -> None:
    number = work.adopt(orphan, app.asked_by())
    say(f"{orphan.name} is job {number} of this journal now; bring it to its end: mudanza job resume {number}")


def _remove(app: App, work: Rebuild, orphan: Orphan, output: Format) -> None:
    if orphan.tool is not None:
        work.remove_tool(orphan.tool)
        say(f"removed {orphan.tool.kind} {orphan.name} from {orphan.tool.host}")
    elif not orphan.adoptable:
        work.take_off(orphan)
        say(f"took claim {orphan.name} off its VM")
    else:
        number = work.adopt(orphan, app.asked_by())
        app.jobs.ask_to_cancel(number, app.asked_by())
        stop = clock.new_event()
        stop.set()
        with suppress(MigrationFailedError):  # which is what was asked for; the journal has it
            finish(app, app.jobs.get(number), output, stop)
        job = app.jobs.get(number)
        say(f"{orphan.name} was job {number} of this journal and has ended: {job.outcome or job.state}")
