"""The copies of a protected VM that hosts list, told apart by their activation epochs: pure."""

from __future__ import annotations

from mudanza.hypervisor.xml.activation import epoch_of
from mudanza.model.cluster import Cluster
from mudanza.model.protection import Protection
from mudanza.model.vm import Vm


def is_old(vm: Vm, protection: Protection) -> bool:
    """Whether that is a copy which the VM has left by failover."""
    definition = vm.inactive_xml or vm.xml
    return bool(protection.epoch and definition) and epoch_of(definition) < protection.epoch


def copy_of(cluster: Cluster, protection: Protection) -> Vm | None:
    """Return a protected VM where it runs, or else where it is defined: rather not a copy that it has left, and rather
    not at the replica's host. None: no host that answers lists it."""
    found = [vm for vm in cluster.vms if vm.uuid == protection.vm_uuid]
    found.sort(key=lambda vm: (not vm.state.active, is_old(vm, protection), vm.host == protection.target))
    return found[0] if found else None
