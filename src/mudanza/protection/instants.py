"""Instants of a VM's disks, kept at its host while they are read, and the checkpoints from which changes are told.

What is written down of an instant is libvirt's checkpoint. Only qcow2 has room for it: a raw disk is in none, and is
served as it was all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mudanza.hypervisor.backups import means_lost_changes
from mudanza.hypervisor.connections import Connections
from mudanza.journal.jobs import JobHandle
from mudanza.journal.protections import Protections
from mudanza.model.errors import HypervisorError
from mudanza.model.protection import Protection, RestorePoint, checkpoint_name, is_own_checkpoint
from mudanza.model.vm import Disk, Vm
from mudanza.protection.serving import is_counted, is_own_place, near_socket, scratch_of


@dataclass(frozen=True, slots=True)
class Since:
    """Since which instant changes are told."""

    checkpoint: str = ""
    """Empty: since none."""
    disks: frozenset[str] = frozenset()
    """Those of which they are, by the guest's names for them."""
    aside: bool = False
    """Whether they are set aside."""


class Instants:
    """Keeps instants. Every call raises HypervisorError, HostUnreachableError."""

    def __init__(self, connections: Connections, protections: Protections) -> None:
        self._connections = connections
        self._protections = protections

    def begin(
        self, handle: JobHandle, protection: Protection, vm: Vm, disks: Sequence[Disk], number: int, *, aside: bool
    ) -> Since:
        """Keep an instant; return since which one changes are told, and of which disks. ``aside``: what has changed is
        to be set aside, if that is told of all disks."""
        since = self._since(protection, vm, disks)
        since = replace(since, aside=aside and since.disks == {disk.target for disk in disks})
        try:
            self._begin(handle, protection, vm, disks, number, since)
        except HypervisorError as error:
            if not since.checkpoint or not means_lost_changes(error):
                raise
            # QEMU was killed, and what it knew of changes with it; or a disk is another one than it was.
            self._protections.change(protection.id, checkpoint="")
            self.drop_checkpoints(handle, replace(protection, checkpoint=""), vm)
            since = Since()
            self._begin(handle, protection, vm, disks, number, since)
        return since

    def _begin(
        self, handle: JobHandle, protection: Protection, vm: Vm, disks: Sequence[Disk], number: int, since: Since
    ) -> None:
        backups, name = self._connections.backups(vm.host), checkpoint_of(protection, disks, number)
        scratch = {disk.target: scratch_of(protection, disk, number) for disk in disks}
        uncounted = [disk.target for disk in disks if not is_counted(disk)]
        whole = [disk.target for disk in disks if disk.target not in since.disks]
        socket = near_socket(protection, number)

        def begin() -> None:
            if since.aside:
                backups.set_aside(vm.uuid, scratch, name, since.checkpoint)
            else:
                backups.begin(vm.uuid, socket, scratch, name, since.checkpoint, uncounted, whole)

        about = {"host": vm.host, "checkpoint": name, "scratch": scratch, "since": since.checkpoint}
        handle.perform("begin backup", {**about, "aside": since.aside}, begin)

    def _since(self, protection: Protection, vm: Vm, disks: Sequence[Disk]) -> Since:
        """Return since when changes are known: since the newest point, if it is of this very VM and libvirt knows it
        still. Other replicas of the VM have checkpoints of their own beside it."""
        newest = protection.newest
        if newest is None or not protection.checkpoint:
            return Since()
        same = continued(newest, disks)
        if not same or protection.checkpoint not in self._connections.backups(vm.host).checkpoints(vm.uuid):
            return Since()
        return Since(protection.checkpoint, same)

    def end(self, handle: JobHandle, vm: Vm) -> None:
        """Keep it no more."""
        handle.perform("end backup", {"host": vm.host}, lambda: self._connections.backups(vm.host).end(vm.uuid))

    def end_left(self, handle: JobHandle, protection: Protection, vm: Vm, disks: Sequence[Disk]) -> None:
        """Keep no more what an earlier round has left, of this replica or of another one of the VM in the same journal,
        that could not reach the host any more to end it: none of them is under way beside this one. Another journal's
        backup, or a stranger's, is left alone."""
        places = self._connections.backups(vm.host).places(vm.uuid)
        if any(is_own_place(protection, disks, place) for place in places):
            self.end(handle, vm)

    def drop_checkpoints(self, handle: JobHandle, protection: Protection, vm: Vm) -> None:
        """Take away every checkpoint of this protection but the newest point's: the youngest first, so that what they
        know of changes goes to the one before."""
        backups = self._connections.backups(vm.host)
        stale = [
            name
            for name in reversed(backups.checkpoints(vm.uuid))
            if is_own_checkpoint(protection, name) and name != protection.checkpoint
        ]

        def drop() -> bool:
            known = [backups.drop_checkpoint(vm.uuid, name) for name in stale]
            return all(known)

        if stale and not handle.perform("drop checkpoints", {"host": vm.host, "checkpoints": stale}, drop):
            self._protections.change(protection.id, checkpoint="")


def continued(newest: RestorePoint, disks: Sequence[Disk]) -> frozenset[str]:
    """Return the disks that were there at the newest point, of the same size, and whose changes are counted: pure."""
    before = {target: disk.size for target, disk in newest.disks.items()}
    return frozenset(disk.target for disk in disks if is_counted(disk) and before.get(disk.target) == disk.capacity)


def checkpoint_of(protection: Protection, disks: Sequence[Disk], number: int) -> str:
    """Return the checkpoint of a round; empty: none of these disks can be in one."""
    return checkpoint_name(protection, number) if any(map(is_counted, disks)) else ""
