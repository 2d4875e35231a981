"""When is a transfer to be given up? Pure: from what is known of it to the reason, in words."""

from __future__ import annotations

from dataclasses import dataclass

from mudanza.model.migration import Answer
from mudanza.model.units import format_duration

CUT_OFF = 16.0
"""Seconds without anything moving after which a transfer is given up whose source cannot reach the target any more.

libvirt's own sign of life to the target fails after 25 to 30 s. It then ends the disk mirrors in a way that makes the
guest stand still until the connection's own limit, about 15 minutes. We must come before it.
What is in the buffers goes on moving for some seconds after the cut, too.
"""

SWITCHOVER_LIMIT = 5.0
"""Seconds the guest may stand still for the switchover without anything moving, unless twice its downtime is more.

After a short cut the connection of a mirror may wait for most of a minute before it tries again, and the switchover
waits for the mirror.
"""

ON_REQUEST = "cancelled on request"
_PAST_DEADLINE = "not done within the deadline"


@dataclass(frozen=True, slots=True)
class Steering:
    """What a transfer is held to. Seconds."""

    source: str
    target: str
    max_downtime: float
    deadline: float | None
    no_progress: float
    """How long it may come no nearer to its end."""
    spent: float = 0.0
    """How much of the deadline had passed before we began to watch."""


@dataclass(frozen=True, slots=True)
class Situation:
    """How a transfer stands. Seconds."""

    elapsed: float
    still_for: float = 0.0
    """How long nothing has moved."""
    no_nearer_for: float = 0.0
    """How long it has come no nearer to its end."""
    reach: Answer | None = None
    """Whether the source reaches the target's libvirt, asked while nothing moves; None: no answer yet."""
    stopped: bool = False
    """The guest's vCPUs are stopped for the switchover."""
    asked_to_stop: bool = False


def reason_to_stop(now: Situation, held_to: Steering) -> str:
    """Return why a transfer is to be cancelled, in words; empty as long as it may go on."""
    if now.asked_to_stop:
        return ON_REQUEST
    if held_to.deadline is not None and now.elapsed + held_to.spent > held_to.deadline:
        return f"{_PAST_DEADLINE} of {format_duration(held_to.deadline)}"
    if now.stopped and now.still_for >= max(SWITCHOVER_LIMIT, 2 * held_to.max_downtime):
        return f"the guest stood still for the switchover, and nothing has moved for {format_duration(now.still_for)}"
    if now.reach is Answer.NO and now.still_for >= CUT_OFF:
        return (
            f"nothing has moved for {format_duration(now.still_for)} and {held_to.source} cannot reach "
            f"{held_to.target} any more"
        )
    if now.no_nearer_for > held_to.no_progress:
        return f"came no nearer to its end for {format_duration(held_to.no_progress)}"
    return ""


def is_wish(why: str) -> bool:
    """Whether a transfer was cancelled because somebody wanted it so, and not because it could not go on."""
    return why.startswith((ON_REQUEST, _PAST_DEADLINE))


def standstill(now: Situation, held_to: Steering) -> str:
    """Return in words that nothing moves, and what that may mean."""
    source, target = held_to.source, held_to.target
    meaning = {
        Answer.NO: f"{source} cannot reach {target} any more",
        Answer.YES: f"though {source} reaches the libvirt of {target}",
    }.get(now.reach or Answer.UNKNOWN, f"the way from {source} to {target} may be cut")
    return f"nothing has moved for {format_duration(now.still_for)}: {meaning}"
