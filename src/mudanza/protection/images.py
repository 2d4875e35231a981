"""Which image each of a VM's disks is, and whether it is the one that a restore point has.

What tells of changes is a bitmap in the image, and libvirt calls it alike in all images of a VM. So an image that was
another one of its disks at the point has one as well, which tells what has changed on that other disk.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mudanza.hypervisor.shell import HostShell
from mudanza.model.protection import RestorePoint
from mudanza.model.vm import Disk
from mudanza.protection import scripts


@dataclass(frozen=True, slots=True)
class Image:
    """An image at a host, by what no other one there has."""

    host: str
    inode: str
    """``unknown``: the host does not tell."""
    path: str

    def __str__(self) -> str:
        """As restore points have it."""
        return f"{self.host} {self.inode} {self.path}"


def read_image(text: str) -> Image | None:
    """Return the image that a restore point has; None: it was not kept when that was made: pure."""
    return Image(*text.split(" ", 2)) if text else None


def images_of(shell: HostShell, disks: Sequence[Disk]) -> Mapping[str, Sequence[Image]]:
    """Return the images of each disk at the host of this shell, the uppermost first. Raises HypervisorError,
    HostUnreachableError."""
    found = {}
    for disk in disks:
        paths = [disk.source or "", *(each.path for each in disk.backing)]
        answers = shell.run(scripts.INODES, {"paths": "\n".join(paths)}, what=f"looking at disk {disk.target}")
        inodes = [words[1] for words in answers]
        found[disk.target] = [Image(shell.host, *each) for each in zip(inodes, paths, strict=False)]
    return found


def replaced(newest: RestorePoint | None, images: Mapping[str, Sequence[Image]]) -> frozenset[str]:
    """Return the disks whose image is not the one that they had at the newest point: pure.

    A disk that goes on in an image upon that one has it still. Where the VM is at another host every image is another
    one, and what tells of changes has come along: there it is enough that its file is not called as another disk's was.
    """
    if newest is None:
        return frozenset()
    before = {target: read_image(disk.image) for target, disk in newest.disks.items()}
    names = [posixpath.basename(image.path) for image in before.values() if image is not None]
    return frozenset(target for target, chain in images.items() if _is_another(before.get(target), chain, names))


def _is_another(before: Image | None, chain: Sequence[Image], names: Sequence[str]) -> bool:
    if before is None or not chain:
        return False
    if before.host == chain[0].host:
        return before not in chain
    name = posixpath.basename(chain[0].path)
    return name != posixpath.basename(before.path) and name in names


def with_images(point: RestorePoint, images: Mapping[str, Sequence[Image]]) -> RestorePoint:
    """Return a restore point that has it kept which images its disks were: pure."""
    tops = {target: str(chain[0]) for target, chain in images.items() if chain}
    return replace(
        point, disks={target: replace(disk, image=tops.get(target, "")) for target, disk in point.disks.items()}
    )
