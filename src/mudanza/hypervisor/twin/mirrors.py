"""How disks get to the other host: files made there, and filled chunk by chunk."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence

from mudanza.hypervisor.twin import definitions, errors
from mudanza.hypervisor.twin.files import CHUNK, File
from mudanza.hypervisor.twin.guests import Image
from mudanza.hypervisor.twin.host import TwinHost


def make_missing(target: TwinHost, xml: str, copied: Iterable[str], images: Sequence[Image]) -> None:
    """Make what is to be copied and is not there, as libvirt does where it has a pool for it. Measured.

    ``copied``: the disks' targets; ``images``: those of the source. Raises libvirtError where there is no such pool.
    """
    for disk in definitions.disks(xml):
        path = disk["path"]
        if disk["target"] in copied and target.file(path) is None:
            if target.pool_at(posixpath.dirname(path)) is None:
                raise errors.no_pool(posixpath.dirname(path))
            size = next(image.file.size for image in images if image.target == disk["target"])
            target.system_of(path).files[path] = File(size, target.twin.scheduler.time())


def copy_share(target: TwinHost, xml: str, pairs: Iterable[tuple[Image, Image]], share: float) -> None:
    """Have so much of each disk be at the target, from 0 to 1. ``xml``: the definition there. Raises libvirtError."""
    now = target.twin.scheduler.time()
    for mine, theirs in pairs:
        if not target.system_of(theirs.path).available and mine.file.allocated:
            raise errors.failed(f"migration of disk {mine.target} failed: No space left on device")
        is_raw = (mine.file.format, theirs.file.format) == ("raw", "raw") or _as_bytes(xml, theirs)
        first, whole = 0 if is_raw else 1, -(-mine.file.size // CHUNK)
        theirs.file.copy(mine.file, now, first=first, upto=max(first, int(whole * share)))
        if is_raw:
            theirs.file.size = max(theirs.file.size, mine.file.size)


def _as_bytes(xml: str, theirs: Image) -> bool:
    """Whether the disk is raw to QEMU, whatever it contains: then every byte is copied."""
    return any(disk["target"] == theirs.target and disk["format"] == "raw" for disk in definitions.disks(xml))
