"""What we are told about the cluster: its hosts."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from mudanza.model.errors import UsageError
from mudanza.model.host import HostEntry

if TYPE_CHECKING:
    from mudanza.operations.means import Means


def add(means: Means, entry: HostEntry, *, force: bool = False) -> str:
    """Add a host, after a look whether it answers; return what is to be told. ``force``: even if it does not.

    Raises UsageError where it does not answer, is there already, or cannot be known so.
    """
    from mudanza.hypervisor.reading.cluster import read_host

    refuse_wrong(entry)
    if entry.name in {known.name for known in means.inventory.hosts()}:
        means.inventory.add_host(entry)  # says why not, before we wait for a connection
    host, vms = read_host(entry, means.limits.read)
    if host.error and not force:
        raise UsageError(
            f"host {entry.name} was not added, it could not be read: {host.error}",
            remedy=f"try `virsh -c {shlex.quote(entry.uri)} version` on this machine, "
            "or add it all the same with --force",
        )
    means.inventory.add_host(entry)
    return f"host {entry.name} added" + (f", though: {host.error}" if host.error else f": {len(vms)} VMs")


def change(means: Means, entry: HostEntry) -> str:
    """Change what was said of a host; return what is to be told. Raises UsageError, BlockedError while it is used."""
    refuse_wrong(entry)
    means.inventory.put_hosts([entry])
    return f"host {entry.name} changed"


def remove(means: Means, name: str) -> str:
    """Forget a host; return what is to be told. Raises UsageError, BlockedError while it is used."""
    means.inventory.remove_host(name)
    return f"host {name} removed from the cluster; nothing on it was touched"


def refuse_wrong(entry: HostEntry) -> None:
    """Raise UsageError for what no host can be known by."""
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
