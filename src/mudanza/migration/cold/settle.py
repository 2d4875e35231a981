"""Where a VM that moves switched off belongs, from what both hosts say and how far its job came: pure.

A switched-off VM is a definition and its files. Until the files at the target were compared with the source's, the
definition belongs to the source; from then on to the target. The table is in docs/settling.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mudanza.model.migration import Side, Sighting
from mudanza.model.vm import VmState


class Next(StrEnum):
    """The one safe thing to do."""

    CARRY = "carry"
    """It is the source's: bring what is missing, or give up and clean the target."""
    TAKE_BACK = "take the definition at the target back"
    HAND_OVER = "hand over"
    """Both know it, nothing runs, the files are the same: let the source go."""
    FINISH = "finish"
    """It is the target's: clean the source."""
    STAY = "stay"
    """It runs at the source: whatever was carried is worth nothing."""
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and why in words."""

    next: Next
    why: str


def settle_cold(source: Sighting, target: Sighting, *, compared: bool, defined: bool, let_go: bool = True) -> Verdict:
    """Decide. ``compared``: the journal says that both hosts' files were found the same, or were not to be compared;
    ``defined``: it says that our definition was brought to the target, or was about to be; ``let_go``: that the source
    was told to forget the VM, or was about to be."""
    if source.side is Side.ABSENT and target.side is Side.PRESENT and compared and defined and not let_go:
        return Verdict(Next.PERSON, "the source does not know it any more, and this job has not taken it from there")
    if source.side is Side.UNSEEN:
        return Verdict(Next.PERSON, f"the source cannot be asked: {source.reason}")
    if target.side is Side.UNSEEN:
        return _not_asked(source, target, defined=defined)
    if _active(source) and _active(target):
        return Verdict(Next.PERSON, "both hosts run it: shut one of them down at once")
    if _active(source):
        return _runs_at_source(source, target, defined=defined)
    if _active(target):
        return _runs_at_target(target, compared=compared, defined=defined)
    return _rests(source, target, compared=compared, defined=defined)


def _not_asked(source: Sighting, target: Sighting, *, defined: bool) -> Verdict:
    """Decide where the target is silent: what never got a definition of ours there cannot have become the VM."""
    if defined or source.side is Side.ABSENT:
        return Verdict(Next.PERSON, f"the target cannot be asked: {target.reason}")
    why = f"it is {source.state} at the source, and the target, which only got files, cannot be asked"
    return Verdict(Next.STAY if _active(source) else Next.CARRY, why)


def _runs_at_source(source: Sighting, target: Sighting, *, defined: bool) -> Verdict:
    why = f"it is {source.state} at the source"
    if target.side is Side.ABSENT:
        return Verdict(Next.STAY, why)
    if defined:
        return Verdict(Next.TAKE_BACK, why)
    return Verdict(Next.PERSON, f"{why}, and the target has a VM of its own with that UUID")


def _runs_at_target(target: Sighting, *, compared: bool, defined: bool) -> Verdict:
    if compared and defined:
        # Only what we brought there can be what runs there; its files were found to be the source's.
        return Verdict(Next.FINISH, f"it is {target.state} at the target")
    return Verdict(Next.PERSON, f"the target says {target.state} ({target.reason}) of a VM that was not handed over")


def _rests(source: Sighting, target: Sighting, *, compared: bool, defined: bool) -> Verdict:
    here, there = source.side is Side.PRESENT, target.side is Side.PRESENT
    if here and there and compared and defined:
        return Verdict(Next.HAND_OVER, "both hosts know it, and their files are the same")
    if here and there and defined:
        return Verdict(Next.TAKE_BACK, "the target knows it before its files were compared")
    if here and there:
        return Verdict(Next.PERSON, "the target has a VM of its own with that UUID")
    if here:
        return Verdict(Next.CARRY, f"it is {source.state} at the source")
    if there and compared and defined:
        return Verdict(Next.FINISH, f"it is {target.state} at the target")
    if there:
        return Verdict(Next.PERSON, "only the target knows it, and its files were not compared with the source's")
    return Verdict(Next.PERSON, "neither host knows it; its definition is kept in the journal")


def _active(sighting: Sighting) -> bool:
    if sighting.side is not Side.PRESENT:
        return False
    return sighting.state.active or sighting.state is VmState.NOSTATE
