"""Telling systemd how the daemon is (sd_notify): that it is ready, alive, and about to stop.

The protocol is a datagram to the socket that $NOTIFY_SOCKET names; see sd_notify(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


def notify(words: str, env: Mapping[str, str] = os.environ) -> bool:
    """Tell it; return whether somebody is there to be told."""
    address = env.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
        told.connect("\0" + address[1:] if address.startswith("@") else address)
        told.sendall(words.encode())
        return True
    return False


def watchdog(env: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds within which a sign of life is wanted; None: nobody wants one of this process."""
    try:
        if int(env.get("WATCHDOG_PID", os.getpid())) != os.getpid():
            return None
        return int(env["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None
