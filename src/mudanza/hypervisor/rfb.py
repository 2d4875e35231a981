"""Logging in at a VNC server: the begin of the RFB protocol (RFC 6143), up to where a viewer says what it wants."""

from __future__ import annotations

import socket
import struct

from mudanza import clock
from mudanza.model.errors import BlockedError, HypervisorError

LOGIN_LIMIT = 20.0
"""Seconds that all of it may take."""
MOST_REASON = 1000
"""Bytes that are read of why a server refuses."""
_VERSION = b"RFB 003.008\n"
_NONE, _PASSWORD = 1, 2
_TLS = {18: "TLS", 19: "VeNCrypt"}
_NAMES = {5: "RA2", 16: "Tight", 20: "SASL", **_TLS}


def log_in(line: socket.socket, host: str, password: str | None) -> None:
    """Say what a viewer says first, and prove that one knows the password if one is wanted: what comes next on the line
    is the viewer's ClientInit.

    Raises BlockedError where the server wants to be spoken to in another way, HypervisorError where it refuses, is
    silent or hangs up.
    """
    talk = _Talk(line, host)
    try:
        version = talk.take(len(_VERSION))
        if version != _VERSION:
            raise HypervisorError(host, f"its display greets with {version!r}, and not as QEMU does, RFB 3.8")
        talk.give(_VERSION)
        kind = _choice(talk, host, password)
        talk.give(bytes([kind]))
        if kind == _PASSWORD:
            talk.give(proof(talk.take(16), password or ""))
        if talk.number():
            raise talk.refusal()
    except TimeoutError:
        raise HypervisorError(host, f"its display did not answer within {LOGIN_LIMIT:g} s") from None
    except OSError as error:
        raise HypervisorError(host, f"the way to its display broke: {error.strerror or error}") from None


def _choice(talk: _Talk, host: str, password: str | None) -> int:
    """Return the kind of log-in, of those that are offered."""
    count = talk.take(1)[0]
    if not count:
        raise talk.refusal()
    kinds = talk.take(count)
    if _NONE in kinds:
        return _NONE
    if _PASSWORD not in kinds:
        names = ", ".join(_NAMES.get(each, f"kind {each}") for each in kinds)
        encrypted = any(each in _TLS for each in kinds)
        raise BlockedError(
            f"the display wants a log-in that is not known here: {names}",
            remedy=(
                f"use a viewer that knows it, or set {'vnc_tls' if encrypted else 'vnc_sasl'} = 0 in "
                f"/etc/libvirt/qemu.conf of {host} (by ssh everything is encrypted anyway) and start the VM anew"
            ),
        )
    if password is None:
        raise BlockedError(
            "the display wants a password, and the VM's definition has none",
            remedy="give it one: <graphics type='vnc' passwd='…'>, by virsh edit or virsh update-device",
        )
    return _PASSWORD


def proof(challenge: bytes, password: str) -> bytes:
    """Return what shows that one knows a password: the challenge, encrypted with it by DES (RFC 6143, 7.2.2).

    Only eight of its bytes count, and the bits of each are taken from the other end.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    try:
        from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    except ImportError:  # before cryptography 43
        from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES

    key = bytes(int(f"{each:08b}"[::-1], 2) for each in password.encode()[:8].ljust(8, b"\0"))
    # Three times the same key is DES once. That it is weak does not matter: what is proven goes to the host by ssh, or
    # is what the VM's owner has chosen for a display that listens on the network.
    encryptor = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(challenge) + encryptor.finalize()


class _Talk:
    """Reads and writes, until the limit."""

    def __init__(self, line: socket.socket, host: str) -> None:
        self._line = line
        self._host = host
        self._until = clock.monotonic() + LOGIN_LIMIT

    def take(self, count: int) -> bytes:
        """Return so many bytes. Raises HypervisorError where the line ends before."""
        found = b""
        while len(found) < count:
            self._line.settimeout(self._left())
            piece = self._line.recv(count - len(found))
            if not piece:
                raise HypervisorError(self._host, "its display hung up")
            found += piece
        return found

    def give(self, data: bytes) -> None:
        """Send all of it."""
        self._line.settimeout(self._left())
        self._line.sendall(data)

    def number(self) -> int:
        """Return a number of four bytes."""
        return int(struct.unpack("!I", self.take(4))[0])

    def refusal(self) -> HypervisorError:
        """Return why the server refuses, as it says itself."""
        said = self.take(min(self.number(), MOST_REASON)).decode(errors="replace")
        return HypervisorError(self._host, f"its display lets nobody in: {' '.join(said.split())}")

    def _left(self) -> float:
        left = self._until - clock.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
