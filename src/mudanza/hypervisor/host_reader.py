"""Reading one host: what it is, what it offers, what it has left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import libvirt

from mudanza.hypervisor.capabilities_xml import free_of, with_capabilities, with_domain_capabilities
from mudanza.hypervisor.resource_xml import parse_network, parse_pool
from mudanza.hypervisor.uris import ENCRYPTED_TRANSPORTS, transport
from mudanza.model.host import Host, HostEntry, Network, Pool

Result = TypeVar("Result")

_KIB = 1024


def read_resources(raw: Any, entry: HostEntry) -> Host:
    """Return the host as it is now. Raises libvirtError when what matters cannot be read.

    Whatever a secondary driver (storage, network, interfaces, filters, secrets) does not tell is None, not empty:
    a modular daemon's own socket reaches only some of them.
    """
    name = entry.name
    host = with_capabilities(
        Host(entry, hostname=raw.getHostname(), encrypted=_is_safe(raw, entry)), raw.getCapabilities()
    )
    host = _with_memory(raw, _with_domain_capabilities(raw, host))
    return replace(
        host,
        cpus=int(raw.getInfo()[2]),
        libvirt_version=int(raw.getLibVersion()),
        qemu_version=int(raw.getVersion()),
        daemon=_daemon(entry),
        pools=_or_none(lambda: _pools(raw, name)),
        networks=_or_none(lambda: _networks(raw, name)),
        interfaces=_or_none(lambda: frozenset(interface.name() for interface in raw.listAllInterfaces())),
        nwfilters=_or_none(lambda: frozenset(nwfilter.name() for nwfilter in raw.listAllNWFilters())),
        secrets=_or_none(lambda: _secrets(raw, safe=host.encrypted)),
    )


def _or_none(read: Callable[[], Result]) -> Result | None:
    try:
        return read()
    except libvirt.libvirtError:
        return None


def _is_safe(raw: Any, entry: HostEntry) -> bool:
    """Whether nobody on the way can read along: encrypted, or never leaving the machine."""
    return transport(entry.uri) in ENCRYPTED_TRANSPORTS or raw.isSecure() == 1


def _daemon(entry: HostEntry) -> str:
    """No call tells which daemon answers, and ``libvirt-sock`` may be libvirtd's or virtproxyd's."""
    return "virtqemud" if "virtqemud-sock" in entry.uri else ""


def _with_domain_capabilities(raw: Any, host: Host) -> Host:
    kind = "kvm" if "kvm" in host.domain_types else "qemu"
    offer = _or_none(lambda: str(raw.getDomainCapabilities(None, host.arch or None, None, kind, 0)))
    return host if offer is None else with_domain_capabilities(host, offer)


def _with_memory(raw: Any, host: Host) -> Host:
    memory = raw.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    reclaimable = memory.get("buffers", 0) + memory.get("cached", 0)
    host = replace(
        host,
        memory_total=int(memory["total"]) * _KIB,
        memory_free=int(memory["free"] + reclaimable) * _KIB,
    )
    sizes = [pages.size for pages in host.hugepages]
    if not sizes:
        return host
    by_node = raw.getFreePages([page // _KIB for page in sizes], 0, max(len(host.cpu_count_by_node), 1))
    free = {page: sum(int(node.get(page // _KIB, 0)) for node in by_node.values()) for page in sizes}
    return free_of(host, free)


def _pools(raw: Any, host: str) -> tuple[Pool, ...]:
    active = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
    inactive = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_INACTIVE
    return tuple(
        parse_pool(pool.XMLDesc(), host, active=flag == active)
        for flag in (active, inactive)
        for pool in raw.listAllStoragePools(flag)
    )


def _networks(raw: Any, host: str) -> tuple[Network, ...]:
    active = libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE
    inactive = libvirt.VIR_CONNECT_LIST_NETWORKS_INACTIVE
    return tuple(
        parse_network(network.XMLDesc(), host, active=flag == active)
        for flag in (active, inactive)
        for network in raw.listAllNetworks(flag)
    )


def _secrets(raw: Any, *, safe: bool) -> frozenset[str]:
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
