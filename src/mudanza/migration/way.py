"""Asking, while a transfer stands still, whether its source reaches the target at all."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from weakref import WeakKeyDictionary

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.probing.facts import probe_peer
from mudanza.model.errors import MudanzaError
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Probe

ASK_AFTER = 5.0
"""Seconds without anything moving after which the source is asked."""
LOGIN_LIMIT = 8.0
"""Seconds after which a login that is not through counts as one that does not get through."""
ASK_AGAIN = 15.0
"""Seconds between two questions: one that hangs keeps a thread of the source's libvirt busy for two minutes."""


class Traffic:
    """When anything last moved from one host to another, in whichever transfer of this program. Monotonic seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = float("-inf")

    def moved(self, at: float) -> None:
        """Something did then."""
        with self._lock:
            self._at = max(self._at, at)

    def moved_within(self, seconds: float) -> bool:
        """Whether something has since so long ago."""
        return clock.monotonic() - self._at < seconds


_TRAFFIC: WeakKeyDictionary[Connections, defaultdict[tuple[str, str], Traffic]] = WeakKeyDictionary()
_LOCK = threading.Lock()


class Way:
    """The way from the source to the target, as the source sees it; asked in the background, one question at a time."""

    def __init__(
        self,
        ask: Callable[[], Probe],
        cut: Callable[[str], object] = lambda _uuid: None,
        traffic: Traffic | None = None,
    ) -> None:
        """``cut``: ends the connections of a VM's QEMU over it."""
        self._ask = ask
        self.cut = cut
        self._traffic = traffic or Traffic()
        self._question: Task[Probe] | None = None
        self._asked_at = 0.0
        self._ask_at = 0.0
        self._answer: Answer | None = None

    def reach(self, elapsed: float, still_for: float) -> Answer | None:
        """Return the last answer of this standstill, and ask (again) where it is time. Seconds.

        Where another transfer moves on the same way, that is answer enough: a login may not get through a link that is
        full either.
        """
        if still_for < ASK_AFTER:
            self._traffic.moved(clock.monotonic() - still_for)
            self._question, self._answer = None, None
            return None
        if self._traffic.moved_within(ASK_AFTER):
            return Answer.YES
        if self._question is not None and self._question.ended:
            self._answer, self._question = _answer(self._question), None
        if self._question is None and elapsed >= self._ask_at:
            self._asked_at, self._ask_at = elapsed, elapsed + ASK_AGAIN
            self._question = Task(self._ask)
        if self._question is not None and elapsed - self._asked_at >= LOGIN_LIMIT:
            return Answer.NO
        return self._answer


def way_between(connections: Connections, source: Host, target: Host) -> Way:
    """Return the way between two hosts, tried by a login of the source's libvirt at the target's."""
    with _LOCK:
        traffic = _TRAFFIC.setdefault(connections, defaultdict(Traffic))[source.name, target.name]
    processes, peer = connections.processes(source.name), _name_of(target)
    return Way(
        lambda: probe_peer(connections.get(source.name), source, target),
        lambda uuid: processes.cut_off(uuid, peer),
        traffic,
    )


def _name_of(target: Host) -> str:
    """Return by what name or address the source's QEMU knows the target."""
    return target.entry.migration_address or target.hostname or target.name


def _answer(question: Task[Probe]) -> Answer:
    try:
        return question.wait(0).answer
    except MudanzaError:
        return Answer.UNKNOWN
