"""Reading the VMs of one host: first what libvirt knows by itself, then what QEMU and the storage have to be asked.

A guest whose QEMU hangs, or an image on storage that hangs, costs its own VM some figures and no other VM anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import libvirt

from mudanza import clock
from mudanza.hypervisor.bounded import Deadline
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.jobs import job_name
from mudanza.hypervisor.own.throwaway import is_throwaway
from mudanza.hypervisor.reading.disks import with_volumes
from mudanza.hypervisor.states import reason_name, state_name
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.hypervisor.xml.resources import parse_snapshot
from mudanza.model.errors import HypervisorError, MudanzaError
from mudanza.model.vm import Disk, Snapshot, Vm, VmState, Written

MONITOR_TIMEOUT = 2.0
"""Seconds one VM's QEMU may take to tell sizes and jobs."""
STORAGE_TIMEOUT = 3.0
"""Seconds the storage of one VM may take to tell owners and sizes."""
REMEMBERED = 20_000
"""Definitions of which is remembered what was read in them: most are the same at the next look."""
_KIB = 1024
_parsed = lru_cache(REMEMBERED)(parse_vm)


@dataclass(frozen=True, slots=True)
class _Listing:
    """What the host says of all its domains in one answer each."""

    states: Mapping[str, tuple[VmState, str]]
    persistent: frozenset[str]
    autostart: frozenset[str]
    managed_save: frozenset[str]
    with_snapshots: frozenset[str]
    with_checkpoints: frozenset[str]


def read_vms(host: HostConnection, deadline: Deadline) -> tuple[Vm, ...]:
    """Return every domain the host lists. Raises HostUnreachableError or HypervisorError when it lists none.

    A domain that vanishes meanwhile is left out; one that cannot be read has ``error`` set.
    """
    vms = host.ask(lambda raw: _describe_all(raw, host.name), timeout=deadline.left)
    return _with_storage(host, _with_figures(host, vms, deadline), deadline)


def _with_figures(host: HostConnection, vms: Sequence[Vm], deadline: Deadline) -> tuple[Vm, ...]:
    asked = [vm for vm in vms if vm.error is None and vm.state.active]
    questions = [partial(_ask_qemu, vm=vm) for vm in asked]
    answers = host.ask_each(questions, timeout=MONITOR_TIMEOUT, deadline=deadline)
    told = {vm.uuid: _told(vm, answer) for vm, answer in zip(asked, answers, strict=True)}
    return tuple(told.get(vm.uuid, vm) for vm in vms)


def _told(vm: Vm, answer: Vm | MudanzaError) -> Vm:
    if isinstance(answer, Vm):
        return answer
    if not isinstance(answer, HypervisorError):
        return replace(vm, error=f"its QEMU could not be asked: {answer}")
    return vm if answer.code == libvirt.VIR_ERR_NO_DOMAIN else replace(vm, error=f"QEMU told nothing: {answer.reason}")


def _with_storage(host: HostConnection, vms: Sequence[Vm], deadline: Deadline) -> tuple[Vm, ...]:
    asked = [vm for vm in vms if any(disk.is_local_image for disk in vm.disks)]
    questions = [partial(with_volumes, vm=vm) for vm in asked]
    answers = host.ask_each(questions, timeout=STORAGE_TIMEOUT, deadline=deadline)
    # No storage driver, or storage that hangs: sizes and owners that are None say so.
    told = {vm.uuid: answer for vm, answer in zip(asked, answers, strict=True) if isinstance(answer, Vm)}
    return tuple(told.get(vm.uuid, vm) for vm in vms)


def _describe_all(raw: Any, host: str) -> list[Vm]:
    stated = raw.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
    listing = _list(raw, {domain.UUIDString(): stats for domain, stats in stated})
    described = [_described(domain, host, listing) for domain, _ in stated if not is_throwaway(domain.name())]
    return [vm for vm in described if vm is not None]


def _described(domain: Any, host: str, listing: _Listing) -> Vm | None:
    try:
        return _describe(domain, host, listing)
    except Exception as error:
        # Whatever is the matter with one definition hides no other VM.
        if isinstance(error, libvirt.libvirtError) and error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        return _unreadable(domain, host, listing, error)


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
    vm = _parsed(
        domain.XMLDesc(secure) if state.active or inactive is None else inactive,
        host=host,
        state=state,
        reason=reason,
        persistent=persistent,
        autostart=uuid in listing.autostart,
        inactive_xml=inactive,
    )
    saved = uuid in listing.managed_save or (not state.active and _has_saved_memory(domain))
    snapshots = _snapshots(domain, host) if uuid in listing.with_snapshots else ()
    checkpoints = _checkpoints(domain) if uuid in listing.with_checkpoints else ()
    if not (saved or snapshots or checkpoints):
        return vm
    return replace(vm, has_managed_save=saved, snapshots=snapshots, checkpoints=checkpoints)


def _has_saved_memory(domain: Any) -> bool:
    """Whether starting it would restore a saved memory: libvirt lists none that was brought since it started."""
    try:
        return bool(domain.managedSaveGetXMLDesc())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return False
        raise


def _snapshots(domain: Any, host: str) -> tuple[Snapshot, ...]:
    current = domain.snapshotCurrent().getName() if domain.hasCurrentSnapshot() else None
    return tuple(
        parse_snapshot(snapshot.getXMLDesc(), host, current=snapshot.getName() == current)
        for snapshot in domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
    )


def _checkpoints(domain: Any) -> tuple[str, ...]:
    listed = domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
    return tuple(str(checkpoint.getName()) for checkpoint in listed)


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


def _ask_qemu(raw: Any, vm: Vm) -> Vm:
    domain = raw.lookupByUUIDString(vm.uuid)
    groups = libvirt.VIR_DOMAIN_STATS_BLOCK | libvirt.VIR_DOMAIN_STATS_BALLOON | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    answer = raw.domainListGetStats([domain], groups, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
    figures = answer[0][1] if answer else {}
    return replace(
        vm,
        job=job_name(domain),
        memory_used=figures["balloon.rss"] * _KIB if "balloon.rss" in figures else None,
        cpu_seconds=figures["cpu.time"] / 1e9 if "cpu.time" in figures else None,
        written=written(figures),
        disks=tuple(_with_sizes(disk, figures) for disk in vm.disks),
    )


def written(figures: Mapping[str, Any]) -> Written:
    """Return what a guest's disks have taken in all, from libvirt's block statistics as they are now."""
    count = figures.get("block.count", 0)
    return Written(sum(figures.get(f"block.{number}.wr.bytes", 0) for number in range(count)), clock.monotonic())


def _with_sizes(disk: Disk, figures: Mapping[str, Any]) -> Disk:
    for number in range(figures.get("block.count", 0)):
        if figures.get(f"block.{number}.name") == disk.target:
            return replace(
                disk,
                capacity=figures.get(f"block.{number}.capacity"),
                allocation=figures.get(f"block.{number}.physical"),
            )
    return disk
