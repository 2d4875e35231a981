"""Looking at all hosts' counters again and again, and keeping what they used in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mudanza import clock
from mudanza.fleet.readings import between
from mudanza.hypervisor.bounded import for_each
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.load import ASKING, read_counters
from mudanza.journal.errors import JournalLostError
from mudanza.journal.load import LoadKeeper
from mudanza.model.counters import HostCounters, HostReading
from mudanza.model.errors import MudanzaError

GRACE = 1.0
"""Seconds beyond its limit after which a host that does not answer is left out of a round."""
FORGET_EVERY = 600.0
"""Seconds between two times that old readings are removed, and older ones folded."""
FINE = 7200.0
"""Seconds for which readings are kept one by one where nobody says otherwise."""


class Sampler:
    """Looks every few seconds, until it is stopped."""

    def __init__(
        self,
        connections: Connections,
        keeper: LoadKeeper,
        hosts: Callable[[], tuple[str, ...]],
        keep: float,
        tell: Callable[[str], None] = lambda _: None,
        fine: float = FINE,
    ) -> None:
        """``hosts``: those there are, asked each round; ``keep``: seconds for which readings are kept, ``fine``: for
        which they are kept as they were; ``tell`` is told of a host that does not answer, once."""
        self._connections = connections
        self._keeper = keeper
        self._hosts = hosts
        self._keep = keep
        self._tell = tell
        self._fine = fine
        self._before: dict[str, HostCounters] = {}
        self._troubles: Mapping[str, str] = {}
        self._forgot_at = -FORGET_EVERY
        self.rounds = 0
        self.kept = 0
        """Readings of VMs and hosts that were written."""

    def run(self, every: float, lasting: float | None, stop: clock.Event) -> None:
        """Look every so many seconds, for so long (None: without end), until ``stop`` is set.

        Rounds begin at whole multiples of ``every`` after the first; one that was missed is not made up for.
        """
        begun = clock.monotonic()
        while not stop.is_set():
            self.look()
            passed = clock.monotonic() - begun
            if lasting is not None and passed + every > lasting + every / 100:
                return
            stop.wait(every - passed % every)

    def look(self) -> None:
        """Look at all hosts once, side by side, and keep what they used since the last time."""
        troubles: dict[str, str] = {}
        found: dict[str, HostCounters] = {}
        names = self._hosts()
        counters = for_each(
            lambda name: read_counters(self._connections.get(name, timeout=ASKING)),
            names,
            workers=max(len(names), 1),
            timeout=ASKING + GRACE,
        )
        for name, seen in zip(names, counters, strict=True):
            if isinstance(seen, HostCounters):
                found[name] = seen
            else:
                troubles[name] = str(seen) if isinstance(seen, MudanzaError) else f"host {name}: {seen}"
        readings = [between(self._before[name], seen) for name, seen in found.items() if name in self._before]
        self._keep_them(readings, troubles)
        self._before = {name: each for name, each in (self._before | found).items() if name in names}
        for name in troubles.keys() - self._troubles.keys():
            self._tell(f"! not measured: {troubles[name]}")
        self._troubles = troubles
        self.rounds += 1

    def _keep_them(self, readings: list[HostReading], troubles: dict[str, str]) -> None:
        try:
            self.kept += self._keeper.keep(readings)
            if clock.monotonic() - self._forgot_at >= FORGET_EVERY:
                self._forgot_at = clock.monotonic()
                self._keeper.forget(self._keep)
                self._keeper.fold(self._fine)
        except JournalLostError as error:  # a gap in what is known, and no reason to end
            troubles["the journal"] = str(error)
