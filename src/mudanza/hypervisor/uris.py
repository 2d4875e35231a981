"""libvirt URIs: the controller's way to a host, the other hosts' way to it, and the way of a migration's data."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from mudanza.model.host import HostEntry

# What these say is true on every machine; keys, sockets, files and programs exist on the controller only.
_TRUE_EVERYWHERE = frozenset({"no_tty", "no_verify", "known_hosts_verify", "mode", "netcat", "tls_priority"})
_REMOTE_TRANSPORTS = frozenset({"", "tls", "tcp", "ssh", "libssh", "libssh2"})
ENCRYPTED_TRANSPORTS = frozenset({"tls", "ssh", "libssh", "libssh2"})


def transport(uri: str) -> str:
    """Return how a URI travels: ``tls``, ``tcp``, ``ssh``, ``libssh``, ``libssh2``, ``unix``, ``ext``."""
    parts = urlsplit(uri)
    named = parts.scheme.partition("+")[2]
    return named or ("tls" if parts.netloc else "unix")


def controller_uri(uri: str) -> str:
    """Return the URI as it is opened: without a terminal to prompt on where ssh would use one."""
    if transport(uri) != "ssh" or "no_tty=" in urlsplit(uri).query:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}no_tty=1"


def peer_uri(entry: HostEntry) -> str | None:
    """Return the URI by which the other hosts reach this one.

    None where the operator named none and the controller's own URI means nothing elsewhere: a local socket,
    this very machine, a program of the controller.
    """
    if entry.peer_uri:
        return entry.peer_uri
    parts = urlsplit(entry.uri)
    if transport(entry.uri) not in _REMOTE_TRANSPORTS or not parts.hostname or _is_local(parts.hostname):
        return None
    kept = [pair for pair in parts.query.split("&") if pair.partition("=")[0] in _TRUE_EVERYWHERE]
    bare = f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{'&'.join(kept)}" if kept else "")
    return controller_uri(bare)


def migration_uri(entry: HostEntry) -> str | None:
    """Return where memory and disks travel to, as libvirt's ``migrate_uri``; None: libvirt's choice."""
    if not entry.migration_address:
        return None
    return f"tcp://{_bracketed(entry.migration_address)}"


def _bracketed(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return f"[{parsed}]" if parsed.version == 6 else address


def _is_local(host: str) -> bool:
    if host.startswith("localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
