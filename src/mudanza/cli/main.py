"""The command ``mudanza``: its verbs, and what becomes of errors."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mudanza import __version__
from mudanza.cli.context import App
from mudanza.cli.errors import show_error
from mudanza.cli.exit_codes import INTERRUPTED
from mudanza.cli.output import say
from mudanza.cli.verbs import Verbs
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.remote.reach import Server

GARBAGE_THRESHOLD = 50_000
"""Objects that are made between two looks for garbage; Python's own figure is 700."""

app = typer.Typer(
    name="mudanza",
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Moves virtual machines between plain libvirt/QEMU hosts while they run.",
    epilog="New here? Try it without touching a real host: sudo mudanza lab up",
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"mudanza {__version__}\n")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings file (else $MUDANZA_CONFIG and the usual places).")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL|PATH",
            envvar="MUDANZA_SERVER",
            help="Have it done by the daemon there.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="A file with its token (mode 600); else $MUDANZA_TOKEN."),
    ] = None,
    cacert: Annotated[
        Path | None, typer.Option("--cacert", metavar="FILE", help="Who signs the daemon's certificate, PEM.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    where = Server(server, token_file, cacert) if server else None
    context.obj = App(config, debug=debug, server=where)


def _replace_closed_streams() -> None:
    """Let what goes to a standard stream that was closed (``>&-``) go nowhere.

    Else the next file that is opened, which may be the database, would take its number and be written to.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _collect_little_garbage() -> None:
    """Let Python look for garbage less often, and not at all in the end.

    Nearly all that a command makes are modules, which stay: looking through them takes it 150 ms.
    """
    gc.set_threshold(GARBAGE_THRESHOLD)
    atexit.register(gc.freeze)


def main() -> NoReturn:
    """Run the command line and leave with the exit code DESIGN promises."""
    context_debug = "--debug" in sys.argv
    _collect_little_garbage()
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # VM names are UTF-8 in any locale
    try:
        app()  # Typer itself answers wrong usage (2) and Ctrl-C (130)
        sys.exit(0)
    except MudanzaError as error:
        if context_debug:
            raise
        show_error(error)
        sys.exit(error.exit_code)
    except PermissionError as error:
        if context_debug:
            raise
        show_error(UsageError(f"{error.filename}: {error.strerror}", remedy="the lab needs root: sudo mudanza …"))
        sys.exit(UsageError.exit_code)
    except KeyboardInterrupt:  # before Typer began to watch for it
        sys.exit(INTERRUPTED)
    except Exception as error:
        if context_debug:
            raise
        say(f"unexpected error: {type(error).__name__}: {error}")
        say("  what to do: run it again with `mudanza --debug …` and report what it prints")
        sys.exit(1)
