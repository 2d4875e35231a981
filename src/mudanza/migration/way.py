"""Asking, while a transfer stands still, whether its source reaches the target at all."""

from __future__ import annotations

from collections.abc import Callable

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


class Way:
    """The way from the source to the target, as the source sees it; asked in the background, one question at a time."""

    def __init__(self, ask: Callable[[], Probe]) -> None:
        self._ask = ask
        self._question: Task[Probe] | None = None
        self._asked_at = 0.0
        self._ask_at = 0.0
        self._answer: Answer | None = None

    def reach(self, elapsed: float, still_for: float) -> Answer | None:
        """Return the last answer of this standstill, and ask (again) where it is time. Seconds."""
        if still_for < ASK_AFTER:
            self._question, self._answer = None, None
            return None
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
    return Way(lambda: probe_peer(connections.get(source.name), source, target))


def _answer(question: Task[Probe]) -> Answer:
    try:
        return question.wait(0).answer
    except MudanzaError:
        return Answer.UNKNOWN
