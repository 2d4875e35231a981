"""What is told of rounds, in words: pure."""

from __future__ import annotations

from mudanza.model.migration import Side, Sighting
from mudanza.model.protection import Consistency, Protection, RestorePoint
from mudanza.model.units import format_size
from mudanza.model.vm import Vm, VmState
from mudanza.protection.images import read_image


def how_consistent(point: RestorePoint) -> str:
    """Return what is told of a point whose guest was to be frozen; empty where it was not to be."""
    if point.consistency is Consistency.APPLICATION:
        return ", application-consistent"
    return f", crash-consistent only: {point.why_not}" if point.why_not else ""


def said_of(protection: Protection) -> str:
    """Return what is told of a protection: what became of its last round, and whether its guest is at home with the
    addresses of elsewhere."""
    given = protection.readdressed
    if given is None or not given.owed_at:
        return protection.said
    told = f"its guest is on {given.owed_at} and has the addresses still that it was given at {given.at}"
    return "; ".join(filter(None, (protection.said, told)))


def disk_changes(before: RestorePoint | None, now: RestorePoint) -> tuple[str, ...]:
    """Return which disks a VM has, or has not, that it had not, or had, at the point before, and which of them are of
    another size or another file of the same host."""
    if before is None:
        return ()
    old, new = before.disks, now.disks
    came = [f"disk {target} is new, and was brought as a whole" for target in new if target not in old]
    resized = [
        f"disk {target} had {format_size(old[target].size)} and has {format_size(disk.size)}: it was brought as a whole"
        for target, disk in new.items()
        if target in old and old[target].size != disk.size
    ]
    gone = [
        f"disk {target} is none of the VM's any more; the points up to {before.number} have it until they are thinned"
        for target in old
        if target not in new
    ]
    files = {
        target: (read_image(old[target].image), read_image(disk.image)) for target, disk in new.items() if target in old
    }
    moved = [
        f"disk {target} was {then.path}, and is {now_is.path}"
        for target, (then, now_is) in files.items()
        if then is not None and now_is is not None and then.host == now_is.host and then.path != now_is.path
    ]
    return (*came, *resized, *moved, *gone)


def left_as(vm: Vm, seen: Sighting) -> str:
    """Return what has become of a VM in a round that broke off. ``vm``: as it was before."""
    if seen.side is not Side.PRESENT:
        return f"it was {vm.state} on {vm.host}, and what it is now is not known: {seen.reason}"
    if seen.state is vm.state:
        return f"it is {vm.state} on {vm.host} as before"
    if seen.state is VmState.PAUSED and not vm.state.active:
        return f"its QEMU could not be ended: it is held on {vm.host}, and its guest has not run in it"
    return f"it is {seen.state} on {vm.host}, and was {vm.state} before"
