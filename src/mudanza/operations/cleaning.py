"""Old definitions of VMs that run elsewhere by now are taken away from hosts that came back. Nothing is ever started,
and no disk is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudanza.availability.stale import StaleCopy, stale_copies
from mudanza.model.errors import BlockedError
from mudanza.model.migration import Side

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.model.cluster import Cluster
    from mudanza.operations.means import Means, Say


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
