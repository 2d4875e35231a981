"""``mudanza test-failover``: does a protected VM come up from its replica? Tried with a double that is cut off."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza import clock
from mudanza.cli.auditing import audited
from mudanza.cli.context import App, app_of
from mudanza.cli.grouped import WithCommands
from mudanza.cli.options import Output, VmName, parse_map
from mudanza.cli.output import Format, print_data, say
from mudanza.model.errors import MigrationFailedError, NeedsPersonError
from mudanza.model.plain import plain
from mudanza.model.units import format_duration, parse_duration

if TYPE_CHECKING:
    from mudanza.protection.trial import Report

TestNetworks = Annotated[
    list[str] | None,
    typer.Option("--map-network", metavar="A=B", help="An isolated network there in A's place; may be repeated."),
]

OnHost = Annotated[
    str | None, typer.Option("--on", metavar="HOST", help="Where the replica is; else the freshest of several.")
]

trial_app = typer.Typer(cls=WithCommands, invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    from mudanza.cli.trial_plan import try_plan

    trial_app.command("plan")(try_plan)
    app.add_typer(trial_app, name="test-failover")


@trial_app.callback()
def try_failover(
    context: typer.Context,
    vm: VmName,
    point: Annotated[
        int | None, typer.Option("--point", metavar="N", help="The restore point; else the newest one.")
    ] = None,
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Take it away again after so long.")
    ] = None,
    until_agent: Annotated[
        str | None,
        typer.Option(
            "--until-agent", metavar="TIME", help="Wait for its guest agent, so long at the most; then take it away."
        ),
    ] = None,
    digests: Annotated[
        bool, typer.Option("--digests", help="Compare what the replica's images hold, too: all are read twice.")
    ] = False,
    map_network: TestNetworks = None,
    on: OnHost = None,
    output: Output = Format.TABLE,
) -> None:
    """Try whether a protected VM comes up from its replica: a double of it starts there, cut off from everything.

    It has another name, UUID and MAC addresses, its cards hang on taps that are on no bridge (or, by --map-network, on
    an isolated network there, on which other doubles may be), and its disks are images
    of its own upon the restore point's. The VM and its replica are left alone, and rounds go on; but no restore points
    are thinned. It stays up until `mudanza test-failover end VM`, or is taken away at once after --for or
    --until-agent, or at Ctrl-C while these wait. In the end what there was before is compared with what there is then.
    """
    if context.invoked_subcommand is None:
        seconds = parse_duration(lasting) if lasting else None
        patience = parse_duration(until_agent) if until_agent else None
        networks = parse_map(map_network, "--map-network")
        _begin(
            context=context, vm=vm, point=point, lasting=seconds, patience=patience, digests=digests, networks=networks,
            on=on, output=output,
        )  # fmt: skip


@audited
def _begin(
    context: typer.Context,
    vm: str,
    point: int | None,
    lasting: float | None,
    patience: float | None,
    digests: bool,
    networks: Mapping[str, str],
    on: str | None,
    output: Format,
) -> None:
    app = app_of(context)
    report = app.asked.begin_trial(vm, point, say, digests=digests, networks=networks, on=on)
    say(f"{report.double} runs on {report.host} from restore point {report.point}; network: {report.network}")
    if lasting is None and patience is None:
        say(f"it stays up; no restore points are thinned until: mudanza test-failover end {report.vm}")
        show_report(report, output)
        return
    answered = _wait(app, report, lasting, patience)
    _finish(app, report.uuid, output, report.host)
    if not answered:
        raise MigrationFailedError(
            f"the agent of {report.double} did not answer within {format_duration(patience or 0.0)}",
            vm_state="production and replica are as before; everything of the test is removed",
            remedy="look at it while it runs: leave --until-agent out, then mudanza console",
        )


def _wait(app: App, report: Report, lasting: float | None, patience: float | None) -> bool:
    """Let it run for as long as is wanted, or until Ctrl-C; return whether its agent answered, if that was awaited."""
    with ended_by_hand() as over:
        answered = patience is None or app.asked.await_agent(report.uuid, patience, over, report.host)
        if answered and lasting is not None:
            over.wait(lasting)
        return answered or over.is_set()


@contextmanager
def ended_by_hand() -> Iterator[clock.Event]:
    """Have Ctrl-C and SIGTERM end the waiting, and nothing else, while the block runs."""
    over = clock.new_event()
    before = {number: signal.signal(number, lambda *_: over.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield over
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@trial_app.command("end")
@audited
def end(context: typer.Context, vm: VmName, on: OnHost = None, output: Output = Format.TABLE) -> None:
    """Take a test failover's double away, and compare what there was before with what there is now.

    Exit code 5 where something is not as it was: it says what.
    """
    _finish(app_of(context), vm, output, on)


def _finish(app: App, vm: str, output: Format, on: str | None) -> None:
    report = app.asked.end_trial(vm, say, on)
    show_report(report, output)
    refuse_different(report)


def refuse_different(report: Report) -> None:
    """Raise NeedsPersonError where not everything is as it was before."""
    if report.different:
        changed = "; ".join(f"{each.what}: {each.before} → {each.after}" for each in report.different)
        raise NeedsPersonError(
            f"not everything is as it was before the test failover of VM {report.vm!r}: {changed}",
            vm_state="the double is removed",
            remedy="find out who has changed it; compare the replica with the source: mudanza protection verify",
        )


def show_report(report: Report, output: Format) -> None:
    """Print how a test failover went."""
    if output in (Format.JSON, Format.YAML):
        print_data({**plain(report), "different": [each.what for each in report.different]}, output)
        return
    if output is Format.NAME:
        sys.stdout.write(f"{report.double}\n")
        return
    sys.stdout.write("\n".join(_lines(report)) + "\n")


def _lines(report: Report) -> Iterator[str]:
    age = "" if report.age is None else f", which was {format_duration(report.age)} old"
    yield f"test failover of {report.vm} ({report.uuid}) at {report.host}, from restore point {report.point}{age}"
    yield f"  double: {report.double} ({report.double_uuid})"
    yield f"  network: {report.network}"
    if report.started is not None:
        yield f"  started after {format_duration(report.started)}"
    if report.answered is not None:
        yield f"  its agent answered after {format_duration(report.answered)}"
    for each in report.compared:
        how = f"as before ({each.after})" if each.same else f"NOT AS BEFORE: {each.before} → {each.after}"
        yield f"  {each.what}: {how}"
    for removed in report.removed:
        yield f"  removed: {removed}"
    yield "  it is up" if report.up else f"  all removed after {format_duration(report.lasted or 0.0)}"
