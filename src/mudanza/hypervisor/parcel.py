"""A file brought to a machine by ssh, whatever else is there: a command of its shell gets it as its input."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from mudanza.hypervisor.ssh import MOST_SAID, SSH_FAILED, ssh_command
from mudanza.model.errors import HostUnreachableError, HypervisorError, UsageError

LIMIT = 900.0
"""Seconds that all of it may take."""
_ANSWER = b"@ "


def way_to(place: str) -> tuple[str, ...]:
    """Return the command by which the controller logs in at ``ssh://[USER@]ADDRESS[:PORT]``. Raises UsageError."""
    scheme, _, rest = place.partition("://")
    command = ssh_command(f"qemu+ssh://{rest}") if scheme == "ssh" and rest else None
    if command is None:
        raise UsageError(f"{place!r} is no place that ssh leads to", remedy="name a host, or write ssh://root@ADDRESS")
    return command


def hand_in(
    name: str, login: Sequence[str], script: str, values: Mapping[str, object], file: Path, *, limit: float = LIMIT
) -> list[list[str]]:
    """Run a script at a machine with a file as its input; return what it answers, in lines that begin with ``@``.

    ``name``: what the machine is called. Raises HostUnreachableError, HypervisorError.
    """
    text = "".join(f"{key}={quote(str(value))}\n" for key, value in values.items()) + script
    with file.open("rb") as given, tempfile.TemporaryFile() as said:
        try:
            done = subprocess.run(
                [*login, f"exec sh -c {quote(text)}"],
                stdin=given, stdout=subprocess.PIPE, stderr=said, timeout=limit, start_new_session=True, check=False,
            )  # fmt: skip
        except OSError as error:
            raise HostUnreachableError(name, f"ssh cannot be started: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise HostUnreachableError(name, f"it did not take the file within {limit:g} s") from error
        said.seek(0)
        words = " ".join(said.read().decode(errors="replace").split())[-MOST_SAID:] or "it said nothing"
    if done.returncode == SSH_FAILED:
        raise HostUnreachableError(name, f"the ssh connection failed: {words}")
    if done.returncode:
        raise HypervisorError(name, f"a command run by ssh ended with exit code {done.returncode}: {words}")
    lines = [line for line in done.stdout.splitlines() if line.startswith(_ANSWER)]
    return [line[len(_ANSWER) :].decode(errors="replace").split() for line in lines]
