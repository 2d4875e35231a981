"""Which VMs are meant."""

from __future__ import annotations

from collections.abc import Sequence

from mudanza.model.cluster import Cluster
from mudanza.model.errors import UsageError
from mudanza.model.vm import Vm


def choose_vms(
    cluster: Cluster, names: Sequence[str] | None, tags: Sequence[str] | None, *, bound_for: str | None = None
) -> tuple[Vm, ...]:
    """Return the VMs meant, each once. Raises UsageError if nothing is named or found. ``bound_for``: where to."""
    if not names and not tags:
        raise UsageError("name at least one VM, or use --tag", remedy="see them all: mudanza vms")
    chosen = {vm.uuid: vm for vm in (cluster.find(name, bound_for=bound_for) for name in names or ())}
    for tag in tags or ():
        tagged = [vm for vm in cluster.vms if tag in vm.tags]
        if not tagged:
            raise UsageError(f"no VM has the tag {tag!r}", remedy="see them all: mudanza vms")
        chosen.update((uuid, cluster.find(uuid, bound_for=bound_for)) for uuid in {vm.uuid for vm in tagged})
    return tuple(chosen.values())
