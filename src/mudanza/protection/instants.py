"""Instants of a VM's disks, kept at its host while they are read, and the checkpoints from which changes are told.

What is written down of an instant is libvirt's checkpoint. Only qcow2 has room for it: a raw disk is in none, and is
served as it was all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mudanza.hypervisor.backups import means_lost_changes
from mudanza.hypervisor.connections import Connections
from mudanza.journal.jobs import JobHandle
from mudanza.journal.protections import Protections
from mudanza.model.errors import HypervisorError
from mudanza.model.protection import Protection, checkpoint_name, is_own_checkpoint
from mudanza.model.vm import Disk, Vm
from mudanza.protection.serving import is_counted, is_near_socket, near_socket, scratch_of


class Instants:
    """Keeps instants. Every call raises HypervisorError, HostUnreachableError."""

    def __init__(self, connections: Connections, protections: Protections) -> None:
        self._connections = connections
        self._protections = protections

    def begin(self, handle: JobHandle, protection: Protection, vm: Vm, disks: Sequence[Disk], number: int) -> str:
        """Keep an instant; return the checkpoint since which changes are told, empty for none."""
        since = protection.checkpoint if self._is_continued(protection, vm, disks) else ""
        try:
            self._begin(handle, protection, vm, disks, number, since)
        except HypervisorError as error:
            if not since or not means_lost_changes(error):
                raise
            # QEMU was killed, and what it knew of changes with it.
            self._protections.change(protection.id, checkpoint="")
            self.drop_checkpoints(handle, replace(protection, checkpoint=""), vm)
            since = ""
            self._begin(handle, protection, vm, disks, number, since)
        return since

    def _begin(
        self, handle: JobHandle, protection: Protection, vm: Vm, disks: Sequence[Disk], number: int, since: str
    ) -> None:
        backups, name = self._connections.backups(vm.host), checkpoint_of(protection, disks, number)
        scratch = {disk.target: scratch_of(disk, number) for disk in disks}
        uncounted = [disk.target for disk in disks if not is_counted(disk)]
        socket = near_socket(protection, number)
        handle.perform(
            "begin backup",
            {"host": vm.host, "checkpoint": name, "scratch": scratch, "since": since},
            lambda: backups.begin(vm.uuid, socket, scratch, name, since, uncounted),
        )

    def _is_continued(self, protection: Protection, vm: Vm, disks: Sequence[Disk]) -> bool:
        """Whether the same disks are there as at the newest point, with what has changed since then."""
        newest = protection.newest
        if newest is None or not protection.checkpoint:
            return False
        same = {target: disk.size for target, disk in newest.disks.items()}
        now = {disk.target: disk.capacity for disk in disks}
        return same == now and protection.checkpoint in self._connections.backups(vm.host).checkpoints(vm.uuid)

    def end(self, handle: JobHandle, vm: Vm) -> None:
        """Keep it no more."""
        handle.perform("end backup", {"host": vm.host}, lambda: self._connections.backups(vm.host).end(vm.uuid))

    def end_left(self, handle: JobHandle, protection: Protection, vm: Vm) -> None:
        """Keep no more what an earlier round of this protection has left, that could not reach the host any more to end
        it. Another one's backup is left alone."""
        socket = self._connections.backups(vm.host).served_at(vm.uuid)
        if socket is not None and is_near_socket(protection, socket):
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


def checkpoint_of(protection: Protection, disks: Sequence[Disk], number: int) -> str:
    """Return the checkpoint of a round; empty: none of these disks can be in one."""
    return checkpoint_name(protection, number) if any(map(is_counted, disks)) else ""
