"""A program that looks at a guest's display as the daemon does, presses Escape there, and prints what it saw.

``looking.py URI UUID``: run in a seat of the lab, which is where the hosts can be reached. What it prints is JSON:
``name`` of the display, ``before`` and ``after``: how many of its pixels are lit, or ``error`` and ``remedy``.
"""

from __future__ import annotations

import json
import struct
import sys
import time

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.displays import Viewer, open_display
from mudanza.hypervisor.pictures import PNG, Pictures
from mudanza.model.errors import MudanzaError
from mudanza.model.host import HostEntry

ESCAPE = (0xFF1B, 1)
KEYS_AS_THEY_LIE = -258
LIMIT = 30.0
"""Seconds within which what is waited for must be seen."""


class Eyes:
    """Sees all of a display, raw."""

    def __init__(self, viewer: Viewer | Pictures) -> None:
        self._viewer = viewer
        self._rest = b""
        viewer.send(b"\x01")
        self.width, self.height, *_, length = struct.unpack("!HH16sI", self._take(24))
        self.name = self._take(length).decode()
        viewer.send(struct.pack("!BxHii", 2, 2, 0, KEYS_AS_THEY_LIE))

    def lit(self) -> int:
        """Return how many pixels are not black; of a picture how many bytes it has, which grow with what is on it."""
        self._viewer.send(struct.pack("!BBHHHH", 3, 0, 0, 0, self.width, self.height))
        _, _, count = struct.unpack("!BBH", self._take(4))
        found = 0
        for _ in range(count):
            _, _, width, height, kind = struct.unpack("!HHHHi", self._take(12))
            if kind == PNG:
                found += len(self._take(*struct.unpack("!I", self._take(4))))
            elif kind == 0:
                pixels = self._take(width * height * 4)
                found += sum(pixel != 0 for (pixel,) in struct.iter_unpack("=I", pixels))
            else:
                assert kind == KEYS_AS_THEY_LIE, "nothing else was asked for"
        return found

    def until(self, more_than: int) -> int:
        """Return how many are lit, once there are more than so many."""
        end = time.monotonic() + LIMIT
        while (found := self.lit()) <= more_than:
            assert time.monotonic() < end, f"{found} pixels are lit"
            time.sleep(0.05)
        return found

    def press(self, symbol: int, place: int) -> None:
        for down in (1, 0):
            self._viewer.send(struct.pack("!BxHII", 255, down, symbol, place))

    def _take(self, count: int) -> bytes:
        while len(self._rest) < count:
            piece = self._viewer.receive()
            assert piece, "the display hung up"
            self._rest += piece
        found, self._rest = self._rest[:count], self._rest[count:]
        return found


def look(uri: str, uuid: str) -> dict[str, object]:
    with Connections([HostEntry("h1", uri)]) as connections:
        viewer = open_display(connections.get("h1"), uuid)
    with viewer:
        eyes = Eyes(viewer)
        before = eyes.until(100)
        eyes.press(*ESCAPE)
        return {"before": before, "after": eyes.until(before + 100), "name": eyes.name}


if __name__ == "__main__":
    try:
        print(json.dumps(look(*sys.argv[1:])))
    except MudanzaError as error:
        print(json.dumps({"error": str(error), "remedy": error.remedy}))
