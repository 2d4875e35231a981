"""The verbs of the program, each loaded when it is wanted: all of them take longer to load than most take to run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

ROOMS: Mapping[str, tuple[str, ...]] = {
    "cluster": ("hosts", "vms", "show"),
    "hosts": ("host", "export", "import"),
    "check": ("check",),
    "migrate": ("migrate",),
    "plan": ("plan",),
    "rules": ("rule",),
    "fleet": ("apply", "drain"),
    "maintenance": ("maintenance",),
    "rolling": ("rolling",),
    "runs": ("runs", "run"),
    "balance": ("balance",),
    "forecast": ("forecast",),
    "power": ("start", "shutdown", "console"),
    "protection": ("protect", "protections", "unprotect", "protection"),
    "failover": ("failover",),
    "recovery": ("recovery",),
    "standby": ("standby",),
    "failback": ("reprotect", "failback"),
    "trial": ("test-failover",),
    "fence": ("fence",),
    "host_power": ("power",),
    "ha": ("ha",),
    "wishes": ("wish",),
    "cluster_cpu": ("cluster",),
    "jobs": ("jobs", "job"),
    "work": ("work",),
    "serve": ("serve",),
    "tokens": ("token",),
    "notify": ("notify",),
    "load": ("load",),
    "journal": ("journal",),
    "rebuild": ("rebuild",),
    "audit": ("audit",),
    "doctor": ("doctor",),
    "lab": ("lab",),
}
"""Module of this package → the verbs that its ``register`` adds; in the order of ``mudanza --help``."""

_ROOM_OF = {verb: room for room, verbs in ROOMS.items() for verb in verbs}


@cache
def verbs_of(room: str) -> Mapping[str, Any]:
    """Load a module and return its verbs, as Typer makes commands of them, by name."""
    part = typer.Typer(rich_markup_mode=None)
    import_module(f"mudanza.cli.{room}").register(part)
    return get_group(part).commands


class Verbs(TyperGroup):
    """The program's own group: finds a verb by its name, and knows all names without loading anything."""

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002
        return list(_ROOM_OF)

    def get_command(self, ctx: object, cmd_name: str) -> Any:  # noqa: ARG002
        # One that nobody knows may be one mistyped: for what Typer suggests then, all have to be there.
        for room in (_ROOM_OF[cmd_name],) if cmd_name in _ROOM_OF else ROOMS:
            self.commands.update(verbs_of(room))
        return self.commands.get(cmd_name)
