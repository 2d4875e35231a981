"""Which hosts could take which VMs, as far as a snapshot tells: preflight, asked once for each class of equals.

What only trying tells (`Facts`) is taken to be well, with two exceptions that a snapshot can judge: whether both hosts
see one image, and whether the target's CPU has all that the source's has. Preflight asks in earnest before each move.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any

from mudanza.model.cluster import Cluster
from mudanza.model.finding import Finding, blockers
from mudanza.model.host import Host, HugePages, Pool
from mudanza.model.migration import Answer, Facts, MigrationOptions, Probe
from mudanza.model.vm import Disk, Nic, Vm
from mudanza.preflight.checklist import check
from mudanza.preflight.devices import addresses_needed
from mudanza.preflight.files import files_needed
from mudanza.preflight.mapping import destination_pool, shared_candidates
from mudanza.preflight.wording import listed, reachable_from_elsewhere

PLENTY = 1 << 60
"""Bytes that are never too few: room is counted elsewhere, over all VMs together."""
SHARED_POOLS = frozenset({"netfs", "rbd", "gluster", "iscsi", "iscsi-direct", "sheepdog"})
"""Kinds of pools whose content every host that has them sees."""
_YES, _NO = Probe(Answer.YES), Probe(Answer.NO)
_OPTIONS = MigrationOptions()


def standing_against(vm: Vm, source: Host, target: Host) -> tuple[Finding, ...]:
    """Return the blockers that lie in what the VM and the two hosts are, whoever else is there and whatever is free."""
    room = replace(
        target,
        memory_total=PLENTY,
        memory_free=PLENTY,
        pools=None if target.pools is None else tuple(replace(pool, available=PLENTY) for pool in target.pools),
        hugepages=_plenty(target.hugepages),
        nodes=tuple(
            replace(node, memory_total=PLENTY, memory_free=PLENTY, hugepages=_plenty(node.hugepages))
            for node in target.nodes
        ),
    )
    alone = Cluster((source, room), (vm,))
    return blockers(check(vm, source, room, alone, _OPTIONS, _assumed(vm, source, target)))


def _plenty(pages: Iterable[HugePages]) -> tuple[HugePages, ...]:
    return tuple(HugePages(each.size, PLENTY // each.size, PLENTY // each.size) for each in pages)


def _assumed(vm: Vm, source: Host, target: Host) -> Facts:
    nvram = vm.firmware.nvram if vm.firmware else None
    return Facts(
        cpu=_cpu(vm, source, target),
        peer=_YES,
        tls=_YES,
        data_path=_YES,
        shared={disk.target: _YES if is_shared(disk, source, target) else _NO for disk in shared_candidates(vm)},
        files={path: _NO if path == nvram else _YES for path in files_needed(vm, target)},
        occupied={disk.target: _NO for disk in vm.disks},
        addresses=dict.fromkeys(addresses_needed(vm), _YES),
        clock_offset=0.0,
    )


def _cpu(vm: Vm, source: Host, target: Host) -> Probe:
    """A running guest keeps the CPU it has seen. Of one that is named by its model only the features beyond the model
    are looked at here, and whether the model can be had is asked later."""
    if vm.domain_type != "kvm" or not vm.state.active or vm.cpu_mode is None:
        return _YES
    if vm.cpu_mode == "custom":
        # What QEMU itself adds to every CPU is no host's, and missing in what hosts say they have.
        lost = vm.cpu_required & source.cpu_features - target.cpu_features
        return Probe(Answer.NO, f"the guest's CPU has what it lacks: {listed(lost)}") if lost else _YES
    if source.cpu_vendor and target.cpu_vendor and source.cpu_vendor != target.cpu_vendor:
        return Probe(Answer.NO, f"it is by {target.cpu_vendor}, and the guest runs on one by {source.cpu_vendor}")
    lost = source.cpu_features - target.cpu_features
    if lost:
        return Probe(Answer.NO, f"the guest's CPU is its host's ({vm.cpu_mode}), and it lacks {listed(lost)}")
    return _YES


def pool_of(disk: Disk, host: Host) -> Pool | None:
    """Return the pool that a disk lies in. An image that a migration has brought is in no pool's list until libvirt
    looks through that anew; it lies in its directory all the same."""
    if disk.pool is not None:
        return host.pool(disk.pool)
    return host.pool_at(posixpath.dirname(disk.source)) if disk.kind == "file" and disk.source else None


def is_shared(disk: Disk, source: Host, target: Host) -> bool:
    """Whether both hosts see that image, as far as the kind of its pool tells."""
    here = pool_of(disk, source)
    there = target.pool(here.name) if here is not None else None
    return here is not None and there is not None and here.kind == there.kind and here.kind in SHARED_POOLS


def place_for(disk: Disk, source: Host, target: Host) -> Pool | None:
    """Return the target's pool that a copy of the disk goes into of its own accord, None where there is none."""
    found = destination_pool(disk, source, target, _OPTIONS)
    return found if isinstance(found, Pool) else None


@dataclass(frozen=True, slots=True)
class Classes:
    """Who is like whom. ``hosts`` and ``vms`` give each one's class; ``fits[v][h]``: may that VM go to that host?"""

    hosts: tuple[int, ...]
    vms: tuple[int, ...]
    fits: tuple[tuple[bool, ...], ...]


