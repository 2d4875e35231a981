"""``mudanza plan …``: where VMs should be, and why. Nothing is touched."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza.cli.bundles import with_bundles
from mudanza.cli.context import app_of
from mudanza.cli.exit_codes import MOVES_PROPOSED
from mudanza.cli.options import VmName
from mudanza.cli.output import Format, console, print_data, print_rows, say
from mudanza.model.errors import UsageError
from mudanza.model.plan import Goal, HostOutlook, Plan, PlannedMove
from mudanza.model.units import format_duration, format_size, parse_duration
from mudanza.operations.planning import Proposal, Wanted

if TYPE_CHECKING:
    from mudanza.planning.explaining import Explanation

LIMIT = "60s"

plan_app = typer.Typer(no_args_is_help=True, help="Say where VMs should be, and why. Nothing is touched.")

Host = Annotated[str, typer.Argument(metavar="HOST", help="Its name.")]
Save = Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Keep the plan there, for `mudanza apply`.")]
Explain = Annotated[
    list[str] | None,
    typer.Option("--explain", metavar="VM", help="Say of this VM why there, why not elsewhere; may be repeated."),
]
ExitCode = Annotated[bool, typer.Option("--exit-code", help=f"End with {MOVES_PROPOSED} if moves are proposed.")]
WhatIf = Annotated[
    list[str] | None,
    typer.Option(
        "--what-if",
        metavar="TEXT",
        help="Plan for what might be: dies:HOST, more:COUNT:MEMORY:VCPUS, rule:KIND:VM,VM[:HOST,HOST], fewer:COUNT; "
        "may be repeated.",
    ),
]
Level = Annotated[
    int | None, typer.Option("--level", metavar="1-5", help="How eager balance is; else as the rules have it.")
]
Limit = Annotated[str, typer.Option("--limit", metavar="TIME", help="The longest to look for something better.")]
Output = Annotated[Format, typer.Option("-o", "--output", metavar="table|json|yaml|name", help="How to print.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of any plan beside its goal."""

    save: Save = None
    explain: Explain = None
    what_if: WhatIf = None
    exit_code: ExitCode = False
    limit: Limit = LIMIT
    output: Output = Format.TABLE


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(plan_app, name="plan")


@plan_app.command("balance")
@with_bundles
def balance(context: typer.Context, asked: Asked, level: Level = None) -> None:
    """Even out CPU, memory, disk and network over the hosts, and mend broken rules."""
    _plan(context, Goal.BALANCE, "", asked, level)


@plan_app.command("consolidate")
@with_bundles
def consolidate(
    context: typer.Context,
    asked: Asked,
    power: Annotated[
        bool, typer.Option("--power", help="Say which hosts can be off then, and what that saves, done and not done.")
    ] = False,
) -> None:
    """Bring all running VMs onto the fewest hosts, with the fewest moves."""
    _plan(context, Goal.CONSOLIDATE, "", asked, power=power)


@plan_app.command("repair")
@with_bundles
def repair(context: typer.Context, asked: Asked) -> None:
    """Mend broken rules and limits, and nothing else, with the fewest moves."""
    _plan(context, Goal.REPAIR, "", asked)


@plan_app.command("drain")
@with_bundles
def drain(context: typer.Context, host: Host, asked: Asked) -> None:
    """Take every VM off a host, those that are off as well."""
    _plan(context, Goal.DRAIN, host, asked)


@plan_app.command("evacuate")
@with_bundles
def evacuate(context: typer.Context, host: Host, asked: Asked) -> None:
    """Say where a host's running VMs would be started if it were lost; also of one that does not answer any more."""
    _plan(context, Goal.EVACUATE, host, asked)


@plan_app.command("place")
@with_bundles
def place(context: typer.Context, vm: VmName, asked: Asked) -> None:
    """Say where a VM goes best, if it is to leave its host."""
    _plan(context, Goal.PLACE, vm, asked)


def _plan(
    context: typer.Context,
    goal: Goal,
    subject: str,
    asked: Asked,
    level: int | None = None,
    *,
    power: bool = False,
) -> None:
    if asked.what_if and asked.save:
        raise UsageError("a plan for what might be is not one to apply", remedy="leave out --save or --what-if")
    supposed, explained = tuple(asked.what_if or ()), tuple(asked.explain or ())
    wanted = Wanted(goal, subject, level, supposed, explained, parse_duration(asked.limit), power)
    proposal = app_of(context).asked.propose(wanted)
    _show(proposal, asked.output)
    if asked.save is not None:
        _keep(proposal.plan, asked.save)
    if asked.exit_code and proposal.plan.moves:
        raise typer.Exit(MOVES_PROPOSED)


