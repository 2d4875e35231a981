"""``mudanza load``: how busy hosts and VMs are, and looking at it again and again."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mudanza import clock
from mudanza.cli.context import app_of
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_rows, say
from mudanza.model.errors import BlockedError
from mudanza.model.units import format_duration, format_rate, format_size, parse_duration

if TYPE_CHECKING:
    from mudanza.model.load import HostLoad, Loads, Spread, VmLoad

COLUMNS = ("name", "host", "cpus", "memory", "disk", "network", "steal", "readings")

load_app = typer.Typer(help="Show how busy hosts and VMs have been, and measure it.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(load_app, name="load")


@load_app.callback(invoke_without_command=True)
def load(
    context: typer.Context,
    window: Annotated[
        str | None, typer.Option(metavar="TIME", help="How far to look back; else load.window of the settings.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what hosts and VMs have used: the median, and in brackets what 95 % of the time did not exceed.

    Figures come from `mudanza load sample`, or from the Prometheus server of the settings; what nobody has measured is
    not shown, and nothing is made of one reading.
    """
    if context.invoked_subcommand is not None:
        return
    found = app_of(context).asked.measured(parse_duration(window) if window else None)
    loads, names = found.loads, found.names
    rows = [_host_row(each) for _, each in sorted(loads.hosts.items())]
    rows += [_vm_row(each, *names.get(each.uuid, (each.uuid, ""))) for each in _by_name(loads, names)]
    data = {
        "window": found.window,
        "source": loads.source,
        "hosts": list(loads.hosts.values()),
        "vms": [{"name": names.get(each.uuid, ("",))[0], "load": each} for each in _by_name(loads, names)],
    }
    empty = f"nothing was measured in the last {format_duration(found.window)}; measure: mudanza load sample"
    print_rows(rows, output, columns=COLUMNS, data=data, empty=empty)
    for line in loads.told:
        say(f"! {line}")


def _by_name(loads: Loads, names: Mapping[str, tuple[str, str]]) -> list[VmLoad]:
    return sorted(loads.vms.values(), key=lambda each: (names.get(each.uuid, ("",))[0], each.uuid))


def _host_row(each: HostLoad) -> dict[str, Any]:
    return {"name": each.host, "host": "", **_figures(each), "steal": ""}


def _vm_row(each: VmLoad, name: str, host: str) -> dict[str, Any]:
    return {"name": name, "host": host, **_figures(each), "steal": f"{each.steal.p95:.2f}" if each.steal.p95 else ""}


def _figures(each: HostLoad | VmLoad) -> dict[str, str]:
    few = "" if each.means_something else ": too few to mean anything"
    return {
        "cpus": f"{each.cpus.median:.2f} ({each.cpus.p95:.2f})",
        "memory": f"{format_size(each.memory.median)} ({format_size(each.memory.p95)})",
        "disk": _rates(each.disk),
        "network": _rates(each.network),
        "readings": f"{each.samples} over {format_duration(each.span)}{few}",
    }


def _rates(found: Spread) -> str:
    return f"{format_rate(found.median)} ({format_rate(found.p95)})"


@load_app.command("sample")
def sample(
    context: typer.Context,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Between two looks; else load.every of the settings.")
    ] = None,
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="End after it; else at Ctrl-C or SIGTERM.")
    ] = None,
) -> None:
    """Look at what all hosts and VMs use, again and again, and keep it.

    Asks libvirt only, never a guest. A VM that was restarted or moved, a host that did not answer and a controller that
    slept leave a gap, and no wrong figure.
    """
    from mudanza.fleet.sampling import Sampler
    from mudanza.journal.load import LoadKeeper

    app = app_of(context)
    settings = app.loaded.settings.load
    seconds = parse_duration(every) if every else settings.every
    until = parse_duration(lasting) if lasting else None
    stop = clock.new_event()
    with app.connections() as connections, _ending_at_signals(stop):
        known = tuple(entry.name for entry in app.inventory.hosts())
        sampler = Sampler(connections, LoadKeeper(app.database), lambda: known, settings.keep, say, settings.fine)
        say(f"looking at {len(known)} hosts every {format_duration(seconds)}")
        sampler.run(seconds, until, stop)
    say(f"{sampler.rounds} looks, {sampler.kept} readings kept; see them: mudanza load")
    if not sampler.kept and sampler.rounds > 1:
        raise BlockedError("nothing could be measured", remedy="see why above; what is where: mudanza hosts")


@contextmanager
def _ending_at_signals(stop: clock.Event) -> Iterator[None]:
    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
