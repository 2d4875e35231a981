"""How a daemon is reached: at its socket on this machine, or by TLS and with a token."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mudanza.model.errors import UsageError

if TYPE_CHECKING:
    import httpx

CONNECT = 10.0
"""Seconds that a daemon may take to accept a connection."""
ANSWER = 900.0
"""Seconds that an answer may take: a check probes hosts, and a guest may take its time to shut down."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a daemon is, and what opens it."""

    address: str
    """A path, or ``https://HOST:PORT``."""
    token_file: Path | None = None
    """A file with the token, which nobody else may read; None: $MUDANZA_TOKEN has it, if it takes one."""
    cacert: Path | None = None
    """Who signs its certificate, PEM; None: whom this machine trusts."""


def client_of(server: Server, env: Mapping[str, str] = os.environ) -> httpx.Client:
    """Return what asks a daemon. Raises UsageError where it cannot be reached so."""
    import httpx

    limit = httpx.Timeout(ANSWER, connect=CONNECT)
    if server.address.startswith("/"):
        local = httpx.HTTPTransport(uds=server.address)
        return httpx.Client(transport=local, base_url="http://local/api/v1", timeout=limit)
    if not server.address.startswith("https://"):
        raise UsageError(
            f"{server.address!r} is no daemon's address",
            remedy="write https://HOST:PORT, or the path of a socket, such as /run/mudanza/mudanza.sock",
        )
    headers = {"Authorization": f"Bearer {token}"} if (token := _token(server, env)) else {}
    try:
        trust = ssl.create_default_context(cafile=str(server.cacert) if server.cacert else None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{server.cacert} is no file of certificates: {error}") from error
    base = server.address.rstrip("/") + "/api/v1"
    return httpx.Client(verify=trust, base_url=base, headers=headers, timeout=limit, follow_redirects=False)


def _token(server: Server, env: Mapping[str, str]) -> str:
    file = server.token_file
    if file is None:
        return env.get("MUDANZA_TOKEN", "").strip()
    try:
        with file.open() as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                raise UsageError(f"others may read the token in {file}", remedy=f"chmod 600 {file}")
            return opened.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the token in {file} cannot be read: {error}") from error
