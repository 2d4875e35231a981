"""Errors as HTTP tells them: RFC 9457 problem details, with the texts and remedies of the command line."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from mudanza.journal.errors import JournalLostError
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MetricsError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
    UsageError,
    VmDownError,
)
from mudanza.model.plain import plain

MEDIA_TYPE = "application/problem+json"
KIND = "https://mudanza.dev/problems/"
"""What the names of kinds of problems begin with; they are names, and need not lead anywhere."""


class Flaw(BaseModel):
    """What is wrong with one part of a request."""

    where: str
    what: str


class Found(BaseModel):
    """Something that preflight found."""

    code: str
    level: str
    subject: str
    message: str
    remedy: str


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it, and what to do about it."""

    type: str
    title: str
    status: int
    detail: str = ""
    remedy: str = ""
    """What to do next."""
    vm_state: str = ""
    """What state the VM is in now; empty where no VM was touched."""
    exit_code: int = 1
    """What the command line would end with."""
    findings: list[Found] = []
    said: list[str] = []
    """What was told on the way: of a host that is to be emptied, who could not leave it."""
    errors: list[Flaw] = []


class NotThereError(UsageError):
    """What a path names does not exist."""


class NotAllowedError(UsageError):
    """Whoever asks may not."""


class UnknownAskerError(UsageError):
    """Nobody knows who asks."""


class TooManyError(UsageError):
    """Whoever asks has to wait."""


class NotReadyError(MudanzaError):
    """The daemon has not seen the hosts yet."""


_KINDS: tuple[tuple[type[MudanzaError], HTTPStatus, str, str], ...] = (
    (NotThereError, HTTPStatus.NOT_FOUND, "not-there", "There is no such thing"),
    (UnknownAskerError, HTTPStatus.UNAUTHORIZED, "unknown", "Nobody knows who asks"),
    (NotAllowedError, HTTPStatus.FORBIDDEN, "not-allowed", "Not allowed"),
    (TooManyError, HTTPStatus.TOO_MANY_REQUESTS, "too-many", "Too many requests"),
    (NotReadyError, HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", "Not ready yet"),
    (JournalLostError, HTTPStatus.SERVICE_UNAVAILABLE, "journal-lost", "The journal does not answer"),
    (HostUnreachableError, HTTPStatus.BAD_GATEWAY, "host-unreachable", "A host does not answer"),
    (MetricsError, HTTPStatus.BAD_GATEWAY, "metrics", "A server of metrics does not answer"),
    (HypervisorError, HTTPStatus.BAD_GATEWAY, "hypervisor", "libvirt refused"),
    (UsageError, HTTPStatus.BAD_REQUEST, "usage", "It cannot be done as it was asked"),
    (BlockedError, HTTPStatus.CONFLICT, "blocked", "Something stands in the way; nothing was touched"),
    (MigrationFailedError, HTTPStatus.CONFLICT, "failed", "It failed; the VM is as before"),
    (NeedsPersonError, HTTPStatus.CONFLICT, "needs-person", "A person must look"),
    (VmDownError, HTTPStatus.CONFLICT, "vm-down", "The VM is down"),
    (MudanzaError, HTTPStatus.INTERNAL_SERVER_ERROR, "unexpected", "Something unexpected happened"),
)


def problem_of(error: MudanzaError) -> tuple[int, dict[str, Any]]:
    """Return the status and the body that tell of an error."""
    _, status, name, title = next(each for each in _KINDS if isinstance(error, each[0]))
    findings = error.findings if isinstance(error, BlockedError) else ()
    return status.value, {
        "type": f"{KIND}{name}",
        "title": title,
        "status": status.value,
        "detail": str(error),
        "remedy": error.remedy,
        "vm_state": error.vm_state,
        "exit_code": error.exit_code,
        "findings": plain(findings),
        "said": list(error.said) if isinstance(error, BlockedError) else [],
    }


def wrong_input(errors: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the body that tells what is wrong with a request, from what pydantic says of it."""
    told = [{"where": ".".join(str(part) for part in each["loc"]), "what": str(each["msg"])} for each in errors]
    return {
        "type": f"{KIND}input",
        "title": "The request is not as it should be",
        "status": HTTPStatus.UNPROCESSABLE_ENTITY.value,
        "detail": "; ".join(f"{each['where']}: {each['what']}" for each in told),
        "errors": told,
        "exit_code": UsageError.exit_code,
    }
