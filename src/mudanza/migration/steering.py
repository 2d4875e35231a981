"""When is a transfer to be given up? Pure: from what is known of it to the reason, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mudanza.model.migration import Answer
from mudanza.model.policy import Policy, PostCopy
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
_NO_DISKS: Mapping[str, int] = MappingProxyType({})
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
    policy: Policy = Policy.AUTO
    postcopy: PostCopy = PostCopy.NEVER
    """What is allowed, and was prepared for."""
    bandwidth: int | None = None
    """Bytes per second that memory and disks may take together."""
    compressed: bool = False
    """Of pages that have changed again only what differs is sent."""
    disks: Mapping[str, int] = field(default_factory=lambda: _NO_DISKS)
    """The disks that are mirrored, by their target names, and their sizes."""


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
    postcopy: bool = False
    """The guest runs at the target already, without all of its memory."""


def reason_to_stop(now: Situation, held_to: Steering) -> str:
    """Return why a transfer is to be cancelled, in words; empty as long as it may go on.

    Of post-copy there is no way back: to end either side ends the guest.
    """
    if now.postcopy:
        return ""
    if now.asked_to_stop:
        return ON_REQUEST
    if held_to.deadline is not None and now.elapsed + held_to.spent > held_to.deadline:
        return past_deadline(held_to.deadline)
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


def past_deadline(deadline: float) -> str:
    """Return in words that it is over."""
    return f"{_PAST_DEADLINE} of {format_duration(deadline)}"


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
