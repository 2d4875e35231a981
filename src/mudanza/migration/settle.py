"""What to believe and do after a transfer, however it ended: pure, from what both hosts say.

The last word never comes from a return code. A migration that reported an error may have succeeded, and one that
reported success may have left a second, resumable copy behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mudanza.model.migration import Qemu, Side, Sighting
from mudanza.model.vm import VmState


class Verdict(StrEnum):
    """What both hosts' words amount to."""

    MOVED = "moved"
    """It is at the target, and only there (the source may list a definition that is off)."""
    STAYED = "stayed"
    """It is at the source as before, and nowhere else."""
    WAIT = "wait"
    """libvirt is still at work on it: look again."""
    DOWN = "down"
    """It runs nowhere; its disks are whole at the source."""
    DOWN_THERE = "down at the target"
    """It moved, and has ended at the target since; its disks are whole there."""
    PERSON = "person"
    """No action is safe: a person must look."""


class Act(StrEnum):
    """What brings both hosts in line with the verdict."""

    DROP_SOURCE_COPY = "end the stopped copy at the source, without its disks"
    RESUME_SOURCE = "resume the VM at the source"
    RESUME_TARGET = "resume the VM at the target"
    END_TARGET_COPY = "end the incoming copy at the target, which never ran"
    END_TARGET_QEMU = "end the target's QEMU, whose vCPUs never ran, by ssh: its libvirt does not answer"
    END_TARGET_REST = "end what is left at the target of a guest that has lost the rest of its memory"


@dataclass(frozen=True, slots=True)
class Settlement:
    """A verdict, the acts it needs in their order, and why in one sentence."""

    verdict: Verdict
    why: str
    acts: tuple[Act, ...] = ()
    remark: str = ""
    """What a report of the move must say besides."""
    arrived: bool = True
    """Of a VM at the target: the migration brought it there, so the source's disks are old."""


# A job whose kind a busy QEMU does not tell may be one too.
_MIGRATIONS = frozenset({"migration out", "migration in", "unknown"})
# A copy in one of these states has never run a guest instruction at the target.
_INCOMING = frozenset({"migrating", "starting up"})
# libvirt stopped the source's vCPUs for the switchover, not somebody who wanted it paused, and no trouble either.
_SWITCHOVER = frozenset({"migrating", "post-copy", "unknown"})
_POSTCOPY = frozenset({"post-copy", "post-copy failed"})
# libvirt has let the source run again: it had been stopped for the switchover, or to end a cancelled migration.
_RUNS_AGAIN = "migration canceled"
# A copy that runs for one of these reasons was started there; no migration brought its memory.
_STARTED_ANEW = frozenset({"booted", "restored", "from snapshot"})
# What stops a VM that had arrived: somebody's wish, or trouble that letting it run again does not end.
_STOPPED_LATER = frozenset({"user", "I/O error", "watchdog", "crashed", "saving", "dumping", "creating snapshot"})


def settle(source: Sighting, target: Sighting, *, was_paused: bool = False, ran_there: bool = False) -> Settlement:
    """Decide from what the source and the target say of the VM.

    ``was_paused``: its vCPUs stood still, wanted so, before the migration began; ``ran_there``: the journal knows that
    the guest has run at the target, in post-copy.
    """
    if (ran_there or in_postcopy(source, target)) and (dead := _settle_ended_postcopy(source, target)):
        return dead
    if source.running and target.running:
        return Settlement(Verdict.PERSON, "it runs on BOTH hosts: stop one of them before its disks are damaged")
    if in_postcopy(source, target) and not _is_off(source):
        return _settle_postcopy(source, target)
    if _is_moving(source) or _is_moving(target):
        return Settlement(Verdict.WAIT, "libvirt still works on it")
    if Side.UNSEEN in (source.side, target.side):
        return _settle_half_seen(source, target, was_paused=was_paused)
    if _stateless(source) or _stateless(target):
        return Settlement(Verdict.PERSON, "a host lists it and does not say in what state it is")
    if _active(source) and target.state in (VmState.PMSUSPENDED, VmState.SHUTDOWN):
        return Settlement(Verdict.PERSON, f"both hosts hold an active copy, and the target's, {target.state}, has run")
    if target.running or (was_paused and _rests_at(target)):
        return _settle_at_target(source, target, was_paused=was_paused)
    if target.side is Side.PRESENT and target.state is VmState.PAUSED:
        return _settle_paused_target(source, target, was_paused=was_paused)
    return _settle_at_source(source, target, was_paused=was_paused)


def waits_in_vain(source: Sighting, target: Sighting) -> bool:
    """Whether the VM runs at the target, and libvirt at the source still waits to hear of it.

    If it hears nothing for half a minute it takes the target for dead, and lets the source's copy run as well. So that
    copy, which nobody will need any more, is to be ended before. Where the target's libvirt is silent, the kernel there
    may show that it runs.
    """
    arrived = target.running and target.reason == "migrated" and target.job is None
    return _stopped_to_hand_over(source) and (arrived or target.qemu is Qemu.RAN)


