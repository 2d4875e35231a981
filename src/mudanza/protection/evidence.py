"""What a test failover must not change: looked at before and after, and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from mudanza.hypervisor.xml.claims import without_claim
from mudanza.hypervisor.xml.parsing import outer, parse
from mudanza.model.cluster import Cluster
from mudanza.model.protection import Protection
from mudanza.model.vm import Vm
from mudanza.protection.replica import Replica, files_of

GONE = "not there"
NOBODY = "no host that answers has it"


@dataclass(frozen=True, slots=True)
class Compared:
    """One thing that was looked at twice."""

    what: str
    before: str
    after: str

    @property
    def same(self) -> bool:
        """Whether it is as it was."""
        return self.before == self.after


def looked_at(protection: Protection, cluster: Cluster, replica: Replica, *, digests: bool) -> Mapping[str, str]:
    """Return what production, replica and protection are like now: what → how it is.

    ``digests``: also what the images hold. Raises HypervisorError, HostUnreachableError.
    """
    images = replica.likeness(files_of(protection.points), digests=digests)
    return {
        "production": in_production(protection, cluster),
        "protection": settings_of(protection),
        **{f"point {point.number}": "whole" for point in protection.points},
        **{f"image {file}": likeness for file, likeness in images.items()},
    }


def in_production(protection: Protection, cluster: Cluster) -> str:
    """Return where the VM is, in which state, and what its definition is like."""
    found = sorted(_as_it_is(vm) for vm in cluster.vms if vm.uuid == protection.vm_uuid)
    return "; ".join(found) or NOBODY


def settings_of(protection: Protection) -> str:
    """Return what a protection is to do. Its rounds go on meanwhile, and are none of it."""
    every, keep = protection.every, protection.keep
    return f"{protection.standing}, to {protection.target}, every {every:g} s, keep {keep}, epoch {protection.epoch}"


def compared(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Compared, ...]:
    """Return everything that was there before beside what it is now: pure. What has come since is of later rounds."""
    return tuple(Compared(what, how, after.get(what, GONE)) for what, how in before.items())


def _as_it_is(vm: Vm) -> str:
    return f"{vm.state} on {vm.host}, {_digest(vm.xml)}" + ("" if vm.persistent else ", transient")


def _digest(definition: str) -> str:
    """A running VM's definition has its number in it, which is another one whenever it was started anew; what memory
    it has just now is no part of it."""
    root = parse(without_claim(definition), "source")
    for memory in root.findall("currentMemory"):
        root.remove(memory)
    return f"definition {hashlib.sha256(outer(root).encode()).hexdigest()[:16]}"
