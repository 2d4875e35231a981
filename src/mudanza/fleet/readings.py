"""What two looks at counters say of the time between them: pure. Rather nothing than a figure that may be wrong.

Counters start anew with every QEMU (restart, migration, libvirt's number of the run says so), a host may have booted,
the controller may have slept: what cannot be the difference of two looks at one thing is left out.
"""

from __future__ import annotations

from mudanza.model.counters import HostCounters, HostReading, Reading, VmCounters, VmReading

LEAST_SPAN = 1.0
"""Seconds between two looks below which their difference says little."""
LONGEST_SPAN = 300.0
"""Seconds beyond which it hides what went on meanwhile: a gap, not a reading."""


def between(before: HostCounters, after: HostCounters) -> HostReading:
    """Return what a host and its VMs used between two looks at it."""
    span = after.at - before.at
    if not LEAST_SPAN <= span <= LONGEST_SPAN:
        return HostReading(after.host, None, ())
    earlier = {vm.uuid: vm for vm in before.vms}
    vms = tuple(
        VmReading(vm.uuid, vm.name, used)
        for vm in after.vms
        if vm.uuid in earlier and (used := _of_vm(earlier[vm.uuid], vm, span)) is not None
    )
    return HostReading(after.host, _of_host(before, after, span, [vm.used for vm in vms]), vms)


def _of_host(before: HostCounters, after: HostCounters, span: float, vms: list[Reading]) -> Reading | None:
    busy = grown(before.busy_seconds, after.busy_seconds)
    if busy is None or after.memory_used is None:
        return None
    # libvirt does not tell of a host's disks and cards: it is what its VMs did.
    return Reading(
        span=span,
        cpus=min(busy / span, float(after.cpus)),
        memory=after.memory_used,
        disk=sum(vm.disk or 0.0 for vm in vms),
        network=sum(vm.network or 0.0 for vm in vms),
        steal=sum(vm.steal for vm in vms),
    )


def _of_vm(before: VmCounters, after: VmCounters, span: float) -> Reading | None:
    if before.run != after.run:
        return None
    used = grown(before.cpu_seconds, after.cpu_seconds)
    if used is None or after.memory is None or (used == 0.0 and after.running and before.running):
        return None  # a QEMU whose guest runs works a little: a counter that stands still was not read
    return Reading(
        span=span,
        cpus=used / span,
        memory=after.memory,
        disk=_rate(before.disk_bytes, after.disk_bytes, span),
        network=_rate(before.network_bytes, after.network_bytes, span),
        steal=(grown(before.waited, after.waited) or 0.0) / span,
    )


def _rate(before: float | None, after: float | None, span: float) -> float | None:
    more = grown(before, after)
    return None if more is None else more / span


def grown(before: float | None, after: float | None) -> float | None:
    """Return by how much a counter has grown; None where one of the looks told nothing, or it has run backwards."""
    return None if before is None or after is None or after < before else after - before
