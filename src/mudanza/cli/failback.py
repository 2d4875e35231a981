"""``mudanza reprotect`` and ``failback``: the way home after a failover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.options import VmName, parse_map
from mudanza.cli.output import Format, say
from mudanza.model.errors import BlockedError
from mudanza.model.migration import MigrationOptions, MigrationReport, Mode
from mudanza.model.units import format_duration, format_size

if TYPE_CHECKING:
    from mudanza.model.vm import Vm
    from mudanza.protection.failover import Outcome
    from mudanza.remote.there import There


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("reprotect")(reprotect)
    app.command("failback")(failback)


@audited
def reprotect(
    context: typer.Context,
    vm: VmName,
    to: Annotated[
        str | None, typer.Option("--to", metavar="HOST", help="Where the replica is to be; else where its old copy is.")
    ] = None,
    pool: Annotated[str, typer.Option(metavar="POOL", help="The pool there in whose directory it is.")] = "default",
) -> None:
    """Protect a VM the other way after a failover: its old host is back, and gets only what differs from its old disks.

    The old copy is never started: its definition is taken away there, and kept in the journal; its disks stay as they
    are, and the replica stands upon them.
    """
    done = app_of(context).asked.reprotect(vm, to, pool, say)
    brought = f"{format_size(done.carried)} of {format_size(done.size)} came over"
    say(f"{done.vm} is protected: its replica is at {done.host}, restore point {done.point}; {brought}")
    say(f"  to bring it there: mudanza failback {done.vm}")


@audited
def failback(
    context: typer.Context,
    vm: VmName,
    mode: Annotated[
        Mode,
        typer.Option("--mode", help="While it runs, or by shutting it down; auto: live if it runs, cold if it is off."),
    ] = Mode.AUTO,
    map_network: Annotated[
        list[str] | None, typer.Option("--map-network", metavar="A=B", help="Network or bridge there; may be repeated.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="HOST", help="Which of several replicas' hosts is its home.")
    ] = None,
) -> None:
    """Bring a VM home that is protected the other way; nothing is lost.

    While it runs: its replica at home is brought up to date, it goes on in new images, and a live move brings what
    those hold, and its memory. Cold: it shuts down, what is new comes over, it starts there. Where it cannot come up
    there, it runs where it did. Protect it again then: mudanza reprotect.
    """
    app, networks = app_of(context), parse_map(map_network, "--map-network")
    begun = clock.monotonic()
    if app.there is not None:
        _have_come_home(app.there, vm, mode, networks, begun, to)
    elif mode is Mode.LIVE or (mode is Mode.AUTO and _lives(app, vm, to)):
        _live(app, vm, networks, begun, to)
    else:
        from mudanza.operations.rescuing import fail_back

        _tell_cold(fail_back(app, vm, networks, app.asked_by(), say, to))


def _tell_cold(done: Outcome) -> None:
    say(f"{done.vm} runs on {done.host} again, as it was when it went off; it took {format_duration(done.seconds)}")
    if done.drives:
        say(f"! {done.vm}: {done.drives}")
    say(f"  it is not protected until: mudanza reprotect {done.vm}")


def _tell_live(report: MigrationReport, begun: float) -> None:
    from mudanza.cli.migrate import print_report

    print_report(report, Format.TABLE)
    took = format_duration(clock.monotonic() - begun)
    say(f"{report.vm} runs on {report.target} again, and did so all the while; it took {took}")
    say(f"  it is not protected until: mudanza reprotect {report.vm}")


def _have_come_home(
    there: There, vm: str, mode: Mode, networks: Mapping[str, str], begun: float, to: str | None
) -> None:
    """Have a daemon bring a VM home; a live move is followed, and Ctrl-C asks whether to cancel it."""
    from mudanza.cli.following import MovesThere
    from mudanza.operations.coming_home import GoingHome

    came = there.come_home(vm, mode, networks, say, to)
    if not isinstance(came, GoingHome):
        _tell_cold(came)
        return
    report = MovesThere(there, Format.TABLE).finish(there.job(came.job))
    if report is not None:
        _tell_live(report, begun)


def _lives(app: App, vm: str, to: str | None) -> bool:
    """Whether it is to go while it runs."""
    from mudanza.operations.rescuing import lives

    with app.connections() as connections:
        return lives(app, connections, vm, to)


def _live(app: App, vm: str, networks: Mapping[str, str], begun: float, to: str | None) -> None:
    from mudanza.cli.moving import Carrying, asking_at_ctrl_c
    from mudanza.cli.watching import view_for
    from mudanza.operations.checking import arrivals_of, judge_of
    from mudanza.operations.coming_home import go_home
    from mudanza.operations.rescuing import turned_of

    stop = clock.new_event()
    with app.connections() as connections:

        def carry(vm: Vm, to: str, options: MigrationOptions) -> MigrationReport:
            with view_for(Format.TABLE) as view, asking_at_ctrl_c(stop, view):
                judge, _ = judge_of(app, connections, arrivals_of(app))
                carrying = Carrying(app, connections, view, Format.TABLE, stop)
                prepared = carrying.prepare(judge, vm, to, options, begun=clock.monotonic())
                if prepared is None:
                    raise BlockedError(f"VM {vm.name!r} is on {to} already")
                with carrying.turn(prepared) as turn:
                    return carrying.move(prepared, app.asked_by(), turn)

        protection = turned_of(app, connections, vm, to)
        report = go_home(app, connections, protection, networks, app.asked_by(), say, carry)
    _tell_live(report, begun)
