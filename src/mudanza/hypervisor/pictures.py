"""A guest's display as libvirt gets at it by itself, wherever it listens and whatever it speaks: pictures, and keys
that are pressed. To whoever looks it is a display that speaks RFB (RFC 6143), as far as our own viewer asks."""

from __future__ import annotations

import re
import struct
import threading
from dataclasses import dataclass
from functools import partial

import libvirt

from mudanza import clock
from mudanza.hypervisor.connection import HostConnection, Raw
from mudanza.hypervisor.line import Line
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.host import HostEntry

EVERY = 0.7
"""Seconds between two pictures, at the least."""
PICTURE_LIMIT = 20.0
"""Seconds that one may take to come."""
MOST_BYTES = 64 * 1024 * 1024
"""Of one picture."""
MOST_SIDE = 8192
"""Pixels."""
RAW, PNG = 0, 0x6D756470
"""Encodings of a picture; the second is our own: how many bytes it has (four), and a PNG."""
MOST_SAID = 1024 * 1024
"""Bytes that one message of a viewer may have."""
HOLD = 40
"""Milliseconds for which a key is held."""
MODIFIERS = frozenset({0x1D, 0x9D, 0x2A, 0x36, 0x38, 0xB8, 0xDB, 0xDC})
"""Where Ctrl, Shift, Alt and the like lie: they are held until another key is pressed."""
NAMED = "pictures: "
"""What such a display's name begins with; behind it stands why it is none that a viewer is brought to."""
_SIZE, _KEYS_AS_THEY_LIE = -223, -258
_FORMAT = bytes((32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0))
_LENGTHS = {0: 20, 3: 10, 4: 8, 5: 6, 255: 12}
_PPM = re.compile(rb"P6\s+(\d{1,5})\s+(\d{1,5})\s+255\s")


@dataclass(frozen=True, slots=True)
class Picture:
    """What a display showed at one instant."""

    width: int
    height: int
    kind: int
    """How ``data`` is told to a viewer: as pixels of four bytes, or as a PNG."""
    data: bytes


def parse_picture(data: bytes) -> Picture | None:
    """Read what libvirt gives: a PNG of QEMU 7.1 and later, before it a portable pixmap; None: it is neither."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack("!II", data[16:24])
        return Picture(width, height, PNG, data) if 0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE else None
    found = _PPM.match(data)
    if found is None:
        return None
    width, height = int(found[1]), int(found[2])
    colours = data[found.end() : found.end() + width * height * 3]
    if not colours or len(colours) != width * height * 3:
        return None
    pixels = bytearray(width * height * 4)
    for colour in range(3):
        pixels[colour::4] = colours[colour::3]
    return Picture(width, height, RAW, bytes(pixels))


def update(before: Picture, now: Picture, *, whole: bool) -> bytes:
    """Return what a viewer is told that knows what was before. Empty: nothing differs. Where the size does, the viewer
    asks for the rest by itself."""
    if (before.width, before.height) != (now.width, now.height):
        return _told(now.width, now.height, _SIZE)
    if before == now and not whole:
        return b""
    length = struct.pack("!I", len(now.data)) if now.kind == PNG else b""
    return _told(now.width, now.height, now.kind, length + now.data)


def _told(width: int, height: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack("!BxHHHHHi", 0, 1, 0, 0, width, height, kind) + data


def messages(said: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole messages of a viewer, and the begin of one that is not whole yet. Raises ValueError for what is
    none."""
    found = []
    while (length := _length(said)) is not None and len(said) >= length:
        found.append(said[:length])
        said = said[length:]
    return found, said


def _length(said: bytes) -> int | None:
    """Return how long the message is that this begins with; None: that cannot be told yet."""
    if not said:
        return None
    if said[0] in _LENGTHS:
        return _LENGTHS[said[0]]
    if said[0] == 2:
        return 4 + 4 * int.from_bytes(said[2:4], "big") if len(said) >= 4 else None
    if said[0] == 6:
        length = 8 + int.from_bytes(said[4:8], "big") if len(said) >= 8 else None
        if length is None or length <= MOST_SAID:
            return length
    raise ValueError(f"no viewer says what begins with {said[0]}")


