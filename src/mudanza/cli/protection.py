"""``mudanza protect``, ``protections``, ``unprotect`` and ``protection …``: replicas of VMs at other hosts."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of, connecting
from mudanza.cli.errors import show_error
from mudanza.cli.exit_codes import of_several
from mudanza.cli.options import Output, VmName
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.errors import BlockedError, MigrationFailedError, UsageError
from mudanza.model.protection import MOST_EVERY, MOST_POINTS, Compress, Consistency, Protection, RestorePoint
from mudanza.model.units import format_duration, format_size, parse_duration, parse_rate, parse_size

if TYPE_CHECKING:
    from mudanza.journal.protections import Protections
    from mudanza.operations.protecting import Keeping
    from mudanza.remote.there import There

LOOK_AGAIN = 1.0
"""Seconds between two looks whether the first round is made."""

OnHost = Annotated[
    str | None, typer.Option("--on", metavar="HOST", help="Only the replica at that host, where it has several.")
]

protection_app = typer.Typer(no_args_is_help=True, help="Replicas of VMs at other hosts.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("protect")(protect)
    app.command("protections")(protections)
    app.command("unprotect")(unprotect)
    app.add_typer(protection_app, name="protection")


@connecting
@audited
def protect(
    context: typer.Context,
    vms: Annotated[
        list[str], typer.Argument(metavar="VM", help="Names or UUIDs (after `--` if one begins with a dash).")
    ],
    to: Annotated[
        list[str], typer.Option("--to", metavar="HOST", help="Where the replica is to be; again for one more of them.")
    ],
    every: Annotated[str, typer.Option(metavar="TIME", help="How often it is brought up to date.")] = "60s",
    keep: Annotated[int, typer.Option(min=1, max=MOST_POINTS, help="How many restore points it has at most.")] = 5,
    pool: Annotated[str, typer.Option(metavar="POOL", help="The pool there in whose directory it is.")] = "default",
    scratch: Annotated[
        str, typer.Option(metavar="SIZE", help="What a round may take up at the source; before it needs more it ends.")
    ] = "1GiB",
    group: Annotated[
        str, typer.Option("--group", metavar="NAME", help="Those that are in it have their points of one instant.")
    ] = "",
    bandwidth: Annotated[
        str | None, typer.Option(metavar="RATE", help="What a round may send at the most, such as 20MiB/s.")
    ] = None,
    verify_every: Annotated[
        str | None, typer.Option(metavar="TIME", help="How often all of it is compared with the source, such as 1d.")
    ] = None,
    test_every: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How often a double is started from it, cut off, to see it boot, such as 7d."
        ),
    ] = None,
    test_limit: Annotated[
        str, typer.Option(metavar="TIME", help="How long the double's guest agent may take to answer.")
    ] = "5m",
    freeze_every: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_EVERY, metavar="N", help="Every how many rounds the guest's agent freezes its file systems."
        ),
    ] = None,
    compress: Annotated[
        Compress, typer.Option(help="Compress what is sent: as it wins by what was measured, or always, or never.")
    ] = Compress.AUTO,
) -> None:
    """Keep a replica of a running VM at another host, with points in time that it can come back to.

    Makes the first round, which brings everything. `mudanza protection run` makes the others. A VM may have several
    replicas, each at a host of its own, with an interval and restore points of its own: protect it once more.

    VMs of a group stand still together for a moment in each round, as a rule for less than a second, so that no disk
    shows what came of something that another one does not show yet.
    """
    from mudanza.operations import protecting

    app = app_of(context)
    first = protecting.Keeping(
        to[0], pool, parse_duration(every), keep, parse_size(scratch), group,
        bandwidth=None if bandwidth is None else parse_rate(bandwidth),
        verify_every=None if verify_every is None else parse_duration(verify_every),
        test_every=None if test_every is None else parse_duration(test_every), test_limit=parse_duration(test_limit),
        freeze_every=freeze_every, compress=compress,
    )  # fmt: skip
    for wanted in protecting.to_each(first, to):
        if app.there is not None:
            _protect_there(app, app.there, vms, wanted)
            continue
        for said in protecting.protect(app, vms, wanted, app.asked_by(), say):
            say(f"{said}; keep it up to date with: ")
            say("  mudanza protection run")


def _protect_there(app: App, there: There, vms: list[str], wanted: Keeping) -> None:
    from mudanza.operations import protecting

    picture = app.picture()
    found = [picture.find(vm) for vm in vms]
    asked = [there.protect(each.uuid, wanted) for each in found]
    for cost in [cost for each in found for cost in protecting.what_it_costs(each, wanted.to)]:
        say(cost)
    for made in [_first_round(there, each) for each in asked]:
        said = protecting.in_words(made, made.points[-1])
        say(f"{said}; the daemon keeps it up to date")


def _first_round(there: There, made: Protection) -> Protection:
    """Wait until the daemon has made the first round; return the protection then. Ctrl-C ends the waiting."""
    while True:
        clock.sleep(LOOK_AGAIN)
        found = [each.protection for each in there.protections() if each.protection.id == made.id]
        if not found:
            raise BlockedError(f"VM {made.vm_name!r} was protected, and is not any more", remedy="mudanza protections")
        if found[0].points:
            return found[0]
        if found[0].said:
            raise MigrationFailedError(
                f"the first round of VM {made.vm_name!r} came to nothing: {found[0].said}",
                vm_state="it runs as before",
                remedy="the daemon tries again; see how it goes: mudanza protections",
            )


def protections(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List protected VMs' replicas: how old they are, in seconds, and what has changed since, in bytes."""
    found = app_of(context).asked.protections()
    rows = [_row(each.protection, each.behind) for each in found]
    columns = ("name", "group", "replica", "state", "points", "lag", "behind", "test", "said")
    print_rows(rows, output, columns=columns, empty="no VM is protected; protect one: mudanza protect VM --to HOST")


