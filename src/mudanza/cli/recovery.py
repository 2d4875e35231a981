"""``mudanza recovery …`` and ``failover plan``: in which order VMs come up and go down, whether they could, and doing
it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.grouped import WithCommands
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, print_rows, say
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.finding import blockers
from mudanza.model.units import format_duration, parse_duration

if TYPE_CHECKING:
    from mudanza.protection.recovery import Recovered

PlanName = Annotated[str, typer.Argument(metavar="NAME", help="The plan's name.")]
Planned = Annotated[bool, typer.Option("--planned", help="The VMs' own hosts live: nothing is lost.")]

Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with its run that has come to a stop, at the step it has come to.")
]

recovery_app = typer.Typer(no_args_is_help=True, help="Plans for recovery: in which order protected VMs come up.")
plan_app = typer.Typer(cls=WithCommands, invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(recovery_app, name="recovery")


@recovery_app.command("import")
@audited
def bring_in(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan, in TOML.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Its name; else the file's.")] = None,
) -> None:
    """Keep a plan in the database, in place of one of that name."""
    say(app_of(context).asked.keep_recovery_plan(name or file.stem, _text_of(file)))


@recovery_app.command("show")
def show(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The plan's name; without: all plans.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show a plan as it was brought in, or list all plans."""
    from mudanza.operations.recovery_file import read_plan

    asked = app_of(context).asked
    if name is not None:
        kept = asked.recovery_plan(name)
        if output in (Format.JSON, Format.YAML):
            print_data(read_plan(kept.name, kept.text), output)
        else:
            sys.stdout.write(kept.text)
        return
    rows = [
        {"name": each.name, "groups": [group.name for group in plan.groups], "vms": list(plan.vms), "by": each.made_by}
        for each in asked.recovery_plans()
        for plan in (read_plan(each.name, each.text),)
    ]
    empty = "there is no plan; bring one in: mudanza recovery import FILE"
    print_rows(rows, output, columns=("name", "groups", "vms", "by"), empty=empty)


@recovery_app.command("check")
def check(
    context: typer.Context,
    plan: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A plan's name, or a file with one.")],
    planned: Planned = False,
    output: Output = Format.TABLE,
) -> None:
    """Say everything that stands against carrying a plan out now: replicas, hosts, memory, networks.

    Nothing is touched. Exit code 3 where it is not possible.
    """
    name, text = (Path(plan).stem, _text_of(Path(plan))) if Path(plan).is_file() else (plan, None)
    _check(app_of(context), name, text, planned=planned, output=output)


@recovery_app.command("remove")
@audited
def remove(context: typer.Context, name: PlanName) -> None:
    """Forget a plan."""
    say(app_of(context).asked.remove_recovery_plan(name))


@recovery_app.command("start")
@audited
def start(context: typer.Context, name: PlanName, resume: Resume = False, output: Output = Format.TABLE) -> None:
    """Start all VMs of a plan where they are, group by group, once their hosts answer: after a power cut.

    Hosts that do not answer are woken, where a fence device or Wake-on-LAN can, and waited for, within power.boot of
    the settings. The VMs of a group start side by side, as in a failover. Of several copies of a VM the newest one is
    started, by its activation epoch; where that is not clear, or a host that may run it cannot be asked, that VM is not
    started, nor are the groups that come after its own, and it comes to a stop (exit code 5).
    """
    from mudanza.cli.answering import answering

    app = app_of(context)
    with answering(app, name):
        done = app.asked.start_site(name, say, resume=resume)
    _print(name, done, output)


@recovery_app.command("stop")
@audited
def stop(
    context: typer.Context,
    name: PlanName,
    within: Annotated[
        str | None,
        typer.Option("--within", metavar="TIME", help="For all of it, such as 5m: for a UPS to call."),
    ] = None,
    resume: Resume = False,
    output: Output = Format.TABLE,
) -> None:
    """Have all VMs of a plan shut down, in the opposite order of its groups. None is ever cut off.

    Each group has limits.shutdown of the settings. Where a VM is not off then, it comes to a stop (exit code 5), for
    the next group is needed by what is on. With --within that waits for nobody: each group gets its share of what is
    left of the time, and those VMs that are on in the end are named (exit code 4).
    """
    done = app_of(context).asked.stop_site(name, parse_duration(within) if within else None, say, resume=resume)
    rows = [
        {"name": each.vm, "host": each.host, "group": each.group, "off": format_duration(each.after),
         "off_seconds": each.after}
        for each in done
    ]  # fmt: skip
    whole = max((each.after for each in done), default=0.0)
    data = {"plan": name, "seconds": whole, "vms": rows}
    print_rows(rows, output, columns=("name", "host", "group", "off"), data=data)
    say(f"plan {name}: {len(done)} VMs are off; it took {format_duration(whole)} in all")


