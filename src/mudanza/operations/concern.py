"""What a move is judged by: the hosts that it concerns as they are now, all others as they are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from mudanza.model.cluster import Cluster, Known

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.model.host import HostEntry
    from mudanza.operations.means import Means
    from mudanza.preflight.arrivals import Arrival

MOST_AGE = 60.0
"""Seconds after which what is known of hosts counts no more: then all are read."""


@dataclass(frozen=True, slots=True)
class About:
    """A move that is to be judged."""

    vm: str
    """Name or UUID."""
    to: str | None
    """None: the best host, which concerns all of them."""
    source: str = ""
    """Where it was when the move was asked for; empty: not known."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A cluster to judge a move in."""

    cluster: Cluster
    age: float = 0.0
    """Seconds since others than the hosts that the move concerns were read; 0: they were read now, too."""


def concerned(
    move: About, known: Known | None, entries: Iterable[HostEntry], expected: Mapping[str, Arrival]
) -> frozenset[str] | None:
    """Return the hosts without whose word, given now, a move is not judged; None: all of them are. Pure.

    They are its target, every host that is known to list the VM, and those that were added or changed since. Of VMs
    that are on their way to the same target it has to be known what they take there.
    """
    if known is None or known.age > MOST_AGE or move.to is None:
        return None
    hosts = {entry.name: entry for entry in entries}
    listing = {vm.host for vm in known.cluster.vms if move.vm in (vm.name, vm.uuid)} | {move.source} - {""}
    if not listing or move.to in listing:  # where only its disks move, any other host may use them
        return None
    listed = {vm.uuid for vm in known.cluster.vms}
    if any(each.target == move.to and each.uuid not in listed for each in expected.values()):
        return None
    as_known = {host.name: host.entry for host in known.cluster.hosts}
    changed = {name for name, entry in hosts.items() if as_known.get(name) != entry}
    return frozenset(listing | {move.to} | changed) & hosts.keys()


def scene_of(means: Means, connections: Connections, move: About | None, expected: Mapping[str, Arrival]) -> Scene:
    """Read the hosts that a move concerns, or all (None, or where too little is known), and return the cluster.

    A VM that is not where it was known to be is looked for on all hosts.
    """
    entries = connections.entries
    known = means.known() if move is not None else None
    names = concerned(move, known, entries, expected) if move is not None else None
    connections.open_all(names if names is not None else [entry.name for entry in entries])
    import_module("mudanza.migration.freight.freight")  # what most of the rest needs, loaded while the hosts let us in
    if names is None or known is None or move is None:
        return Scene(means.read_cluster(connections))
    seen = means.read_cluster(connections, names)
    if _is_elsewhere(move, seen):
        return Scene(means.read_cluster(connections))
    rest = known.cluster.only({entry.name for entry in entries})
    return Scene(rest.with_hosts(seen), known.age)


def _is_elsewhere(move: About, seen: Cluster) -> bool:
    """Whether the hosts that were asked have answered, and do not list the VM."""
    return all(host.seen for host in seen.hosts) and not any(move.vm in (vm.name, vm.uuid) for vm in seen.vms)
