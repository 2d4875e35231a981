"""How well forecasts came true: pure, from what was foreseen and what came of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from mudanza.migration.forecast.learning import Past

ALL = "all"


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of the moves of one pair, or of all: errors of the total time as shares of what it really was, and the factors
    between downtimes, the larger one over the smaller one."""

    pair: str
    moves: int
    total_median: float
    total_p90: float
    downtime_median: float | None
    """None where no downtime was measured."""
    downtime_p90: float | None
    as_foreseen: int
    """How many of them went by the strategy that was foreseen."""


def accuracy(past: Iterable[Past]) -> tuple[Accuracy, ...]:
    """Return the accuracy over all moves, then over those of each pair; empty where nothing was foreseen."""
    foreseen = [each for each in past if each.forecast and each.report.get("moving_time")]
    if not foreseen:
        return ()
    pairs: dict[str, list[Past]] = defaultdict(list)
    for each in foreseen:
        pairs[f"{each.source} → {each.target}"].append(each)
    return (_over(ALL, foreseen), *(_over(pair, moves) for pair, moves in sorted(pairs.items())))


def _over(pair: str, moves: Sequence[Past]) -> Accuracy:
    totals = [error_of_total(each) for each in moves]
    factors = [factor for each in moves if (factor := factor_of_downtime(each)) is not None]
    return Accuracy(
        pair,
        len(moves),
        median(totals),
        percentile(totals, 0.9),
        median(factors) if factors else None,
        percentile(factors, 0.9) if factors else None,
        sum(went_as_foreseen(each) for each in moves),
    )


def error_of_total(past: Past) -> float:
    """Return by what share of its real time a move was misjudged. What was spent on checking is in neither."""
    real = float(past.report["moving_time"])
    return abs(float(past.forecast["total"]) - real) / real


def factor_of_downtime(past: Past) -> float | None:
    """Return how many times longer or shorter the vCPUs stood still than foreseen; None where one is not known."""
    real, foreseen = float(past.report.get("downtime") or 0.0), float(past.forecast.get("downtime") or 0.0)
    if not real or not foreseen:
        return None
    return max(real / foreseen, foreseen / real)


def went_as_foreseen(past: Past) -> bool:
    """Whether a move went by post-copy, by pre-copy or cold, as was foreseen."""
    if past.forecast.get("downtime") is None:
        return False
    foreseen = str(past.forecast["strategy"])
    if past.kind == "cold" or foreseen == "cold":
        return past.kind == foreseen
    return foreseen.startswith("post-copy") == (past.report.get("postcopy_time") is not None)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share of them does not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