def handing_over(source: Sighting) -> bool:
    """Whether the source's copy was stopped for the switchover, and at most let run again by libvirt since."""
    return _stopped_to_hand_over(source) or runs_again(source)


def runs_again(source: Sighting) -> bool:
    """Whether libvirt let the source's copy run again, and QEMU is not known to have given the migration up before."""
    return source.running and source.reason == _RUNS_AGAIN and not source.kept


def _stopped_to_hand_over(source: Sighting) -> bool:
    return source.side is Side.PRESENT and source.state is VmState.PAUSED and source.reason == "migrating"


def _is_off(side: Sighting) -> bool:
    return side.side is Side.ABSENT or (side.side is Side.PRESENT and not side.state.active)


def _active(side: Sighting) -> bool:
    return side.side is Side.PRESENT and side.state.active


def _stateless(side: Sighting) -> bool:
    return side.side is Side.PRESENT and side.state is VmState.NOSTATE


def _rests_at(side: Sighting) -> bool:
    """Whether it stands there paused, arrived, and not as a half-received copy."""
    return side.side is Side.PRESENT and side.state is VmState.PAUSED and side.reason not in _INCOMING


def _is_moving(side: Sighting) -> bool:
    """Whether a migration is under way there. Another tool's backup, say, changes nothing about where the VM is."""
    return side.job in _MIGRATIONS


def _settle_postcopy(source: Sighting, target: Sighting) -> Settlement:
    if _is_moving(source) or _is_moving(target):
        return Settlement(Verdict.WAIT, "post-copy is under way")
    return Settlement(
        Verdict.PERSON,
        "its memory is on two hosts (failed post-copy): end neither copy, the migration must be resumed",
    )


def in_postcopy(source: Sighting, target: Sighting) -> bool:
    """Whether one of them says that the guest runs at the target without all of its memory, or did until it broke."""
    return any(_active(side) and side.reason in _POSTCOPY for side in (source, target))


def _settle_ended_postcopy(source: Sighting, target: Sighting) -> Settlement | None:
    """One QEMU ended while the guest's memory was on two hosts, and the guest with it; None where both live on."""
    if Side.UNSEEN in (source.side, target.side) or _stateless(source) or _stateless(target):
        return None
    if _is_off(source) and source.reason == "migrated":
        return None
    if _is_off(target) and target.reason != "migrated":
        return _settle_ended_there(source, target)
    if _is_off(source) and in_postcopy(source, target):
        ended = "its QEMU at the source ended in post-copy, with memory that the guest had not fetched yet"
        return Settlement(Verdict.DOWN_THERE, ended, (Act.END_TARGET_REST,))
    return None


def _settle_ended_there(source: Sighting, target: Sighting) -> Settlement:
    if source.running:
        return Settlement(Verdict.PERSON, "it ran at the target, and runs at the source now, with an older memory")
    acts = () if _is_off(source) else (Act.DROP_SOURCE_COPY,)
    if target.side is Side.PRESENT and target.reason == "shutdown":
        # Only a guest that runs shuts itself down.
        why = "it is at the target, where it was shut down during post-copy"
        return Settlement(Verdict.MOVED, why, acts, remark=f"{why}; it was not started again")
    return Settlement(Verdict.DOWN_THERE, "its QEMU ended in post-copy, and the guest with it", acts)


def _settle_half_seen(source: Sighting, target: Sighting, *, was_paused: bool) -> Settlement:
    if target.side is Side.UNSEEN and runs_again(source):
        return _settle_running_again(target)
    if target.side is Side.UNSEEN and source.running:
        return Settlement(Verdict.STAYED, "it runs at the source; the target cannot be asked")
    if target.side is Side.UNSEEN and was_paused and source.state is VmState.PAUSED and source.reason == "user":
        return Settlement(Verdict.STAYED, "it rests paused at the source; the target cannot be asked")
    if target.running:
        return Settlement(
            Verdict.PERSON,
            "it runs at the target; the source cannot be asked and may hold a stopped copy: never resume that one",
        )
    return Settlement(Verdict.PERSON, "one host cannot be asked, and the other one alone does not tell where it lives")


def _settle_running_again(target: Sighting) -> Settlement:
    """The order to let it run may lie with a libvirt at the target that hangs, and is carried out when that goes on."""
    again = "it runs at the source again after it was stopped for the switchover; the target's libvirt cannot be asked"
    match target.qemu:
        case Qemu.GONE:
            return Settlement(Verdict.STAYED, f"{again}, and no QEMU of it is there")
        case Qemu.NEVER_RAN:
            return Settlement(Verdict.STAYED, f"{again}, and may let its copy run too", (Act.END_TARGET_QEMU,))
        case Qemu.RAN:
            return Settlement(
                Verdict.PERSON,
                f"{again}, but its copy HAS run there: find out which one has the newer data, and end the other",
            )
        case None:
            return Settlement(
                Verdict.PERSON,
                f"{again}, and may let its copy run as well once it answers: end that QEMU, or that host, before",
            )


