"""What VMs that are on their way to a host, and not there yet, will still take there. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.vm import BoundMemory, Vm
from mudanza.preflight.mapping import BLOCK_POOLS
from mudanza.preflight.memory import overhead

_STILL_COMING = frozenset({"migrating", "post-copy"})
"""Reasons of a state, in virsh's words, of a VM that is listed at the target while its memory is still being sent."""


@dataclass(frozen=True, slots=True)
class ArrivingVolume:
    """A volume at the target that a disk is being copied into, or is about to be. ``size``: virtual, in bytes."""

    pool: str
    volume: str
    source: str
    """Path of the image at the source."""
    size: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A VM that is on its way to a host, or has been accepted for it."""

    uuid: str
    name: str
    target: str
    volumes: tuple[ArrivingVolume, ...] = ()
    will_run: bool = True


@dataclass(frozen=True, slots=True)
class Reserved:
    """What is not there for others at one host, though it may look free. Bytes."""

    names: tuple[str, ...] = ()
    memory: int = 0
    room: Mapping[str, int] = field(default_factory=dict)
    """By pool, all that the arriving disks take, whatever of it has been copied already."""
    bound: tuple[BoundMemory, ...] = ()
    """What has yet to come of memory that must come from certain NUMA nodes, huge pages too."""


def reserved_at(target: Host, arrivals: Iterable[Arrival], cluster: Cluster) -> Reserved:
    """Return what arriving VMs have been promised at the target.

    Of a VM that no host lists any more the size is unknown, and nothing is reserved for its memory.
    """
    names: list[str] = []
    memory = 0
    bound: list[BoundMemory] = []
    room: Counter[str] = Counter()
    for arrival in arrivals:
        if arrival.target != target.name:
            continue
        names.append(arrival.name)
        vm, there = _to_come(arrival, cluster)
        memory += _memory_to_come(vm, there)
        bound += _bound_to_come(vm, there)
        for volume in arrival.volumes:
            room[volume.pool] += _size(volume, arrival, target, cluster)
    return Reserved(tuple(sorted(names)), memory, dict(room), tuple(bound))


def _to_come(arrival: Arrival, cluster: Cluster) -> tuple[Vm | None, Vm | None]:
    """Return who has memory to take there yet, as its source lists it, and as the target does; None: nobody."""
    listed = {vm.host: vm for vm in cluster.vms if vm.uuid == arrival.uuid}
    there = listed.pop(arrival.target, None)
    if not arrival.will_run or (there is not None and _has_arrived(there)):
        return None, there
    return next(iter(listed.values()), there), there


def _memory_to_come(vm: Vm | None, there: Vm | None) -> int:
    if vm is None:
        return 0
    needed = overhead(vm) + (0 if vm.hugepages else vm.memory)
    resident = (there.memory_used or 0) if there is not None else 0
    return max(needed - resident, 0)


def _bound_to_come(vm: Vm | None, there: Vm | None) -> list[BoundMemory]:
    if vm is None:
        return []
    resident = min((there.memory_used or 0) / vm.memory, 1.0) if there is not None and vm.memory else 0.0
    # Huge pages are taken as soon as its QEMU is there.
    to_come = [(part, float(there is None) if part.pages else 1.0 - resident) for part in vm.bound_memory]
    return [replace(part, size=round(part.size * share)) for part, share in to_come if share]


def _has_arrived(vm: Vm) -> bool:
    return vm.state.active and vm.reason not in _STILL_COMING


def _size(volume: ArrivingVolume, arrival: Arrival, target: Host, cluster: Cluster) -> int:
    pool = target.pool(volume.pool)
    if pool is not None and pool.kind in BLOCK_POOLS:
        return volume.size
    disks = (disk for vm in cluster.vms if vm.uuid == arrival.uuid and vm.host != target.name for disk in vm.disks)
    known = next((disk.allocation for disk in disks if disk.source == volume.source), None)
    return volume.size if known is None else known
