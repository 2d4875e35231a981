"""All of preflight, in the order it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mudanza.model.cluster import Cluster
from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.migration import Facts, MigrationOptions
from mudanza.model.vm import Vm
from mudanza.preflight import (
    access,
    compression,
    compute,
    devices,
    files,
    history,
    identity,
    locks,
    memory,
    network,
    numa,
    security,
    state,
    storage,
    streams,
)
from mudanza.preflight.case import Case, Mode
from mudanza.preflight.mapping import resolve
from mudanza.preflight.relocation import check_in_place

Check = Callable[[Case], Iterable[Finding]]

# What can be said of a VM without having seen the target…
OF_THE_VM: tuple[Check, ...] = (
    access.target_answers,
    access.maintenance,
    identity.on_third_host,
    state.readable,
    state.activity,
    state.pause,
    state.jobs,
    state.wishes,
    access.hooks,
    state.definition,
    compute.unmovable_memory_or_clock,
    devices.host_devices,
    storage.transient_disks,
)
# …what is true of the way between two hosts that have answered, whatever VM goes it…
OF_THE_WAY: tuple[Check, ...] = (
    identity.host_names,
    access.peer,
    access.migration_address,
    access.data_path,
    access.encryption,
    access.way_in_is_encrypted,
    access.clocks,
    compute.versions,
)
# …and what only makes sense against a target that has answered.
OF_THE_TARGET: tuple[Check, ...] = (
    identity.already_there,
    *OF_THE_WAY,
    streams.streams,
    compression.compression,
    compute.architecture,
    compute.domain_type,
    compute.emulator,
    compute.machine_type,
    compute.cpu,
    compute.cpu_count,
    memory.free_memory,
    memory.promised_memory,
    memory.memory_growth,
    memory.huge_pages,
    numa.numa_nodes,
    numa.numa_memory,
    storage.places,
    storage.shareable_in_use,
    storage.free_space,
    storage.occupied,
    storage.occupied_beside,
    storage.data_elsewhere,
    storage.root_squashed,
    storage.host_cache,
    storage.shared_by_pool,
    locks.second_locks,
    history.snapshots,
    history.snapshot_memory,
    history.checkpoints,
    files.needed_files,
    files.host_drives,
    files.backing_files,
    files.mixed_chains,
    files.firmware_variables,
    network.cards,
    network.switches,
    network.packet_filters,
    network.tracked_connections,
    network.duplicate_macs,
    devices.displays,
    devices.tpm,
    devices.vsock,
    security.secrets,
    security.static_labels,
    security.confinement,
    security.disk_owners,
)


def check(
    vm: Vm,
    source: Host,
    target: Host,
    cluster: Cluster,
    options: MigrationOptions,
    facts: Facts,
) -> tuple[Finding, ...]:
    """Return everything that speaks against moving the VM from source to target, blockers and warnings at once.

    Never raises. The order is that of the checks, and within one that of the VM's definition: the same input gives
    the same output. Where a host was not seen, only what can be said without it is said.
    """
    mode: Mode = "cold" if options.is_cold(active=vm.state.active) else "live"
    plan = resolve(vm, source, target, options, facts)
    case = Case(vm, source, target, cluster, options, facts, mode, plan)
    if source.name == target.name and options.map_storage and source.seen:
        return check_in_place(case)
    impossible = (*identity.same_host(case), *access.source_answers(case))
    if impossible:
        return impossible
    checks = OF_THE_VM + OF_THE_TARGET if target.seen else OF_THE_VM
    return tuple(finding for ask in checks for finding in ask(case))
