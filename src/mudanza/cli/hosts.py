"""``mudanza host …``, ``export`` and ``import``: what we were told about the cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import app_of
from mudanza.cli.output import say
from mudanza.model.errors import UsageError
from mudanza.model.host import HostEntry

Uri = Annotated[
    str, typer.Argument(metavar="URI", help="How we reach it: qemu+ssh://root@h1/system, qemu+tls://h1/system …")
]
PeerUri = Annotated[str | None, typer.Option(metavar="URI", help="How the other hosts reach it, where that differs.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="The address or name that memory and disks travel to, where that differs."),
]
TlsName = Annotated[str | None, typer.Option(metavar="NAME", help="The name in its certificate, where that differs.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag; may be repeated.")]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="The name you give it.")]


host_app = typer.Typer(no_args_is_help=True, help="Add, change and remove hosts.")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(host_app, name="host")
    app.command("export")(export)
    app.command("import")(import_)


@host_app.command("add")
@audited
def add(
    context: typer.Context,
    name: NewName,
    uri: Uri,
    peer_uri: PeerUri = None,
    migration_address: Address = None,
    tls_name: TlsName = None,
    tag: Tags = None,
    force: Annotated[bool, typer.Option("--force", help="Add it even if it does not answer now.")] = False,
) -> None:
    """Add a host to the cluster, after a look whether it answers."""
    entry = HostEntry(name, uri, peer_uri, migration_address, tls_name, tags=tuple(tag or ()))
    say(app_of(context).asked.add_host(entry, force=force))


@host_app.command("edit")
@audited
def edit(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which one.")],
    uri: Annotated[str | None, typer.Option(metavar="URI", help="How we reach it.")] = None,
    peer_uri: PeerUri = None,
    migration_address: Address = None,
    tls_name: TlsName = None,
    tag: Tags = None,
) -> None:
    """Change what was said of a host; an empty value ("") takes a setting back."""
    given: dict[str, Any] = {
        "peer_uri": peer_uri,
        "migration_address": migration_address,
        "tls_name": tls_name,
    }
    changes: dict[str, Any] = {key: value or None for key, value in given.items() if value is not None}
    if uri == "":
        raise UsageError("a host has a URI", remedy="leave --uri out, or say what it is")
    if uri is not None:
        changes["uri"] = uri
    if tag is not None:
        changes["tags"] = tuple(entry for entry in tag if entry)
    if not changes:
        raise UsageError("nothing to change was given", remedy="see: mudanza host edit --help")
    say(app_of(context).asked.change_host(name, changes))


@host_app.command("remove")
@audited
def remove(context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="Which one.")]) -> None:
    """Forget a host. Nothing on it is touched."""
    say(app_of(context).asked.remove_host(name))


def export(context: typer.Context) -> None:
    """Print the cluster as TOML, for `mudanza import` and for git."""

    sys.stdout.write(app_of(context).asked.export())


@audited
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file as `export` prints it; - for stdin.")],
) -> None:
    """Add or update hosts, and set the rules of places, from a TOML file; doing it twice changes nothing more.

    A file without [planning] leaves the rules as they are, a host without [hosts.NAME.fence] its fence devices, and one
    without [hosts.NAME.power] what is known of its power.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    for each in app_of(context).asked.take_in(text):
        say(each)