@recovery_app.command("answer")
@audited
def answer(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The number of its job, or the plan's name.")],
    word: Annotated[str, typer.Argument(metavar="yes|no", help="The answer.")],
) -> None:
    """Answer the question that the run of a plan asks now. The first answer counts."""
    say(app_of(context).asked.answer_recovery(run, word))


@plan_app.callback()
def plan(
    context: typer.Context,
    name: PlanName,
    source_is_dead: Annotated[
        bool, typer.Option("--source-is-dead", help="Your word that the VMs' hosts are dead, or cut off for good.")
    ] = False,
    planned: Planned = False,
    resume: Resume = False,
    output: Output = Format.TABLE,
) -> None:
    """Bring up all VMs of a plan where their replicas are, group by group, and wait for what it says in between.

    It is checked first (exit code 3: not possible, nothing is touched). The VMs of a group come up side by side, as
    many as recovery.at_once of the settings or at_once of the plan says. One that does not come up keeps back only the
    groups that come after its own. What comes to a stop is exit code 5, and goes on from there with --resume, or
    `mudanza job resume`. In the end it is told how long each VM took (RTO), and how old
    its restore point was. What the plan asks in between is answered on this terminal, or anywhere by `mudanza recovery
    answer`.
    """
    if context.invoked_subcommand is None:
        _run(context=context, name=name, source_is_dead=source_is_dead, planned=planned, resume=resume, output=output)


@audited
def _run(context: typer.Context, name: str, source_is_dead: bool, planned: bool, resume: bool, output: Format) -> None:
    from mudanza.cli.answering import answering
    from mudanza.operations.recovery_plans import HowToRun

    app, how = app_of(context), HowToRun(source_is_dead, planned, resume)
    how.refuse_contradictory()
    with answering(app, name):
        done = app.asked.recover(name, how, say)
    _print(name, done, output)


def _print(name: str, done: tuple[Recovered, ...], output: Format) -> None:
    rows = [
        {
            "name": each.vm,
            "host": each.host,
            "group": each.group,
            "lost": "nothing" if each.lost is None else f"{format_duration(each.lost)} at the most",
            "ran": "before" if each.ran_after is None else format_duration(each.ran_after),
            "rto": format_duration(each.up_after),
            "lost_seconds": each.lost,
            "ran_seconds": each.ran_after,
            "rto_seconds": each.up_after,
        }
        for each in done
    ]
    whole = max((each.up_after for each in done), default=0.0)
    data = {"plan": name, "seconds": whole, "vms": rows}
    print_rows(rows, output, columns=("name", "host", "group", "lost", "ran", "rto"), data=data)
    say(f"plan {name}: {len(done)} VMs are up; it took {format_duration(whole)} in all")


@plan_app.command("check")
def check_plan(context: typer.Context, name: PlanName, planned: Planned = False, output: Output = Format.TABLE) -> None:
    """Say everything that stands against carrying a plan out now, as `mudanza recovery check` does."""
    _check(app_of(context), name, None, planned=planned, output=output)


def _check(app: App, name: str, text: str | None, *, planned: bool, output: Format) -> None:
    found = app.asked.check_recovery_plan(name, text, say, planned=planned)
    rows = [
        {"level": str(each.level), "code": each.code, "subject": each.subject, "message": each.message,
         "remedy": each.remedy}
        for each in found
    ]  # fmt: skip
    columns = ("level", "subject", "message", "remedy")
    print_rows(rows, output, columns=columns, empty=f"plan {name}: nothing stands against it")
    if in_the_way := blockers(found):
        raise BlockedError(f"plan {name!r} is not possible now: {len(in_the_way)} blockers")


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
