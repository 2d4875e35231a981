"""Thinning restore points: those beyond the number that is to be kept go into the next one's images."""

from __future__ import annotations

from dataclasses import replace

from mudanza.journal.jobs import JobHandle
from mudanza.journal.protections import Protections
from mudanza.model.protection import Protection
from mudanza.protection.replica import Replica, files_of, merges, thinned


def thin(handle: JobHandle, protections: Protections, protection: Protection, replica: Replica) -> None:
    """Delete what no restore point has, and give up points beyond those that are to be kept: none as long as a test
    failover stands on them."""
    while True:
        given_up = protection.given_up
        if given_up is None:
            too_many, _ = thinned(protection.points, protection.keep)
            if not too_many:
                break
            given_up = too_many[0]
            if not protections.give_up(protection.id, given_up.number):
                break
            protection = protections.get(protection.id)
        oldest, *rest = protection.points
        into = merges(given_up, oldest, rest[0] if rest else None)

        def merge() -> None:
            for each in into:  # noqa: B023 - called within this turn
                replica.merge(each.older, each.newer, each.above)

        handle.perform("thin points", {"host": protection.target, "point": given_up.number}, merge)
        places = {each.disk: each.older for each in into}
        disks = {target: replace(disk, file=places.get(target, disk.file)) for target, disk in oldest.disks.items()}
        protections.merged(protection.id, given_up.number, oldest.number, disks)
        protection = protections.get(protection.id)
    replica.sweep(files_of(protection.points))
