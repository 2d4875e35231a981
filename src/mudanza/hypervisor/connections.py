"""The connections of one command or one round: opened when they are needed, in parallel, and closed together."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType

from mudanza.hypervisor.backups import Backups
from mudanza.hypervisor.bounded import Task, all_of
from mudanza.hypervisor.connection import CLOSE_TIMEOUT, CONNECT_TIMEOUT, HostConnection, await_opening, start_opening
from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.qemu_processes import QemuProcesses
from mudanza.hypervisor.snapshots import Snapshots
from mudanza.hypervisor.ssh import ssh_command
from mudanza.hypervisor.volumes import Volumes
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.model.host import HostEntry


class Connections:
    """Holds at most one connection a host. It may be used from several threads at once.

    ``timeout``: seconds that reaching one host may take.
    """

    def __init__(self, entries: Iterable[HostEntry], *, timeout: float = CONNECT_TIMEOUT) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._timeout = timeout
        self._lock = threading.Lock()
        self._openings: dict[str, Task[HostConnection]] = {}

    def __enter__(self) -> Connections:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    @property
    def entries(self) -> tuple[HostEntry, ...]:
        """The hosts that it reaches."""
        return tuple(self._entries.values())

    def get(self, name: str, *, timeout: float | None = None) -> HostConnection:
        """Return the connection to a host, opening it where there is none.

        Raises HostUnreachableError. Somebody else's attempt that is still under way is waited for, so that a host
        that hangs costs one thread and not one a call.
        """
        opening = self._opening(name)
        return await_opening(
            self._entries[name], opening, self._timeout if timeout is None else min(timeout, self._timeout)
        )

    def domains(self, name: str) -> Domains:
        """Return what can be done with the domains of a host. Raises HostUnreachableError."""
        return Domains(self.get(name))

    def volumes(self, name: str) -> Volumes:
        """Return what can be done with the pools and volumes of a host. Raises HostUnreachableError."""
        return Volumes(self.get(name))

    def snapshots(self, name: str) -> Snapshots:
        """Return what can be done with the snapshots and checkpoints of a host. Raises HostUnreachableError."""
        return Snapshots(self.get(name))

    def backups(self, name: str) -> Backups:
        """Return what can be done with the backups of a host's domains. Raises HostUnreachableError."""
        return Backups(self.get(name))

    def processes(self, name: str) -> QemuProcesses:
        """Return what can be done with the QEMUs of a host where its libvirt does not answer. Asks nothing yet."""
        return QemuProcesses(name, ssh_command(self._entries[name].uri))

    def open_all(self, names: Iterable[str] | None = None) -> None:
        """Begin to open connections to all those hosts at once (all hosts, if not named), waiting for none."""
        for name in list(self._entries) if names is None else names:
            self._opening(name)

    def close(self) -> None:
        """Close everything within CLOSE_TIMEOUT seconds; an attempt still under way closes itself when it ends."""
        with self._lock:
            openings, self._openings = list(self._openings.values()), {}
        opened = [connection for connection in map(_opened, openings) if connection is not None]
        all_of([connection.close for connection in opened], timeout=CLOSE_TIMEOUT)

    def _opening(self, name: str) -> Task[HostConnection]:
        if name not in self._entries:
            raise UsageError(f"there is no host {name!r}", remedy="add it: mudanza host add NAME URI")
        with self._lock:
            opening = self._openings.get(name)
            if opening is None or (opening.ended and _opened(opening) is None):
                opening = self._openings[name] = start_opening(self._entries[name], self._timeout)
            return opening


def _opened(opening: Task[HostConnection]) -> HostConnection | None:
    try:
        return opening.wait(0) if opening.ended else None
    except MudanzaError:
        return None
