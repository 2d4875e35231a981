"""The second lock: a lock manager of libvirt's (virtlockd, sanlock) that keeps a disk from being used by two hosts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class LockManager(StrEnum):
    """What a host's libvirt holds locks on disks by, as it is named to people."""

    VIRTLOCKD = "virtlockd"
    SANLOCK = "sanlock"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class DiskLocks:
    """How one host locks the disks of VMs that run there."""

    manager: LockManager | None = None
    """None: nobody knows, which is not the same as none."""
    every_disk: bool = True
    """Whether each disk that is written is locked by itself; else only where a definition has a ``<lease>``."""
    space: str = ""
    """The directory that locks are kept in; empty: they lie on the images themselves."""
    inode: str = ""
    """The number of that directory in its file system; empty: there is no such directory."""
    held: frozenset[str] = field(default=frozenset(), repr=False)
    """Names of the locks in it, of VMs that run or ran."""
    why: str = ""
    """Why it is not known."""

    @property
    def holds(self) -> bool:
        """Whether it is known that disks are locked by themselves."""
        return self.manager in (LockManager.VIRTLOCKD, LockManager.SANLOCK) and self.every_disk

    @property
    def in_words(self) -> str:
        """What is shown of it."""
        if self.manager is None:
            return "not known"
        if self.manager is LockManager.NONE:
            return "none"
        if not self.every_disk:
            return f"{self.manager}, leases of definitions alone"
        return f"{self.manager}, in {self.space}" if self.space else f"{self.manager}, on the images"


def difference(one: DiskLocks, other: DiskLocks) -> str:
    """Return in words why the locks of two hosts do not keep them from each other's disks, one of them having such;
    empty: they do, or neither locks, or it is not known."""
    if one.manager is None or other.manager is None or not (one.holds or other.holds):
        return ""
    if one.holds != other.holds:
        return "only one of them locks disks"
    if one.manager is not other.manager:
        return f"one locks by {one.manager}, the other one by {other.manager}"
    if one.space != other.space:
        return f"one keeps its locks {_place(one)}, the other one {_place(other)}"
    # Two directories of one name are one only if they have one number, and what lies in one lies in the other.
    apart = one.held and other.held and not (one.held & other.held)
    if one.space and (one.inode != other.inode or apart):
        return f"{one.space} is another directory on each of them"
    return ""


def _place(locks: DiskLocks) -> str:
    return f"in {locks.space}" if locks.space else "on the images"
