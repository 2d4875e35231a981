"""What VMs must have where they are, and what hosts can give: memory, vCPUs, huge pages, room in pools."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.rules import Rules
from mudanza.model.vm import Disk, Vm
from mudanza.planning.compatibility import SHARED_POOLS, place_for, pool_of
from mudanza.planning.nodes import held_of, is_of_nodes, names_of, room_for
from mudanza.planning.problem import NOWHERE, Floats, Numbers
from mudanza.preflight.arrivals import Arrival, Reserved, reserved_at
from mudanza.preflight.mapping import BLOCK_POOLS, opened_read_only
from mudanza.preflight.memory import overhead, reserve

MEMORY, VCPUS = 0, 1
CPUS = "vCPUs"
PAGES = "huge pages of "
POOL = "room in pool "

Slot = tuple[str, str]
"""The pool and the directory that disks of a kind lie in: all of them go into one pool of a target."""


def promised(vm: Vm) -> int:
    """Return the bytes of ordinary memory a running VM may come to take, QEMU's own included."""
    return (overhead(vm) + (0 if vm.hugepages else vm.memory)) if vm.state.active else 0


def held(vm: Vm, names: Iterable[str] = ()) -> dict[str, int]:
    """Return what a running VM holds of its host beside memory and pools, by the names in ``Needs.dimensions``.

    ``names``: those of them that are of NUMA nodes; others are passed over.
    """
    if not vm.state.active:
        return {}
    on_nodes = {name: held_of(vm, name) for name in names if is_of_nodes(name)} if vm.bound_memory else {}
    return {CPUS: vm.vcpus} | ({_pages(vm): vm.memory} if vm.hugepages else {}) | on_nodes


def left_to_hold(host: Host, there: Sequence[Vm], wanted: Collection[str], rules: Rules) -> dict[str, int]:
    """Return what of these names a host has left beside what the VMs there hold; what has no limit is left out."""
    found = {}
    if CPUS in wanted and rules.vcpus_per_cpu is not None:
        found[CPUS] = math.floor(host.cpus * rules.vcpus_per_cpu) - sum(held(vm).get(CPUS, 0) for vm in there)
    for name in wanted:
        if name.startswith(PAGES):
            found[name] = _free_pages(host, [int(size) for size in name.removeprefix(PAGES).split("/")])
        elif is_of_nodes(name) and (room := room_for(host, name, there)) is not None:
            found[name] = math.floor(room) - sum(held_of(vm, name) for vm in there)
    return found


def _pages(vm: Vm) -> str:
    return PAGES + "/".join(map(str, sorted(set(vm.hugepages))))


def _free_pages(host: Host, sizes: Collection[int]) -> int:
    return sum(page.size * page.free for page in host.hugepages if page.size in sizes or 0 in sizes)


def copied_disks(vm: Vm, source: Host) -> list[tuple[Disk, Slot, int]]:
    """Return the disks that lie on the host itself, where, and the bytes a copy takes at least."""
    found = []
    for disk in vm.disks:
        if not disk.is_local_image or opened_read_only(disk) or (disk.source is None and disk.volume is None):
            continue
        pool = pool_of(disk, source)
        if pool is not None and pool.kind in SHARED_POOLS:
            continue
        whole = disk.allocation is None or (pool is not None and pool.kind in BLOCK_POOLS)
        size = disk.capacity if whole else disk.allocation
        found.append((disk, (disk.pool or "", posixpath.dirname(disk.source or "")), size or 0))
    return found


def travel(vm: Vm) -> float:
    """Return the bytes that cross the network when the VM moves, as far as they are known: memory in use, and disks."""
    memory = (vm.memory_used or vm.memory) if vm.state.active else 0
    local = (disk for disk in vm.disks if disk.is_local_image and not opened_read_only(disk))
    return float(memory + sum(disk.allocation or disk.capacity or 0 for disk in local))


