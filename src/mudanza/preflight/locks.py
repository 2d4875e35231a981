"""Do the hosts keep each other from disks that both see?"""

from __future__ import annotations

from collections.abc import Iterator

from mudanza.model.disk_locks import DiskLocks, difference
from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.preflight.case import Case
from mudanza.preflight.wording import warning


def second_locks(case: Case) -> Iterator[Finding]:
    """A lock manager at one host alone, or one that keeps its locks elsewhere, protects no disk that both see."""
    here, there = case.facts.locks
    if not any(True for _ in case.planned("shared")):
        return
    if not here.holds and not there.holds:
        return
    if here.manager is None or there.manager is None:
        return
    if here.holds != there.holds:
        locks, without = (case.source, case.target) if here.holds else (case.target, case.source)
        yield warning(
            "lock-manager-missing",
            f"host {without.name}",
            f"{locks.name} holds locks on shared disks ({_locks(case, locks).in_words}), and {without.name} does not "
            f"({_locks(case, without).in_words}): nothing but mudanza keeps a second copy of the VM from being started",
            f"set lock_manager in /etc/libvirt/qemu.conf of {without.name} as on {locks.name}, and restart its libvirt",
        )
    elif why := difference(here, there):
        yield warning(
            "lock-spaces-differ",
            f"host {case.target.name}",
            f"{case.source.name} and {case.target.name} do not see each other's locks on shared disks: {why}",
            "set both alike, in qemu.conf and in qemu-lockd.conf (or qemu-sanlock.conf) of /etc/libvirt, with a "
            "directory that both share, and restart libvirt",
        )


def _locks(case: Case, host: Host) -> DiskLocks:
    here, there = case.facts.locks
    return here if host is case.source else there
