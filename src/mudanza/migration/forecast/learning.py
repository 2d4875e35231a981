"""What earlier moves teach: pure, from their reports to what a pair's link carries and what moves take beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from mudanza.migration.forecast.dirtying import Dirtying
from mudanza.migration.forecast.model import UNKNOWN_LINK, Habits, Link
from mudanza.model.link import MeasuredLink
from mudanza.model.units import MIB, format_duration

REMEMBERED = 20
"""How many of a pair's moves are looked at, the newest ones."""
WEIGHT = 0.4
"""The share of the newest value in the mean (as KubeVirt has it)."""
LEAP = 1.5
"""A value so many times above or below the mean is an outlier, and is cut to that; two in a row on the same side are a
change, from which on the mean begins anew."""
ENOUGH = 16 * MIB
"""Bytes that must have travelled for their rate to mean something."""
LIMITED = 0.8
"""A move that went at more than this share of its own --bandwidth says nothing about the link."""
SAMPLED = "sampled"
"""How it is known what a guest dirties that was watched for it, in the first word."""
STILL_TRUE = 3600.0
"""Seconds for which what was sampled of a guest is taken for true..."""
AS_MUCH = 1.5
"""...as long as it computes no more than so many times what it did then, and no less..."""
IDLE = 0.05
"""...or this part of a CPU more or less: what an idle guest's own clock comes to."""
FEWEST_SHARE, MOST_SHARE = 0.25, 2.0
"""How far what a VM's memory has really come to may differ from what QEMU occupies."""


@dataclass(frozen=True, slots=True)
class Past:
    """A move that went well. ``report`` as ``MigrationReport`` has it, whatever version wrote it."""

    kind: str
    vm_uuid: str
    source: str
    target: str
    bandwidth: int | None
    report: Mapping[str, Any]
    ago: float = 0.0
    """Seconds since it ended."""

    @property
    def streams(self) -> int:
        """By how many connections its memory went."""
        return int(self.report.get("streams") or 1)

    @property
    def forecast(self) -> Mapping[str, Any]:
        """What was foreseen; empty where nothing was."""
        return self.report.get("forecast") or {}

    @property
    def bytes(self) -> int:
        """What travelled."""
        return int(self.report.get("memory_bytes") or 0) + int(self.report.get("disk_bytes") or 0)

    @property
    def rate(self) -> float:
        """At what rate its data went, beside all that is no data, as far as that is known."""
        return float(self.report.get("memory_rate") or self.report.get("rate") or 0.0)


def steady_mean(values: Iterable[float]) -> float | None:
    """Return a weighted mean of positive values, the newest last: one outlier moves it little, a change at once."""
    mean: float | None = None
    before: float | None = None
    for value in values:
        if mean is None:
            mean = value
        elif before is not None and _leaps(before, mean) == _leaps(value, mean) != 0:
            mean = math.sqrt(before * value)
        else:
            cut = min(max(value, mean / LEAP), mean * LEAP)
            mean *= (cut / mean) ** WEIGHT
        before = value
    return mean


def _leaps(value: float, mean: float) -> int:
    return (value > mean * LEAP) - (value < mean / LEAP)


def link_of(
    past: Sequence[Past],
    bandwidth: int | None,
    told: float | None,
    back: Sequence[Past] = (),
    measured: MeasuredLink | None = None,
) -> Link:
    """Return what one connection gets across between two hosts; ``past``: their moves, the newest first; ``back``: the
    other way.

    Learnt before told before measured before taken for granted; never more than ``bandwidth``. What was ``measured``
    counts as the oldest of what is learnt, and moves before it not at all: the link may have been another one then.
    """
    rates, there = _rates_of(past, measured), _rates_of(back, measured)
    learnt = _learnt(rates, "", measured) or _learnt(there, " the other way", None)
    if learnt is not None:
        link = learnt
    elif told is not None:
        link = Link(told, "as the settings say")
    elif measured is not None:
        link = Link(measured.one, measured.when)
    elif bandwidth is not None:
        return Link(float(bandwidth), "as --bandwidth limits it; the link itself is not known")
    else:
        link = Link(UNKNOWN_LINK, "not known, and taken for one of 1 Gbit/s")
    if bandwidth is not None and bandwidth < link.rate:
        return Link(float(bandwidth), "as --bandwidth limits it")
    return link


def _rates_of(past: Sequence[Past], measured: MeasuredLink | None) -> list[float]:
    """Return the rates of moves that tell what one connection carries, the newest last."""
    return [each.rate for each in reversed(past) if each.streams == 1 and tells_of_link(each) and since(each, measured)]


