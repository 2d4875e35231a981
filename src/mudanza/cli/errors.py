"""Errors, told to people and to scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from mudanza.cli.exit_codes import of_several
from mudanza.cli.output import Format, say
from mudanza.cli.watching import emit
from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.finding import Level
from mudanza.model.telling import error_as_data
from mudanza.model.vm import Vm


def show_error(error: MudanzaError) -> None:
    """Tell a person what happened, where the VM is and what to do."""
    say(f"error: {error}")
    if isinstance(error, BlockedError):
        for finding in error.findings:
            mark = "✗" if finding.level is Level.BLOCKER else "!"
            say(f"  {mark} {finding.subject}: {finding.message} [{finding.code}]")
            say(f"      → {finding.remedy}")
    if error.vm_state:
        say(f"  the VM: {error.vm_state}")
    if error.remedy:
        say(f"  what to do: {error.remedy}")


def leave_of_each(vms: Sequence[Vm], errors: Sequence[MudanzaError]) -> NoReturn:
    """Tell every error and leave with the exit code for one or several VMs."""
    for error in errors:
        show_error(error)
    done = [0] * (len(vms) - len(errors))
    raise typer.Exit(of_several([*done, *(error.exit_code for error in errors)]))


def error_fields(error: MudanzaError) -> dict[str, Any]:
    """Return what a script may want to know of an error."""
    return error_as_data(error)


@contextmanager
def errors_as_events(output: Format, **about: Any) -> Iterator[None]:
    """Let a script that reads events see an error as one of them too; ``about``: further fields of that event."""
    try:
        yield
    except MudanzaError as error:
        if output is Format.JSON:
            emit("error", **about, **error_fields(error))
        raise
