"""``mudanza apply`` and ``drain``: plans carried out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.bundles import with_bundles
from mudanza.cli.carrying import await_end, conduct, leave_with
from mudanza.cli.context import App, app_of
from mudanza.cli.errors import errors_as_events
from mudanza.cli.exit_codes import PARTLY
from mudanza.cli.options import Output
from mudanza.cli.output import Format, say
from mudanza.cli.watching import emit
from mudanza.model.carrying import CannotGo, OnFailure, RunPolicy
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.plan import Plan
from mudanza.model.times import parse_instant, parse_window
from mudanza.model.units import format_duration
from mudanza.operations import emptying
from mudanza.operations.emptying import IN_THE_WAY
from mudanza.operations.planning import as_planned, in_order, refuse_changed, refuse_unproven

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mudanza.model.plan import Unmoved
    from mudanza.operations.emptying import Emptied, Emptying
    from mudanza.remote.there import There

Host = Annotated[str, typer.Argument(metavar="HOST", help="Its name.")]
Failing = Annotated[
    OnFailure,
    typer.Option("--on-failure", help="Where a move fails: go on with the others, or begin nothing more."),
]
Out = Annotated[int, typer.Option("--out", min=1, max=8, help="How many at once from one host.")]
Into = Annotated[int, typer.Option("--into", min=1, max=8, help="How many at once to one host.")]
Total = Annotated[int, typer.Option("--parallel", min=1, max=64, help="How many at once in all.")]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="Begin nothing before it: 22:00, or 2026-11-27T01:00; local time."),
]
Window = Annotated[
    list[str] | None,
    typer.Option("--window", metavar="FROM-TO", help="Begin moves only then, such as 22:00-06:00; may be repeated."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Leave it to `mudanza work`, and return.")]
Cannot = Annotated[
    CannotGo,
    typer.Option(
        "--cannot-go-live",
        help="VMs that cannot leave while they run: ask; refuse, and begin nothing; move them cold; shut them "
        "down, and start them again when maintenance is over; or let them stay.",
    ),
]


@dataclass(frozen=True, slots=True)
class Carried:
    """How a plan is carried out."""

    on_failure: Failing = OnFailure.GO_ON
    out: Out = 2
    into: Into = 2
    total: Total = 8
    at: At = None
    window: Window = None
    detach: Detach = False
    output: Output = Format.TABLE

    @property
    def policy(self) -> RunPolicy:
        """The same as whoever carries it out knows it. Raises UsageError."""
        for each in self.window or ():
            parse_window(each)
        instant = parse_instant(self.at, clock.time()) if self.at else None
        pace = RunPolicy(self.on_failure, self.out, self.into, self.total)
        return replace(pace, not_before=instant, windows=tuple(self.window or ()))


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("apply")(apply)
    app.command("drain")(drain)


@audited
@with_bundles
def apply(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plan of `mudanza plan … --save FILE`; - for stdin.")],
    carried: Carried,
) -> None:
    """Carry out exactly the plan that was shown, if the world still is as it was then; else say what has changed."""
    app = app_of(context)
    with errors_as_events(carried.output):
        plan = _read_plan(file)
        if not plan.moves:
            say(f"nothing to do: {plan.summary}")
            return
        if app.there is not None:
            _apply_there(app, app.there, plan, carried)
        with app.connections() as connections:
            cluster = as_planned(app, plan, app.read_cluster(connections))
        refuse_unproven(app, plan)
        refuse_changed(app, plan, cluster)
        _carry_out(app, in_order(plan, cluster), carried.policy, "apply", plan.subject, carried)


def _apply_there(app: App, there: There, plan: Plan, carried: Carried) -> NoReturn:
    _carried_there(app, there, there.apply(plan, carried.policy), carried)


def _carried_there(app: App, there: There, number: int, carried: Carried, *, stay: int = 0) -> NoReturn:
    _tell_begun(there.run(number).plan, number, carried)
    if carried.detach:
        say(f"see how it goes: mudanza run watch {number}")
        raise typer.Exit(0)
    leave_with(await_end(app, number, carried.output), carried.output, stay=stay)


def _read_plan(file: Path) -> Plan:
    from mudanza.model.plan import plan_from_json

    try:
        plan = plan_from_json(sys.stdin.read() if str(file) == "-" else file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    return plan


def _carry_out(
    app: App,
    plan: Plan,
    policy: RunPolicy,
    kind: str,
    subject: str,
    carried: Carried,
    *,
    stay: int = 0,
) -> NoReturn:
    from mudanza.journal.plans import Plans

    handle = Plans(app.database).begin(plan, policy, app.asked_by(), kind=kind, subject=subject)
    _tell_begun(plan, handle.id, carried)
    if carried.detach:
        handle.let_go()
        say(f"have it done: mudanza work; see how it goes: mudanza run watch {handle.id}")
        raise typer.Exit(0)
    leave_with(conduct(app, handle, carried.output), carried.output, stay=stay)


def _tell_begun(plan: Plan, number: int, carried: Carried) -> None:
    last = max((move.finish or 0.0 for move in plan.moves), default=0.0)
    foreseen = f", foreseen to take {format_duration(last)}" if last else ""
    say(f"plan {number}: {plan.summary}: {len(plan.moves)} moves{foreseen}")
    if carried.output is Format.JSON:
        emit("plan begun", plan=number, summary=plan.summary, moves=len(plan.moves), seconds=last or None)


@audited
@with_bundles
def drain(
    context: typer.Context,
    host: Host,
    *,
    cannot_go: Cannot = CannotGo.ASK,
    carried: Carried,
) -> None:
    """Take every VM off a host. Who could not go is told before anything begins.

    The host stays open to newcomers: to close it, use `mudanza maintenance enter`.
    """
    app = app_of(context)
    with errors_as_events(carried.output):
        policy, there = carried.policy, app.there
        if there is not None:
            emptied = begin_there(lambda how: there.drain(host, how, policy), cannot_go, may_shut_down=False)
            follow_there(app, there, emptied, carried)
        else:
            choose = partial(ask, may_shut_down=False)
            empty(app, emptying.drain(app, host, cannot_go, policy, say, choose), carried)


def empty(app: App, wanted: Emptying, carried: Carried) -> None:
    """Carry out what empties a host, or fills it again; who is not moved is told, and counts as not done, as do those
    that were to be shut down and are still on."""
    plan = wanted.plan
    tell_unmoved(plan.unmoved)
    if plan.moves:
        _carry_out(app, plan, wanted.policy, wanted.kind, wanted.host, carried, stay=wanted.stay)
    _tell_nothing_moves(plan.summary, wanted.stay)


def tell_unmoved(unmoved: Iterable[Unmoved]) -> None:
    """Tell who is not moved, and why."""
    for each in unmoved:
        say(f"! {each.vm} is not moved{f', it stays on {each.host}' if each.host else ''}: {each.why}")


def _tell_nothing_moves(summary: str, stay: int) -> None:
    if stay:
        raise typer.Exit(PARTLY)
    say(f"nothing is to be moved: {summary}")


def ask(stuck: int, *, may_shut_down: bool) -> CannotGo:
    """Ask what is to become of so many that cannot go; where nobody can answer, nothing is begun."""
    if not sys.stdin.isatty():
        return CannotGo.REFUSE
    answers = {"c": CannotGo.COLD, "l": CannotGo.STAY, "n": CannotGo.REFUSE}
    shut_down = ""
    if may_shut_down:
        answers["s"], shut_down = CannotGo.SHUTDOWN, " [s]hut them down,"
    question = f"These {stuck}: move them [c]old,{shut_down} [l]et them stay, or begin [n]othing?"
    answer = typer.prompt(question, default="n", err=True).strip().lower()[:1]
    return answers.get(answer, CannotGo.REFUSE)


def begin_there(begin: Callable[[CannotGo], Emptied], cannot_go: CannotGo, *, may_shut_down: bool) -> Emptied:
    """Have a daemon begin to empty a host, and tell what it told; what becomes of those that cannot go is asked here,
    if need be. Raises BlockedError where nothing is to be begun then."""
    told: tuple[str, ...] = ()
    try:
        emptied = begin(CannotGo.REFUSE if cannot_go is CannotGo.ASK else cannot_go)
    except BlockedError as error:
        told = error.said
        for each in told:
            say(each)
        stuck = sum(each.startswith(IN_THE_WAY) for each in told)
        chosen = ask(stuck, may_shut_down=may_shut_down) if cannot_go is CannotGo.ASK and stuck else CannotGo.REFUSE
        if chosen is CannotGo.REFUSE:
            raise
        emptied = begin(chosen)
    for each in emptied.said:
        if each not in told:
            say(each)
    return emptied


def follow_there(app: App, there: There, emptied: Emptied, carried: Carried) -> None:
    """Tell who is not moved, and follow what a daemon carries out; see ``empty``."""
    tell_unmoved(emptied.unmoved)
    stay = len(emptied.unmoved) + emptied.still_on
    if emptied.plan is not None:
        _carried_there(app, there, emptied.plan, carried, stay=stay)
    _tell_nothing_moves(emptied.summary, stay)