def _learnt(rates: Sequence[float], way: str, measured: MeasuredLink | None) -> Link | None:
    """Return what moves since the measurement have taught; None where there were none."""
    mean = steady_mean([*([measured.one] if measured is not None else []), *rates])
    if not rates or mean is None:
        return None
    moves = f"{len(rates)} move{'s' if len(rates) > 1 else ''}{way}"
    return Link(mean, f"{measured.when}, {moves} since" if measured is not None else f"learnt from {moves}")


def since(past: Past, measured: MeasuredLink | None) -> bool:
    """Whether a move ended after the link was measured, if it ever was."""
    return measured is None or past.ago < measured.age


def tells_of_link(past: Past) -> bool:
    """Whether its rate is the link's: enough has travelled, and neither a limit of its own held it back nor the
    comparing of pages, where it was compressed."""
    limited = past.bandwidth is not None and past.rate > past.bandwidth * LIMITED
    held_back = limited or bool(past.report.get("compression"))
    return past.kind in ("live", "cold") and past.bytes >= ENOUGH and past.rate > 0 and not held_back


def dirtying_before(past: Iterable[Past], vm_uuid: str, computing: float | None) -> tuple[Dirtying, str] | None:
    """Return what a guest was seen to dirty before its last move, and how long ago; None where it was not, or the guest
    computes another share of a CPU now."""
    for each in sorted(past, key=lambda move: move.ago):
        told = each.forecast
        sampled = str(told.get("dirtying_from", "")).startswith(SAMPLED)
        if each.vm_uuid != vm_uuid or not sampled or told.get("working_set") is None:
            continue
        if each.ago > STILL_TRUE or not _as_much(computing, told.get("computing")):
            return None
        ago = f"as {format_duration(each.ago)} ago, when it computed as much"
        return Dirtying(float(told["dirty_rate"]), float(told["working_set"])), ago
    return None


def _as_much(now: float | None, then: float | None) -> bool:
    if now is None or then is None:
        return False
    return then / AS_MUCH - IDLE <= now <= then * AS_MUCH + IDLE


def habits_of(past: Sequence[Past]) -> Habits:
    """Return what moves of a pair take beside their data, from those of them that tell; the newest first."""
    live = [each for each in reversed(past) if each.kind == "live"]
    cold = [each for each in reversed(past) if each.kind == "cold"]
    usual = Habits()
    set_up = steady_mean(map(_beside_data, live))
    set_up_cold = steady_mean(map(_beside_data, cold))
    switchover = steady_mean(filter(None, map(_switchover, live)))
    return replace(
        usual,
        set_up=usual.set_up if set_up is None else set_up,
        set_up_cold=usual.set_up_cold if set_up_cold is None else set_up_cold,
        switchover=usual.switchover if switchover is None else switchover,
        moves=len(live),
        moves_cold=len(cold),
    )


def _beside_data(past: Past) -> float:
    """Return the seconds that did not go to data; never quite nothing."""
    took = float(past.report.get("moving_time") or past.report.get("total_time") or 0.0)
    return max(took - (past.bytes / past.rate if past.rate else 0.0), 0.1)


def _switchover(past: Past) -> float | None:
    """Return what of a downtime did not go to the last pages, as far as it was foreseen how much that would be."""
    downtime = float(past.report.get("downtime") or 0.0)
    foreseen: float | None = past.forecast.get("downtime")
    if not downtime or foreseen is None:
        return None
    pages = foreseen - (past.forecast.get("switchover") or 0.0)
    return max(downtime - pages, 0.01)


def memory_share(past: Iterable[Past], vm_uuid: str) -> float:
    """Return how many times what was foreseen a VM's memory has come to; 1 where nothing is known."""
    shares = []
    for each in past:
        foreseen = (each.forecast.get("bytes") or 0) - (each.forecast.get("disks") or 0)
        real = each.report.get("memory_bytes") or 0
        if each.vm_uuid == vm_uuid and _went_as_foreseen(each) and foreseen > 0 and real > 0:
            shares.append(real / foreseen * (each.forecast.get("memory_share") or 1.0))
    return min(max(median(shares), FEWEST_SHARE), MOST_SHARE) if shares else 1.0


def _went_as_foreseen(past: Past) -> bool:
    """Whether a live move went by post-copy, or not, as was foreseen: else memory was sent again for other reasons."""
    foreseen = str(past.forecast.get("strategy", ""))
    return past.kind == "live" and foreseen.startswith("post-copy") == (past.report.get("postcopy_time") is not None)
