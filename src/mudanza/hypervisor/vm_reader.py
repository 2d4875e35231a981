"""Reading the VMs of one host: first what libvirt knows by itself, then what QEMU and the storage have to be asked.

A guest whose QEMU hangs, or an image on storage that hangs, costs its own VM some figures and no other VM anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import libvirt

from mudanza.hypervisor.bounded import Deadline, for_each
from mudanza.hypervisor.disk_reader import with_volumes
from mudanza.hypervisor.domain_xml import parse_vm
from mudanza.hypervisor.ghost import is_throwaway
from mudanza.hypervisor.jobs import job_name
from mudanza.hypervisor.resource_xml import parse_snapshot
from mudanza.hypervisor.states import reason_name, state_name
from mudanza.model.vm import Disk, Snapshot, Vm, VmState

MONITOR_TIMEOUT = 3.0
"""Seconds all QEMUs of a host together may take to tell sizes and jobs."""
STORAGE_TIMEOUT = 3.0
"""Seconds the storage of a host may take to tell owners and sizes."""
_AT_ONCE = 4
"""libvirtd works on five calls of one client at a time by default (max_client_requests): one stays free."""
_KIB = 1024

Found = tuple[Any, Vm]
"""libvirt's domain and what is known of it so far."""


@dataclass(frozen=True, slots=True)
class _Listing:
    """What the host says of all its domains in one answer each."""

    states: Mapping[str, tuple[VmState, str]]
    persistent: frozenset[str]
    autostart: frozenset[str]
    managed_save: frozenset[str]
    with_snapshots: frozenset[str]
    with_checkpoints: frozenset[str]


def read_vms(raw: Any, host: str, deadline: Deadline) -> tuple[Vm, ...]:
    """Return every domain the host lists. Raises libvirtError when it cannot even list them.

    A domain that vanishes meanwhile is left out; one that cannot be read has ``error`` set.
    """
    stated = raw.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
    domains = [domain for domain, _ in stated if not is_throwaway(domain.name())]
    listing = _list(raw, {domain.UUIDString(): stats for domain, stats in stated})
    outcomes = for_each(
        lambda domain: _describe(domain, host, listing), domains, workers=_AT_ONCE, timeout=deadline.left
    )
    found = [
        (domain, outcome if isinstance(outcome, Vm) else _unreadable(domain, host, listing, outcome))
        for domain, outcome in zip(domains, outcomes, strict=True)
        if not _vanished(outcome)
    ]
    found = _refine(lambda one: _ask_qemu(raw, *one), found, min(MONITOR_TIMEOUT, deadline.left), _qemu_failed)
    found = _refine(lambda one: with_volumes(raw, *one), found, min(STORAGE_TIMEOUT, deadline.left), _unchanged)
    return tuple(vm for _, vm in found)


def _list(raw: Any, stats: Mapping[str, Mapping[str, int]]) -> _Listing:
    def marked(flag: int) -> frozenset[str]:
        return frozenset(domain.UUIDString() for domain in raw.listAllDomains(flag))

    return _Listing(
        states={uuid: _state(figures) for uuid, figures in stats.items()},
        persistent=marked(libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT),
        autostart=marked(libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART),
        managed_save=marked(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE),
        with_snapshots=marked(libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT),
        with_checkpoints=marked(libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_CHECKPOINT),
    )


def _state(figures: Mapping[str, int]) -> tuple[VmState, str]:
    state = state_name(figures.get("state.state", -1))
    return state, reason_name(state, figures.get("state.reason", -1))


def _describe(domain: Any, host: str, listing: _Listing) -> Vm:
    uuid = domain.UUIDString()
    state, reason = listing.states[uuid]
    persistent = uuid in listing.persistent
    secure = libvirt.VIR_DOMAIN_XML_SECURE
    inactive = domain.XMLDesc(secure | libvirt.VIR_DOMAIN_XML_INACTIVE) if persistent else None
    vm = parse_vm(
        domain.XMLDesc(secure) if state.active or inactive is None else inactive,
        host=host,
        state=state,
        reason=reason,
        persistent=persistent,
        autostart=uuid in listing.autostart,
        inactive_xml=inactive,
    )
    return replace(
        vm,
        has_managed_save=uuid in listing.managed_save,
        snapshots=_snapshots(domain, host) if uuid in listing.with_snapshots else (),
        checkpoints=_checkpoints(domain) if uuid in listing.with_checkpoints else (),
    )


def _snapshots(domain: Any, host: str) -> tuple[Snapshot, ...]:
    current = domain.snapshotCurrent().getName() if domain.hasCurrentSnapshot() else None
    return tuple(
        parse_snapshot(snapshot.getXMLDesc(), host, current=snapshot.getName() == current)
        for snapshot in domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
    )


def _checkpoints(domain: Any) -> tuple[str, ...]:
    listed = domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
    return tuple(str(checkpoint.getName()) for checkpoint in listed)


def _vanished(outcome: Vm | BaseException) -> bool:
    return isinstance(outcome, libvirt.libvirtError) and outcome.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN


def _unreadable(domain: Any, host: str, listing: _Listing, why: BaseException) -> Vm:
    """Return what is known of a domain without its XML, so that it is at least seen."""
    uuid = domain.UUIDString()
    state, reason = listing.states[uuid]
    return Vm(
        uuid=uuid,
        name=domain.name(),
        host=host,
        state=state,
        reason=reason,
        persistent=uuid in listing.persistent,
        autostart=uuid in listing.autostart,
        memory=0,
        vcpus=0,
        arch="",
        machine="",
        domain_type="",
        xml="",
        error=f"its definition could not be read: {why}",
    )


def _refine(
    improve: Callable[[Found], Vm],
    found: list[Found],
    timeout: float,
    failed: Callable[[Vm, BaseException], Vm],
) -> list[Found]:
    readable = [one for one in found if one[1].error is None]
    outcomes = for_each(improve, readable, workers=_AT_ONCE, timeout=timeout)
    better = {
        vm.uuid: outcome if isinstance(outcome, Vm) else failed(vm, outcome)
        for (_, vm), outcome in zip(readable, outcomes, strict=True)
    }
    return [(domain, better.get(vm.uuid, vm)) for domain, vm in found]


def _qemu_failed(vm: Vm, why: BaseException) -> Vm:
    return vm if _vanished(why) else replace(vm, error=f"its QEMU could not be asked: {why}")


def _unchanged(vm: Vm, _why: BaseException) -> Vm:
    """Keep a VM without what the storage did not tell: sizes that are None say so."""
    return vm


def _ask_qemu(raw: Any, domain: Any, vm: Vm) -> Vm:
    if not vm.state.active:
        return vm
    groups = libvirt.VIR_DOMAIN_STATS_BLOCK | libvirt.VIR_DOMAIN_STATS_BALLOON | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    answer = raw.domainListGetStats([domain], groups, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
    figures = answer[0][1] if answer else {}
    return replace(
        vm,
        job=job_name(domain),
        memory_used=figures["balloon.rss"] * _KIB if "balloon.rss" in figures else None,
        cpu_seconds=figures["cpu.time"] / 1e9 if "cpu.time" in figures else None,
        disks=tuple(_with_sizes(disk, figures) for disk in vm.disks),
    )


def _with_sizes(disk: Disk, figures: Mapping[str, Any]) -> Disk:
    for number in range(figures.get("block.count", 0)):
        if figures.get(f"block.{number}.name") == disk.target:
            return replace(
                disk,
                capacity=figures.get(f"block.{number}.capacity"),
                allocation=figures.get(f"block.{number}.physical"),
            )
    return disk
