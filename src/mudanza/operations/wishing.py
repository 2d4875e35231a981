"""What VMs wish of their own moves, written into their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.wishes import OPTIONS, wishes_of

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means

Changes = Mapping[str, str]
"""Wish → its new text; empty: it is taken back."""


def refuse_impossible(changes: Changes) -> None:
    """Raise UsageError for what no VM could be heeded in."""
    faults = wishes_of({name: text for name, text in changes.items() if text}).faults
    for name, fault in faults.items():
        raise UsageError(f"{OPTIONS.get(name, name)}: {fault}", remedy="see: mudanza wish --help")


def write(means: Means, connections: Connections, vm: Vm, changes: Changes, *, keep: bool) -> str:
    """Write a VM's wishes anew; return what is to be told. ``keep``: those that are not named stay.

    Raises BlockedError while a job has the VM: the target would get the old ones.
    """
    from mudanza.migration.vm_claim import in_the_way

    if (job := means.jobs.unfinished_of(vm.uuid)) is not None and not job.is_queued:
        raise BlockedError(
            f"VM {vm.name!r} has an unfinished job, number {job.id}: its wishes may get lost over it",
            remedy=job.way_out,
        )
    if (claim := in_the_way(means.jobs, vm.claims)) is not None:
        raise BlockedError(f"VM {vm.name!r}: {claim.in_words}", remedy="wait until that job has ended")
    before = dict(vm.wishes.said) if vm.wishes else {}
    after = {name: text for name, text in {**(before if keep else {}), **changes}.items() if text}
    if after == before:
        return f"{vm.name} wishes that already: nothing to do"
    connections.domains(vm.host).set_wishes(vm.uuid, after)
    words = ", ".join(f"{name} {text}" for name, text in after.items())
    return f"{vm.name} wishes now: {words}" if words else f"{vm.name} has no wishes any more"
