"""Steering a running guest's memory to its end: pure, from the job's figures to what QEMU is told next.

Pre-copy sends memory in passes, each one what the guest has dirtied during the one before. With ``r`` bytes at the
beginning of a pass, a link of ``B`` bytes per second and ``q`` the share that is dirty again after it, the rest takes
``r / B / (1 - q)`` seconds; for ``q`` near 1 it never ends (Clark et al., NSDI 2005; the sum of a geometric series).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mudanza.model.compression import ENOUGH
from mudanza.model.migration import Progress
from mudanza.model.policy import Policy, PostCopy
from mudanza.model.units import MIB, format_duration, format_rate, format_size

STEPS = (0.25, 0.5, 1.0)
"""Shares of the allowed downtime that QEMU is told one after the other: whoever asks for less at first goes dark for
less, if one more pass is all that takes."""
SHRINKING = 0.7
"""A pass that begins with more than this share of the one before calls for the next step."""
HOPELESS = 0.95
"""From this share on, passes are taken not to shrink at all."""
PATIENT_PASSES = 6
"""Passes without a new least remainder after which a move that nothing else can end is given up..."""
PATIENCE = 60.0
"""...but not before so many seconds without one: some guests calm down."""
PATIENCE_COMPRESSED = 3.0
"""Seconds at the least that a move whose compression pays has for its end, from when that is known; else as long again
as it took until then. Its passes are too short for them to say much."""
LEAST_FOR_MEMORY = 4
"""Memory never gets less than one part in so many of the limit, however hard the disks are written to."""
FILLING = 2
"""The pass in which the cache of compression is filled: what it gains shows after that one."""
ENDING = 2.0
"""Seconds it takes to switch over, or to end a move that is given up and to tidy up: kept free before the deadline."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a move may cost. Seconds since the transfer began, bytes per second."""

    max_downtime: float
    deadline: float | None = None
    policy: Policy = Policy.AUTO
    postcopy: PostCopy = PostCopy.NEVER
    """What is allowed, and possible between the two hosts."""
    bandwidth: int | None = None
    """The most that memory and disks may take together."""
    disks: int = 0
    """How many disks are mirrored."""
    compressed: bool = False
    """Of pages that have changed again only what differs is sent."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over memory as it began. Seconds, bytes."""

    number: int
    at: float
    remaining: int


@dataclass(frozen=True, slots=True)
class Course:
    """What was ordered so far, and how the passes went."""

    step: int = -1
    """Which of STEPS QEMU was told; -1: none yet."""
    passes: tuple[Pass, ...] = ()
    """The first one, and the latest few."""
    least: int | None = None
    """The least that a pass began with, not counting what was hardly less than before."""
    least_at: float = 0.0
    least_pass: int = 0
    memory_limit: int | None = None
    """What memory was limited to; None: to all that is allowed."""
    disk_limit: int | None = None
    """What the mirrors were limited to together; None: nobody knows."""
    compression_pays: bool | None = None
    """Whether pages that have changed again take so much less; None: that is not known (yet), or there is none."""
    learnt_at: float = 0.0
    """When that became known."""
    postcopy: bool = False
    """Post-copy was ordered: from then on nothing of the above matters, and nothing can be taken back."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What is to be ordered now; None and empty for what stays as it is."""

    downtime: float | None = None
    memory_bandwidth: int | None = None
    disk_bandwidth: int | None = None
    """What the mirrors may take together."""
    postcopy: str = ""
    """Why post-copy is to be started."""
    give_up: str = ""
    """Why the move is to be cancelled, and what would work."""


NOTHING = Orders()


def steer(course: Course, seen: Progress, budget: Budget) -> tuple[Course, Orders]:
    """Return the course after this sample, and what is to be ordered for it."""
    if course.postcopy or seen.postcopy:
        return replace(course, postcopy=True), NOTHING
    begun = _with_compression(_on_course(course, seen), seen, budget)
    learnt = begun.compression_pays is not course.compression_pays
    to_judge = (begun.passes != course.passes or learnt) and not _is_too_early(begun, seen, budget)
    rest = _rest_of(begun, seen) if to_judge and len(begun.passes) > 1 else None
    stepped, downtime = _next_step(begun, seen, budget, rest)
    limited, disks = _share_of_disks(stepped, seen, budget)
    shared, memory = _share_of_memory(limited, seen, budget)
    orders = Orders(downtime=downtime, memory_bandwidth=memory, disk_bandwidth=disks)
    if seen.memory_total and budget.postcopy is PostCopy.NOW:
        return replace(shared, postcopy=True), replace(orders, postcopy="asked for at once")
    if rest is None:
        return shared, orders
    if why := _reason_for_postcopy(shared, seen, rest, budget):
        return replace(shared, postcopy=True), replace(orders, postcopy=why)
    return shared, replace(orders, give_up=_reason_to_give_up(shared, seen, rest, budget))


