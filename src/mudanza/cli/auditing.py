"""Having it written down who asks for what, before it is done, and what came of it."""

from __future__ import annotations

import math
import os
import pwd
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

import typer

from mudanza.cli.context import app_of
from mudanza.cli.exit_codes import INTERRUPTED
from mudanza.cli.output import say
from mudanza.model.errors import MudanzaError
from mudanza.model.units import format_duration

if TYPE_CHECKING:
    from mudanza.cli.context import App

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_NOBODY = 2**32 - 1
"""What the kernel says where nobody has logged in."""


def audited(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Return the command as one of which the audit tells; it takes the ``context`` by name, as Typer gives it."""

    @wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        app = app_of(cast(typer.Context, kwargs["context"]))
        if app.server is not None:  # the daemon writes down what it is asked for
            return command(*args, **kwargs)
        audit = app.audit
        number = audit.asked(asker(), sys.argv[1:])
        code, outcome = 1, ""
        try:
            result = command(*args, **kwargs)
            code = 0
            return result
        except typer.Exit as left:
            code = left.exit_code
            raise
        except MudanzaError as error:
            code, outcome = error.exit_code, str(error)
            raise
        except (KeyboardInterrupt, SystemExit):
            code, outcome = INTERRUPTED, "interrupted"
            _tell_left(app)
            raise
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            try:
                audit.ended(number, code, outcome)
            except MudanzaError as error:
                say(f"! the audit could not be told how this ended: {error}")

    return run


def _tell_left(app: App) -> None:
    """Say which jobs are left in the middle by who was interrupted: others keep off them until their lease is over."""
    with suppress(MudanzaError):
        for job in app.jobs.unfinished():
            if job.owner == app.jobs.owner and not job.abandoned:
                rest = format_duration(math.ceil(job.lease_until - job.read_at))
                say(f"! job {job.id} ({job.kind} of {job.vm_name}) is left in the middle of it")
                say(f"  what to do: in {rest}, when that is known to everybody: mudanza job resume {job.id}")


def asker() -> dict[str, str | int]:
    """Return who runs this program, and from where, as the machine tells."""
    found: dict[str, str | int] = {
        "user": _name(os.getuid()),
        "uid": os.getuid(),
        "host": os.uname().nodename,
        "pid": os.getpid(),
    }
    if sudo := os.environ.get("SUDO_USER"):
        found["sudo_user"] = sudo
    with suppress(OSError, ValueError):
        login = int(Path("/proc/self/loginuid").read_text())
        if login != _NOBODY:
            found["login"] = _name(login)
    with suppress(OSError):
        found["tty"] = os.ttyname(0)
    if address := _ssh_address():
        found["address"] = address
    return found


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _ssh_address() -> str:
    """Return where an ssh session comes from; sudo takes the variable away, but not from those above it."""
    if connection := os.environ.get("SSH_CONNECTION"):
        return connection.split()[0]
    process = os.getppid()
    while process > 1:
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            status = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            return ""
        for variable in environment:
            if variable.startswith(b"SSH_CONNECTION="):
                return variable.partition(b"=")[2].split()[0].decode("ascii", "replace")
        process = int(status.rpartition(")")[2].split()[1])
    return ""
