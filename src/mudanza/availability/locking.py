"""What is wrong with the second lock of hosts that share storage: pure. Findings for ``mudanza doctor``.

Without one nothing but this program, and QEMU's own lock as far as the file system carries it, keeps a second copy of a
VM from being started. That is how most hosts are, so it is told where VMs are kept up, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from mudanza.model.cluster import Cluster
from mudanza.model.disk_locks import DiskLocks, LockManager, difference
from mudanza.model.finding import Finding
from mudanza.preflight.wording import listed, warning

SHARED_POOLS = frozenset({"netfs", "rbd", "gluster", "iscsi", "iscsi-direct", "scsi", "mpath"})
"""Kinds of pools that several hosts see, where they have one of one name."""


def of_locks(cluster: Cluster, locks: Mapping[str, DiskLocks], *, kept_up: bool) -> Iterator[Finding]:
    """Yield what is wrong. ``cluster``: with pools taken for shared that the rules say are; ``kept_up``: whether any VM
    is started elsewhere by itself."""
    together = _sharing(cluster)
    known = {name: locks[name] for name in sorted(together) if name in locks and locks[name].manager is not None}
    without = [name for name, each in known.items() if not each.holds]
    if without and len(without) == len(known):
        if kept_up:
            yield _without(without, known)
        return
    for one, other in combinations(known, 2):
        if other in together[one] and (why := difference(known[one], known[other])):
            yield warning(
                "second-locks-differ",
                f"hosts {one} and {other}",
                f"{one} and {other} share storage, and do not see each other's locks on it: {why}",
                "set both alike, in qemu.conf and in qemu-lockd.conf (or qemu-sanlock.conf) of /etc/libvirt, with a "
                "directory that both share, and restart libvirt",
            )


def _without(hosts: list[str], known: Mapping[str, DiskLocks]) -> Finding:
    leases = [name for name in hosts if known[name].manager is not LockManager.NONE]
    said = f"{listed(hosts)} share storage, and have no second lock on its disks"
    if leases:
        said += f" ({listed(leases)}: only where a definition has a lease)"
    return warning(
        "no-second-lock",
        "all hosts",
        f"{said}: only mudanza, and QEMU as far as the file system carries its locks, keep a VM from running twice",
        'if you want one: lock_manager = "lockd" in /etc/libvirt/qemu.conf of all of them (docs/availability.md)',
    )


def _sharing(cluster: Cluster) -> Mapping[str, frozenset[str]]:
    """Return each host that shares storage with others, and these."""
    pools = {
        host.name: {pool.name for pool in host.pools or () if pool.kind in SHARED_POOLS}
        for host in cluster.hosts
        if host.seen
    }
    found = {
        name: frozenset(other for other, theirs in pools.items() if other != name and mine & theirs)
        for name, mine in pools.items()
    }
    return {name: others for name, others in found.items() if others}