def _keep(plan: Plan, file: Path) -> None:
    try:
        file.write_text(plan.as_json() + "\n")
    except OSError as error:
        raise UsageError(f"the plan could not be kept in {file}: {error}") from error
    say(f"kept in {file}; carry it out: mudanza apply {file}" if plan.moves else f"kept in {file}")


def _show(proposal: Proposal, output: Format) -> None:
    plan = proposal.plan
    if output in (Format.JSON, Format.YAML):
        print_data(proposal.as_data(), output)
    elif output is Format.NAME:
        for vm in dict.fromkeys(move.vm for move in plan.moves):
            sys.stdout.write(f"{vm}\n")
    else:
        _tables(plan, proposal.explanations)


def _tables(plan: Plan, explanations: Sequence[Explanation]) -> None:
    text = console()
    text.print(plan.summary[0].upper() + plan.summary[1:] + ".", soft_wrap=True)
    if plan.moves:
        text.print()
        columns = ("move", "vm", "from", "to", "how", "takes", "sends", "when", "after", "why")
        timed = any(move.finish is not None for move in plan.moves)
        shown = [each for each in columns if timed or each not in ("when", "after")]
        print_rows([_move_row(move) for move in plan.moves], Format.TABLE, columns=shown)
        text.print()
        hosts = ("host", "vms", "cpu", "memory", "memory promised", "vcpus promised")
        print_rows([_host_row(each) for each in plan.outlooks], Format.TABLE, columns=hosts)
    for each in plan.unmoved:
        what = "has no other place than" if plan.goal is Goal.EVACUATE else "stays on"
        text.print(f"! {each.vm} {what} {each.host}: {each.why}", soft_wrap=True)
    if plan.bound is not None and plan.moves:
        text.print(f"\n{_figure(plan)}", soft_wrap=True)
    for note in plan.notes:
        text.print(f"note: {note}", soft_wrap=True)
    for explanation in explanations:
        text.print(f"\n{explanation.vm}: {explanation.verdict}", soft_wrap=True)
        rows = [asdict(each) for each in explanation.hosts]
        print_rows(rows, Format.TABLE, columns=("host", "here", "chosen", "fits", "why"))


def _figure(plan: Plan) -> str:
    after, bound = f"{plan.score_after:g}", f"{plan.bound:g}"
    timed = f", all done after {format_duration(plan.seconds)}" if plan.seconds is not None else ""
    if plan.measure in ("moves", "broken rules"):
        return f"{plan.measure}: {after}; no plan has less than {bound}{timed}"
    gap = f", so at most {plan.gap:g} more could be had" if plan.gap else ""
    return f"{plan.measure}: {plan.score_before:g} → {after}; no plan gets below {bound}{gap}{timed}"


def _move_row(move: PlannedMove) -> dict[str, Any]:
    when = None
    if move.start is not None and move.finish is not None:
        begun = format_duration(move.start) if move.start else "0 s"
        when = f"{begun} – {format_duration(move.finish)}"
    return {
        "move": move.number,
        "vm": move.vm,
        "from": move.source,
        "to": move.target,
        "how": str(move.mode),
        "takes": None if move.seconds is None else format_duration(move.seconds),
        "sends": format_size(move.bytes) if move.bytes else None,
        "when": when,
        "after": [str(number) for number in move.after],
        "why": move.reason,
    }


def _host_row(outlook: HostOutlook) -> dict[str, Any]:
    before, after = outlook.before, outlook.after

    def both(what: str, write: Any) -> str:
        one, two = write(getattr(before, what)), write(getattr(after, what))
        return str(one) if one == two else f"{one} → {two}"

    def share(whole: float) -> Any:
        return lambda value: f"{value / max(whole, 1):.0%}"

    return {
        "host": outlook.host,
        "vms": both("vms", str),
        "cpu": both("cpus", share(outlook.cpus_total)),
        "memory": both("memory", share(outlook.memory_total)),
        "memory promised": both("promised_memory", format_size),
        "vcpus promised": both("promised_vcpus", str),
    }
