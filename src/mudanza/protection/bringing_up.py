"""What brings machines up from replicas works with: the hosts, the journal, and what it has of protected VMs."""

from __future__ import annotations

from mudanza.hypervisor.connections import Connections
from mudanza.journal.jobs import Jobs
from mudanza.journal.protections import Protections
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError

Refusals = (HypervisorError, HostUnreachableError, MigrationFailedError)
"""What a host, or libvirt there, answers that something is not done."""


class BringingUp:
    """Brings up the VM itself, or a double of it."""

    def __init__(self, connections: Connections, jobs: Jobs, protections: Protections) -> None:
        self._connections = connections
        self._jobs = jobs
        self._protections = protections
        self._entries = {entry.name: entry for entry in connections.entries}
