"""``mudanza host …``, ``export`` and ``import``: what we were told about the cluster."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
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
    from mudanza.hypervisor.reading.cluster import read_host

    app = app_of(context)
    entry = HostEntry(name, uri, peer_uri, migration_address, tls_name, tags=tuple(tag or ()))
    _check(entry)
    if name in {known.name for known in app.inventory.hosts()}:
        app.inventory.add_host(entry)  # says why not, before we wait for a connection
    host, vms = read_host(entry, app.loaded.settings.limits.read)
    if host.error and not force:
        raise UsageError(
            f"host {name} was not added, it could not be read: {host.error}",
            remedy=f"try `virsh -c {shlex.quote(uri)} version` on this machine, or add it all the same with --force",
        )
    app.inventory.add_host(entry)
    say(f"host {name} added" + (f", though: {host.error}" if host.error else f": {len(vms)} VMs"))


@host_app.command("edit")
@audited
def edit(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    uri: Annotated[str | None, typer.Option(metavar="URI", help="How we reach it.")] = None,
    peer_uri: PeerUri = None,
    migration_address: Address = None,
    tls_name: TlsName = None,
    tag: Tags = None,
) -> None:
    """Change what was said of a host; an empty value ("") takes a setting back."""
    app = app_of(context)
    given: dict[str, Any] = {
        "peer_uri": peer_uri,
        "migration_address": migration_address,
        "tls_name": tls_name,
    }
    changes: dict[str, Any] = {key: value or None for key, value in given.items() if value is not None}
    if uri is not None:
        changes["uri"] = uri
    if tag is not None:
        changes["tags"] = tuple(entry for entry in tag if entry)
    if not changes:
        raise UsageError("nothing to change was given", remedy="see: mudanza host edit --help")
    entry = replace(app.inventory.host(name), **changes)
    _check(entry)
    app.inventory.put_hosts([entry])
    say(f"host {name} changed")


@host_app.command("remove")
@audited
def remove(context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Forget a host. Nothing on it is touched."""
    app_of(context).inventory.remove_host(name)
    say(f"host {name} removed from the cluster; nothing on it was touched")


def _check(entry: HostEntry) -> None:
    if not entry.name or entry.name.startswith("-") or any(c.isspace() or c in "/=" for c in entry.name):
        raise UsageError(f"{entry.name!r} is no host name of ours: no blanks, '/' or '=', and no dash in front")
    from mudanza.journal.secrets import without_secrets

    for uri in filter(None, (entry.uri, entry.peer_uri)):
        if "://" not in uri and ":///" not in uri:
            raise UsageError(f"{uri!r} is not a libvirt URI", remedy="write it like qemu+ssh://root@h1/system")
        if without_secrets(uri) != uri:
            raise UsageError(
                f"the URI of host {entry.name} has a password in it, which would be kept and shown in clear",
                remedy="use keys or certificates, or libvirt's own auth.conf (https://libvirt.org/auth.html)",
            )


def export(context: typer.Context) -> None:
    """Print the cluster as TOML, for `mudanza import` and for git."""
    from mudanza.cli.cluster_file import write_cluster

    sys.stdout.write(write_cluster(app_of(context).inventory.hosts()))


@audited
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A TOML file as `export` prints it; - for stdin.")],
) -> None:
    """Add or update hosts from a TOML file; doing it twice changes nothing more."""
    from mudanza.cli.cluster_file import read_cluster_file

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    entries = read_cluster_file(text)
    for entry in entries:
        _check(entry)
    changed = app_of(context).inventory.put_hosts(entries)
    say(f"hosts changed: {', '.join(changed)}" if changed else "nothing to change")
