"""``mudanza ha …``: hosts are watched, and VMs of one that dies are started elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.exit_codes import PARTLY
from mudanza.cli.fence import confirmed
from mudanza.cli.options import Output, VmName
from mudanza.cli.output import Format, console, print_data, print_rows, say
from mudanza.model.errors import BlockedError
from mudanza.model.kept import Care, OnHang
from mudanza.model.units import format_duration, parse_duration

if TYPE_CHECKING:
    from mudanza.model.kept import KeptUp
    from mudanza.model.restarts import Restarted
    from mudanza.operations.guarding import Guard

ha_app = typer.Typer(no_args_is_help=True, help="Watch hosts, and start VMs of one that dies elsewhere.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(ha_app, name="ha")


@ha_app.command("enable")
@audited
def enable(
    context: typer.Context,
    vm: VmName,
    priority: Annotated[int, typer.Option(min=1, max=9, help="Those with lower numbers are started first.")] = 5,
    max_restarts: Annotated[int, typer.Option(min=1, max=100, help="How often within a day.")] = 3,
    after: Annotated[
        list[str] | None,
        typer.Option("--after", metavar="OTHER", help="A VM that is started before it, and kept up; may be repeated."),
    ] = None,
    from_replica: Annotated[
        bool, typer.Option("--from-replica", help="Start it from its replica, where its host is lost with its disks.")
    ] = False,
    max_loss: Annotated[
        str | None, typer.Option("--max-loss", metavar="TIME", help="Only if no more is lost then; such as 15m.")
    ] = None,
    on_hang: Annotated[
        OnHang, typer.Option("--on-hang", help="What is done about a guest that hangs: tell it, or restart it.")
    ] = OnHang.TELL,
    hang_after: Annotated[
        str, typer.Option("--hang-after", metavar="TIME", help="How long its agent must have been silent.")
    ] = "120s",
    answers: Annotated[
        str,
        typer.Option("--answers", metavar="PROBE", help="tcp:HOST:PORT, ping:HOST or agent: what shows it is there."),
    ] = "",
) -> None:
    """Have a VM started elsewhere when its host dies, as long as it ran there; one that was shut down stays down.

    Its autostart is switched off: a host that comes back must not start a VM that runs elsewhere by then. What is not
    said is as usual, whatever was said before.
    """
    lost = parse_duration(max_loss) if max_loss is not None else None
    care = Care(from_replica, lost, on_hang, parse_duration(hang_after), answers)
    app_of(context).asked.keep_up(vm, priority, max_restarts, say, after=after or (), care=care)


@ha_app.command("disable")
@audited
def disable(context: typer.Context, vm: VmName) -> None:
    """Do so no more; its autostart is as it was before."""
    say(app_of(context).asked.let_down(vm))


@ha_app.command("status")
def status(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Take one look at all hosts as the watch does, and say what of them answers. Nothing is done."""
    found = app_of(context).asked.availability(say)
    hosts = [
        {"host": name, "is": standing.value, "second lock": found.locks[name].in_words if name in found.locks else ""}
        for name, standing in found.hosts.items()
    ]
    if output in (Format.JSON, Format.YAML):
        stale = [{"vm": each.vm, "host": each.host, "runs on": each.runs_on} for each in found.stale]
        print_data({"said": found.said, "hosts": hosts, "kept_up": found.kept_up, "stale": stale}, output)
        return
    print_rows(hosts, output, columns=("host", "is", "second lock"))
    if output is Format.TABLE:
        console().print()
        empty = "no VM is kept up; have one started elsewhere when its host dies: mudanza ha enable VM"
        names = {each.uuid: each.name for each in found.kept_up}
        columns = ("vm", "priority", "after", "within a day", "besides", "by")
        print_rows([_row(each, names) for each in found.kept_up], output, columns=columns, empty=empty)
        say(found.said)
        for each in found.stale:
            say(
                f"! {each.host} has an old definition of {each.vm}, which runs on {each.runs_on}: "
                f"mudanza ha clean {each.host}"
            )


@ha_app.command("restarts")
def restarts(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="So many, the newest.")] = 20,
    output: Output = Format.TABLE,
) -> None:
    """List the newest restarts that were made by themselves, and what each took.

    Until its host was taken for dead, until that was proven off, until the VM was started, until its guest answered.
    """
    found = app_of(context).asked.restarts(limit)
    if output in (Format.JSON, Format.YAML):
        print_data(found, output)
        return
    columns = ("job", "vm", "from", "to", "silent", "proven off", "started", "answers", "in all", "said")
    print_rows([_restart(each) for each in found], output, columns=columns, empty="nothing was restarted")


def _restart(each: Restarted) -> dict[str, Any]:
    took = {
        "silent": each.silent, "proven off": each.fencing, "started": each.starting, "answers": each.answering,
        "in all": each.whole,
    }  # fmt: skip
    words = {name: format_duration(seconds) if seconds is not None else "" for name, seconds in took.items()}
    return {
        "job": each.job, "vm": each.vm, "from": each.source, "to": each.target, **words, "said": each.answer
    }  # fmt: skip


@ha_app.command("clean")
@audited
def clean(
    context: typer.Context,
    host: Annotated[str, typer.Argument(metavar="HOST", help="Its name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Take the old definitions away that a host has kept of VMs which were started elsewhere while it was lost.

    Only of those that run elsewhere now, after one more look. Nothing is started, and no disk is touched.
    """
    asked = app_of(context).asked
    found = asked.old_definitions(host)
    if not found:
        say(f"{host} keeps no definition of a VM that was started elsewhere")
        return
    for each in found:
        say(f"{each.vm} runs on {each.runs_on}{f'; kept: {each.why_not}' if each.why_not else ''}")
    confirmed(f"Take away the old definitions of these on {host}?", yes=yes)
    cleaned = asked.clean_host(host, [each.uuid for each in found])
    for line in cleaned.said:
        say(line)
    if cleaned.kept:
        raise typer.Exit(PARTLY if cleaned.kept < len(found) else BlockedError.exit_code)


def _row(kept: KeptUp, names: Mapping[str, str]) -> dict[str, Any]:
    after = [names.get(uuid, uuid) for uuid in kept.after]
    return {
        "vm": kept.name, "priority": kept.priority, "after": after, "within a day": kept.most,
        "besides": kept.care.in_words, "by": kept.asked_by,
    }  # fmt: skip


@ha_app.command("run")
def run(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Take one look, do what follows, and end.")] = False,
) -> None:
    """Watch the hosts: fence one that is dead, and have its VMs started elsewhere, until Ctrl-C or SIGTERM.

    Plans that come of it are carried out by `mudanza work` or `mudanza serve`, which also watches. One look alone finds
    no host dead, for that takes time; what is due on a host that is proven off is begun by it.
    """
    app = app_of(context)
    if once:
        guard_of(app).once()
        return
    over = clock.new_event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    guard_of(app).run(over)


def guard_of(app: App) -> Guard:
    """Return who watches the hosts."""
    from mudanza.operations import keeping_up

    return keeping_up.guard_of(app, app.asked_by(), say)
