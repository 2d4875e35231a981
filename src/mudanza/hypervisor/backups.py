"""libvirt's backups of running domains: an instant of all disks at once, served to be read while the guest goes on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import libvirt
from lxml import etree

from mudanza.hypervisor.connection import CALL_TIMEOUT, HostConnection
from mudanza.hypervisor.jobs import job_name
from mudanza.hypervisor.states import operation_name
from mudanza.model.errors import HypervisorError

BACKUP_TIMEOUT = 60.0
"""Seconds that beginning or ending one may take: libvirt itself waits for 30 s for whatever works on the domain."""
BACKUP = "backup"
"""What libvirt calls such a job."""

Result = TypeVar("Result")


class Backups:
    """The backups and checkpoints of one host's domains. Every call raises HostUnreachableError or HypervisorError."""

    def __init__(self, host: HostConnection) -> None:
        self._host = host

    def begin(
        self,
        uuid: str,
        socket: str,
        scratch: Mapping[str, str],
        checkpoint: str,
        since: str,
        uncounted: Collection[str] = (),
        whole: Collection[str] = (),
    ) -> None:
        """Keep the disks as they are now, and serve them by NBD at a UNIX socket of the host, each under its name.

        ``scratch``: for each disk, by the guest's name for it, the file that takes what the guest overwrites
        meanwhile; ``checkpoint``: what is written down of this instant, empty for nothing; ``since``: the checkpoint
        since which changes are told, empty for none; ``uncounted``: the disks whose changes nobody counts, which are
        in no checkpoint; ``whole``: others of which no changes are told this time.
        """
        backup = backup_xml(socket, scratch, since, {*uncounted, *whole})
        instant = checkpoint_xml(checkpoint, scratch.keys() - set(uncounted)) if checkpoint else None
        self._of(uuid, lambda domain: domain.backupBegin(backup, instant, 0), BACKUP_TIMEOUT)

    def set_aside(self, uuid: str, files: Mapping[str, str], checkpoint: str, since: str) -> None:
        """Have QEMU copy what the disks hold now of all that has changed since a checkpoint into images of their own,
        which stand upon the disks: for each disk, by the guest's name for it, its file. It does so by itself from now
        on, and the guest's own writes wait only where they would overwrite what is not copied yet.

        ``checkpoint``: what is written down of this instant. See ``is_set_aside``.
        """
        backup, instant = aside_xml(files, since), checkpoint_xml(checkpoint, files.keys())
        self._of(uuid, lambda domain: domain.backupBegin(backup, instant, 0), BACKUP_TIMEOUT)

    def is_set_aside(self, uuid: str) -> bool:
        """Whether all of it is copied; not: it is still under way. Raises HypervisorError where it has failed, or
        nothing tells any more that it has not."""

        def is_whole(domain: Any) -> bool:
            if job_name(domain) == BACKUP:
                return False
            told = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED)
            was_backup = operation_name(int(told.get("operation", 0))) == BACKUP
            if was_backup and told.get("type") == libvirt.VIR_DOMAIN_JOB_COMPLETED:
                return True
            why = told.get(libvirt.VIR_DOMAIN_JOB_ERRMSG) or "libvirt does not say that it was completed"
            raise HypervisorError(self._host.name, f"what has changed could not be set aside: {why}")

        return self._of(uuid, is_whole)

    def end(self, uuid: str) -> None:
        """End the backup, if there is one; its scratch files go. A job of another kind is left alone."""

        def end(domain: Any) -> None:
            if domain.isActive() and job_name(domain) == BACKUP:
                domain.abortJob()

        self._of(uuid, end, BACKUP_TIMEOUT)

    def places(self, uuid: str) -> frozenset[str]:
        """Return the UNIX socket at which a backup that is under way serves the disks, or the files that it copies them
        to; nothing: there is none."""

        def places(domain: Any) -> frozenset[str]:
            try:
                return places_of(str(domain.backupGetXMLDesc(0)))
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP:
                    return frozenset()
                raise

        return self._of(uuid, places)

    def scratch_used(self, uuid: str) -> int | None:
        """Return how many bytes of scratch the backup takes up by now; None: no backup is under way."""

        def used(domain: Any) -> int | None:
            if not domain.isActive() or job_name(domain) != BACKUP:
                return None
            return int(domain.jobStats().get(libvirt.VIR_DOMAIN_JOB_DISK_TEMP_USED, 0))

        return self._of(uuid, used)

    def checkpoints(self, uuid: str) -> tuple[str, ...]:
        """Return the names of the domain's checkpoints, the oldest first."""

        def names(domain: Any) -> tuple[str, ...]:
            found = domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
            return tuple(str(each.getName()) for each in found)

        return self._of(uuid, names)

    def drop_checkpoint(self, uuid: str, name: str) -> bool:
        """Take a checkpoint away, if it is there; return whether its bitmaps could be.

        If not, they were lost, as to a QEMU that was killed, and only libvirt's record of it went: what has changed
        since any earlier checkpoint may not be known any more either. Each checkpoint has a bitmap of its own for each
        disk, which records from its instant on whatever becomes of the others (libvirt's docs,
        ``kbase/internals/incremental-backup``).
        """

        def drop(domain: Any) -> bool:
            try:
                found = domain.checkpointLookupByName(name)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
                    return True
                raise
            try:
                found.delete(0)
            except libvirt.libvirtError:
                found.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
                return False
            return True

        return self._of(uuid, drop, BACKUP_TIMEOUT)

    def changed_since(self, uuid: str, checkpoint: str, disks: Collection[str] = ()) -> int | None:
        """Return how many bytes of the disks have been written to since a checkpoint; None: the domain does not tell,
        as one that is off, or not of all these ``disks``, by the guest's names for them."""

        def size(domain: Any) -> int | None:
            xml = domain.checkpointLookupByName(checkpoint).getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE)
            return counted_in(xml, disks)

        try:
            return self._of(uuid, size)
        except HypervisorError:
            return None

    def _of(self, uuid: str, function: Callable[[Any], Result], timeout: float = CALL_TIMEOUT) -> Result:
        return self._host.ask(lambda raw: function(raw.lookupByUUIDString(uuid)), timeout=timeout)


