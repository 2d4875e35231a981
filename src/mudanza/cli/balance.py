"""``mudanza balance``: keeping the cluster in balance, by one controller at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.carrying import ENDING, WORKERS, await_end, conduct, elsewhere_of, leave_with
from mudanza.cli.context import App, app_of
from mudanza.cli.exit_codes import of_several
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_rows, say
from mudanza.cli.watching import emit, view_for
from mudanza.cli.work import Errand, ending_at_signals
from mudanza.model.balance import BALANCING
from mudanza.model.plain import plain
from mudanza.model.units import format_duration, parse_duration
from mudanza.operations import balancing
from mudanza.operations.checking import arrivals_of

if TYPE_CHECKING:
    from mudanza.fleet.balancer import Balancer
    from mudanza.journal.jobs import Job
    from mudanza.operations.balancing import RoundTold
    from mudanza.remote.there import There

LEAVING = 0.1
"""Seconds between two looks whether plans have been handed over."""

balance_app = typer.Typer(help="Keep the cluster in balance; show who does, and what came of each round.")

Every = Annotated[
    str | None, typer.Option("--every", metavar="TIME", help="Between two rounds; else balance.every of the settings.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(balance_app, name="balance")


@balance_app.callback(invoke_without_command=True)
def balance(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many rounds, the newest last.")] = 10,
    output: Output = Format.TABLE,
) -> None:
    """Show who keeps the cluster in balance, and what came of the last rounds; nothing is touched."""
    if context.invoked_subcommand is not None:
        return
    duty, found = app_of(context).asked.balance(limit)
    if duty is not None:
        say(f"balanced by {duty.owner} since {_local(duty.since)}" if duty.alive else "nobody balances now")
    rows = [
        {
            "at": _local(each.at),
            "imbalance": None if each.imbalance is None else f"{each.imbalance:.3f}",
            "asked": "yes" if each.asked else "",
            "plan": each.plan,
            "said": each.said,
        }
        for each in found
    ]
    data = {"on_duty": duty, "rounds": list(found)}
    empty = "there was no round yet; have them made: mudanza balance watch"
    print_rows(rows, output, columns=("at", "imbalance", "asked", "plan", "said"), data=data, empty=empty)


def _local(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@balance_app.command("watch")
@audited
def watch(
    context: typer.Context,
    every: Every = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Also measure loads, as `mudanza load sample` does.")
    ] = True,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it to `mudanza work` to carry plans out.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Keep the cluster in balance until told to stop: measure, plan, and do, propose or say what follows.

    How far it goes by itself say the rules (`automation`) and VMs (`mudanza wish VM --balance …`). Of several on one
    database one does it, the others stand by. Ctrl-C or SIGTERM: begins nothing more and ends when what it does has
    ended; a second one cancels that.
    """
    app = app_of(context)
    seconds = parse_duration(every) if every else app.loaded.settings.balance.every
    stop, cancel = clock.new_event(), clock.new_event()
    with view_for(output) as view, ending_at_signals(stop, cancel):
        errand = Errand(app, arrivals_of(app), view, output, cancel)
        balancer = balancer_of(app, output)
        say(f"a round every {format_duration(seconds)}")
        with carrying_out(app, errand, stop, detach=detach):
            balancer.run(seconds, stop, measuring(app) if measure else _nothing)
    raise typer.Exit(of_several(errand.codes))


@balance_app.command("once")
@audited
def once(context: typer.Context, every: Every = None, output: Output = Format.TABLE) -> None:
    """Make one round, as from a timer, and carry out what is to be done by itself; nothing is measured.

    `--every` says how often the timer runs: what is asked for in several rounds in a row is done.
    """
    app = app_of(context)
    if app.there is not None:
        _once_there(app, app.there, parse_duration(every) if every else None, output)
        return
    seconds = parse_duration(every) if every else app.loaded.settings.balance.every
    handle = balancer_of(app, output).once(seconds)
    if handle is not None:
        leave_with(conduct(app, handle, output), output)


def _once_there(app: App, there: There, every: float | None, output: Format) -> None:
    made = there.balance_once(every)
    for each in made.said:
        say(each)
    for told in made.told:
        tell_round(told, output)
    if made.plan is not None:
        leave_with(await_end(app, made.plan, output), output)


def balancer_of(app: App, output: Format) -> Balancer:
    """Return who makes rounds here, and tells of them."""
    told = ""

    def tell(found: RoundTold) -> None:
        nonlocal told
        tell_round(found, output, told)
        told = found.words

    return balancing.balancer_of(app, app.asked_by(), tell, say)


def tell_round(found: RoundTold, output: Format, told: str = "") -> None:
    """Tell what came of a round; people only if it is not what they were ``told`` last."""
    if output is Format.JSON:
        emit("round", **{name: value for name, value in plain(found).items() if name != "words"})
    if found.words != told:
        say(found.words)


@contextmanager
def carrying_out(app: App, errand: Errand, stop: clock.Event, *, detach: bool) -> Iterator[None]:
    """Carry out, beside what is done within, the plans that balance has put down, whoever did; end when what was begun
    has ended."""
    from mudanza.fleet.minding import Minder
    from mudanza.hypervisor.bounded import Task
    from mudanza.journal.plans import Plans
    from mudanza.migration.worker import Worker

    if detach:
        yield
        return
    plans = Plans(app.database)
    minder = Minder(plans, app.jobs, stop, say, elsewhere_of(app), mine=lambda run: run.kind == BALANCING)
    kinds: dict[int, str] = {}

    def is_ours(job: Job) -> bool:
        if job.plan is not None and job.plan not in kinds:
            kinds[job.plan] = plans.get(job.plan).kind
        return job.plan is not None and kinds[job.plan] == BALANCING

    worker = Worker(app.jobs, errand.carry_out, WORKERS, stop, say, mine=is_ours)
    clock.start_thread(minder.watch, "plans")
    working = Task(lambda: worker.run(once=False))
    try:
        yield
    finally:
        stop.set()
        working.wait(ENDING)
        while minder.busy:
            clock.sleep(LEAVING)


def measuring(app: App) -> Callable[[clock.Event], None]:
    from mudanza.fleet.sampling import Sampler
    from mudanza.journal.load import LoadKeeper

    settings = app.loaded.settings.load

    def measure(over: clock.Event) -> None:
        with app.connections() as connections:
            known = tuple(entry.name for entry in app.inventory.hosts())
            Sampler(connections, LoadKeeper(app.database), lambda: known, settings.keep, say).run(
                settings.every, None, over
            )

    return measure


def _nothing(_over: clock.Event) -> None:
    return
