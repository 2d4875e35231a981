"""``mudanza check``: everything that stands against a move."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mudanza.cli.context import app_of, connecting
from mudanza.cli.move_options import (
    ChainOption,
    ImageFormat,
    MapNetwork,
    MapStorage,
    MediaOption,
    ModeOption,
    TlsOption,
    format_asked,
)
from mudanza.cli.options import Output, VmName, parse_map
from mudanza.cli.output import Format, print_data
from mudanza.model.errors import BlockedError
from mudanza.model.finding import Level
from mudanza.model.migration import Media, MigrationOptions, Mode, Tls
from mudanza.model.units import format_size

if TYPE_CHECKING:
    from mudanza.operations.checking import Check, Judged


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("check")(check)


@connecting
def check(
    context: typer.Context,
    vm: VmName,
    to: Annotated[str | None, typer.Option("--to", metavar="HOST", help="Where to; else to every other host.")] = None,
    map_storage: MapStorage = None,
    map_network: MapNetwork = None,
    tls: TlsOption = Tls.AUTO,
    mode: ModeOption = Mode.AUTO,
    chain: ChainOption = None,
    media: MediaOption = Media.THERE,
    image_format: ImageFormat = None,
    output: Output = Format.TABLE,
) -> None:
    """Say everything that stands against a move, and what to do about it. The VM is not touched."""
    app = app_of(context)
    options = MigrationOptions(
        map_storage=parse_map(map_storage, "--map-storage"),
        map_network=parse_map(map_network, "--map-network"),
        tls=tls,
        mode=mode,
        chain=chain,
        media=media,
        format=format_asked(image_format),
    )
    found = app.asked.check(vm, to, options)
    _print_check(found, output)
    if not found.is_possible:
        raise typer.Exit(BlockedError.exit_code)


def _print_check(found: Check, output: Format) -> None:
    if output is Format.NAME:
        for each in found.targets:
            if each.possible:
                sys.stdout.write(each.target + "\n")
        return
    if output is not Format.TABLE:
        print_data(found, output)
        return
    for each in found.targets:
        verdict = "can go" if each.possible else "can NOT go"
        sys.stdout.write(f"{found.vm} {verdict} from {found.source} to {each.target}\n")
        for finding in each.findings:
            mark = "✗" if finding.level is Level.BLOCKER else "!"
            sys.stdout.write(f"  {mark} {finding.subject}: {finding.message} [{finding.code}]\n")
            sys.stdout.write(f"      → {finding.remedy}\n")
        if each.possible:
            sys.stdout.write(_how_it_travels(each))


def _how_it_travels(candidate: Judged) -> str:
    wide = max((len(leg.what) for leg in candidate.travels), default=0)
    lines = []
    for leg in candidate.travels:
        size = format_size(leg.size) if leg.size is not None else ""
        place = f"to {leg.place}, " if leg.place else ""
        lines.append(f"    {leg.what:<{wide}}  {size:>8}  {place}{leg.way}\n")
    return "".join(lines)
