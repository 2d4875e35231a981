"""``mudanza doctor``: is everything there that moving VMs needs?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza.cli.context import App, app_of
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, say
from mudanza.model.errors import BlockedError
from mudanza.model.finding import Finding, Level, blockers

if TYPE_CHECKING:
    from mudanza.fleet.health import Examined

    _Show = Callable[[Examined], None]

EveryWay = Annotated[
    bool,
    typer.Option(
        "--all-ways", help="Try every way between hosts; of more than six, else one into and out of each is tried."
    ),
]
_MARKS = {Level.BLOCKER: "✗", Level.WARNING: "!"}


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("doctor")(doctor)


def doctor(context: typer.Context, all_ways: EveryWay = False, output: Output = Format.TABLE) -> None:
    """Look at the whole installation, and say how to mend what is wrong. No VM is touched.

    The settings and the journal, each host, what would show only when a host dies (copies of VMs, replicas, fence
    devices, room that is kept), and each way from one host to another, which a tiny guest that never runs
    goes for a moment. Ends with 3 where something stands in the way of every move there.
    """
    app = app_of(context)
    show = _show if output is Format.TABLE else _ignore
    found = [*_controller(app, show), *_hosts(app, show, every_way=all_ways)]
    findings = tuple(finding for each in found for finding in each.findings)
    if output is Format.TABLE:
        say(_summary(findings))
    elif output is Format.NAME:
        sys.stdout.writelines(f"{finding.code}\n" for finding in findings)
    else:
        print_data(found, output)
    if blockers(findings):
        raise typer.Exit(BlockedError.exit_code)


def _controller(app: App, show: _Show) -> Iterable[Examined]:
    from mudanza.fleet.examining import examine_hooks, examine_journal
    from mudanza.fleet.health import Examined
    from mudanza.operations.examining import examine_standbys

    path = app.loaded.path
    found = [
        Examined("settings", str(path) if path else "none: everything is as it is without"),
        examine_journal(app.database, app.loaded.settings.database, app.jobs),
        *examine_hooks(app.hooks),
        *examine_standbys(app),
    ]
    for each in found:
        show(each)
    return found


def _hosts(app: App, show: _Show, *, every_way: bool) -> Iterable[Examined]:
    from mudanza.fleet.examining import examine_hosts, examine_ways, ways_of
    from mudanza.hypervisor.reading.cluster import read_cluster
    from mudanza.operations.examining import examine_availability

    with app.connections() as connections:
        limit = app.loaded.settings.limits.read
        cluster = read_cluster(app.inventory.hosts(), timeout=limit, connections=connections)
        found = (*examine_hosts(connections, cluster.hosts), examine_availability(app, cluster))
        for each in found:
            show(each)
        ways = ways_of(cluster.hosts, every=every_way)
        return (*found, *examine_ways(connections, app.inventory, cluster, ways, show))


def _show(found: Examined) -> None:
    worst = min((finding.level for finding in found.findings), key=list(Level).index, default=None)
    mark = _MARKS[worst] if worst else "✓"
    lines = [f"{mark} {found.subject}: {found.said}".rstrip(": ")]
    for finding in found.findings:
        lines.append(f"    {_MARKS[finding.level]} {finding.message} [{finding.code}]")
        lines.append(f"      what to do: {finding.remedy}")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _ignore(_found: Examined) -> None:
    """What is printed as data is printed whole in the end."""


def _summary(findings: tuple[Finding, ...]) -> str:
    against = len(blockers(findings))
    if not findings:
        return "all is well"
    return f"{against} to be mended, {len(findings) - against} to be known of"
