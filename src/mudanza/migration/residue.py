"""What a job leaves behind on hosts, and what of it may be deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import read_host
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Job, Step
from mudanza.migration.record import CopiedDisk
from mudanza.model.cluster import Cluster
from mudanza.model.host import HostEntry
from mudanza.model.vm import Disk


@dataclass(frozen=True, slots=True)
class Residue:
    """What was removed, what was left, and why."""

    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    undeleted: tuple[str, ...] = ()
    """Of what was kept at the source, what ought to have gone: ``job resume`` tries it again."""

    def __add__(self, other: Residue) -> Residue:
        return Residue(
            self.removed + other.removed,
            self.kept + other.kept,
            self.warnings + other.warnings,
            self.undeleted + other.undeleted,
        )


def ran_there(job: Job) -> bool:
    """Whether the journal knows that the guest has run at the target, in post-copy."""
    return any((step.outcome or {}).get("runs there") for step in job.steps_named("post-copy"))


def definition_kept(source: str, target: str) -> str:
    """Return in words that a VM which has moved can still be started where it was."""
    return f"{source} keeps its definition too, with autostart off: do not start it there while {target} has it"


def standing_places(job: Job) -> tuple[Step, ...]:
    """Return the steps by which the job made, or began to make, what it has not deleted since, one for each path."""
    standing: dict[str, Step] = {}
    for step in job.steps:
        if step.name == "create volume" and not (step.outcome or {}).get("error"):
            standing[str(step.intent["path"])] = step
        elif step.name == "delete volume" and step.intent["host"] == job.target and (step.outcome or {}).get("done"):
            gone = step.intent
            standing = {path: made for path, made in standing.items() if not _is_same_place(made.intent, path, gone)}
    return tuple(standing.values())


def _is_same_place(made: Mapping[str, Any], path: str, gone: Mapping[str, Any]) -> bool:
    if "path" in gone:
        return bool(gone["path"] == path)
    return bool((made["pool"], made["volume"]) == (gone["pool"], gone["volume"]))


def deleted_by(job: Job) -> frozenset[tuple[str, str, str]]:
    """Return host, pool and volume of what a job has deleted: by that name there may be another one by now."""
    done = (step.intent for step in job.steps_named("delete volume") if (step.outcome or {}).get("done"))
    return frozenset((str(each["host"]), str(each["pool"]), str(each["volume"])) for each in done)


def disks_in_use(inventory: Inventory, connections: Connections, host: str) -> Mapping[str, str] | None:
    """Return path → domain of every image some domain of a host refers to; None when it cannot be asked."""
    entry, vms = read_host(inventory.host(host), connections=connections, resources=False)
    if not entry.seen or any(vm.error for vm in vms):
        return None
    return {path: vm.name for vm in vms for disk in vm.disks for path in _paths(disk)}


def may_use(disks: Iterable[CopiedDisk], source: str, entries: Iterable[HostEntry]) -> tuple[HostEntry, ...]:
    """Return the hosts without whose word ``why_keep`` lets none of the disks go. Pure.

    No other one need be asked, least of all one that does not answer.
    """
    seen_elsewhere = any(disk.seen_by_both for disk in disks)
    return tuple(entry for entry in entries if seen_elsewhere or entry.name == source)


def why_keep(disk: CopiedDisk, source: str, cluster: Cluster) -> str:
    """Return why a volume of the source must not be deleted; empty when it may be. Pure.

    A file that other hosts see too may be used on any of them, one of the source's own only there.
    """
    if not disk.removable:
        return "it is a medium, read-only, shared or no volume of a pool"
    for host in cluster.hosts:
        if not host.seen and (host.name == source or disk.seen_by_both):
            return f"{host.name} could not be asked whether it uses it"
    for vm in cluster.vms:
        if vm.host != source and not disk.seen_by_both:
            continue
        if vm.error:
            return f"whether domain {vm.name!r} on {vm.host} refers to it could not be found out"
        if any(disk.source_path in _paths(other) for other in vm.disks):
            return f"domain {vm.name!r} on {vm.host} refers to it"
    return ""


def _paths(disk: Disk) -> frozenset[str]:
    return frozenset({disk.source or "", *(image.path for image in disk.backing)})
