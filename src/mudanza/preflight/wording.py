"""How findings are put: their level, and commands in remedies that can be pasted whatever the names are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from mudanza.model.finding import Finding, Level
from mudanza.model.host import Host, HostEntry
from mudanza.model.vm import Vm

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_URI = re.compile(r"[a-z0-9]+(?:\+(?P<transport>[a-z0-9]+))?://(?:[^@/?#]*@)?(?P<host>\[[^]]*\]|[^:/?#]*)")
# systemd units of libvirt's modular daemons, by the driver they serve.
_MODULAR_UNIT = {
    "storage": "virtstoraged.socket",
    "network": "virtnetworkd.socket",
    "interface": "virtinterfaced.socket",
    "nwfilter": "virtnwfilterd.socket",
    "secret": "virtsecretd.socket",
}


def blocker(code: str, subject: str, message: str, remedy: str) -> Finding:
    """Return a finding that forbids the move."""
    return Finding(Level.BLOCKER, code, subject, message, remedy)


def warning(code: str, subject: str, message: str, remedy: str) -> Finding:
    """Return a finding the operator should know of; the move goes on."""
    return Finding(Level.WARNING, code, subject, message, remedy)


def virsh(host: Host, *arguments: str) -> str:
    """Return a virsh command against that host, quoted for a shell."""
    return virsh_by(host.entry.uri, *arguments)


def virsh_by(uri: str, *arguments: str) -> str:
    """Return a virsh command by that URI, quoted for a shell."""
    return shlex.join(("virsh", "-c", uri, *arguments))


def mudanza(*arguments: str) -> str:
    """Return a command of ours, quoted for a shell."""
    return shlex.join(("mudanza", *arguments))


def vm_key(vm: Vm) -> str:
    """Return what names the VM safely in a command: its name where that is plain, else its UUID."""
    return vm.name if _PLAIN_NAME.fullmatch(vm.name) else vm.uuid


def listed(names: Iterable[str], *, limit: int = 8) -> str:
    """Return the names in order, shortened where there are many; ``none`` for no names."""
    known = sorted(names)
    shown = ", ".join(known[:limit]) or "none"
    return f"{shown} and {len(known) - limit} more" if len(known) > limit else shown


def because(detail: str) -> str:
    """Return a probe's own words as the end of a sentence."""
    return f": {detail}" if detail else ""


def start_driver(host: Host, driver: str) -> str:
    """Return how to start the libvirt daemon that serves a driver on that host."""
    unit = _MODULAR_UNIT[driver]
    if host.daemon == "libvirtd":
        return f"on {host.name}: install libvirt's {driver} driver, then systemctl restart libvirtd"
    return f"on {host.name}: systemctl enable --now {unit} (with libvirtd: install its {driver} driver)"


def listen_unit(host: Host, uri: str) -> str:
    """Return what must listen on that host for another host's libvirt to get in by ``uri``."""
    transport = uri_transport(uri)
    daemon = {"libvirtd": "libvirtd", "virtqemud": "virtproxyd"}.get(host.daemon)
    if transport in ("tls", "tcp"):
        unit = f"{daemon or 'libvirtd'}-{transport}.socket"
        other = "" if daemon else f" (virtproxyd-{transport}.socket where virtqemud runs)"
        return f"systemctl enable --now {unit}{other}"
    unit = {"libvirtd": "libvirtd.socket", "virtqemud": "virtqemud.socket virtproxyd.socket"}.get(
        host.daemon, "libvirtd.socket"
    )
    return f"systemctl enable --now {unit}"


def uri_transport(uri: str) -> str:
    """Return ``ssh``, ``tls``, ``tcp``, ``unix``… of a libvirt URI; empty where it is none.

    Without a word for it libvirt takes TLS where the URI names a host, else the local socket.
    """
    match = _URI.match(uri)
    if match is None:
        return ""
    return match["transport"] or ("tls" if match["host"] else "unix")


def reachable_from_elsewhere(entry: HostEntry) -> bool:
    """Whether another host could get in: a peer URI is given, or the URI names a host that is not "here"."""
    match = _URI.match(entry.uri)
    if entry.peer_uri is not None or match is None:
        return entry.peer_uri is not None
    host = match["host"]
    is_here = not host or host.startswith(("localhost", "127.")) or host == "[::1]"
    return not is_here and match["transport"] not in ("unix", "ext")
