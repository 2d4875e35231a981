"""Hearing from hosts that something has become of their domains, where their libvirt tells.

What has become of them is not believed but looked at: an event only says where to look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import libvirt

from mudanza.hypervisor.bounded import for_many
from mudanza.hypervisor.connection import Raw, hang_up, refusal
from mudanza.hypervisor.connections import Connections
from mudanza.model.errors import MudanzaError

AT_ONCE = 16
"""Hosts that are asked at one time to tell..."""
PATIENCE = 1.0
"""... not counting those that take longer than so many seconds."""
LIMIT = 60.0
"""Seconds that one may take for it; each call has a limit of its own, far below."""


class Listener:
    """Hears of the domains of many hosts, over one connection each that does nothing else."""

    _event = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE

    def __init__(self, heard: Callable[[str], None]) -> None:
        """``heard`` is told of each host where a domain was started, stopped, defined, undefined, paused or resumed; by
        libvirt's own thread, so it must not wait."""
        self._heard = heard
        self._lock = threading.Lock()
        self._lines: dict[str, tuple[Raw, int]] = {}
        """Each with libvirt's number of what was asked of it."""
        self._silent: set[str] = set()
        self._closed = False

    @property
    def hosts(self) -> frozenset[str]:
        """Those that tell."""
        with self._lock:
            return frozenset(name for name, (line, _) in self._lines.items() if _stands(line))

    def listen(self, connections: Connections, hosts: Collection[str]) -> None:
        """Listen to these hosts and no others, as far as they tell; one whose connection was lost is asked again."""
        there = self.hosts
        with self._lock:
            gone = [self._lines.pop(name) for name in self._lines.keys() - (there & set(hosts))]
            wanted = [name for name in hosts if name not in there and name not in self._silent]
        for each in gone:
            _leave(*each)
        asked = for_many(
            lambda name: self._ask(connections, name), wanted, at_once=AT_ONCE, patience=PATIENCE, timeout=LIMIT
        )
        for outcome in asked:
            if isinstance(outcome, BaseException) and not isinstance(outcome, TimeoutError):
                raise outcome

    def _ask(self, connections: Connections, name: str) -> None:
        try:
            line = connections.get(name).open_own_line()
        except MudanzaError:
            return  # whoever reads it tells why
        try:
            number = line.domainEventRegisterAny(None, self._event, self._callback(), name)
        except libvirt.libvirtError as error:
            hang_up(line.close)
            if refusal(name, error).code == libvirt.VIR_ERR_NO_SUPPORT:
                self._silent.add(name)  # it never tells; it is looked at all the same
            return
        with self._lock:
            if not self._closed:
                self._lines[name] = (line, number)
                return
        _leave(line, number)

    def _callback(self) -> Callable[..., None]:
        """Return what libvirt's own thread calls at each event: with the line, the domain, what the event has besides,
        and the host's name."""
        return self._on_event

    def _on_event(self, _line: Raw, _domain: Any, _event: int, _detail: int, name: str) -> None:
        self._heard(name)

    def close(self) -> None:
        """Listen to nobody any more."""
        with self._lock:
            self._closed = True
            lines, self._lines = list(self._lines.values()), {}
        for each in lines:
            _leave(*each)


class WatchdogListener(Listener):
    """Hears of watchdogs that have run out and do nothing about it (action *none*): whatever else they do, libvirt's
    state of the VM shows."""

    _event = libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG

    def __init__(self, barked: Callable[[str, str], None]) -> None:
        """``barked`` is told of each, by host and the VM's UUID; by libvirt's own thread, so it must not wait."""
        super().__init__(lambda _name: None)
        self._barked = barked

    def _callback(self) -> Callable[..., None]:
        return self._on_watchdog

    def _on_watchdog(self, _line: Raw, domain: Any, action: int, name: str) -> None:
        if action == libvirt.VIR_DOMAIN_EVENT_WATCHDOG_NONE:
            self._barked(name, str(domain.UUIDString()))


def _leave(line: Raw, number: int) -> None:
    """Hang up; a connection of which something is asked still stays open."""

    def farewell() -> None:
        with suppress(libvirt.libvirtError):  # it is lost already
            line.domainEventDeregisterAny(number)
        line.close()

    hang_up(farewell)


def _stands(line: Raw) -> bool:
    with suppress(libvirt.libvirtError):
        return bool(line.isAlive() == 1)
    return False
