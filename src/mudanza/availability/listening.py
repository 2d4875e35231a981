"""Listening whether guests hang that are to be restarted then: beside whatever else is done, for one that is silent
takes its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mudanza import clock
from mudanza.availability.hanging import Listened, hangs, listen
from mudanza.hypervisor.bounded import Task, for_each
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.pulse import ASKING, read_pulse
from mudanza.model.pulse import Pulse

AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Guest:
    """One that is listened to."""

    uuid: str
    name: str
    host: str
    after: float
    """Seconds for which it must have hung."""


class Ears:
    """Hears which guests hang. What it has heard is its own: a guest that hangs already when a controller comes up was
    never heard by it, and is left alone."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """``say`` is told of each guest that is heard first: from then on it is noticed if it hangs."""
        self._say = say
        self._known: dict[tuple[str, str], Listened] = {}
        self._guests: tuple[Guest, ...] = ()
        self.under_way: Task[None] | None = None
        """What listens just now, or did last."""

    def hung(self) -> Mapping[str, str]:
        """Return which guests hang, by UUID, and why they are taken to."""
        found = {}
        for guest in self._guests:
            known = self._known.get((guest.uuid, guest.host))
            if known is not None and (why := hangs(known, guest.after)):
                found[guest.uuid] = why
        return found

    def forget(self, uuid: str) -> None:
        """Begin anew with one that was restarted."""
        self._known = {key: known for key, known in self._known.items() if key[0] != uuid}

    def turn(self, connections: Connections, guests: Sequence[Guest]) -> None:
        """Begin to listen to these guests, unless some are being listened to; wait for nobody."""
        if self.under_way is not None and not self.under_way.ended:
            return
        self._guests = tuple(guests)
        wanted = {(guest.uuid, guest.host) for guest in guests}
        self._known = {key: known for key, known in self._known.items() if key in wanted}
        self.under_way = Task(lambda: self._listen(connections, self._guests)) if guests else None

    def _listen(self, connections: Connections, guests: Sequence[Guest]) -> None:
        def ask(guest: Guest) -> tuple[Pulse | None, float]:
            return read_pulse(connections.get(guest.host), guest.uuid), clock.monotonic()

        rounds = -(-len(guests) // AT_ONCE)
        asked = for_each(ask, guests, workers=AT_ONCE, timeout=ASKING * rounds)
        known = dict(self._known)
        for guest, answer in zip(guests, asked, strict=True):
            key = guest.uuid, guest.host
            if isinstance(answer, BaseException) or answer[0] is None:
                known.pop(key, None)  # nobody knows what it did meanwhile
            else:
                before = known.get(key)
                known[key] = listen(before, answer[0], answer[1])
                if known[key].heard and not (before is not None and before.heard):
                    self._say(f"{guest.name} on {guest.host} is heard by its agent: it is restarted if it hangs")
        self._known = known
