"""Power: a published day of CPU use on 800 hosts, by our decisions, beside doing nothing and CloudSim's policies."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from bench.cloudsim import ThresholdMmt, best_fit, least_power
from bench.planetlab import EVERY, Bools, Day, Numbers, the_day
from bench.replay import Counted, Policy, replay
from mudanza.planning.saving.deciding import decide
from mudanza.planning.saving.park import Park
from mudanza.planning.saving.terms import Terms

LOOKED_BACK = 24
"""Readings: two hours."""
UNKNOWN = float("nan")
LR_MMT = Counted(168, 27_649, 0.057, 0.0008, UNKNOWN, 0, 0)
"""The best of what CloudSim 3.0.3 was seen to make of the day of 3 March 2011, and the rest of it below."""
PUBLISHED = {
    "no moves (DVFS), by CloudSim": Counted(765, 0, 0.0, 0.0, UNKNOWN, 0, 0),
    "THR-MMT 0.8, by CloudSim": Counted(198, 27_728, 0.050, 0.0007, UNKNOWN, 0, 0),
    "MAD-MMT 2.5, by CloudSim": Counted(190, 27_781, 0.051, 0.0007, UNKNOWN, 0, 0),
    "LR-MMT 1.2, by CloudSim": LR_MMT,
}
PUBLISHED_DAY = "20110303"


@dataclass(frozen=True, slots=True)
class Row:
    """What one policy made of the day. ``met`` None: there is no goal for it."""

    table: str
    policy: str
    counted: Counted
    seconds: float | None = None
    """CPU seconds that all its decisions took."""
    goal: str = ""
    met: bool | None = None


class Saving:
    """Our own decisions, asked at each reading with what was measured until then."""

    def __init__(self, day: Day, terms: Terms, *, memory: bool = False) -> None:
        self._day = day
        self._terms = terms
        self._memory = (day.host_memory, day.vm_memory) if memory else None
        self._rested = np.full(day.hosts, np.inf)
        self._on: Bools | None = None

    def __call__(self, reading: int, place: Numbers) -> Numbers:
        """Return where everybody is to be."""
        day = self._day
        used = np.isin(np.arange(day.hosts), place)
        self._on = used if self._on is None else self._on
        recent = day.wants[:, max(0, reading + 1 - LOOKED_BACK) : reading + 1]
        park = Park(day.host_mips, day.models, self._on, place, recent, self._memory)
        found = decide(park, self._rested, self._terms)
        self._rested += EVERY
        self._rested[[*found.off, *found.woken]] = 0.0
        self._on = park.on
        return park.place


def measure(_runs: int, only: str | None = None) -> list[Row]:
    """Replay the day by every policy, or in one case."""
    day = the_day()
    return [row for name, case in CASES.items() if only in (None, name) for row in case(day)]


def _free(day: Day) -> list[Row]:
    """Memory is not held, as in the published runs."""
    table = "memory not held, as in the published runs"
    ours = _ours(table, day, memory=False)
    known = PUBLISHED if PUBLISHED_DAY in day.name else {}
    peers = [Row(table, name, counted) for name, counted in known.items()]
    check = [
        _row(table, "no moves, counted here", day, best_fit(day), lambda _, place: place),
        _row(table, "THR-MMT 0.8, counted here", day, least_power(day), ThresholdMmt(day)),
    ]
    goals = [*_goals(table, ours.counted, LR_MMT)] if known else []
    return [*peers, *check, ours, *goals]


def _held(day: Day) -> list[Row]:
    """Memory is held all the time, as it is in earnest."""
    table = "memory held all the time"
    still = _row(table, "no moves, counted here", day, best_fit(day, memory=True), lambda _, place: place)
    return [still, _ours(table, day, memory=True)]


def _ours(table: str, day: Day, *, memory: bool) -> Row:
    return _row(table, "mudanza", day, least_power(day, memory=memory), Saving(day, Terms(), memory=memory))


def _row(table: str, name: str, day: Day, start: Numbers, policy: Policy) -> Row:
    began = time.process_time()
    counted = replay(day, start, policy)
    return Row(table, name, counted, time.process_time() - began)


def _goals(table: str, ours: Counted, peer: Counted) -> Iterable[Row]:
    """Less energy than LR-MMT, a tenth of its moves, less overload."""
    yield Row(table, "goal", ours, goal=f"energy {ours.kwh:.1f} < {peer.kwh:.0f} kWh", met=ours.kwh < peer.kwh)
    most = peer.moves // 10
    yield Row(table, "goal", ours, goal=f"moves {ours.moves} <= {most}", met=ours.moves <= most)
    said = f"time at 100 % CPU {ours.full:.2%} < {peer.full:.2%}"
    yield Row(table, "goal", ours, goal=said, met=ours.full < peer.full)
    said = f"degradation {ours.degraded:.3%} < {peer.degraded:.3%}"
    yield Row(table, "goal", ours, goal=said, met=ours.degraded < peer.degraded)


CASES = {"free": _free, "held": _held}


def show(results: Sequence[Row], output: str) -> None:
    """Print a table for each set of terms, and how goals were met."""
    if output == "json":
        sys.stdout.write(json.dumps([asdict(row) for row in results], indent=2) + "\n")
        return
    for table in dict.fromkeys(row.table for row in results):
        rows = [row for row in results if row.table == table]
        sys.stdout.write(f"\n{table}\n{'':<30}{'kWh':>8}{'moves':>8}{'full':>8}{'degraded':>10}")
        sys.stdout.write(f"{'host h':>9}{'most on':>9}{'no mem.':>9}{'CPU s':>8}\n")
        for row in rows:
            sys.stdout.write(_line(row) if not row.goal else f"  goal: {row.goal}: {'met' if row.met else 'MISSED'}\n")


def _line(row: Row) -> str:
    found = row.counted
    known = found.host_hours == found.host_hours
    told = f"{row.policy:<30}{found.kwh:>8.1f}{found.moves:>8}{found.full:>8.2%}{found.degraded:>10.3%}"
    told += f"{found.host_hours:>9.0f}{found.most_on:>9}{found.short_of_memory:>9}" if known else f"{'–':>9}" * 3
    return told + (f"{row.seconds:>8.1f}\n" if row.seconds is not None else "\n")