def classify(hosts: Sequence[Host], vms: Sequence[Vm]) -> Classes:
    """Sort hosts and VMs into classes of equals, and ask preflight for one of each. All ``vms`` are on ``hosts``."""
    wanted = _Wanted.by(vms)
    twice = {name for name, count in Counter(host.hostname for host in hosts).items() if count > 1 and name}
    same = {uuid for uuid, count in Counter(host.host_uuid for host in hosts).items() if count > 1 and uuid}
    host_numbers: dict[Any, int] = {}
    host_class = {}
    host_examples: list[Host] = []
    for host in hosts:
        twin = (host.hostname in twice and host.hostname, host.host_uuid in same and host.host_uuid)
        key = (_host_key(host, wanted), twin)
        number = host_numbers.setdefault(key, len(host_numbers))
        host_class[host.name] = number
        if number == len(host_examples):
            host_examples.append(_elsewhere(host, is_twin=any(twin)))
    vm_numbers: dict[Any, int] = {}
    vm_class = []
    vm_examples: list[tuple[Vm, Host]] = []
    by_name = {host.name: host for host in hosts}
    for vm in vms:
        number = vm_numbers.setdefault((_vm_key(vm), host_class[vm.host]), len(vm_numbers))
        vm_class.append(number)
        if number == len(vm_examples):
            vm_examples.append((vm, by_name[vm.host]))
    fits = tuple(
        tuple(not standing_against(vm, source, target) for target in host_examples) for vm, source in vm_examples
    )
    return Classes(tuple(host_class[host.name] for host in hosts), tuple(vm_class), fits)


def _elsewhere(host: Host, *, is_twin: bool) -> Host:
    """The same host under a name and an identity that no other one has: a class contains its own source.

    Of hosts that call themselves alike (``is_twin``) just that is the matter.
    """
    host = replace(host, entry=replace(host.entry, name=f"{host.name} or its like", maintenance=False))
    return host if is_twin else replace(host, hostname=f"{host.hostname}-or-its-like", host_uuid="")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What any VM asks of its host by name: only that tells hosts apart, not every tap device they have."""

    pools: frozenset[str]
    directories: frozenset[str]
    networks: frozenset[str]
    filters: frozenset[str]
    secrets: frozenset[str]
    pinned: bool

    @classmethod
    def by(cls, vms: Iterable[Vm]) -> _Wanted:
        pools: set[str] = set()
        directories: set[str] = set()
        networks: set[str] = set()
        filters: set[str] = set()
        secrets: set[str] = set()
        pinned = False
        for vm in vms:
            pinned = pinned or bool(vm.pinned_cpus)
            secrets.update(vm.secrets)
            for disk in vm.disks:
                pools.add(disk.pool or "")
                directories.add(posixpath.dirname(disk.source or ""))
                secrets.add(disk.secret or "")
            for nic in vm.nics:
                networks.add(nic.source or "")
                filters.add(nic.nwfilter or "")
        return cls(
            frozenset(pools),
            frozenset(directories),
            frozenset(networks),
            frozenset(filters),
            frozenset(secrets),
            pinned,
        )


def _host_key(host: Host, wanted: _Wanted) -> tuple[Any, ...]:
    pools = (
        None
        if host.pools is None
        else tuple(
            (pool.name, pool.kind, pool.path, pool.active)
            for pool in host.pools
            if pool.name in wanted.pools or (pool.path or "").rstrip("/") in wanted.directories
        )
    )
    networks = None if host.networks is None else tuple(n for n in host.networks if n.name in wanted.networks)
    return (
        host.seen,
        host.arch,
        host.cpus if wanted.pinned else 0,
        host.cpu_model,
        host.cpu_vendor,
        host.cpu_features,
        host.libvirt_version,
        host.qemu_version,
        host.domain_types,
        host.machines,
        pools,
        networks,
        None if host.interfaces is None else host.interfaces & wanted.networks,
        tuple(pages.size for pages in host.hugepages),
        len(host.cpu_count_by_node),
        tuple((node.number, tuple(pages.size for pages in node.hugepages)) for node in host.nodes),
        None if host.nwfilters is None else host.nwfilters & wanted.filters,
        None if host.secrets is None else host.secrets & wanted.secrets,
        host.security_models,
        host.tpm_backends,
        host.firmware_loaders,
        reachable_from_elsewhere(host.entry),
    )


_OF_ONE = frozenset(
    (
        "uuid",
        "name",
        "host",
        "autostart",
        "memory",
        "vcpus",
        "xml",
        "inactive_xml",
        "memory_used",
        "cpu_xml",
        "cpu_seconds",
        "bound_memory",
    )
) | {"written", "disks", "nics", "graphics", "vsock_cid", "tags", "title", "wishes"}
"""What of a VM is its own, and no host asks for it, or looked at by itself below."""
_SAME_VM = attrgetter(*(each.name for each in fields(Vm) if each.name not in _OF_ONE))
_SAME_DISK = attrgetter(
    *(each.name for each in fields(Disk) if each.name not in ("source", "volume", "capacity", "allocation", "backing"))
)
_SAME_NIC = attrgetter(*(each.name for each in fields(Nic) if each.name != "mac"))


def _vm_key(vm: Vm) -> tuple[Any, ...]:
    """All of a VM but what no other has. A field that nobody has thought of makes classes too many, not too few."""
    disks = tuple(_disk_key(disk) for disk in vm.disks)
    nics = tuple(_SAME_NIC(nic) for nic in vm.nics)
    displays = tuple((each.kind, each.listen, each.autoport) for each in vm.graphics)
    # A wish that is understood is about how a VM moves, and no host asks for it.
    wishes = () if vm.wishes is None else (*sorted(vm.wishes.faults), *vm.wishes.hooks)
    bound = tuple((part.nodes, part.pages) for part in vm.bound_memory)
    return (*_SAME_VM(vm), disks, nics, displays, wishes, bound)


def _disk_key(disk: Disk) -> tuple[Any, ...]:
    directory = None if disk.source is None else disk.source.rpartition("/")[0]
    return (*_SAME_DISK(disk), directory, disk.volume is None, disk.capacity is None, disk.backing)
