"""Which copy of a VM is started when a whole site starts anew: pure.

After a power cut nothing runs, and what a host has defined may be old: a VM that has come up elsewhere by failover, or
because its host was lost, has left a copy behind. Just one copy is the VM; where that is not clear, none is started.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mudanza.hypervisor.xml.activation import epoch_of
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.protection import Protection
from mudanza.model.vm import Vm

LOOK = "a person must look which of them is the VM: mudanza vms; nothing was started"


def copy_to_start(
    wanted: str,
    cluster: Cluster,
    protections: Mapping[str, Protection],
    left: Collection[tuple[str, str]],
    proven_off: Collection[str],
) -> Vm:
    """Return the one copy that is the VM, whether it runs or is off.

    ``wanted``: its name or UUID; ``protections`` by UUID; ``left``: UUIDs, each with a host that it was started
    elsewhere from because that was lost. Raises BlockedError where that is not clear, or a host that was not seen and
    is not proven off may run it.
    """
    copies = [vm for vm in cluster.vms if wanted in (vm.name, vm.uuid)]
    if len({vm.uuid for vm in copies}) > 1:
        places = ", ".join(f"{vm.uuid} on {vm.host}" for vm in copies)
        raise BlockedError(f"{wanted!r} is the name of several VMs: {places}", remedy="name it by UUID in the plan")
    running = [vm for vm in copies if vm.state.active]
    if len(running) == 1:
        return running[0]
    if running:
        raise BlockedError(f"VM {wanted!r} runs on {' and on '.join(vm.host for vm in running)}", remedy=LOOK)
    if unseen := [host.name for host in cluster.hosts if not host.seen and host.name not in proven_off]:
        raise BlockedError(
            f"VM {wanted!r} was not started: {', '.join(unseen)} could not be asked, and may run it",
            remedy="wait until it answers; if it is off for good: mudanza fence confirm HOST",
        )
    if not copies:
        raise BlockedError(f"no host lists a VM {wanted!r}", remedy="see what is where: mudanza vms")
    return _newest(copies, protections.get(copies[0].uuid), left)


def _newest(copies: list[Vm], protection: Protection | None, left: Collection[tuple[str, str]]) -> Vm:
    """Return the copy that is not an old one, of copies that are all off. Raises BlockedError."""
    epochs = {vm.host: epoch_of(vm.inactive_xml or vm.xml) for vm in copies}
    newest = max(epochs.values())
    epoch = protection.epoch if protection is not None else newest
    told = ", ".join(f"{host}: {each}" for host, each in epochs.items())
    if newest != epoch:
        raise BlockedError(
            f"VM {copies[0].name!r} came up last under epoch {epoch}, and its copies say: {told}", remedy=LOOK
        )
    found = [vm for vm in copies if epochs[vm.host] == epoch]
    if len(found) > 1:  # of the same epoch: one may have been left when its host was lost
        found = [vm for vm in found if (vm.uuid, vm.host) not in left]
    if len(found) != 1:
        places = " and ".join(vm.host for vm in copies)
        raise BlockedError(f"VM {copies[0].name!r} is defined on {places}, and off on each", remedy=LOOK)
    return found[0]
