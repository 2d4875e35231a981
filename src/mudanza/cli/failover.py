"""``mudanza failover``: a protected VM comes up where its replica is."""

from __future__ import annotations

from typing import Annotated

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import app_of
from mudanza.cli.grouped import WithCommands
from mudanza.cli.options import VmName, parse_map
from mudanza.cli.output import say
from mudanza.cli.recovery import plan_app
from mudanza.model.units import format_duration

failover_app = typer.Typer(cls=WithCommands, invoke_without_command=True)
failover_app.add_typer(plan_app, name="plan")


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.add_typer(failover_app, name="failover")


@failover_app.callback()
def failover(
    context: typer.Context,
    vm: VmName,
    source_is_dead: Annotated[
        bool,
        typer.Option(
            "--source-is-dead", help="Your word that its host is dead, or cut off for good: nothing else is proof."
        ),
    ] = False,
    planned: Annotated[
        bool,
        typer.Option(
            "--planned", help="Its host lives: have it shut down, bring over the rest, start it there. Nothing is lost."
        ),
    ] = False,
    point: Annotated[
        int | None, typer.Option("--point", metavar="N", help="The restore point; else the newest one.")
    ] = None,
    map_network: Annotated[
        list[str] | None, typer.Option("--map-network", metavar="A=B", help="Network or bridge there; may be repeated.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="HOST", help="Where the replica is; else the freshest of several.")
    ] = None,
) -> None:
    """Start a protected VM at its replica's host, from a restore point; what came after that is lost.

    With --planned nothing is lost: the guest shuts down first, within limits.shutdown of the settings, and what is new
    comes over. Otherwise it is refused while a host that answers runs it. Nothing can prove here that a host that is
    silent is dead: that is your word. If it comes back, it does not start the VM by itself: autostart is off since the
    VM is protected.
    """
    if context.invoked_subcommand is None:
        _bring_up(
            context=context, vm=vm, source_is_dead=source_is_dead, planned=planned, point=point,
            map_network=map_network, from_=from_,
        )  # fmt: skip


@failover_app.command("group")
@audited
def group(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As VMs were protected in it: protect --group.")],
    source_is_dead: Annotated[
        bool, typer.Option("--source-is-dead", help="Your word that the hosts of all its VMs are dead.")
    ] = False,
    map_network: Annotated[
        list[str] | None, typer.Option("--map-network", metavar="A=B", help="Network or bridge there; may be repeated.")
    ] = None,
) -> None:
    """Start all VMs of a consistency group at their replicas' hosts, as they were at one instant.

    Those that are up already are passed over: asked for again, it goes on.
    """
    from mudanza.operations.grouping import refuse_unsaid

    networks = parse_map(map_network, "--map-network")
    refuse_unsaid(source_is_dead=source_is_dead)
    app_of(context).asked.fail_over_group(name, networks, say)


@audited
def _bring_up(
    context: typer.Context,
    vm: str,
    source_is_dead: bool,
    planned: bool,
    point: int | None,
    map_network: list[str] | None,
    from_: str | None,
) -> None:
    from mudanza.operations.rescuing import Rescue

    how = Rescue(source_is_dead, planned, point, parse_map(map_network, "--map-network"), from_)
    how.refuse_contradictory()
    done = app_of(context).asked.fail_over(vm, how, say)
    age = "as it was when it went off" if planned else f"which was {format_duration(done.age)} old"
    say(
        f"{done.vm} runs on {done.host} from restore point {done.point}, {age}; it took {format_duration(done.seconds)}"
    )
    if done.drives:
        say(f"! {done.vm}: {done.drives}")
