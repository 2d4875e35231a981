"""Deciding on a live move: everything that must be remembered of it, before anything is touched."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.claims import without_claim
from mudanza.migration.freight.travelling import travelling
from mudanza.migration.live.passage import allowed_postcopy
from mudanza.migration.prepare import Prepared
from mudanza.migration.record import CopiedDisk, MoveRecord
from mudanza.migration.steering import Steering
from mudanza.migration.unchanged import assert_unchanged
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.migration import Answer, MigrationOptions, Probe
from mudanza.model.policy import Compression
from mudanza.model.units import MIB
from mudanza.model.vm import Backing, Vm, VmState
from mudanza.preflight.cargo import arrives_on_chain
from mudanza.preflight.compression import cache_for
from mudanza.preflight.mapping import DiskPlan
from mudanza.preflight.streams import excludes_postcopy

SYNCHRONOUS_WRITES = 8_000_000
"""The first libvirt that lets a disk mirror hold the guest's writes until the target has them too."""
WRITES_HARD = 2 * MIB
"""Bytes per second that a guest writes to its disks from which on they are mirrored so. Seen: at 8 MiB/s over a link of
12 MiB/s a mirror in the background had not caught up after 90 s; synchronously it took 20 s, and the guest got 0.3 to
0.9 MiB/s through meanwhile."""


def live_record(prepared: Prepared, connections: Connections) -> MoveRecord:
    """Return what is decided. Raises BlockedError for a VM that is not any more what was judged; HypervisorError,
    HostUnreachableError."""
    vm = prepared.vm
    domains = connections.domains(vm.host)
    xml = without_claim(domains.describe(vm.uuid, migratable=True))
    assert_unchanged(vm, domains.sighting(vm.uuid), xml)
    streams = _streams(prepared)
    inactive = domains.describe(vm.uuid, inactive=True, migratable=True) if vm.persistent else None
    return MoveRecord(
        uuid=vm.uuid,
        name=vm.name,
        source=vm.host,
        target=prepared.chosen.target.name,
        was_paused=vm.state is VmState.PAUSED,
        persistent=vm.persistent,
        autostart=vm.autostart,
        keep_source=prepared.options.keep_source,
        tls=prepared.tls,
        xml=xml,
        inactive_xml=without_claim(inactive) if inactive is not None else None,
        disks=tuple(_copied(vm, plan, prepared) for plan in prepared.chosen.resolution.copies),
        warnings=tuple(finding.message for finding in prepared.chosen.findings),
        checking_time=prepared.checking_time,
        ahead=travelling(prepared, live=True),
        keeps_chains=_keeps_chains(prepared),
        arch=vm.arch,
        machine=vm.machine,
        domain_type=vm.domain_type,
        nvram=(vm.firmware.nvram or "") if vm.firmware else "",
        postcopy=allowed_postcopy(
            prepared.options.postcopy,
            was_paused=vm.state is VmState.PAUSED,
            excluded=streams > 1 and excludes_postcopy(prepared.source, prepared.chosen.target),
        ),
        streams=streams,
        compression_cache=_compression_cache(prepared),
        policy=prepared.options.policy,
        hooks=prepared.hooks,
        synchronous=bool(prepared.chosen.resolution.copies) and _writes_hard(prepared, connections),
    )


def steering_of(record: MoveRecord, no_progress: float, options: MigrationOptions, spent: float) -> Steering:
    """Return what its transfer is held to. Seconds; ``spent``: how much of the deadline has passed."""
    return Steering(
        record.source,
        record.target,
        options.max_downtime,
        options.deadline,
        no_progress,
        spent,
        policy=record.policy,
        postcopy=record.postcopy,
        bandwidth=options.bandwidth,
        compressed=bool(record.compression_cache),
        disks={disk.target: disk.size for disk in record.disks},
    )


def _streams(prepared: Prepared) -> int:
    """Return by how many connections memory goes: as was foreseen; where nobody has, as was asked for."""
    if prepared.forecast is not None:
        return prepared.forecast.known.streams.connections
    return prepared.options.streams or 1


def _compression_cache(prepared: Prepared) -> int:
    """Return the cache that compression gets, 0 where there is none: as was foreseen, else as was asked for."""
    if prepared.forecast is not None:
        return prepared.forecast.known.compressing.cache
    if prepared.options.compression is not Compression.XBZRLE:
        return 0
    return cache_for(None, prepared.vm.memory, prepared.source)


def _writes_hard(prepared: Prepared, connections: Connections) -> bool:
    """Whether the guest writes so much that a mirror in the background may never be done, and both hosts can
    mirror at once instead."""
    before, hosts = prepared.vm.written, (prepared.source, prepared.chosen.target)
    if before is None or any(host.libvirt_version < SYNCHRONOUS_WRITES for host in hosts):
        return False
    try:
        now = connections.domains(prepared.vm.host).written(prepared.vm.uuid)
    except (HypervisorError, HostUnreachableError):
        return False  # what it writes is not known: as libvirt does by itself
    return now.rate_since(before) >= WRITES_HARD


def _keeps_chains(prepared: Prepared) -> bool:
    """Whether disks stay on their chains. Preflight has seen to it that they all do, or none."""
    disks = {disk.target: disk for disk in prepared.vm.disks if disk.backing}
    copies = [plan for plan in prepared.chosen.resolution.copies if plan.target in disks]
    return any(arrives_on_chain(disks[plan.target], plan, prepared.options, live=True) for plan in copies)


def below(prepared: Prepared, plan: DiskPlan, record: MoveRecord) -> Backing | None:
    """Return the image at the target that a disk arrives on top of, None for one that arrives whole."""
    disk = next(disk for disk in prepared.vm.disks if disk.target == plan.target)
    if not disk.backing or not record.keeps_chains:
        return None
    if (path := prepared.options.upon.get(plan.target)) is not None:
        return Backing(path, "qcow2")
    return replace(disk.backing[0], path=record.places[disk.backing[0].path])


def _copied(vm: Vm, plan: DiskPlan, prepared: Prepared) -> CopiedDisk:
    disk = next(disk for disk in vm.disks if disk.target == plan.target)
    shared = prepared.chosen.facts.shared.get(plan.target, Probe())
    pool, volume = disk.pool, disk.volume
    if pool is None and (lies_in := prepared.source.pool_at(posixpath.dirname(disk.source or ""))) is not None:
        # libvirt has not looked into its directory since the image was made, by a snapshot for one.
        pool, volume = lies_in.name, posixpath.basename(disk.source or "")
    pooled = pool is not None and volume is not None
    return CopiedDisk(
        target=plan.target,
        source_path=disk.source or "",
        source_pool=pool,
        source_volume=volume,
        pool=plan.pool,
        volume=plan.volume,
        path=plan.path,
        size=plan.size,
        removable=pooled and disk.device == "disk" and not disk.readonly and not disk.shareable,
        seen_by_both=shared.answer is not Answer.NO,
    )
