"""``mudanza audit``: who asked for what, when and from where, and what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import typer

from mudanza.cli.context import app_of
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_rows
from mudanza.model.units import parse_duration


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("audit")(audit)


def audit(
    context: typer.Context,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only what was asked within it, such as 7d.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """List who asked for what that changes something, when and from where, and what came of it; the oldest first."""
    found = app_of(context).asked.audit(parse_duration(since) if since else None)
    rows = [
        {
            "at": datetime.fromtimestamp(each.at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            "who": _person(each.who),
            "from": _place(each.who),
            "command": shlex.join(each.command),
            "exit": "" if each.exit_code is None else each.exit_code,
            "outcome": each.outcome if each.ended_at is not None else "no end was written",
        }
        for each in found
    ]
    columns = ("at", "who", "from", "command", "exit", "outcome")
    print_rows(rows, output, columns=columns, data=found, empty="nothing was asked for")


def _person(who: Mapping[str, str | int]) -> str:
    behind = who.get("sudo_user") or who.get("login")
    user = str(who.get("user", "?"))
    return f"{behind} as {user}" if behind and behind != user else user


def _place(who: Mapping[str, str | int]) -> str:
    parts = [str(who.get("host", "?")), str(who.get("tty", "")).removeprefix("/dev/"), f"pid {who.get('pid', '?')}"]
    if address := who.get("address"):
        parts.insert(0, f"{address} on")
    return " ".join(part for part in parts if part)
