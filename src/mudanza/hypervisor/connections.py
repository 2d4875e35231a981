"""The connections of one command or one round: opened when they are needed, in parallel, and closed together."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType

from mudanza.hypervisor.backups import Backups
from mudanza.hypervisor.bounded import Task, all_of
from mudanza.hypervisor.connection import CLOSE_TIMEOUT, CONNECT_TIMEOUT, HostConnection, await_opening, start_opening
from mudanza.hypervisor.disk_locks import LOOK_LIMIT, read_disk_locks
from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.qemu_processes import QemuProcesses
from mudanza.hypervisor.snapshots import Snapshots
from mudanza.hypervisor.ssh import ssh_command
from mudanza.hypervisor.volumes import Volumes
from mudanza.model.disk_locks import DiskLocks
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.model.host import HostEntry

LOCKS_LIMIT = 2 * LOOK_LIMIT
"""Seconds that are waited at the most until a host has told how it locks disks; what it consists of takes less."""


class Connections:
    """Holds at most one connection a host. It may be used from several threads at once.

    ``timeout``: seconds that reaching one host may take.
    """

    def __init__(self, entries: Iterable[HostEntry], *, timeout: float = CONNECT_TIMEOUT) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._timeout = timeout
        self._lock = threading.Lock()
        self._openings: dict[str, Task[HostConnection]] = {}
        self._disk_locks: dict[str, Task[DiskLocks]] = {}

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

    def disk_locks(self, name: str) -> DiskLocks:
        """Return how a host locks disks, as it was when this was asked first; see ``read_disk_locks``."""
        entry = self._entries[name]
        if ssh_command(entry.uri) is None:
            return DiskLocks(why=f"the controller does not log in at {name} by ssh")
        with self._lock:
            looking = self._disk_locks.get(name)
            if looking is None:
                looking = self._disk_locks[name] = Task(lambda: read_disk_locks(entry))
        try:
            return looking.wait(LOCKS_LIMIT)
        except TimeoutError:
            return DiskLocks(why=f"{name} did not tell within {LOCKS_LIMIT:g} s")

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
