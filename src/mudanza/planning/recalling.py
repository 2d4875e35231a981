"""A host that does not answer, taken for what it was when it was last seen: so that there can be a plan for its VMs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType

from mudanza.model.cluster import Cluster
from mudanza.model.fencing import Fencing
from mudanza.model.sighting import Sighting
from mudanza.model.vm import Vm

_NOBODY: Mapping[str, str] = MappingProxyType({})


def recall(
    cluster: Cluster,
    name: str,
    sightings: Mapping[str, Sighting],
    apart: Mapping[str, str] = _NOBODY,
    proof: Fencing | None = None,
) -> tuple[Cluster, tuple[str, ...]]:
    """Return the cluster with that host, and with those of its VMs that are not known to be elsewhere; and what there
    is to say about that. Unchanged where the host answers, or nothing is known of it. Raises UsageError for no host.

    ``apart``: VMs, by UUID, that are not to be planned for, and why; ``proof``: what proves that the host is off.
    """
    host, was = cluster.host(name), sightings.get(name)
    if host.seen or was is None or was.host.entry.uri != host.entry.uri:
        return cluster, ()
    elsewhere = {vm.uuid for vm in cluster.vms} | _seen_later(cluster, name, sightings)
    lost = tuple(vm for vm in was.vms if vm.uuid not in elsewhere)
    left_out = [vm for vm in lost if vm.uuid in apart]
    planned = tuple(vm for vm in lost if vm.uuid not in apart)
    hosts = tuple(replace(was.host, entry=host.entry) if each is host else each for each in cluster.hosts)
    notes = (*_notes(cluster, was, lost, proof), *_apart(left_out, apart))
    return replace(cluster, hosts=hosts, vms=(*cluster.vms, *planned)), notes


def _apart(left_out: Sequence[Vm], apart: Mapping[str, str]) -> Iterator[str]:
    for why in dict.fromkeys(apart[vm.uuid] for vm in left_out):
        names = sorted(vm.name for vm in left_out if apart[vm.uuid] == why)
        yield f"not planned for: {', '.join(names)}: {why}"


def _seen_later(cluster: Cluster, name: str, sightings: Mapping[str, Sighting]) -> set[str]:
    """The VMs that were on another host that does not answer, after this one was last seen."""
    others = (host.name for host in cluster.hosts if not host.seen and host.name != name)
    later = (sightings[other] for other in others if other in sightings and sightings[other].at > sightings[name].at)
    return {vm.uuid for was in later for vm in was.vms}


def _notes(cluster: Cluster, was: Sighting, lost: tuple[Vm, ...], proof: Fencing | None) -> tuple[str, ...]:
    name = was.host.name
    when = datetime.fromtimestamp(was.at, UTC).isoformat(sep=" ", timespec="seconds")
    error = cluster.host(name).error
    notes = [
        f"{name} does not answer ({error}); what was on it is remembered from {when}, and who came or left since "
        "then is not known",
        f"{name} is proven off: {proof.said}"
        if proof is not None
        else f"nobody has shown that {name} is off: its VMs may be running there still",
    ]
    off = sorted(vm.name for vm in lost if not vm.state.active)
    if off:
        notes.append(f"switched off then, and not to be started: {', '.join(off)}")
    again = sorted(vm.name for vm in lost if vm.state.active and vm.autostart)
    if again:
        notes.append(f"if {name} comes back, its libvirt starts by itself, a second time: {', '.join(again)}")
    moved = sorted(vm.name for vm in was.vms if vm not in lost)
    if moved:
        notes.append(f"they were on {name} then, and were seen elsewhere since: {', '.join(moved)}")
    unseen = sorted(host.name for host in cluster.hosts if not host.seen and host.name != name)
    if unseen:
        notes.append(f"not seen either, so that some may be there: {', '.join(unseen)}")
    return tuple(notes)