def _with_compression(course: Course, seen: Progress, budget: Budget) -> Course:
    """Learn what compression gains, as soon as enough pages were sent so, or a whole pass that it should have shown
    in."""
    if not budget.compressed or course.compression_pays is not None or seen.iteration <= FILLING:
        return course
    packed = seen.compressed
    if packed is not None and (packed.pages >= ENOUGH or seen.iteration > FILLING + 1):
        return replace(course, compression_pays=packed.pays, learnt_at=seen.elapsed)
    return replace(course, compression_pays=False) if seen.iteration > FILLING + 1 else course


def _is_too_early(course: Course, seen: Progress, budget: Budget) -> bool:
    """Whether passes say nothing yet of how the move will end, for compression has not shown what it gains; and there
    is time to wait for it and to fetch the rest all the same."""
    if not budget.compressed or course.compression_pays is False or not course.passes:
        return False
    if course.compression_pays:
        return len(course.passes) < 2 or course.passes[-2].number <= FILLING
    if budget.deadline is None or seen.memory_rate < 1:
        return True
    return budget.deadline - ENDING - seen.elapsed > 2 * course.passes[-1].remaining / seen.memory_rate


def _has_had_its_time(course: Course, seen: Progress, budget: Budget) -> bool:
    """Whether a move whose compression pays should have ended by now, or has no more time than fetching the rest
    takes."""
    if seen.elapsed - course.learnt_at >= max(PATIENCE_COMPRESSED, course.learnt_at):
        return True
    if budget.deadline is None:
        return False
    return budget.deadline - ENDING - seen.elapsed <= 2 * course.passes[-1].remaining / seen.memory_rate


def begin(budget: Budget) -> Course:
    """Return the course of a transfer that begins: libvirt takes one limit, for memory and for each disk alike."""
    if not budget.bandwidth:
        return Course()
    each = first_limit(budget.bandwidth, budget.disks)
    return Course(memory_limit=each, disk_limit=each if budget.disks == 1 else None)


def take_up(budget: Budget) -> Course:
    """Return the course of a transfer that somebody else began: what was ordered is not known."""
    return Course(memory_limit=0) if budget.bandwidth and budget.disks else Course()


