"""What a benchmark of several tools by turns prints: a row for each tool, and how its goals were met."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from bench.moves import Moved
from mudanza.model.units import MIB


@dataclass(frozen=True, slots=True)
class Row:
    """One tool's moves of one case. Seconds, bytes; medians, and the worst where there is one."""

    case: str
    tool: str
    runs: int
    done: int
    """How many got across."""
    total: float
    worst_total: float
    blackout: float
    worst_blackout: float
    switchover: float | None
    worst_switchover: float | None
    downtime: float | None
    stall: float
    worst_stall: float
    wrote: float
    sent: float
    floor: float | None
    """The time that the content needs over the link."""
    each: tuple[Moved, ...]

    @property
    def ratio(self) -> float | None:
        """How many times the floor the median move takes."""
        return self.total / self.floor if self.floor and self.done else None


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal of one case, and whether it was met."""

    case: str
    what: str
    value: float
    unit: str
    limit: float
    """The most that the value may be."""

    @property
    def met(self) -> bool:
        """Whether it is kept to."""
        return self.value <= self.limit


Result = Row | Goal


def rows_of(case: str, taken: Mapping[str, Sequence[Moved]], rate: int) -> dict[str, Row]:
    """Sum up each tool's moves. ``rate``: the link's, bytes per second."""
    contents = [each.content / rate for moves in taken.values() for each in moves if each.content]
    floor = median(contents) if contents else None
    return {tool: _row_of(case, tool, moves, floor) for tool, moves in taken.items()}


def _row_of(case: str, tool: str, taken: Sequence[Moved], floor: float | None) -> Row:

    def half(figure: Callable[[Moved], float]) -> float:
        return median(map(figure, taken))

    switchovers = [each.switchover for each in taken if each.switchover is not None]
    downtimes = [each.downtime for each in taken if each.downtime is not None]
    return Row(
        case=case,
        tool=tool,
        runs=len(taken),
        done=sum(each.done for each in taken),
        total=half(lambda each: each.took),
        worst_total=max(each.took for each in taken),
        blackout=half(lambda each: each.blackout),
        worst_blackout=max(each.blackout for each in taken),
        switchover=median(switchovers) if switchovers else None,
        worst_switchover=max(switchovers, default=None),
        downtime=median(downtimes) if downtimes else None,
        stall=half(lambda each: each.stall),
        worst_stall=max(each.stall for each in taken),
        wrote=half(lambda each: each.wrote),
        sent=half(lambda each: each.sent),
        floor=floor,
        each=tuple(taken),
    )


def show(results: Iterable[Result], output: str) -> None:
    """Print rows and goals as tables or as JSON."""
    results = list(results)
    rows = [each for each in results if isinstance(each, Row)]
    goals = [each for each in results if isinstance(each, Goal)]
    if output == "json":
        plain = {
            "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
            "goals": [{**asdict(goal), "met": goal.met} for goal in goals],
        }
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    wide = max((len(row.tool) for row in rows), default=0)
    for case in dict.fromkeys(row.case for row in rows):
        _show_rows(case, [row for row in rows if row.case == case], wide)
        _show_goals([goal for goal in goals if goal.case == case])
    of_all = [goal for goal in goals if goal.case not in {row.case for row in rows}]
    for case in dict.fromkeys(goal.case for goal in of_all):
        sys.stdout.write(f"\n{case}\n")
        _show_goals([goal for goal in of_all if goal.case == case])


def _show_rows(case: str, rows: Sequence[Row], wide: int) -> None:
    wide_columns = " ".join(f"{title:>13}" for title in ("total s", "blackout ms", "switchover ms", "stall ms"))
    head = f"{wide_columns} {'down ms':>7} {'wrote':>5} {'MiB':>5} {'floor':>5} ratio"
    sys.stdout.write(f"\n{case}\n{'':<{wide}} {'done':>5} {head}\n")
    for row in rows:
        cells = [
            f"{row.tool:<{wide}}",
            f"{row.done}/{row.runs}".rjust(5),
            f"{row.total:.1f} ({row.worst_total:.1f})".rjust(13),
            _milliseconds(row.blackout, row.worst_blackout).rjust(13),
            _milliseconds(row.switchover, row.worst_switchover).rjust(13),
            _milliseconds(row.stall, row.worst_stall).rjust(13),
            ("–" if row.downtime is None else f"{row.downtime * 1000:.0f}").rjust(7),
            f"{row.wrote * 100:.0f}%".rjust(5),
            f"{row.sent / MIB:.0f}".rjust(5),
            ("–" if row.floor is None else f"{row.floor:.1f}").rjust(5),
            ("–" if row.ratio is None else f"{row.ratio:.2f}").rjust(5),
        ]
        sys.stdout.write(" ".join(cells) + "\n")
        if said := [each.said for each in row.each if not each.done]:
            sys.stdout.write(f"    {said[-1]}\n")


def _milliseconds(median_of: float | None, worst: float | None) -> str:
    return "–" if median_of is None or worst is None else f"{median_of * 1000:.0f} ({worst * 1000:.0f})"


def _show_goals(goals: Sequence[Goal]) -> None:
    wide = max((len(goal.what) for goal in goals), default=0)
    for goal in goals:
        limit = "–" if math.isinf(goal.limit) else f"{goal.limit:.2f}"
        met = "met" if goal.met else "MISSED"
        sys.stdout.write(f"  goal: {goal.what:<{wide}} {goal.value:>8.2f} {goal.unit:<3} (≤ {limit}) {met}\n")
