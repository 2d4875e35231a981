"""The cluster as it would be once VMs had moved: for what-if, and to see that a plan leaves nothing to plan."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host, HugePages
from mudanza.model.vm import Vm
from mudanza.planning.compatibility import place_for
from mudanza.planning.needs import copied_disks
from mudanza.planning.nodes import changed_nodes


def applied(cluster: Cluster, places: Mapping[str, str]) -> Cluster:
    """Return the cluster with VMs (by UUID) on other hosts: what they take is taken there, and free where they were."""
    hosts = {host.name: host for host in cluster.hosts}
    memory: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    pools: dict[str, Counter[str]] = defaultdict(Counter)
    comings: dict[str, list[tuple[Vm, int]]] = defaultdict(list)
    vms = []
    for vm in cluster.vms:
        target = places.get(vm.uuid, vm.host)
        vms.append(vm if target == vm.host else replace(vm, host=target))
        if target == vm.host:
            continue
        for name, sign in ((vm.host, 1), (target, -1)):
            if vm.state.active:
                comings[name].append((vm, sign))
                (pages if vm.hugepages else memory)[name] += sign * (vm.memory_used or vm.memory)
        _move_disks(vm, hosts[vm.host], hosts[target], pools)
    return Cluster(tuple(_with(host, memory, pages, pools, comings[host.name]) for host in cluster.hosts), tuple(vms))


def _move_disks(vm: Vm, source: Host, target: Host, pools: Mapping[str, Counter[str]]) -> None:
    for disk, _, size in copied_disks(vm, source):
        pool = place_for(disk, source, target)
        if pool is not None:
            pools[target.name][pool.name] -= size
        if disk.pool is not None:
            pools[source.name][disk.pool] += size


def _with(
    host: Host,
    memory: Counter[str],
    pages: Counter[str],
    pools: Mapping[str, Counter[str]],
    comings: Iterable[tuple[Vm, int]],
) -> Host:
    changed = pools.get(host.name, Counter())
    return replace(
        host,
        memory_free=host.memory_free + memory[host.name],
        hugepages=tuple(_pages(each, pages[host.name]) for each in host.hugepages),
        nodes=changed_nodes(host.nodes, comings),
        pools=None
        if host.pools is None
        else tuple(replace(pool, available=pool.available + changed[pool.name]) for pool in host.pools),
    )


def _pages(pages: HugePages, change: int) -> HugePages:
    return replace(pages, free=pages.free + change // pages.size)
