"""Errors as data and back: as the journal keeps them, scripts read them, and a daemon sends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mudanza.model.errors import (
    BlockedError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
    UsageError,
    VmDownError,
)
from mudanza.model.finding import Finding, Level
from mudanza.model.plain import plain

_KINDS: Mapping[int, type[MudanzaError]] = {
    each.exit_code: each for each in (UsageError, MigrationFailedError, NeedsPersonError, VmDownError)
}


def error_as_data(error: MudanzaError) -> dict[str, Any]:
    """Return all that is told of an error, as JSON values."""
    findings = error.findings if isinstance(error, BlockedError) else ()
    return {
        "message": str(error),
        "remedy": error.remedy,
        "vm_state": error.vm_state,
        "exit_code": error.exit_code,
        "findings": plain(findings),
    }


def error_from_data(data: Mapping[str, Any]) -> MudanzaError:
    """Return the error that ``error_as_data`` was told of: of the same exit code, and in the same words."""
    message, remedy = str(data.get("message", "")), str(data.get("remedy", ""))
    code = int(data.get("exit_code", MudanzaError.exit_code))
    if code == BlockedError.exit_code:
        found: MudanzaError = BlockedError(message, findings=_findings(data), remedy=remedy)
        found.vm_state = str(data.get("vm_state", ""))
        return found
    found = _KINDS.get(code, MudanzaError)(message, remedy=remedy, vm_state=str(data.get("vm_state", "")))
    found.exit_code = code
    return found


def _findings(data: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Return what was found; of another version's words as much as is known here."""
    return tuple(
        Finding(
            Level.WARNING if each.get("level") == Level.WARNING.value else Level.BLOCKER,
            *(str(each.get(name, "")) for name in ("code", "subject", "message", "remedy")),
        )
        for each in data.get("findings", ())
    )
