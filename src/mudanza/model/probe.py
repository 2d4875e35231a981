"""By what a guest shows that it is there: its agent, an address that answers to ping, or a port that takes
connections."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from mudanza.model.errors import UsageError

_NAME = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252})"
_TCP = re.compile(rf"tcp:(?P<host>{_NAME}):(?P<port>[0-9]{{1,5}})")
_PING = re.compile(rf"ping:(?P<host>{_NAME}|[0-9a-fA-F:]+:[0-9a-fA-F:]*)")


class By(StrEnum):
    """What answers."""

    TCP = "tcp"
    PING = "ping"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Probe:
    """One way to ask."""

    by: By
    host: str = ""
    """Name or address, as this controller reaches it."""
    port: int = 0

    def __str__(self) -> str:
        return {By.TCP: f"tcp:{self.host}:{self.port}", By.PING: f"ping:{self.host}", By.AGENT: "agent"}[self.by]


def parse_probe(text: str) -> Probe:
    """Return what is meant by ``tcp:HOST:PORT``, ``ping:HOST`` or ``agent``. Raises UsageError."""
    if text == By.AGENT:
        return Probe(By.AGENT)
    if (found := _PING.fullmatch(text)) is not None:
        return Probe(By.PING, found["host"].strip("[]"))
    found = _TCP.fullmatch(text)
    if found is None or not 0 < int(found["port"]) <= 65535:
        raise UsageError(
            f"{text!r} is nothing that a guest could be asked by",
            remedy="tcp:HOST:PORT (somebody takes connections), ping:HOST, or agent (QEMU's guest agent)",
        )
    return Probe(By.TCP, found["host"], int(found["port"]))
