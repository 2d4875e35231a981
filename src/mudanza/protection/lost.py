"""Images of a replica that are not there any more: the restore points that stand on them are worth nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mudanza.journal.jobs import JobHandle
from mudanza.journal.protections import Protections
from mudanza.model.errors import MigrationFailedError
from mudanza.model.protection import Protection, RestorePoint
from mudanza.protection.replica import Replica, is_whole


def lost(points: Sequence[RestorePoint], missing: Collection[str]) -> tuple[RestorePoint, ...]:
    """Return the points at the end that nobody can come back to, the oldest first: pure.

    ``points``: all of them, the one that was given up included, the oldest first. A point of which an image is missing
    below others that can be read is not among them: what it has may be what these stand on.
    """
    there: dict[str, bool] = {}
    readable = []
    for point in points:
        for target, disk in point.disks.items():
            below = there.get(target, True) or is_whole(disk, point.number)
            there[target] = below and disk.file not in missing
        readable.append(all(there[target] for target in point.disks))
    many = next((n for n, well in enumerate(reversed(readable)) if well), len(points))
    return tuple(points[len(points) - many :])


def forget_lost(
    handle: JobHandle, protections: Protections, protection: Protection, replica: Replica
) -> tuple[Protection, str]:
    """Forget restore points whose images are not there any more, so that the next round begins upon those that are, or
    anew; return the protection, and what is told of it (empty: nothing).

    Raises MigrationFailedError where none of its images is there: its storage may not be mounted.
    """
    points = (*filter(None, [protection.given_up]), *protection.points)
    files = {disk.file for point in points for disk in point.disks.values()}
    missing = replica.missing(files)
    gone = lost(points, missing)
    if not gone:
        return protection, ""
    if missing >= files or protection.trial is not None:
        raise MigrationFailedError(
            f"images of it are not there: {', '.join(sorted(missing))} in {protection.directory}",
            remedy="is that storage mounted? If they are lost for good: mudanza unprotect, and protect it anew"
            if protection.trial is None
            else f"end the test failover first: mudanza test-failover end {protection.vm_name}",
        )
    numbers = [point.number for point in gone]
    about = {"host": protection.target, "points": numbers, "missing": sorted(missing)}
    handle.perform("forget points", about, lambda: protections.forget_points(protection.id, numbers))
    named = ", ".join(map(str, numbers))
    return protections.get(protection.id), f"points {named} are lost, for {', '.join(sorted(missing))} was not there"
