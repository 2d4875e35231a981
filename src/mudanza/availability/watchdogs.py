"""Hearing watchdogs that run out and do nothing about it (action *none*): libvirt tells of them once, and then only
those who listen."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mudanza.availability.listening import Guest
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.events import WatchdogListener
from mudanza.hypervisor.reading.pulse import agent_answers
from mudanza.model.errors import MudanzaError
from mudanza.model.pulse import Voice


class Watchdogs:
    """What was heard. It is this controller's own: a watchdog that ran out while nobody listened is not heard."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heard: set[tuple[str, str]] = set()
        """Host and UUID of those that have barked, and whose guest has not answered since."""
        self._sure: set[tuple[str, str]] = set()
        """Those of them whose guest was asked since."""
        self._listener: WatchdogListener | None = None
        self.under_way: Task[None] | None = None
        """What asks hosts to tell, and guests whether they hang, just now, or did last."""

    def barked(self) -> frozenset[str]:
        """Return the UUIDs of VMs whose watchdog has run out, and whose agent does not answer, if they have one."""
        with self._lock:
            return frozenset(uuid for _, uuid in self._sure & self._heard)

    def forget(self, uuid: str) -> None:
        """Begin anew with one that was restarted."""
        with self._lock:
            self._heard = {each for each in self._heard if each[1] != uuid}

    def turn(self, connections: Connections, guests: Sequence[Guest]) -> None:
        """Have the hosts of these guests tell, and forget all others; wait for nobody."""
        if self.under_way is not None and not self.under_way.ended:
            return
        if self._listener is None:
            if not guests:
                return
            self._listener = WatchdogListener(self._on_bark)
        listener, hosts = self._listener, {guest.host for guest in guests}
        with self._lock:
            self._heard &= {(guest.host, guest.uuid) for guest in guests}
            self._sure &= self._heard
            asked = sorted(self._heard)

        def work() -> None:
            listener.listen(connections, hosts)
            for host, uuid in asked:
                self._ask(connections, host, uuid)

        self.under_way = Task(work)

    def close(self) -> None:
        """Listen to nobody any more, and forget what was heard."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        with self._lock:
            self._heard, self._sure = set(), set()

    def _on_bark(self, host: str, uuid: str) -> None:
        with self._lock:
            self._heard.add((host, uuid))

    def _ask(self, connections: Connections, host: str, uuid: str) -> None:
        """Look whether a guest hangs: one that has only been late answers."""
        try:
            voice = agent_answers(connections.get(host), uuid)
        except MudanzaError:
            return  # it is asked again at the next turn
        with self._lock:
            if voice is Voice.ANSWERS:
                self._heard.discard((host, uuid))
            else:
                self._sure.add((host, uuid))
