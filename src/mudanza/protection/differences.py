"""Which blocks of two disks differ, where nobody has kept count of what was written: each host reads its own.

Digests go over the wire, about 50 bytes for each block that is not all zeroes, and afterwards only the blocks that
differ. Used where a replica begins with an older copy of the disk, and where QEMU has lost what it knew of changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.shell import HostShell
from mudanza.journal.jobs import JobHandle
from mudanza.model.errors import HypervisorError
from mudanza.model.protection import Protection
from mudanza.model.units import KIB, MIB
from mudanza.model.vm import Disk
from mudanza.protection import scripts
from mudanza.protection.aside import changed_aside
from mudanza.protection.extents import Extent, joined
from mudanza.protection.replica import Served
from mudanza.protection.serving import Round, changed, options, scratch_of
from mudanza.protection.wire import Weighing

BLOCK = 64 * KIB
"""Bytes of which each digest tells: a cluster of qcow2."""
PART = 64 * MIB
"""Bytes that are laid out at once to be read, in the host's memory."""
DIGEST = 50
"""Bytes that tell of one block, about."""
READ_PATIENCE = 600.0
"""Seconds within which a host must have read another part."""
READ_LIMIT = 86400.0
"""Seconds that reading a disk as a whole may take at one host once the other one is through."""


@dataclass(frozen=True, slots=True)
class Share:
    """What of a disk is brought over."""

    below: str = ""
    """The image at the target that it is put upon; empty: all of the disk is brought, upon nothing."""
    extents: tuple[Extent, ...] = ()


def shares(handle: JobHandle, this: Round, stop: clock.Event) -> Mapping[str, Share]:
    """Return what is to be brought of each disk: what has changed if that is known, else what differs from an older
    copy, which both hosts read at the same time, else everything. Raises HypervisorError, HostUnreachableError;
    MigrationFailedError when stopped."""
    found = {}
    for disk in this.disks:
        served = served_of(this, disk)
        newest = this.protection.newest
        if disk.target in this.told and newest is not None:
            found[disk.target] = Share(newest.disks[disk.target].file, _changed(this, disk, served))
        else:
            found[disk.target] = _compared(handle, this, served, older_copy(this.protection, disk), stop)
    return found


def _changed(this: Round, disk: Disk, served: Served) -> tuple[Extent, ...]:
    if this.aside:
        return changed_aside(this.here, served.disk, scratch_of(this.protection, disk, this.number))
    return changed(this.here, served)


def digests_of(size: int) -> int:
    """Return how many bytes of digests both hosts send at the most for a disk of ``size`` bytes: pure."""
    return 2 * DIGEST * -(-size // BLOCK)


def served_of(this: Round, disk: Disk) -> Served:
    """Return a disk as the source serves it in this round."""
    return Served(disk.target, this.near, disk.capacity or 0, f"backup-{disk.target}")


def rate_of(this: Round, parts: Mapping[str, Share]) -> int | None:
    """Return how many bytes per second a round reads of what has changed; None: as fast as it goes: pure."""
    return this.pace.rate(sum(length for share in parts.values() for _, length in share.extents))


def weighing_of(this: Round, parts: Mapping[str, Share]) -> Weighing:
    """Have it measured how a round's data travel, by the disk of which most has changed."""
    held_back = this.verify or rate_of(this, parts) != this.pace.cap
    found = Weighing(this.protection, this.here, compressed=this.compressed, held_back=held_back)
    disk = max(this.disks, key=lambda disk: sum(length for _, length in parts[disk.target].extents))
    found.begin(served_options(served_of(this, disk)), parts[disk.target].extents)
    return found


def served_options(served: Served) -> Mapping[str, str]:
    """Return QEMU's options for a disk as the source serves it, to be read there."""
    return {"driver": "nbd", "server.type": "unix", "server.path": served.socket, "export": served.disk}


def older_copy(protection: Protection, disk: Disk) -> str:
    """Return the image at the target that is like a disk as it was: the newest point's, or one that the VM ran on there
    before; empty: there is none of that size. Its path may be within the replica's directory: pure."""
    if protection.newest is None:
        return protection.seed.get(disk.target, "")
    last = protection.newest.disks.get(disk.target)
    return last.file if last is not None and last.size == disk.capacity else ""


def _compared(handle: JobHandle, this: Round, served: Served, older: str, stop: clock.Event) -> Share:
    if not older:
        return Share()
    path = older if older.startswith("/") else f"{this.protection.directory}/{older}"

    def compare() -> tuple[Extent, ...]:
        source = served_options(served)
        image = {"driver": "qcow2", "file.driver": "file", "file.filename": path}
        # Shells of its own: after a failure, which only means that everything is brought, they are of no more use.
        with this.here.another() as here, this.there.another() as there:
            reading = Task(lambda: digests(there, image, served, stop))
            now = digests(here, source, served, stop)
            return differing(now, reading.wait(READ_LIMIT), served.size)

    about = {"host": this.there.host, "disk": served.disk, "older": path}
    try:
        extents = handle.perform("compare blocks", about, compare, _amount, lasts=0.0)
    except HypervisorError:  # it is in the journal; an older copy that cannot be read is worth nothing
        return Share()
    return Share(older, extents)


def _amount(extents: tuple[Extent, ...]) -> Mapping[str, int]:
    return {"differs": sum(length for _, length in extents)}


def digests(shell: HostShell, image: Mapping[str, str], served: Served, stop: clock.Event) -> Mapping[int, str]:
    """Return the digest of each block of an image that is not all zeroes: where it begins, in bytes → digest.

    ``image``: QEMU's options for it. Raises as ``shares``.
    """
    names = {"image": options(image), "under": options(image, "file.")}
    about = {**names, "size": served.size, "block": BLOCK, "part": PART}
    what = f"reading disk {served.disk}"
    answers = shell.run(scripts.DIGESTS, about, what=what, patience=READ_PATIENCE, stop=stop)
    found: dict[int, str] = {}
    part = 0
    for words in answers:
        match words:
            case ["part", start]:
                part = int(start)
            case ["block", number, digest]:
                found[part + int(number) * BLOCK] = digest
    return found


def differing(one: Mapping[int, str], other: Mapping[int, str], size: int) -> tuple[Extent, ...]:
    """Return what differs between two disks of ``size`` bytes, by the digests of their blocks: pure."""
    starts = (at for at in one.keys() | other.keys() if one.get(at) != other.get(at))
    return joined((at, min(BLOCK, size - at)) for at in starts)
