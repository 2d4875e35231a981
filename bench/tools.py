"""What moves guests in the benchmark of live moves: mudanza, and virsh with the flags a person would give it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from bench.moves import Tool
from mudanza.lab.guest import Guest
from mudanza.lab.lab import Lab, Via


def mudanza(*options: str, name: str = "", once: bool = False) -> Tool:
    """Return ours with these options of ``mudanza migrate``; several guests in one command, at its own pace."""

    def argv(_lab: Lab, guests: Sequence[Guest], _here: str, there: str) -> Sequence[str]:
        vms = [guest.uuid for guest in guests]
        return [sys.executable, "-m", "mudanza", "migrate", *vms, "--to", there, *options]

    return Tool(name or " ".join(("mudanza", *options)), argv, once=once, leaves_copy=False)


def virsh(*flags: str, name: str = "", limit: float = 600.0, once: bool = False) -> Tool:
    """Return ``virsh migrate --live --p2p --tls`` with more flags; several guests by a loop of a shell, side by side.

    ``limit``: seconds after which it is cancelled, as a person would in the end.
    """

    def argv(lab: Lab, guests: Sequence[Guest], here: str, there: str) -> Sequence[str]:
        commands = [shlex.join(_virsh(lab, guest, here, there, flags)) for guest in guests]
        if len(commands) == 1:
            return shlex.split(commands[0])
        return ["sh", "-c", "".join(f"{command} & " for command in commands) + "wait"]

    return Tool(name or " ".join(("virsh", *flags)), argv, limit=limit, once=once)


def _virsh(lab: Lab, guest: Guest, here: str, there: str, flags: Sequence[str]) -> list[str]:
    argv = ["virsh", "-q", "-c", lab.uri(here, Via.SSH), "migrate", guest.uuid, lab.peer_uri(there)]
    argv += ["--live", "--p2p", "--tls", "--persistent", "--undefinesource", "--migrateuri", f"tcp://{there}"]
    return [*argv, *flags]
