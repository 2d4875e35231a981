"""``mudanza token …``: keys for those who ask the daemon from elsewhere."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import app_of
from mudanza.cli.options import Output
from mudanza.cli.output import Format, print_data, print_rows, say
from mudanza.model.access import Scope
from mudanza.model.errors import UsageError
from mudanza.model.units import parse_duration

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for: the audit tells it by this.")]

token_app = typer.Typer(no_args_is_help=True, help="Let others ask the daemon: named keys, each for so much.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(token_app, name="token")


@token_app.command("make")
@audited
def make(
    context: typer.Context,
    name: Name,
    scope: Annotated[
        list[Scope], typer.Option("--scope", help="What it may ask for; may be repeated. Who may do anything may read.")
    ],
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST", help="Only these hosts and their VMs; may be repeated."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="Only VMs with one of these tags; may be repeated.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="For how long, such as 90d; else for good."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a token, and print it: this once, for only its hash is kept."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a token", remedy="up to 64 letters, digits and . _ @ -")
    lasts = parse_duration(expires) if expires else None
    opens = app_of(context).asked.make_token(name, scope, host or (), tag or (), lasts)
    if output in (Format.JSON, Format.YAML):
        print_data({"name": name, "token": opens}, output)
        return
    sys.stdout.write(f"{opens}\n")
    say(f"keep it: it cannot be shown again; take it away with: mudanza token revoke {name}")


@token_app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """List all tokens that there are and were; what opens is not among it."""
    found = app_of(context).asked.tokens()
    rows: list[dict[str, Any]] = [
        {
            "name": each.name,
            "state": each.state,
            "scopes": sorted(each.scopes),
            "hosts": sorted(each.hosts) or "all",
            "tags": sorted(each.tags) or "all",
            "made": f"{_local(each.made_at)} by {each.made_by}",
            "expires": _local(each.expires_at) if each.expires_at else "never",
            "used": _local(each.used_at) if each.used_at else "never",
        }
        for each in found
    ]
    columns = ("name", "state", "scopes", "hosts", "tags", "made", "expires", "used")
    print_rows(rows, output, columns=columns, data=found, empty="there is no token; make one: mudanza token make NAME")


def _local(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


@token_app.command("revoke")
@audited
def revoke(context: typer.Context, name: Name) -> None:
    """Let a token open nothing any more, at once."""
    app_of(context).asked.revoke_token(name)
    say(f"the token {name} opens nothing any more")