def first_limit(bandwidth: int, disks: int) -> int:
    """Return the limit that a transfer begins with: whole MiB per second, one at least."""
    return max(bandwidth // max(disks, 1) // MIB, 1) * MIB


def retune(course: Course, before: Budget, after: Budget, seen: Progress) -> tuple[Course, Orders]:
    """Return the course, and what is to be ordered, once a person has changed what a move may cost.

    The downtime that was given is allowed at once: whoever raises it wants the move to end. What was learnt of it not
    converging counts no more.
    """
    course, orders = replace(course, least=None), NOTHING
    if after.max_downtime != before.max_downtime:
        course = replace(course, step=len(STEPS) - 1)
        orders = replace(orders, downtime=after.max_downtime)
    if after.bandwidth and after.bandwidth != before.bandwidth:
        course, disks = _share_of_disks(replace(course, disk_limit=None), seen, after)
        memory = _memory_retuned(seen, after)
        course = replace(course, memory_limit=memory)
        orders = replace(orders, memory_bandwidth=memory, disk_bandwidth=disks)
    return course, orders


def _on_course(course: Course, seen: Progress) -> Course:
    if not seen.memory_total or (course.passes and seen.iteration <= course.passes[-1].number):
        return course
    latest = Pass(seen.iteration, seen.elapsed, seen.memory_remaining)
    passes = (*course.passes[:1], *course.passes[1:][-1:], latest)
    if course.least is not None and latest.remaining >= course.least * HOPELESS:
        return replace(course, passes=passes)
    return replace(course, passes=passes, least=latest.remaining, least_at=latest.at, least_pass=latest.number)


def _next_step(course: Course, seen: Progress, budget: Budget, rest: float | None) -> tuple[Course, float | None]:
    """Tell QEMU the first step at once, the next one after a pass that has not shrunk enough, and the last one where
    passes will not get there in time."""
    step = course.step
    if step < 0:
        step = 0
    elif rest is not None and rest > _in_time(course, seen):
        step = len(STEPS) - 1
    elif rest is not None and _share_left(course) > SHRINKING and step + 1 < len(STEPS):
        step += 1
    if step == course.step:
        return course, None
    return replace(course, step=step), budget.max_downtime * STEPS[step]


def _in_time(course: Course, seen: Progress) -> float:
    """Return the seconds that the rest of pre-copy may take: what one pass over all the memory took."""
    return course.passes[0].remaining / seen.memory_rate if seen.memory_rate >= 1 else math.inf


def _share_left(course: Course) -> float:
    """Return what share of a pass was dirty again after it; 0 as long as there was only one."""
    if len(course.passes) < 2:
        return 0.0
    before, latest = course.passes[-2:]
    return latest.remaining / before.remaining if before.remaining else 1.0


def _share_of_memory(course: Course, seen: Progress, budget: Budget) -> tuple[Course, int | None]:
    """Leave the disks' mirrors what they take of the limit, so that the sum keeps to it."""
    if not (budget.bandwidth and seen.memory_total and seen.disk_total):
        return course, None
    limit = _left_by_disks(seen, budget)
    told = course.memory_limit if course.memory_limit is not None else budget.bandwidth
    if abs(limit - told) < budget.bandwidth / 10:
        return course, None
    return replace(course, memory_limit=limit), limit


def _memory_retuned(seen: Progress, budget: Budget) -> int:
    """Return what memory may take of another limit; as long as there are only disks, what it is to begin with."""
    if seen.postcopy or not budget.disks:
        return budget.bandwidth or 0
    return _left_by_disks(seen, budget) if seen.memory_total else first_limit(budget.bandwidth or 0, budget.disks)


def _left_by_disks(seen: Progress, budget: Budget) -> int:
    bandwidth = budget.bandwidth or 0
    return max(round(bandwidth - seen.disk_rate), bandwidth // LEAST_FOR_MEMORY)


def _share_of_disks(course: Course, seen: Progress, budget: Budget) -> tuple[Course, int | None]:
    """Let the mirrors have all of the limit, and what memory does not need at least once both would have more."""
    if not (budget.bandwidth and budget.disks and seen.disk_total) or seen.postcopy:
        return course, None
    less = budget.bandwidth - budget.bandwidth // LEAST_FOR_MEMORY
    crowded = bool(seen.memory_total) and (seen.disk_rate > less or course.disk_limit == less)
    limit = less if crowded else budget.bandwidth
    if limit == course.disk_limit:
        return course, None
    return replace(course, disk_limit=limit), limit


def _rest_of(course: Course, seen: Progress) -> float:
    """Return how many seconds more pre-copy takes as the passes go; infinite if it does not end."""
    rate, latest, left = seen.memory_rate, course.passes[-1], _share_left(course)
    if course.compression_pays:
        # What gets across says nothing of how many pages do, nor does what is dirtied: only the passes tell.
        before = course.passes[-2]
        rate = before.remaining / max(latest.at - before.at, 1e-3)
    elif seen.dirty_rate and rate >= 1:
        left = max(left, min(seen.dirty_rate / rate, 1.0))
    if rate < 1:
        return math.inf
    if left >= HOPELESS:
        return math.inf
    return latest.remaining / rate / (1 - left)


def _reason_for_postcopy(course: Course, seen: Progress, rest: float, budget: Budget) -> str:
    """Return why the rest is better fetched from the target; empty as long as pre-copy gets there in time.

    In time: within what one pass over all the memory took, and within the deadline.
    """
    if budget.postcopy is not PostCopy.ALLOW or seen.memory_rate < 1:
        return ""
    latest = course.passes[-1]
    fetched = latest.remaining / seen.memory_rate
    left = math.inf if budget.deadline is None else budget.deadline - seen.elapsed
    why = f"pre-copy would take {_words(rest)} more ({_dirties(seen)})"
    if course.compression_pays:
        in_time = not _has_had_its_time(course, seen, budget)
        why = "compression pays, and has not brought it to its end"
    else:  # where the rest is so little, QEMU switches over by itself
        in_time = fetched <= budget.max_downtime or rest <= min(_in_time(course, seen), left)
    if in_time or fetched > left:
        return ""
    return f"{why}; the remaining {format_size(latest.remaining)} are fetched in about {format_duration(fetched)}"


def _reason_to_give_up(course: Course, seen: Progress, rest: float, budget: Budget) -> str:
    """Return why nothing that is allowed will end it; empty as long as something may."""
    latest = course.passes[-1]
    hopeless = (
        latest.number - course.least_pass >= PATIENT_PASSES
        and latest.at - course.least_at >= PATIENCE
        and course.step + 1 == len(STEPS)
    )
    if course.compression_pays:
        hopeless = seen.elapsed - course.learnt_at >= max(PATIENCE, course.learnt_at)
    left = math.inf if budget.deadline is None else budget.deadline - ENDING - seen.elapsed
    too_late = rest > left and seen.memory_rate >= 1 and latest.remaining / seen.memory_rate > left
    if not (hopeless or too_late):
        return ""
    why = "it does not converge" if hopeless else "it cannot be done within the deadline"
    return f"{why}: {_dirties(seen)}; {what_would_work(latest.remaining, seen, budget)}"


def what_would_work(remaining: int, seen: Progress, budget: Budget) -> str:
    """Return in words what would end a move that does not converge."""
    ways = []
    if budget.postcopy is PostCopy.NEVER:
        ways.append("--post-copy allow")
    if budget.policy in (Policy.AUTO, Policy.GENTLE):
        ways.append("--policy deadline, which slows the guest down")
    if seen.memory_rate >= 1:
        ways.append(f"--max-downtime {math.ceil(remaining / seen.memory_rate * 10) * 100}ms")
    if budget.bandwidth and seen.dirty_rate:
        ways.append(f"--bandwidth above {format_rate(seen.dirty_rate)}")
    return f"what would work: {', or '.join(ways)}" if ways else "move it when it is less busy, or switched off"


def _dirties(seen: Progress) -> str:
    return f"the guest dirties {format_rate(seen.dirty_rate)}, {format_rate(seen.memory_rate)} get across"


def _words(seconds: float) -> str:
    return "for ever" if math.isinf(seconds) else format_duration(seconds)
