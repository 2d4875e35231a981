"""``mudanza forecast``: what a move will be like, and how well that came true so far."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza.cli.context import App, app_of
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, print_rows, say
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.migration import Mode
from mudanza.model.policy import Compression, Policy, PostCopy
from mudanza.model.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from mudanza.migration.forecast.model import Forecast, Prediction
    from mudanza.operations.foreseeing import Outlook


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("forecast")(forecast)


def forecast(
    context: typer.Context,
    vm: Annotated[str | None, typer.Argument(metavar="VM", help="Its name or UUID.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="HOST", help="Where to; else to every other host.")] = None,
    max_downtime: Annotated[
        str | None, typer.Option(metavar="TIME", help="The most the switchover may take; else as the VM wishes.")
    ] = None,
    bandwidth: Annotated[str | None, typer.Option(metavar="RATE", help="The most it may send.")] = None,
    streams: Annotated[str, typer.Option(metavar="N|auto", help="By how many connections memory goes.")] = "auto",
    compression: Annotated[Compression, typer.Option("--compression", help="As of migrate.")] = Compression.AUTO,
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="By when it has to be done.")] = None,
    policy: Annotated[Policy | None, typer.Option("--policy", help="How a busy guest gets across.")] = None,
    post_copy: Annotated[PostCopy | None, typer.Option("--post-copy", help="As of migrate.")] = None,
    mode: Annotated[Mode, typer.Option("--mode", help="While it runs, or switched off; auto: as it is.")] = Mode.AUTO,
    map_storage: Annotated[list[str] | None, typer.Option(metavar="A=B", help="As of migrate.")] = None,
    map_network: Annotated[list[str] | None, typer.Option(metavar="A=B", help="As of migrate.")] = None,
    probe_link: Annotated[
        bool,
        typer.Option(
            "--probe-link",
            help="Measure the link first, by one connection and by several side by side, for 6 s each; kept for moves.",
        ),
    ] = False,
    accuracy: Annotated[bool, typer.Option("--accuracy", help="How well forecasts have come true.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Say how long a move will take, how dark it will be and by which means, and why. The VM is not touched.

    Measuring takes four seconds. With --accuracy: what was foreseen of the moves so far against what came of them.
    """
    from mudanza.cli.move_options import options_of

    app = app_of(context)
    if accuracy:
        _print_accuracy(app, output)
        return
    if vm is None:
        raise UsageError("name the VM, or ask for --accuracy", remedy="see them all: mudanza vms")
    options = options_of(
        max_downtime=max_downtime,
        bandwidth=bandwidth,
        streams=streams,
        compression=compression,
        deadline=deadline,
        policy=policy,
        post_copy=post_copy,
        mode=mode,
        map_storage=map_storage,
        map_network=map_network,
    )
    app.begin_to_connect()
    foreseen = app.asked.foresee(vm, to, options, warn=_warn, probe_link=probe_link)
    _print(foreseen, output)
    if not foreseen.is_possible:
        raise typer.Exit(BlockedError.exit_code)


def _warn(what: str) -> None:
    say(f"! {what}")


def _print(foreseen: Outlook, output: Format) -> None:
    if output in (Format.JSON, Format.YAML):
        print_data(foreseen.as_data(), output)
        return
    vm, source = foreseen.vm, foreseen.source
    for each in foreseen.targets:
        if output is Format.NAME:
            sys.stdout.write(f"{each.target}\n" if each.forecast else "")
        elif each.forecast is None:
            sys.stdout.write(f"{vm} can NOT go from {source} to {each.target}: mudanza check {vm} --to {each.target}\n")
        else:
            sys.stdout.write(f"{vm} from {source} to {each.target}: {each.forecast.sentence}\n")
            _print_forecast(each.forecast, foreseen.own_wishes)


def _print_forecast(forecast: Forecast, wishes: Sequence[str]) -> None:
    rows = [_row(each) for each in forecast.strategies]
    print_rows(rows, Format.TABLE, columns=("strategy", "total", "downtime", "bytes", "chance", "how"))
    own = [("wishes", f"{', '.join(wishes)}, as the VM itself has it")] if wishes else []
    for label, words in own + _grounds(forecast):
        sys.stdout.write(f"  {label:<9}{words}\n")


def _row(each: Prediction) -> dict[str, str]:
    how = each.outcome
    if not each.arrives:  # what would work is told by the reason of the choice
        how = f"given up after {format_duration(each.total)}: {how.partition(';')[0]}"
    return {
        "strategy": each.strategy,
        "total": format_duration(each.total) if each.arrives else "",
        "downtime": format_duration(each.downtime) if each.downtime is not None else "",
        "bytes": format_size(each.bytes) if each.arrives else "",
        "chance": each.chance,
        "how": how,
    }


def _grounds(forecast: Forecast) -> list[tuple[str, str]]:
    """Return what a forecast rests on, in words."""
    known, habits = forecast.known, forecast.known.habits
    live, cold = _learnt(habits.moves), _learnt(habits.moves_cold)
    beside = f"{format_duration(habits.set_up)}, and {format_duration(habits.switchover)} dark, {live}"
    dirties = "not known"
    if known.dirtying:
        dirties = f"{format_rate(known.dirtying.rate)} all over {format_size(known.dirtying.working_set)}"
    memory = f"{format_size(known.in_use)} of {format_size(known.memory)} in use" if known.running else "it is off"
    return [
        ("memory", memory),
        *([("dirties", f"{dirties} ({known.dirtying_from})")] if known.running and not known.cold else []),
        (
            "disks",
            f"{format_size(known.disks + known.ahead)} to be copied, {format_rate(known.writes)} written to them",
        ),
        ("link", f"{format_rate(known.link.rate)}, {known.link.why}"),
        *([("streams", known.streams.why)] if known.streams.why else []),
        *([("packed", known.compressing.why)] if known.compressing.why else []),
        ("beside", f"{beside}; cold {format_duration(habits.set_up_cold)}, {cold}"),
        ("floor", f"{format_duration(known.floor)}: all of it once over the link"),
    ]


def _learnt(moves: int) -> str:
    return f"learnt from {moves} move{'s' if moves > 1 else ''} of the pair" if moves else "as is usual"


def _print_accuracy(app: App, output: Format) -> None:
    found = app.asked.accuracy()
    rows = [
        {
            "pair": each.pair,
            "moves": each.moves,
            "total, median": f"{each.total_median:.0%}",
            "total, p90": f"{each.total_p90:.0%}",
            "downtime, median": _factor(each.downtime_median),
            "downtime, p90": _factor(each.downtime_p90),
            "as foreseen": f"{each.as_foreseen} of {each.moves}",
        }
        for each in found
    ]
    columns = ("pair", "moves", "total, median", "total, p90", "downtime, median", "downtime, p90", "as foreseen")
    print_rows(rows, output, columns=columns, data=found, empty="no move has been foreseen yet")


def _factor(value: float | None) -> str:
    return f"× {value:.2f}" if value is not None else ""