class Keys:
    """libvirt presses keys together and lets them go at once: so those that modify others wait for another one."""

    def __init__(self) -> None:
        self._held: dict[int, bool] = {}
        """Which are down, and whether another one was pressed with them."""

    def pressed(self, key: int, *, down: bool) -> list[int]:
        """Return which keys are to be pressed now that one went down, or up."""
        if key in MODIFIERS:
            if down:
                self._held.setdefault(key, False)
                return []
            return [key] if self._held.pop(key, True) is False else []
        if not down:
            return []
        self._held = dict.fromkeys(self._held, True)
        return [*self._held, key]


class Pictures(Line):
    """Such a display. ``receive`` and ``send`` may be used from two threads at once."""

    def __init__(self, entry: HostEntry, uuid: str, why: str) -> None:
        """``why``: what keeps a viewer from the display itself. Raises HostUnreachableError, and HypervisorError where
        there is nothing to see."""
        self._host = HostConnection(entry)
        self._uuid = uuid
        self._changed = threading.Condition()
        self._out = b""
        self._wanted: bool | None = None
        """Whether all is wanted, or what has changed; None: nothing is."""
        self._rest = b""
        self._begun = self._closed = False
        self._keys = Keys()
        self._name = (NAMED + why).encode()[:MOST_SAID]
        try:
            self._last = self._take()
        except BaseException:
            self._host.close()
            raise
        self._taken = clock.monotonic()

    def receive(self) -> bytes:
        """Wait until there is something to be told: empty at the end (closed, guest gone, connection lost)."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._out or self._wanted is not None)
                if self._closed:
                    return b""
                if self._out:
                    out, self._out = self._out, b""
                    return out
                left = EVERY - (clock.monotonic() - self._taken)
                if left > 0 and self._changed.wait_for(lambda: self._closed, left):
                    return b""
                whole, self._wanted = bool(self._wanted), None
            try:
                now = self._take()
            except (HypervisorError, HostUnreachableError):
                return b""
            self._taken = clock.monotonic()
            if told := update(self._last, now, whole=whole):
                self._last = now
                return told
            with self._changed:
                self._wanted = bool(self._wanted)

    def send(self, data: bytes) -> None:
        """Take what a viewer says. Raises HypervisorError where that is none, or the guest takes no keys."""
        if not self._begun and data:
            self._begun, data = True, data[1:]
            begin = struct.pack("!HH", self._last.width, self._last.height) + _FORMAT
            self._say(begin + struct.pack("!I", len(self._name)) + self._name + _told(0, 0, _KEYS_AS_THEY_LIE))
        try:
            found, self._rest = messages(self._rest + data)
        except ValueError as error:
            raise HypervisorError(self._host.name, str(error)) from None
        for each in found:
            if each[0] == 3:
                with self._changed:
                    self._wanted = bool(self._wanted) or not each[1]
                    self._changed.notify_all()
            elif each[0] == 255:
                self._press(self._keys.pressed(int.from_bytes(each[8:12], "big"), down=bool(each[3])))

    def close(self) -> None:
        """Let the display go; a ``receive`` that waits returns empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._host.close()

    def _say(self, told: bytes) -> None:
        with self._changed:
            self._out += told
            self._changed.notify_all()

    def _press(self, keys: list[int]) -> None:
        if not keys:
            return
        try:
            self._host.ask(partial(_press, self._uuid, keys))
        except HostUnreachableError as error:  # libvirt lets nobody press keys while the guest moves, for one
            raise HypervisorError(self._host.name, f"the guest takes no keys: {error}") from None

    def _take(self) -> Picture:
        kind, data = self._host.ask(lambda raw: _picture(raw, self._uuid), timeout=PICTURE_LIMIT)
        found = parse_picture(data)
        if found is None:
            raise HypervisorError(self._host.name, f"its libvirt gives pictures that are not known here: {kind}")
        return found


def _picture(raw: Raw, uuid: str) -> tuple[str, bytes]:
    stream = raw.newStream(0)
    kind = str(raw.lookupByUUIDString(uuid).screenshot(stream, 0, 0))
    pieces, count = [], 0
    while piece := stream.recv(256 * 1024):
        pieces.append(piece)
        count += len(piece)
        if count > MOST_BYTES:
            stream.abort()
            return kind, b""
    stream.finish()
    return kind, b"".join(pieces)


def _press(uuid: str, keys: list[int], raw: Raw) -> None:
    raw.lookupByUUIDString(uuid).sendKey(libvirt.VIR_KEYCODE_SET_QNUM, HOLD, keys, len(keys), 0)
