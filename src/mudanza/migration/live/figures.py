"""What hosts tell of a live move that has ended, for its report; what cannot be had is left out."""

from __future__ import annotations

from collections.abc import Mapping

from mudanza.hypervisor.connections import Connections
from mudanza.migration.record import MoveRecord
from mudanza.model.errors import HostUnreachableError, HypervisorError


def disk_bytes(connections: Connections, record: MoveRecord) -> int:
    """Return what the copied disks hold at the target: libvirt's own figure counts holes and forgets itself."""
    volumes = connections.volumes(record.target)
    try:
        return sum(volumes.read(disk.pool, disk.volume).allocation or 0 for disk in record.disks)
    except (HypervisorError, HostUnreachableError):
        return 0


def completed(connections: Connections, record: MoveRecord) -> Mapping[str, int | str]:
    """Return libvirt's figures on the finished job; empty where it has none: the last sample seen then stands in."""
    try:
        return connections.domains(record.target).completed_job_stats(record.uuid)
    except (HypervisorError, HostUnreachableError):
        return {}
