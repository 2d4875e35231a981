"""Reading one host: what it is, what it offers, what it has left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

import libvirt

from mudanza.hypervisor.bounded import Deadline
from mudanza.hypervisor.connection import HostConnection, Raw
from mudanza.hypervisor.own.throwaway import is_throwaway
from mudanza.hypervisor.uris import ENCRYPTED_TRANSPORTS, transport
from mudanza.hypervisor.xml.capabilities import free_of, with_capabilities, with_domain_capabilities
from mudanza.hypervisor.xml.parsing import every, parse
from mudanza.hypervisor.xml.resources import parse_network, parse_pool
from mudanza.model.errors import MudanzaError
from mudanza.model.host import Host, HostEntry, Network, NumaNode, Pool

Result = TypeVar("Result")

SECONDARY_TIMEOUT = 3.0
"""Seconds each of the host's other drivers may take to tell what there is."""
_KIB = 1024
_REMEMBERED = 2_000
_described = lru_cache(_REMEMBERED)(with_capabilities)
_offering = lru_cache(_REMEMBERED)(with_domain_capabilities)
"""What hosts can do is the same at the next look, if nobody has changed it."""


def read_resources(host: HostConnection, deadline: Deadline) -> Host:
    """Return the host as it is now. Raises HostUnreachableError or HypervisorError if what matters cannot be read.

    What a secondary driver (storage, network, interfaces, filters, secrets) does not tell in time is None, not
    empty: a modular daemon's own socket reaches only some of them, and storage may hang.
    """
    name = host.name
    seen = host.ask(lambda raw: _read_core(raw, host.entry), timeout=deadline.left)

    questions: tuple[Callable[[Raw], Any], ...] = (
        lambda raw: _pools(raw, name),
        lambda raw: _networks(raw, name),
        lambda raw: frozenset(interface.name() for interface in raw.listAllInterfaces()),
        lambda raw: frozenset(nwfilter.name() for nwfilter in raw.listAllNWFilters()),
        lambda raw: _secrets(raw, safe=seen.encrypted),
    )
    answers = host.ask_each(questions, timeout=SECONDARY_TIMEOUT, deadline=deadline)
    pools, networks, interfaces, nwfilters, secrets = (
        None if isinstance(each, MudanzaError) else each for each in answers
    )
    return replace(seen, pools=pools, networks=networks, interfaces=interfaces, nwfilters=nwfilters, secrets=secrets)


def _read_core(raw: Raw, entry: HostEntry) -> Host:
    host = _described(Host(entry, hostname=raw.getHostname(), encrypted=_is_safe(raw, entry)), raw.getCapabilities())
    host = _with_memory(raw, _with_domain_capabilities(raw, _with_all_features(raw, host)))
    return replace(
        host,
        cpus=int(raw.getInfo()[2]),
        libvirt_version=int(raw.getLibVersion()),
        qemu_version=int(raw.getVersion()),
        daemon=_daemon(entry),
    )


def _or_none(read: Callable[[], Result]) -> Result | None:
    try:
        return read()
    except libvirt.libvirtError:
        return None


def _is_safe(raw: Raw, entry: HostEntry) -> bool:
    """Whether nobody on the way can read along: encrypted, or never leaving the machine."""
    return transport(entry.uri) in ENCRYPTED_TRANSPORTS or raw.isSecure() == 1


def _daemon(entry: HostEntry) -> str:
    """No call tells which daemon answers, and ``libvirt-sock`` may be libvirtd's or virtproxyd's."""
    return "virtqemud" if "virtqemud-sock" in entry.uri else ""


def _with_all_features(raw: Raw, host: Host) -> Host:
    """Add the CPU features that the model stands for: the capabilities name only those beyond it."""
    expand = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
    expanded = _or_none(lambda: str(raw.baselineCPU([host.cpu_xml], expand)))
    if expanded is None:
        return host
    return replace(host, cpu_features=host.cpu_features | _features(expanded, host.name))


@lru_cache(_REMEMBERED)
def _features(cpu: str, host: str) -> frozenset[str]:
    return frozenset(feature.get("name") or "" for feature in every(parse(cpu, host), "feature"))


def _with_domain_capabilities(raw: Raw, host: Host) -> Host:
    kind = "kvm" if "kvm" in host.domain_types else "qemu"
    offer = _or_none(lambda: str(raw.getDomainCapabilities(None, host.arch or None, None, kind, 0)))
    return host if offer is None else _offering(host, offer)


def _with_memory(raw: Raw, host: Host) -> Host:
    memory = raw.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    reclaimable = memory.get("buffers", 0) + memory.get("cached", 0)
    host = replace(
        host,
        memory_total=int(memory["total"]) * _KIB,
        memory_free=int(memory["free"] + reclaimable) * _KIB,
    )
    sizes = [pages.size for pages in host.hugepages]
    cells = max(len(host.cpu_count_by_node), 1)
    by_node = raw.getFreePages([page // _KIB for page in sizes], 0, cells) if sizes else {}
    free = {number: {page * _KIB: int(count) for page, count in pages.items()} for number, pages in by_node.items()}
    host = free_of(host, {page: sum(each.get(page, 0) for each in free.values()) for page in sizes})
    return replace(host, nodes=_or_none(lambda: _with_free(raw, host, free, int(memory["free"]) * _KIB)) or ())


def _with_free(raw: Raw, host: Host, pages: Mapping[int, Mapping[int, int]], free: int) -> tuple[NumaNode, ...]:
    """Return what is free at each node; at one that has all the host's memory what is free there, without asking again.

    A host's only node need not have all of it: where the kernel got memory after its start, it lacks some.
    """

    def left(node: NumaNode) -> NumaNode:
        here = pages.get(node.number, {})
        whole = node.memory_total == host.memory_total
        told = {"free": free // _KIB} if whole else raw.getMemoryStats(node.number)
        huge = tuple(replace(each, free=here.get(each.size, 0)) for each in node.hugepages)
        return replace(node, memory_free=int(told["free"]) * _KIB, hugepages=huge)

    return tuple(left(node) for node in host.nodes)


def _pools(raw: Raw, host: str) -> tuple[Pool, ...]:
    active = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
    inactive = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE
    return tuple(
        parse_pool(pool.XMLDesc(), host, active=flag == active)
        for flag in (active, inactive)
        for pool in raw.listAllStoragePools(flag)
        if not is_throwaway(pool.name())
    )


def _networks(raw: Raw, host: str) -> tuple[Network, ...]:
    active = libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE
    inactive = libvirt.VIR_CONNECT_LIST_NETWORKS_INACTIVE
    return tuple(
        parse_network(network.XMLDesc(), host, active=flag == active)
        for flag in (active, inactive)
        for network in raw.listAllNetworks(flag)
    )


def _secrets(raw: Raw, *, safe: bool) -> frozenset[str]:
    """Return UUIDs and usages of the secrets that have a value, as far as that may be asked over this connection."""
    secrets = [secret for secret in raw.listAllSecrets() if not safe or _has_value(secret)]
    return frozenset(name for secret in secrets for name in (secret.UUIDString(), secret.usageID()) if name)


def _has_value(secret: Any) -> bool:
    """libvirt tells only by handing the value over, which is dropped here; of private ones it never tells."""
    try:
        secret.value()
    except libvirt.libvirtError as error:
        return bool(error.get_error_code() != libvirt.VIR_ERR_NO_SECRET)
    return True
