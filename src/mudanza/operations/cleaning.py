"""Old definitions of VMs that run elsewhere by now are taken away from hosts that came back. Nothing is ever started,
and no disk is touched."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mudanza.availability.stale import StaleCopy, stale_copies
from mudanza.model.errors import BlockedError, HostUnreachableError, HypervisorError
from mudanza.model.migration import Side

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.model.cluster import Cluster
    from mudanza.operations.means import Means, Say


@dataclass(frozen=True, slots=True)
class OldDefinition:
    """What a host has kept of a VM that was started elsewhere."""

    vm: str
    host: str
    runs_on: str
    uuid: str = ""
    why_not: str = ""
    """Why it is not taken away, in words; empty: it may be."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What came of taking them away."""

    said: tuple[str, ...]
    kept: int
    """How many are still there."""


def old_definitions(means: Means, host: str) -> tuple[OldDefinition, ...]:
    """Return what a host has kept of VMs that were started elsewhere. Raises UsageError where nobody knows it."""
    means.inventory.host(host)
    with means.connections() as connections:
        return tuple(map(as_old, _of(means, connections, host)))


def as_old(copy: StaleCopy) -> OldDefinition:
    """Return what is told of one."""
    return OldDefinition(copy.vm.name, copy.vm.host, copy.runs_on, copy.vm.uuid, copy.why_not)


def clean_host(means: Means, host: str, uuids: Collection[str] | None) -> Cleaned:
    """Take away what a host has kept of these VMs (None: of all that were started elsewhere), each after one more look.

    Raises UsageError where nobody knows the host.
    """
    means.inventory.host(host)
    said: list[str] = []
    with means.connections() as connections:
        found = _of(means, connections, host)
        wanted = [each for each in found if uuids is None or each.vm.uuid in uuids]
        missing = len(set(uuids) - {each.vm.uuid for each in wanted}) if uuids is not None else 0
        if missing:
            said.append(f"! {missing} of them are not old definitions on {host}: nothing was touched of these")
        kept = missing
        for each in wanted:
            try:
                clean(means, connections, each, said.append)
            except (BlockedError, HypervisorError, HostUnreachableError) as error:
                kept += 1
                said.append(f"! {error}")
    return Cleaned(tuple(said), kept)


def _of(means: Means, connections: Connections, host: str) -> list[StaleCopy]:
    return [each for each in stale(means, means.read_cluster(connections)) if each.vm.host == host]


def stale(means: Means, cluster: Cluster) -> tuple[StaleCopy, ...]:
    """Return what hosts keep of VMs that this journal had started elsewhere."""
    from mudanza.journal.kept import KeptUps

    return stale_copies(cluster, KeptUps(means.database).started_elsewhere())


def clean(means: Means, connections: Connections, copy: StaleCopy, say: Say) -> None:
    """Take an old definition away, after one more look at both hosts. Raises BlockedError where it is not as it was."""
    vm = copy.vm
    if copy.why_not:
        raise BlockedError(f"the definition of {vm.name} on {vm.host} was kept: {copy.why_not}")
    if (job := means.jobs.unfinished_of(vm.uuid)) is not None:
        raise BlockedError(f"VM {vm.name!r} has an unfinished job, number {job.id}", remedy=job.way_out)
    there, here = (connections.domains(host).sighting(vm.uuid) for host in (copy.runs_on, vm.host))
    if there.side is not Side.PRESENT or not there.state.active or here.side is not Side.PRESENT or here.state.active:
        raise BlockedError(
            f"VM {vm.name!r} is not off on {vm.host} and running on {copy.runs_on} any more: nothing was touched",
            remedy="look where it is: mudanza vms",
        )
    connections.domains(vm.host).undefine(vm.uuid)
    say(f"{vm.host} has no definition of {vm.name} any more; it runs on {copy.runs_on}, and its disks were not touched")
