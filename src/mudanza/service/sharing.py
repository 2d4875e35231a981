"""What the daemon's processes tell each other: the newest picture of the cluster, and how their moves stand.

Who wants to know asks again and again, and is told what is new since it asked last. So nobody is held up by one that is
slow or was stopped, and one that was started anew begins with the whole.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from mudanza import clock
from mudanza.model.cluster import Cluster, Known
from mudanza.model.migration import Progress
from mudanza.service.parcels import NOBODY, Parcel, packed, unpacked
from mudanza.service.picture import Picture

ANSWER_LIMIT = 10.0
"""Seconds that an answer is waited for; the whole of 10,000 VMs takes less than two."""
NEW_ENOUGH = 0.5
"""Seconds for which what was told last is not asked for again."""
REST = 0.002
"""Seconds of rest after every part of a picture that is unpacked: whoever asks meanwhile shares Python with that."""
_CREDENTIALS = struct.Struct("3i")

Move = tuple[str, Progress]
"""From where to where, and how far it is."""
Hear = Callable[[int, str, Progress | None], None]
"""Is told how a job stands, by its number; None: it is not carried out there any more."""


def new_address() -> tuple[str, socket.socket]:
    """Return an address of this machine that leaves no file behind, and what listens there."""
    address = f"\0mudanza-{secrets.token_hex(16)}"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(address)
    listening.listen()
    return address, listening


@dataclass(frozen=True, slots=True)
class Taken:
    """When and how a picture was taken; see ``Picture``."""

    at: float
    took: float
    late: float
    begun: float


@dataclass(frozen=True, slots=True)
class News:
    """What is new."""

    picture: tuple[Parcel, Taken] | None
    """None: there is none, or no newer one."""
    moves: Mapping[int, Move]
    """All that are carried out, by their jobs' numbers."""


class Publisher:
    """Tells processes of the same daemon what this one sees and does."""

    def __init__(self, newest: Callable[[], Picture | None]) -> None:
        self._newest = newest
        self._moves: dict[int, Move] = {}

    def hear(self, number: int, way: str, progress: Progress | None) -> None:
        """Be told how a job stands by whoever carries it out in this process; None: it does not any more."""
        if progress is None:
            self._moves.pop(number, None)
        else:
            self._moves[number] = (way, progress)

    def start(self, listening: socket.socket) -> None:
        """Begin to answer at an address, in threads of its own."""
        clock.start_thread(lambda: self._accept(listening), "tell others")

    def _accept(self, listening: socket.socket) -> None:
        while True:
            asking, _ = listening.accept()
            packed_ids = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(packed_ids)[1] != os.getuid():
                asking.close()
                continue
            line = Connection(asking.detach())
            threading.Thread(target=self._tell, args=(line,), name="tell one", daemon=True).start()

    def _tell(self, line: Connection) -> None:
        """Answer one process until it hangs up."""
        told, known = None, NOBODY
        with suppress(OSError, EOFError), line:
            while True:
                line.recv_bytes()
                picture = self._newest()
                new = None
                if picture is not None and picture is not told:
                    taken = Taken(picture.taken_at, picture.took, picture.late, picture.begun)
                    new = (packed(known, picture.cluster), taken)
                    told, known = picture, picture.cluster
                line.send(News(new, dict(self._moves)))


class Subscriber:
    """Knows what another process of the same daemon sees and does."""

    def __init__(self, address: str, hear: Hear = lambda *_: None) -> None:
        """``hear`` is told what is new of each move that is carried out there."""
        self._address = address
        self._hear = hear
        self._lock = threading.Lock()
        self._line: Connection | None = None
        self._known: Cluster = NOBODY
        self._moves: Mapping[int, Move] = {}
        self._asked_at = float("-inf")
        self.newest: Picture | None = None
        """None before something was told; where the other one is gone, what it told last."""

    def run(self, every: float, stop: clock.Event) -> None:
        """Ask every so many seconds until ``stop`` is set."""
        while not stop.is_set():
            self.ask()
            stop.wait(every)

    def known(self) -> Known | None:
        """Return what the newest picture shows, and how old it is; None before the first one."""
        picture = self.newest
        return Known(picture.cluster, clock.monotonic() - picture.begun) if picture is not None else None

    def known_now(self) -> Known | None:
        """Ask, unless it was asked just now, and return the same: for who needs it now and then."""
        if clock.monotonic() - self._asked_at > NEW_ENOUGH:
            self.ask()
        return self.known()

    def ask(self) -> None:
        """Find out what is new. Of one that does not answer nothing is; it is asked anew the next time."""
        with self._lock:
            self._asked_at = clock.monotonic()
            try:
                news = self._news()
            except (OSError, EOFError):
                self._hang_up()
                return
            if news.picture is not None:
                self._take(*news.picture)
            self._hear_of(news.moves)

    def _news(self) -> News:
        if self._line is None:
            asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                asking.settimeout(ANSWER_LIMIT)
                asking.connect(self._address)
                asking.settimeout(None)
            except OSError:
                asking.close()
                raise
            self._line = Connection(asking.detach())
        self._line.send_bytes(b"?")
        if not self._line.poll(ANSWER_LIMIT):
            raise TimeoutError
        news: News = self._line.recv()
        return news

    def _take(self, parcel: Parcel, taken: Taken) -> None:
        self._known = unpacked(self._known, parcel, lambda: clock.sleep(REST))
        picture = Picture(self._known, taken.at, taken.took, taken.late, taken.begun)
        self.newest = picture.put_in_order()

    def _hear_of(self, moves: Mapping[int, Move]) -> None:
        for number in self._moves.keys() - moves.keys():
            self._hear(number, "", None)
        for number, (way, progress) in moves.items():
            if self._moves.get(number) != (way, progress):
                self._hear(number, way, progress)
        self._moves = moves

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line, self._known = None, NOBODY
        self._hear_of({})
