"""A guest's graphical display (VNC), for whoever looks at it through the controller.

Nothing is opened on any network. Where libvirt is reached by a socket of this machine it hands over a line to QEMU
itself; where it is reached by ssh the same login brings one to where the display listens at its host, be that address
the host's own or a UNIX socket. Else the display must listen where the controller can reach it; and where it does not,
or speaks SPICE, there are pictures of it (``pictures``).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import libvirt

from mudanza.hypervisor.connection import CONNECT_TIMEOUT, KEEPALIVE_COUNT, KEEPALIVE_INTERVAL, HostConnection
from mudanza.hypervisor.line import Line
from mudanza.hypervisor.pictures import Pictures
from mudanza.hypervisor.relay import forwarding
from mudanza.hypervisor.rfb import log_in
from mudanza.hypervisor.shell import HostShell
from mudanza.hypervisor.uris import transport
from mudanza.hypervisor.xml.displays import Display, parse_displays
from mudanza.model.errors import BlockedError, HostUnreachableError, HypervisorError
from mudanza.model.host import HostEntry

SEND_LIMIT = 10
"""Whole seconds that a guest may take to take what is typed."""
_CHUNK = 64 * 1024
_SSH = ("ssh", "libssh", "libssh2")


@dataclass(frozen=True, slots=True)
class Way:
    """How one gets at a display. Of the three ways that are not None, one is taken."""

    handed_over: int | None = None
    """libvirt hands over a line to the display of that number."""
    by_ssh: str | None = None
    """Where it listens as the host sees it: ``ADDRESS:PORT``, or a path."""
    directly: tuple[str, int] | None = None
    """Address and port as the controller sees it."""


def way_to(vm: str, displays: tuple[Display, ...], entry: HostEntry) -> tuple[Display, Way]:
    """Return which display of a running guest is shown, and how one gets at it. Raises BlockedError where none can be,
    saying how to mend that. Pure."""
    vnc = next((each for each in displays if each.kind == "vnc"), None)
    if vnc is None:
        others = ", ".join(sorted({each.kind.upper() for each in displays}))
        raise BlockedError(
            f"VM {vm!r} has no VNC display" + (f", but {others}, which is not shown here" if others else ""),
            remedy="give it one (virsh edit: <graphics type='vnc'/>, beside SPICE too) and start it anew",
        )
    travels = transport(entry.uri)
    if travels == "unix":
        return vnc, Way(handed_over=vnc.number)
    if travels in _SSH and (place := _seen_from_host(vnc)):
        return vnc, Way(by_ssh=place)
    if travels in ("tls", "tcp") and (reached := _seen_from_here(vnc, entry)):
        return vnc, Way(directly=reached)
    listens = vnc.socket or (f"{vnc.address}:{vnc.port}" if vnc.port else "nowhere")
    raise BlockedError(
        f"the display of VM {vm!r} listens at {listens} of host {entry.name} only, and the host is reached by "
        f"{travels}",
        remedy=f"have the host be reached by ssh (mudanza host edit {entry.name} --uri qemu+ssh://root@ADDRESS/system) "
        "or the display listen at an address that the controller reaches, which is not encrypted",
    )


def _seen_from_host(display: Display) -> str:
    if display.socket:
        return display.socket
    if not display.port:
        return ""
    address = {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(display.address, display.address)  # noqa: S104
    return f"[{address}]:{display.port}" if ":" in str(address) else f"{address}:{display.port}"


def _seen_from_here(display: Display, entry: HostEntry) -> tuple[str, int] | None:
    if display.socket or not display.port or not display.address:
        return None
    try:
        address = ipaddress.ip_address(display.address)
    except ValueError:
        return display.address, display.port
    host = urlsplit(entry.uri).hostname or ""
    if address.is_unspecified:
        return host, display.port
    return None if address.is_loopback else (display.address, display.port)


class Viewer(Line):
    """A line to a display, logged in: what comes next is the ClientInit of RFB. ``receive`` and ``send`` may be used
    from two threads at once."""

    def __init__(self, host: str, line: socket.socket, hang_up: Callable[[], None]) -> None:
        self._host = host
        self._line = line
        self._hang_up = hang_up

    def receive(self) -> bytes:
        """Wait for what the display sends and return it: empty at the end (closed, guest gone, connection lost)."""
        try:
            return self._line.recv(_CHUNK)
        except OSError:
            return b""

    def send(self, data: bytes) -> None:
        """Send what a viewer does. Raises HypervisorError when the display is gone, or takes nothing for SEND_LIMIT
        seconds."""
        try:
            self._line.sendall(data)
        except OSError as error:
            raise HypervisorError(self._host, f"the display takes no more: {error.strerror or error}") from None

    def close(self) -> None:
        """Let the display go; a ``receive`` that waits returns empty."""
        self._hang_up()


def open_display(host: HostConnection, uuid: str) -> Viewer | Pictures:
    """Open the display of a guest that runs, and log in with the password of its definition where one is wanted. Where
    nothing leads to it, libvirt is asked for pictures of it.

    Other viewers stay. Raises BlockedError where it has none, HypervisorError, HostUnreachableError.
    """
    flags = libvirt.VIR_DOMAIN_XML_SECURE
    name, text = host.ask(lambda raw: _named(raw.lookupByUUIDString(uuid), flags))
    displays = parse_displays(text, host.name)
    try:
        display, way = way_to(name, displays, host.entry)
        return _viewer(host, uuid, display, way)
    except (BlockedError, HostUnreachableError) as error:
        if not displays:
            raise
        why = f"{error}; {error.remedy}"
    return Pictures(host.entry, uuid, why)


def _viewer(host: HostConnection, uuid: str, display: Display, way: Way) -> Viewer:
    opened = ExitStack()
    try:
        line = _line(host, uuid, way, opened, display.password)
    except BaseException:
        opened.close()
        raise
    line.settimeout(None)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_LIMIT, 0))
    return Viewer(host.name, line, opened.close)


def _named(domain: Any, flags: int) -> tuple[str, str]:
    return str(domain.name()), str(domain.XMLDesc(flags))


def _line(host: HostConnection, uuid: str, way: Way, opened: ExitStack, password: str | None) -> socket.socket:
    """Return a line that is logged in; ``opened`` closes it."""
    if way.by_ssh is not None:
        return _line_by_ssh(host.entry, way.by_ssh, opened, password)
    if way.directly is not None:
        line = _line_over_network(host.name, *way.directly)
    else:
        number, skip = way.handed_over, libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH
        given = host.ask(lambda raw: int(raw.lookupByUUIDString(uuid).openGraphicsFD(number, skip)))
        line = socket.socket(fileno=given)
    opened.callback(_hang_up, line)
    log_in(line, host.name, password)
    return line


def _line_over_network(host: str, address: str, port: int) -> socket.socket:
    try:
        line = socket.create_connection((address, port), CONNECT_TIMEOUT)
    except OSError as error:
        raise HostUnreachableError(
            host,
            f"its display at {address}:{port} cannot be reached: {error.strerror or error}",
            remedy=f"let the controller through to it, or have the host be reached by ssh: mudanza host edit {host} "
            "--uri qemu+ssh://root@ADDRESS/system",
        ) from None
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_INTERVAL)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
    return line


def _line_by_ssh(entry: HostEntry, place: str, opened: ExitStack, password: str | None) -> socket.socket:
    directory = opened.enter_context(tempfile.TemporaryDirectory(prefix="mudanza-display-", ignore_cleanup_errors=True))
    here = f"{directory}/here"
    shell = opened.enter_context(HostShell(entry, forwarding(here, place)))
    shell.run("true", what="logging in", patience=CONNECT_TIMEOUT)  # the way is there by then
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened.callback(_hang_up, line)
    try:
        line.connect(here)
        log_in(line, entry.name, password)
    except (OSError, HypervisorError) as error:
        reason, said = getattr(error, "reason", str(error)), shell.said()
        if "prohibited" not in said:
            raise HypervisorError(entry.name, f"{reason}; ssh says: {said}" if said else reason) from None
        raise BlockedError(
            f"host {entry.name}: sshd brings nobody to {place}, where the display listens: {said}",
            remedy=f"have sshd of {entry.name} forward: AllowTcpForwarding yes and AllowStreamLocalForwarding yes",
        ) from None
    return line


def _hang_up(line: socket.socket) -> None:
    with suppress(OSError):  # the other end was quicker
        line.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for it
    line.close()
