"""A replica's images at its host: one for each disk and restore point, each upon the one before it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mudanza import clock
from mudanza.hypervisor.shell import HostShell
from mudanza.model.errors import HypervisorError
from mudanza.model.protection import Protection, ReplicaDisk, RestorePoint, own_name
from mudanza.protection import scripts
from mudanza.protection.extents import Extent, reads

DIGEST_PATIENCE = 3600.0
"""Seconds that reading one image as a whole may take."""
COPY_PATIENCE = 600.0
"""Seconds within which an image must have grown while everything is copied: a large hole takes its time."""


@dataclass(frozen=True, slots=True)
class Served:
    """One disk of the source as it was at one instant, to be read."""

    disk: str
    """The guest's name for it, under which it is served."""
    socket: str
    """Where it is served at the source."""
    size: int
    """Bytes."""
    bitmap: str
    """The name of what tells which parts have changed."""


class Replica:
    """One VM's replica. Every call raises HypervisorError, HostUnreachableError, or MigrationFailedError when stopped.
    After a failure it is of no more use."""

    def __init__(self, protection: Protection, shell: HostShell, socket: str = "") -> None:
        """``socket``: where the source's disks are, or will be, served at this host."""
        self._protection = protection
        self._socket = socket
        self._shell = shell
        # Images are changed and deleted only by who has the newest copy of the journal: see ``hypervisor.reigns``.
        owner = {"journal": protection.journal, "reign": protection.reign}
        self._directory = {"directory": protection.directory, **owner}

    def bring_everything(self, served: Served, file: str, stop: clock.Event) -> int:
        """Make an image of a whole disk; what is zero there takes no room. Return how many bytes it has become."""
        what = f"copying disk {served.disk}"
        answers = self._shell.run(
            scripts.EVERYTHING, self._about(served, file), what=what, patience=COPY_PATIENCE, stop=stop
        )
        return sum(int(words[1]) for words in answers if words[0] == "brought")

    def bring_changes(
        self, served: Served, file: str, below: str, extents: Sequence[Extent], rate: int | None, stop: clock.Event
    ) -> None:
        """Make an image of what has changed, upon ``below``; ``rate``: bytes per second at the most."""
        about = {**self._about(served, file), "below": below, "reads": reads(extents, rate), "rate": rate or ""}
        what = f"copying the changes of disk {served.disk}"
        self._shell.run(scripts.CHANGES, about, what=what, patience=COPY_PATIENCE, stop=stop)

    def compare(self, served: Served, file: str, stop: clock.Event) -> str:
        """Compare a disk byte for byte with what the source had at that instant; return where it differs first, in
        QEMU's words, or nothing."""
        about = self._about(served, file)
        what = f"comparing disk {served.disk}"
        answer = self._shell.run(scripts.COMPARE, about, what=what, patience=3600.0, stop=stop)
        match answer:
            case [["same"]]:
                return ""
            case [["differs", *words]]:
                return " ".join(words)
        raise HypervisorError(self._shell.host, f"{what} got an answer that makes no sense: {answer}")

    def sweep(self, wanted: Collection[str]) -> None:
        """Delete what rounds that broke off have left: every image but those wanted."""
        names = {**self._directory, "protection": own_name(self._protection), "wanted": " ".join(sorted(wanted))}
        self._shell.run(scripts.SWEEP, {**names, "socket": self._socket}, what="clearing the replica's directory")

    def missing(self, files: Collection[str]) -> frozenset[str]:
        """Return which of these files are not there, or are empty."""
        about = {**self._directory, "files": " ".join(sorted(files))}
        answers = self._shell.run(scripts.MISSING, about, what="looking for the replica's images")
        return frozenset(words[1] for words in answers)

    def written(self, files: Collection[str]) -> frozenset[str]:
        """Return which of these images hold something of their own, and not only of those they stand upon."""
        about = {**self._directory, "files": " ".join(sorted(files))}
        answers = self._shell.run(scripts.WRITTEN, about, what="looking whether the VM has written to its disks")
        return frozenset(words[1] for words in answers)

    def merge(self, older: str, newer: str, above: str) -> None:
        """Put what ``newer`` holds into ``older`` on which it stands; ``above`` (empty: none) stands on that then."""
        names = {**self._directory, "older": older, "newer": newer, "above": above}
        self._shell.run(scripts.MERGE, names, what=f"merging {newer} into {older}", patience=COPY_PATIENCE)

    def likeness(self, files: Collection[str], *, digests: bool) -> Mapping[str, str]:
        """Return what these images are like: when they were written to last and their size, and what they hold if
        ``digests`` are wanted, for which each is read."""
        about = {**self._directory, "files": " ".join(sorted(files)), "digests": "yes" if digests else ""}
        what = "looking at the replica's images"
        answers = self._shell.run(scripts.LIKENESS, about, what=what, patience=DIGEST_PATIENCE)
        found: dict[str, str] = {}
        for words in answers:
            match words:
                case ["image", file, size, written]:
                    found[file] = f"{size} bytes, written to at {written}"
                case ["digest", file, digest, *_]:
                    found[file] += f", sha256 {digest}"
        return found

    def put_upon(self, below: str, file: str) -> None:
        """Make an image that is written to, upon one that stays as it is."""
        names = {**self._directory, "below": below, "file": file}
        self._shell.run(scripts.UPON, names, what=f"making {file}")

    def remove(self) -> None:
        """Delete it all."""
        names = {**self._directory, "protection": own_name(self._protection)}
        self._shell.run(scripts.REMOVE, names, what="deleting the replica")

    def _about(self, served: Served, file: str) -> Mapping[str, object]:
        about = {"socket": self._socket, "disk": served.disk, "file": file, "size": served.size}
        return {**self._directory, **about, "rate": self._protection.bandwidth or ""}


def files_of(points: Collection[RestorePoint]) -> frozenset[str]:
    """Return the names of all files of these points in the replica's directory."""
    images = {disk.file for point in points for disk in point.disks.values()}
    return frozenset(images | {point.firmware.file for point in points if point.firmware is not None})


def thinned(points: Sequence[RestorePoint], keep: int) -> tuple[Sequence[RestorePoint], Sequence[RestorePoint]]:
    """Return the points to be given up and those that stay, both the oldest first: pure."""
    many = max(len(points) - keep, 0)
    return points[:many], points[many:]


@dataclass(frozen=True, slots=True)
class Merge:
    """One image that goes into the one below it, and the one above that."""

    disk: str
    older: str
    newer: str
    above: str


def merges(given_up: RestorePoint, oldest: RestorePoint, next_one: RestorePoint | None) -> tuple[Merge, ...]:
    """Return what makes ``oldest`` stand by itself once ``given_up`` below it has gone: pure.

    A disk that was brought whole at ``oldest`` stands by itself already.
    """
    found = []
    for target, disk in oldest.disks.items():
        below = given_up.disks.get(target)
        if below is None or below.file == disk.file or is_whole(disk, oldest.number):
            continue
        above = next_one.disks.get(target) if next_one is not None else None
        stands_alone = above is None or next_one is None or is_whole(above, next_one.number)
        found.append(Merge(target, below.file, disk.file, "" if stands_alone or above is None else above.file))
    return tuple(found)


def image_name(disk: str, number: int, *, whole: bool) -> str:
    """Return what the image of a disk at a round is called."""
    return f"{disk}.{number}{'.whole' if whole else ''}.qcow2"


def is_whole(disk: ReplicaDisk, number: int) -> bool:
    """Whether that image was made of a whole disk at that round, and stands on no other."""
    return disk.file.endswith(f".{number}.whole.qcow2")
