"""Where the disks of a VM are that move within its host, and what is to be done next: pure, from what the host says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class At(StrEnum):
    """What a definition names for one disk."""

    OLD = "old"
    NEW = "new"
    ELSEWHERE = "elsewhere"


class Copying(StrEnum):
    """What the running QEMU does with one disk."""

    NOT = "not"
    UNDER_WAY = "under way"
    READY = "ready"
    FOREIGN = "foreign"
    """A block job to some other place."""


class Next(StrEnum):
    """The one step that is safe."""

    COPY = "copy what is not being copied yet"
    WAIT = "wait for the copies"
    PIVOT = "change over to the new places"
    ABORT = "give the copies up"
    DEFINE = "have the definition name what is in use"
    SWITCH_OFF = "switch the guest off"
    FINISH = "all of it is at the new place: clean up the old one"
    UNDO = "it stays where it is: clean up the new place"
    PERSON = "nothing is safe"


@dataclass(frozen=True, slots=True)
class DiskStanding:
    """One disk. ``live``: what the running VM uses, None while it is off; ``kept``: what its next start would use, None
    of a VM without a definition."""

    live: At | None
    kept: At | None
    copying: Copying = Copying.NOT

    @property
    def used(self) -> At | None:
        """What the VM uses, or would."""
        return self.live if self.live is not None else self.kept


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and why in one sentence."""

    next: Next
    why: str


Standing = Mapping[str, DiskStanding]
"""Disk target → how it stands. Empty: the host has no such VM."""


def settle_running(disks: Standing, *, wanted: bool) -> Verdict:
    """Decide about disks copied while their guest runs. ``wanted``: nobody has cancelled it, and nothing has failed."""
    if not disks:
        return Verdict(Next.PERSON, "its host does not list it any more; its definition is kept in the journal")
    if strange := _strange(disks):
        return Verdict(Next.PERSON, strange)
    arrived = [name for name, disk in disks.items() if disk.used is At.NEW]
    if all(disk.live is None for disk in disks.values()):
        return _settle_ended(disks, arrived)
    if len(arrived) == len(disks):
        return _in_line(disks, Verdict(Next.FINISH, "it uses the new places"))
    behind = {name: disk for name, disk in disks.items() if disk.used is At.OLD}
    copied = [name for name, disk in behind.items() if disk.copying is not Copying.NOT]
    if not wanted or (arrived and len(copied) < len(behind)):
        if copied:
            return Verdict(Next.ABORT, f"{', '.join(copied)} will not move")
        return _in_line(disks, Verdict(Next.UNDO, _where(disks)))
    if len(copied) < len(behind):
        return Verdict(Next.COPY, "not all of its disks are being copied yet")
    if any(disk.copying is Copying.UNDER_WAY for disk in behind.values()):
        return Verdict(Next.WAIT, "its disks are being copied")
    return Verdict(Next.PIVOT, "both places of its disks hold the same")


def settle_off(disks: Standing, *, wanted: bool, to_be_switched_off: bool) -> Verdict:
    """Decide about disks copied while their VM is off. ``to_be_switched_off``: it runs, and we have not stopped it yet.

    Its definition is changed in one go: a mixture is not of our making.
    """
    if not disks:
        return Verdict(Next.PERSON, "its host does not list it any more; its definition is kept in the journal")
    if strange := _strange(disks):
        return Verdict(Next.PERSON, strange)
    runs = any(disk.live is not None for disk in disks.values())
    kept = {disk.kept for disk in disks.values()}
    used = {disk.used for disk in disks.values()}
    if len(kept) > 1 or len(used) > 1:
        return Verdict(Next.PERSON, f"its definition names some disks at the old place and some at the new: {disks}")
    if kept == {At.NEW} and used == {At.NEW}:
        return Verdict(Next.FINISH, "its definition names the new places")
    if kept == {At.NEW}:
        return Verdict(Next.DEFINE, "it was started from the old places while its definition was changed")
    if used == {At.NEW}:
        return Verdict(Next.PERSON, "it runs from the new places, and its definition names the old ones")
    if not wanted:
        return Verdict(Next.UNDO, "it uses the old places")
    if not runs:
        return Verdict(Next.COPY, "it is off, and its definition names the old places")
    if to_be_switched_off:
        return Verdict(Next.SWITCH_OFF, "it runs")
    return Verdict(Next.UNDO, "somebody started it meanwhile")


def _strange(disks: Standing) -> str:
    for name, disk in disks.items():
        if At.ELSEWHERE in (disk.live, disk.kept):
            return f"its disk {name} is at neither place any more"
        if disk.copying is Copying.FOREIGN:
            return f"a block job that is not ours works on its disk {name}"
    return ""


def _settle_ended(disks: Standing, arrived: list[str]) -> Verdict:
    """A copy ends with its QEMU; what had changed over before has."""
    if len(arrived) == len(disks):
        return Verdict(Next.FINISH, "it is off, and its definition names the new places")
    return Verdict(Next.UNDO, f"its QEMU has ended meanwhile; {_where(disks)}")


def _in_line(disks: Standing, verdict: Verdict) -> Verdict:
    if any(disk.kept is not None and disk.kept is not disk.live for disk in disks.values()):
        return Verdict(Next.DEFINE, "it runs from other places than its definition names")
    return verdict


def _where(disks: Standing) -> str:
    arrived = [name for name, disk in disks.items() if disk.used is At.NEW]
    behind = [name for name, disk in disks.items() if disk.used is At.OLD]
    if not arrived:
        return "its disks are where they were"
    return f"{', '.join(arrived)} moved and {', '.join(behind)} did not: it is whole, with its disks in two places"
