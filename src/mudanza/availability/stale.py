"""What a host that came back keeps of VMs that were started elsewhere meanwhile: old definitions, off. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mudanza.model.cluster import Cluster
from mudanza.model.vm import Vm


@dataclass(frozen=True, slots=True)
class StaleCopy:
    """An old definition of a VM."""

    vm: Vm
    """As its old host lists it."""
    runs_on: str
    """The host that it was started on, and runs on."""
    why_not: str
    """Why it is not taken away, in words; empty: it may be."""


def stale_copies(cluster: Cluster, restarted: Iterable[tuple[str, str]]) -> tuple[StaleCopy, ...]:
    """Return what hosts that answer keep of VMs that run elsewhere.

    ``restarted``: UUIDs, each with the host that it was started elsewhere from: whatever else is defined twice is
    somebody's wish.
    """
    wanted = set(restarted)
    found = []
    for vm in cluster.vms:
        if vm.state.active or not vm.persistent or (vm.uuid, vm.host) not in wanted:
            continue
        running = [other.host for other in cluster.vms if other.uuid == vm.uuid and other.state.active]
        if len(running) == 1:
            found.append(StaleCopy(vm, running[0], _why_not(vm)))
    return tuple(found)


def _why_not(vm: Vm) -> str:
    """Return what would be lost with a definition."""
    if vm.claims:
        return f"somebody works on it: {vm.claims[0].in_words}"
    kept = {"snapshots": vm.snapshots, "checkpoints": vm.checkpoints, "saved memory": vm.has_managed_save}
    if lost := [what for what, there in kept.items() if there]:
        return f"libvirt's records of its {' and '.join(lost)} would be lost with it"
    return ""
