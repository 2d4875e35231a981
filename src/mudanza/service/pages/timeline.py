"""A plan as pictures: when each move happens, and how full hosts are before and after it. Pure; 1000 wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mudanza.model.plan import HostOutlook, Plan, PlannedMove

LEFT, WIDTH = 170.0, 820.0
ROW = 26.0
BAR_ROW = 44.0


@dataclass(frozen=True, slots=True)
class Span:
    """One move, from its start to its end."""

    move: PlannedMove
    x: float
    y: float
    width: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """All moves that have a time, one below the other. Seconds."""

    height: float
    spans: tuple[Span, ...]
    ends: float


@dataclass(frozen=True, slots=True)
class Bars:
    """One host before and after: how wide what it bears is."""

    outlook: HostOutlook
    y: float
    before: float
    after: float
    cpus_before: float
    cpus_after: float


def timeline(plan: Plan) -> Timeline | None:
    """Return it; None where nobody can tell when moves happen."""
    timed = [move for move in plan.moves if move.start is not None and move.finish is not None]
    ends = max((move.finish or 0.0 for move in timed), default=0.0)
    if not ends:
        return None
    spans = tuple(
        Span(
            move,
            LEFT + (move.start or 0.0) / ends * WIDTH,
            number * ROW,
            max(((move.finish or 0.0) - (move.start or 0.0)) / ends * WIDTH, 3.0),
        )
        for number, move in enumerate(timed)
    )
    return Timeline(len(spans) * ROW + 24, spans, ends)


def bars(outlooks: Sequence[HostOutlook]) -> tuple[Bars, ...]:
    """Return the hosts that a plan changes, and those it does not, as far as memory and CPUs go."""
    return tuple(
        Bars(
            each,
            number * BAR_ROW,
            _share(each.before.memory, each.memory_total),
            _share(each.after.memory, each.memory_total),
            _share(each.before.cpus, each.cpus_total),
            _share(each.after.cpus, each.cpus_total),
        )
        for number, each in enumerate(outlooks)
    )


def _share(part: float, whole: float) -> float:
    return min(part / whole, 1.0) * WIDTH if whole > 0 else 0.0