def _row(protection: Protection, behind: int | None) -> dict[str, Any]:
    from mudanza.operations.replicating import state_of
    from mudanza.protection.telling import said_of

    lag = protection.lag
    return {
        "name": protection.vm_name,
        "uuid": protection.vm_uuid,
        "host": protection.target,
        "replica": f"{protection.target}:{protection.directory}",
        "state": state_of(protection),
        "points": [point.number for point in protection.points],
        "lag": "no point yet" if lag is None else format_duration(lag),
        "lag_seconds": lag,
        "carried_bytes": protection.newest.carried if protection.newest else None,
        "behind": "unknown" if behind is None else format_size(behind),
        "behind_bytes": behind,
        "every_seconds": protection.every,
        "bandwidth": protection.bandwidth,
        "freeze_every": protection.freeze_every,
        "compress": str(protection.compress),
        "sent_bytes": protection.newest.sent if protection.newest else None,
        "application_points": [
            point.number for point in protection.points if point.consistency is Consistency.APPLICATION
        ],
        "verify_every_seconds": protection.verify_every,
        "verified_at": protection.verified_at,
        "test_every_seconds": protection.test_every,
        "tested_at": protection.tested_at,
        "tested": protection.tested,
        "epoch": protection.epoch,
        "point_epoch": protection.newest.epoch if protection.newest else None,
        "paused_by": protection.paused_by,
        "group": protection.group,
        "instant": protection.newest.instant if protection.newest else "",
        "test": protection.trial.name if protection.trial else "",
        "addresses_of": protection.readdressed.at if protection.readdressed else "",
        "said": said_of(protection),
    }


@audited
def unprotect(
    context: typer.Context,
    vm: VmName,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="HOST", help="Where that replica is, where it has several.")
    ] = None,
) -> None:
    """Protect a VM no more, and delete its replica with all restore points; of several replicas only the one named."""
    app_of(context).asked.unprotect(vm, say, from_)


@protection_app.command("points")
def points(context: typer.Context, vm: VmName, on: OnHost = None, output: Output = Format.TABLE) -> None:
    """List a VM's restore points: how old they are, what they are like, and what the rounds have brought and sent."""
    found = [each.protection for each in app_of(context).asked.protections()]
    mine = [each for each in found if vm in (each.vm_uuid, each.vm_name)]
    if len({each.vm_uuid for each in mine}) != 1:
        why = "is not protected" if not mine else "is a name that several protected VMs have"
        raise UsageError(f"VM {vm!r} {why}", remedy="see them: mudanza protections")
    if on is not None and not (there := [each for each in mine if each.target == on]):
        hosts = " and ".join(each.target for each in mine)
        raise UsageError(f"VM {vm!r} has no replica at {on}: it has one at {hosts}", remedy="mudanza protections")
    rows = [_point(each, point) for each in (there if on is not None else mine) for point in each.points]
    columns = ("host", "point", "age", "consistency", "brought", "sent", "firmware", "said")
    print_rows(rows, output, columns=columns, empty="it has no restore point yet")


def _point(protection: Protection, point: RestorePoint) -> dict[str, Any]:
    return {
        "host": protection.target,
        "point": point.number,
        "age": format_duration(protection.read_at - point.taken_at),
        "age_seconds": protection.read_at - point.taken_at,
        "taken_at": point.taken_at,
        "consistency": str(point.consistency),
        "brought": format_size(point.carried),
        "brought_bytes": point.carried,
        "sent": "unknown" if point.sent is None else format_size(point.sent),
        "sent_bytes": point.sent,
        "firmware": point.firmware.file if point.firmware else "",
        "instant": point.instant,
        "epoch": point.epoch,
        "said": point.why_not,
    }


@protection_app.command("sync")
@connecting
@audited
def sync(context: typer.Context, vm: VmName, on: OnHost = None) -> None:
    """Make one round now: bring a VM's replica up to date, or each of them, one after the other."""
    say(app_of(context).asked.sync(vm, verify=False, on=on))


@protection_app.command("verify")
@connecting
@audited
def verify(context: typer.Context, vm: VmName, on: OnHost = None) -> None:
    """Make one round now, and compare the whole replica with the source, byte for byte, at that instant."""
    say(app_of(context).asked.sync(vm, verify=True, on=on))


@protection_app.command("pause")
@audited
def pause(context: typer.Context, vm: VmName, on: OnHost = None) -> None:
    """Have no rounds be made by themselves of a VM's replica, or of all of them, until `protection resume`.

    It grows older, which is told as of any late one, and its restore points stay. In a consistency group no member has
    rounds meanwhile.
    """
    say(app_of(context).asked.pause(vm, paused=True, on=on))


@protection_app.command("resume")
@audited
def resume(context: typer.Context, vm: VmName, on: OnHost = None) -> None:
    """Have rounds be made again that were paused."""
    say(app_of(context).asked.pause(vm, paused=False, on=on))


@protection_app.command("run")
def run(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Make the rounds that are due, and end.")] = False,
) -> None:
    """Make rounds of all protected VMs whenever they are due, until Ctrl-C or SIGTERM."""
    from mudanza.operations.replicating import Replicator

    app = app_of(context)
    over = clock.new_event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    replicator = Replicator(app, app.asked_by(), say, show_error)
    if once:
        raise typer.Exit(of_several(replicator.turn(over)))
    replicator.run(over)


def store_of(app: App) -> Protections:
    """Return what the database has of protected VMs."""
    from mudanza.journal.protections import Protections

    return Protections(app.database)