def counted_in(checkpoint: str, disks: Collection[str]) -> int | None:
    """Return how many bytes have been written to since a ``<domaincheckpoint>``; None: it is not one of all these
    disks."""
    found = {
        disk.get("name"): int(disk.get("size", 0))
        for disk in etree.fromstring(checkpoint).iterfind("disks/disk[@checkpoint='bitmap']")
    }
    return sum(found.values()) if found.keys() >= set(disks) else None


def means_lost_changes(error: HypervisorError) -> bool:
    """Whether libvirt refused because what has changed since a checkpoint is not known any more."""
    return error.code in (libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT, libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT)


def backup_xml(socket: str, scratch: Mapping[str, str], since: str, whole: Collection[str] = ()) -> str:
    """Return libvirt's ``<domainbackup>``; ``whole``: disks of which no changes are told; see ``Backups.begin``."""
    root = etree.Element("domainbackup", mode="pull")
    if since:
        etree.SubElement(root, "incremental").text = since
    etree.SubElement(root, "server", transport="unix", socket=socket)
    disks = etree.SubElement(root, "disks")
    for target, file in scratch.items():
        disk = etree.SubElement(disks, "disk", name=target, backup="yes", type="file", exportname=target)
        if since and target in whole:
            disk.set("backupmode", "full")
        etree.SubElement(disk, "scratch", file=file)
    return etree.tostring(root, encoding="unicode")


def aside_xml(files: Mapping[str, str], since: str) -> str:
    """Return libvirt's ``<domainbackup>`` that copies what has changed; see ``Backups.set_aside``."""
    root = etree.Element("domainbackup", mode="push")
    etree.SubElement(root, "incremental").text = since
    disks = etree.SubElement(root, "disks")
    for target, file in files.items():
        disk = etree.SubElement(disks, "disk", name=target, backup="yes", type="file")
        etree.SubElement(disk, "driver", type="qcow2")
        etree.SubElement(disk, "target", file=file)
    return etree.tostring(root, encoding="unicode")


def places_of(backup: str) -> frozenset[str]:
    """Return the UNIX socket at which a ``<domainbackup>`` serves the disks, or the files that it copies them to."""
    root = etree.fromstring(backup)
    sockets = (server.get("socket", "") for server in root.iterfind("server[@transport='unix']"))
    files = (target.get("file", "") for target in root.iterfind("disks/disk/target"))
    return frozenset({*sockets, *files} - {""})


def checkpoint_xml(name: str, disks: Collection[str]) -> str:
    """Return libvirt's ``<domaincheckpoint>`` of these disks."""
    root = etree.Element("domaincheckpoint")
    etree.SubElement(root, "name").text = name
    listed = etree.SubElement(root, "disks")
    for target in sorted(disks):
        etree.SubElement(listed, "disk", name=target, checkpoint="bitmap")
    return etree.tostring(root, encoding="unicode")
