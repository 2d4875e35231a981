"""Errors, told to people and to scripts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mudanza.cli.output import Format, plain, say
from mudanza.cli.watching import emit
from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.finding import Level


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


def error_fields(error: MudanzaError) -> dict[str, Any]:
    """Return what a script may want to know of an error."""
    findings = error.findings if isinstance(error, BlockedError) else ()
    return {
        "message": str(error),
        "remedy": error.remedy,
        "vm_state": error.vm_state,
        "exit_code": error.exit_code,
        "findings": plain(findings),
    }


@contextmanager
def errors_as_events(output: Format, **about: Any) -> Iterator[None]:
    """Let a script that reads events see an error as one of them too; ``about``: further fields of that event."""
    try:
        yield
    except MudanzaError as error:
        if output is Format.JSON:
            emit("error", **about, **error_fields(error))
        raise
