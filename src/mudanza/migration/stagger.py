"""Moves from one host begin one after the other, not side by side.

Moves of like size that begin together end together: the link rests while all of them set up, and again while all of
them are switched over. Begun a little apart, one sends while another one does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mudanza import clock
from mudanza.model.migration import Progress

APART = 1.5
"""Seconds for which a move sends before the next one from its host begins: about what an end and a beginning take."""
LONGEST = 10.0
"""Seconds after which the next one begins though the last one still sends nothing."""
STEP = 0.2
"""Seconds between two looks whether all of it is to stop."""


@dataclass
class Turn:
    """One move that has begun, or is about to."""

    began: float
    """Monotonic seconds, as all of it."""
    sends_since: float | None = None
    over: bool = False

    def heard(self, progress: Progress) -> None:
        """Take notice of a sample of it."""
        if self.sends_since is None and progress.memory_sent + progress.disk_sent > 0:
            self.sends_since = clock.monotonic()

    def lets_begin(self, now: float) -> bool:
        """Whether the next one may begin beside it."""
        sends = self.sends_since is not None and now >= self.sends_since + APART
        return self.over or sends or now >= self.began + LONGEST


class Stagger:
    """Gives moves that one controller carries out their turns, host by host."""

    def __init__(self) -> None:
        self._changed = clock.new_condition()
        self._last: dict[str, Turn] = {}
        """The move from each host that began last."""

    @contextmanager
    def turn(self, source: str, stop: clock.Event, on_waiting: Callable[[], None]) -> Iterator[Turn]:
        """Be one that moves from that host while the block runs, as soon as the last one lets it begin.

        ``stop``: set, nothing is waited for any more; ``on_waiting`` is called where there is something to wait for.
        """
        turn = self._await(source, stop, on_waiting)
        try:
            yield turn
        finally:
            with self._changed:
                turn.over = True
                self._changed.notify_all()

    def _await(self, source: str, stop: clock.Event, on_waiting: Callable[[], None]) -> Turn:
        waiting = False
        while True:
            with self._changed:
                now = clock.monotonic()
                last = self._last.get(source)
                if last is None or last.lets_begin(now) or stop.is_set():
                    turn = self._last[source] = Turn(now)
                    return turn
                if waiting:
                    self._changed.wait(STEP)
            if not waiting:
                on_waiting()
                waiting = True
