"""What can be read of a migration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt

from mudanza.hypervisor.twin.order import Phase
from mudanza.model.units import MIB

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.migration import Migration


def stats(migration: Migration) -> dict[str, int]:
    """Return the source's figures, as of jobStats."""
    memory = migration.domain.qemu.memory if migration.domain.qemu is not None else 0
    disks = sum(mine.file.size for mine, _ in migration.pairs)
    figures = {
        "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
        "type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED,
        "time_elapsed": int((migration.twin.scheduler.now - migration.begun) * 1000),
        "memory_total": 0,
        "memory_processed": 0,
        "memory_remaining": 0,
        "disk_total": 0,
        "disk_processed": 0,
        "disk_remaining": 0,
    }
    if disks and migration.phase >= Phase.DISKS:
        share = migration.done if migration.phase is Phase.DISKS else 1.0
        done = int(disks * share)
        figures |= {"disk_total": disks, "disk_processed": done, "disk_remaining": disks - done}
    if migration.phase >= Phase.MEMORY:
        done = int(memory * (migration.done if migration.phase is Phase.MEMORY else 1.0))
        figures |= {
            "memory_total": memory,
            "memory_processed": done,
            "memory_remaining": memory - done,
            "memory_iteration": 1,
            "memory_bps": int(migration.rate),
        }
        if migration.order.has("COMPRESSED"):
            figures |= _compressed(migration)
    return figures


def _compressed(migration: Migration) -> dict[str, int]:
    """Nothing is sent twice here, so nothing is found in the cache."""
    cache = int(migration.order.parameters.get("compression.xbzrle.cache", 64 * MIB))
    names = ("bytes", "pages", "cache_misses", "overflow")
    return {"compression_cache": cache} | {f"compression_{name}": 0 for name in names}


def block_jobs(migration: Migration) -> dict[str, tuple[int, int]]:
    """Return how far each disk's mirror has come, and its end."""
    share = migration.done if migration.phase <= Phase.DISKS else 1.0
    return {mine.target: (int(mine.file.size * share), mine.file.size) for mine, _ in migration.pairs}


def completed(migration: Migration) -> dict[str, int]:
    """Return what the target says of it once it has ended there."""
    figures = stats(migration) | {"operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN, "downtime": 120}
    return figures | {"type": libvirt.VIR_DOMAIN_JOB_COMPLETED}
