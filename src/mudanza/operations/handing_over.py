"""A protected VM changes over to its replica's host while its own host lives: nothing is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mudanza.model.errors import BlockedError, HostUnreachableError, HypervisorError, MigrationFailedError, MudanzaError
from mudanza.model.protection import Standing
from mudanza.model.vm import VmState
from mudanza.operations import power
from mudanza.protection.copies import is_old

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.model.cluster import Cluster
    from mudanza.model.protection import Protection
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say
    from mudanza.protection.failover import Outcome


def hand_over(
    means: Means, connections: Connections, protection: Protection, nics: Mapping[str, str], asked_by: str, say: Say
) -> Outcome:
    """Bring this replica up to date, have the guest shut down, bring over the rest, and start the VM there.

    Raises BlockedError, nothing being touched; MigrationFailedError where the guest does not shut down, the rest does
    not come over or the VM does not start there: then it runs where it did, or what it is follows from what is told.
    Asked for once more after its controller has died, it goes on from where the VM is.
    """
    from mudanza.journal.protections import Protections
    from mudanza.protection.failover import Failover, already
    from mudanza.protection.left_behind import finish_left
    from mudanza.protection.rounds import INTERRUPTED, Rounds

    if protection.standing is Standing.FAILED_OVER:
        raise already(protection)
    store = Protections(means.database)
    rounds = Rounds(connections, means.jobs, store)
    at = _source(means.read_cluster(connections), protection)
    if finish_left(connections, means.jobs, at.uuid):
        at = _source(means.read_cluster(connections), protection)
    if at.state is VmState.PAUSED:
        raise BlockedError(
            f"VM {at.name!r} is paused on {at.host}: it cannot shut down",
            remedy=f"let it go on: virsh resume {at.uuid}, on {at.host}",
        )
    if not at.persistent:
        raise BlockedError(
            f"VM {at.name!r} is transient on {at.host}: it is gone once it is off, and what it wrote last with it",
            remedy=f"give it a definition there: virsh dumpxml --security-info {at.uuid} >FILE, virsh define FILE",
        )
    if at.state.active:
        point = rounds.sync(protection, at, asked_by)  # while it runs, so that little is left for when it does not
        say(f"{at.name}: restore point {point.number} while it runs; it is asked to shut down")
        try:
            failed = power.shut_down(means, connections, [at], say, wait=True)
        except KeyboardInterrupt:
            raise MigrationFailedError(
                f"VM {at.name!r} was not handed over: {INTERRUPTED}",
                vm_state=f"it was asked to shut down, and may be off on {at.host} soon; it has not gone elsewhere",
                remedy=f"go on with the same command; or have it run there again: mudanza start {at.name}",
            ) from None
        for error in failed:
            raise error
    try:
        off = _source(means.read_cluster(connections), protection)
        point = rounds.last(store.get(protection.id), off, asked_by)
        say(f"{at.name}: restore point {point.number} is what it was when it went off")
        cluster = means.read_cluster(connections)
        failover, now = Failover(connections, means.jobs, store), store.get(protection.id)
        return failover.from_point(now, cluster, point.number, nics, asked_by)
    except (BlockedError, HostUnreachableError, HypervisorError, MigrationFailedError) as error:
        if at.state.active:
            _start_again(means, connections, protection, say)
        raise error from None


def _source(cluster: Cluster, protection: Protection) -> Vm:
    """Return the VM at its own host: not a copy that it has left. Raises BlockedError where that cannot be told for
    sure."""
    copies = [vm for vm in cluster.vms if vm.uuid == protection.vm_uuid and vm.host != protection.target]
    found = [vm for vm in copies if vm.state.active or not is_old(vm, protection)]
    if len(found) != 1:
        where = ", ".join(vm.host for vm in found) or "no host that answers"
        raise BlockedError(
            f"VM {protection.vm_name!r} is at {where}: it takes one host of its own to change over from",
            remedy=f"if its host is lost: mudanza failover {protection.vm_name} --source-is-dead",
        )
    return found[0]


def _start_again(means: Means, connections: Connections, protection: Protection, say: Say) -> None:
    """Have it run as before, if it is sure to run nowhere else."""
    try:
        vm = _source(means.read_cluster(connections), protection)
        if vm.state is VmState.PAUSED:  # the QEMU of the last round could not be ended; its guest has not run yet
            connections.domains(vm.host).resume(vm.uuid)
            say(f"{vm.name} goes on at {vm.host}, in the QEMU that was held for the last round")
        else:
            power.start_one(means, connections, vm, say)
    except MudanzaError as error:
        say(f"! {protection.vm_name} was not started again: {error}")