class Needs:
    """What is counted, and what each VM takes of it."""

    def __init__(self, vms: Sequence[Vm], hosts: Sequence[Host], rules: Rules) -> None:
        by_name = {host.name: host for host in hosts}
        self.pages: dict[tuple[int, ...], int] = {}
        self.slots: dict[Slot, tuple[int, Disk, Host]] = {}
        taken: list[tuple[int, int, int]] = []
        for number, vm in enumerate(vms):
            for disk, slot, size in copied_disks(vm, by_name[vm.host]):
                column, *_ = self.slots.setdefault(slot, (len(self.slots), disk, by_name[vm.host]))
                taken.append((number, column, size))
            if vm.hugepages:
                self.pages.setdefault(tuple(sorted(set(vm.hugepages))), len(self.pages))
        self.nodes = names_of(vms)
        first_slot = 2 + len(self.pages) + len(self.nodes)
        self.of_vms = np.zeros((len(vms), first_slot + len(self.slots)))
        self.of_vms[:, MEMORY] = [promised(vm) for vm in vms]
        self.of_vms[:, VCPUS] = [vm.vcpus if vm.state.active else 0 for vm in vms]
        for number, vm in enumerate(vms):
            if vm.hugepages and vm.state.active:
                self.of_vms[number, 2 + self.pages[tuple(sorted(set(vm.hugepages)))]] = vm.memory
        for column, name in enumerate(self.nodes, start=2 + len(self.pages)):
            self.of_vms[:, column] = [held_of(vm, name) if vm.bound_memory else 0 for vm in vms]
        for number, column, size in taken:
            self.of_vms[number, first_slot + column] += size
        self.dimensions = (
            "memory",
            CPUS,
            *(PAGES + "/".join(map(str, sizes)) for sizes in self.pages),
            *self.nodes,
            *(POOL + (pool or directory) for pool, directory in self.slots),
        )
        self._rules = rules


def rooms(
    needs: Needs,
    hosts: Sequence[Host],
    vms: Sequence[Vm],
    place: Numbers,
    rules: Rules,
    arrivals: Sequence[Arrival],
    cluster: Cluster,
) -> Floats:
    """Return what each host has in all for VMs of ours, those that are there included."""
    there = np.zeros((len(hosts), needs.of_vms.shape[1]))
    placed = place != NOWHERE
    np.add.at(there, place[placed], needs.of_vms[placed])
    resident = np.zeros(len(hosts))
    own = [(vm.memory_used or vm.memory) if vm.state.active and not vm.hugepages else 0 for vm in vms]
    np.add.at(resident, place[placed], np.array(own, dtype=np.float64)[placed])
    room = np.zeros_like(there)
    first_node = 2 + len(needs.pages)
    first_slot = first_node + len(needs.nodes)
    for number, host in enumerate(hosts):
        if not host.seen:
            continue
        room[number, MEMORY] = _memory(host, resident[number], rules)
        room[number, VCPUS] = math.inf if rules.vcpus_per_cpu is None else host.cpus * rules.vcpus_per_cpu
        for sizes, column in needs.pages.items():
            room[number, 2 + column] = _free_pages(host, sizes) + there[number, 2 + column]
        coming = reserved_at(host, arrivals, cluster) if arrivals else Reserved()
        room[number, MEMORY] -= coming.memory
        bound = [vms[vm] for vm in np.flatnonzero(place == number).tolist()] if needs.nodes else []
        for column, name in enumerate(needs.nodes, start=first_node):
            of_nodes = room_for(host, name, bound, coming.bound)
            room[number, column] = math.inf if of_nodes is None else of_nodes * rules.memory_ratio
        for slot_column, disk, source in needs.slots.values():
            pool = place_for(disk, source, host)
            free = pool.available - coming.room.get(pool.name, 0) if pool else 0
            room[number, first_slot + slot_column] = free + there[number, first_slot + slot_column]
    return room


def _memory(host: Host, resident: float, rules: Rules) -> float:
    """What may be promised. Preflight wants the reserve free beside whatever others use, so that is not ours."""
    kept = reserve(host) if rules.host_reserve is None else rules.host_reserve
    others = max(0.0, host.memory_total - host.memory_free - resident)
    return (host.memory_total - others - kept) * rules.memory_ratio
