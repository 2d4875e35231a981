"""Whether the guests of VMs that were started anew answer: they are asked beside whatever else is done, until they do
or the time is over. Who is still to answer says the database: another controller goes on with it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from mudanza import clock
from mudanza.availability.observing import ping
from mudanza.hypervisor.bounded import Task, for_each
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.pulse import ASKING, agent_answers
from mudanza.journal.errors import JournalLostError
from mudanza.journal.restarts import Restarts
from mudanza.model.errors import MudanzaError
from mudanza.model.probe import By, Probe, parse_probe
from mudanza.model.pulse import Voice
from mudanza.model.restarts import Awaited
from mudanza.model.units import format_duration

LOOK_AGAIN = 1.0
"""Seconds between two times that a guest is asked."""
ASKED_FOR = 4.0
"""Seconds for which one turn asks."""
ANSWER_LIMIT = 3.0
"""Seconds that somebody may take to take a connection."""
AT_ONCE = 16


class Answering:
    """Asks guests that were started anew."""

    def __init__(self, restarts: Restarts, limit: float, say: Callable[[str], None]) -> None:
        """``limit``: seconds that a guest has to answer."""
        self._restarts = restarts
        self._limit = limit
        self._say = say
        self.under_way: Task[None] | None = None
        """What asks just now, or did last."""

    def turn(self, connections: Connections) -> None:
        """Ask those who are still to answer, unless some are being asked; wait for nobody. Raises JournalLostError."""
        if self.under_way is not None and not self.under_way.ended:
            return
        waiting = self._restarts.awaited(self._limit * 2)  # one whose time ran out while nobody asked is closed, too
        self.under_way = Task(lambda: self._ask(connections, waiting)) if waiting else None

    def _ask(self, connections: Connections, waiting: Sequence[Awaited]) -> None:
        """Ask them again and again for a while; whoever is left then is asked in the next turn, with those who have
        come besides."""
        until = clock.monotonic() + ASKED_FOR
        left = list(waiting)
        while left and clock.monotonic() < until:
            begun = clock.monotonic()
            rounds = -(-len(left) // AT_ONCE)
            asked = for_each(
                lambda each: answers(connections, each), left, workers=AT_ONCE, timeout=(ASKING + 1.0) * rounds
            )
            left = [
                each for each, found in zip(left, asked, strict=True) if not self._is_settled(each, there=found is True)
            ]
            clock.sleep(max(LOOK_AGAIN - (clock.monotonic() - begun), 0.0))

    def _is_settled(self, guest: Awaited, *, there: bool) -> bool:
        """Write down what has come of it, if anything has; return whether it is asked no more in this turn."""
        if not there and guest.ago <= self._limit:
            return False
        said = guest.probe if there else f"{guest.probe} did not answer within {format_duration(self._limit)}"
        with suppress(JournalLostError):  # then it is asked again
            self._restarts.answered(guest.job, said, in_time=there)
            what = f"answers ({said})" if there else f"does not answer: {said}"
            self._say(f"{'' if there else '! '}{guest.vm} on {guest.host} {what}")
        return True


def answers(connections: Connections, guest: Awaited) -> bool:
    """Whether a guest answers now."""
    probe = parse_probe(guest.probe)
    if probe.by is By.AGENT:
        try:
            return agent_answers(connections.get(guest.host), guest.uuid) is Voice.ANSWERS
        except MudanzaError:
            return False
    return ping(probe.host) is True if probe.by is By.PING else _takes_connections(probe)


def _takes_connections(probe: Probe) -> bool:
    try:
        with socket.create_connection((probe.host, probe.port), timeout=ANSWER_LIMIT):
            return True
    except OSError:
        return False