def _settle_at_target(source: Sighting, target: Sighting, *, was_paused: bool) -> Settlement:
    if target.running and target.reason in _STARTED_ANEW:
        return _settle_started_anew(source, target)
    if _is_off(source):
        return Settlement(Verdict.MOVED, "it is at the target and no longer active at the source")
    if source.state is VmState.PAUSED and (source.reason in _SWITCHOVER or not was_paused):
        return Settlement(
            Verdict.MOVED,
            "it is at the target; the source still holds its stopped copy, which must never be resumed",
            (Act.DROP_SOURCE_COPY,),
        )
    return Settlement(
        Verdict.PERSON, f"it is at the target, and the source says {source.state} ({source.reason}) of it"
    )


def _settle_started_anew(source: Sighting, target: Sighting) -> Settlement:
    why = f"it was started at the target ({target.reason}), and not left running there by the migration"
    if not _is_off(source):
        return Settlement(Verdict.PERSON, f"{why}; the source says {source.state} ({source.reason}) of it")
    return Settlement(Verdict.MOVED, why, remark=f"{why}: everything was kept at the source", arrived=False)


def _settle_paused_target(source: Sighting, target: Sighting, *, was_paused: bool) -> Settlement:
    if _is_off(source):
        if source.side is Side.ABSENT or source.reason == "migrated":
            return _settle_left_paused(target, was_paused=was_paused)
        return Settlement(
            Verdict.PERSON,
            f"the source says {source.state} ({source.reason}) and the target holds a paused copy ({target.reason})",
        )
    if target.reason not in _INCOMING:
        return Settlement(Verdict.PERSON, f"both hosts hold an active copy; the target's is paused ({target.reason})")
    resume = source.state is VmState.PAUSED and source.reason in _SWITCHOVER and not was_paused
    return Settlement(
        Verdict.STAYED,
        "it is at the source; the target holds an incoming copy that never ran",
        (Act.END_TARGET_COPY, Act.RESUME_SOURCE) if resume else (Act.END_TARGET_COPY,),
    )


def _settle_left_paused(target: Sighting, *, was_paused: bool) -> Settlement:
    if was_paused:
        return Settlement(Verdict.MOVED, "its memory is at the target, where it rests as it did before")
    if target.reason in _STOPPED_LATER:
        why = f"it is at the target, paused ({target.reason})"
        return Settlement(Verdict.MOVED, why, remark=f"{why}; it was not resumed")
    return Settlement(Verdict.MOVED, "its memory is at the target, where it was left paused", (Act.RESUME_TARGET,))


def _settle_at_source(source: Sighting, target: Sighting, *, was_paused: bool) -> Settlement:
    if source.running:
        return Settlement(Verdict.STAYED, "it runs at the source")
    if target.side is Side.PRESENT:
        return _settle_known_to_target(source, target)
    if source.side is Side.ABSENT:
        return Settlement(Verdict.PERSON, "neither host lists it; its definition is kept in the journal")
    match source.state:
        case VmState.PAUSED if was_paused:
            return Settlement(Verdict.STAYED, "it rests paused at the source")
        case VmState.PAUSED if source.reason in _SWITCHOVER:
            why = "it was stopped for the switchover and is not at the target"
            return Settlement(Verdict.STAYED, why, (Act.RESUME_SOURCE,))
        case VmState.PAUSED:
            return Settlement(Verdict.STAYED, f"it is at the source, paused ({source.reason})")
        case VmState.PMSUSPENDED:
            return Settlement(Verdict.STAYED, "it is at the source, where the guest has suspended itself")
        case VmState.SHUTDOWN:
            return Settlement(Verdict.WAIT, "it is shutting down at the source")
    if source.reason == "migrated":
        return Settlement(
            Verdict.PERSON,
            "the source says it moved away, and the target does not list it: look at the target's log",
        )
    return Settlement(Verdict.DOWN, f"it is {source.state} ({source.reason}) at the source")


def _settle_known_to_target(source: Sighting, target: Sighting) -> Settlement:
    """The target lists it, neither running nor paused: it may have run there, so the source's copy may be old."""
    let_go = source.side is Side.ABSENT or (_is_off(source) and source.reason == "migrated")
    if target.state is VmState.SHUTDOWN:
        return Settlement(Verdict.WAIT, "it is shutting down at the target")
    if let_go and target.state is VmState.PMSUSPENDED:
        why = "it is at the target, where the guest has suspended itself"
        return Settlement(Verdict.MOVED, why, remark=why)
    if let_go and target.state is VmState.SHUTOFF and target.reason == "shutdown":
        # Only a guest that runs shuts itself down, and the source had let it go.
        why = "it is at the target, where it was shut down after it had arrived"
        return Settlement(Verdict.MOVED, why, remark=f"{why}; it was not started again")
    if let_go and target.state in (VmState.SHUTOFF, VmState.CRASHED) and target.reason != "migrated":
        # libvirt lets go of it at the source only when the target has said that it runs there.
        return Settlement(Verdict.DOWN_THERE, f"it moved, and is {target.state} ({target.reason}) at the target since")
    at_source = "does not list it" if source.side is Side.ABSENT else f"says {source.state} ({source.reason})"
    return Settlement(
        Verdict.PERSON,
        f"the target says {target.state} ({target.reason}) of it and may have run it; the source {at_source}",
    )
