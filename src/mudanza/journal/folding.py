"""Many readings as one that keeps their percentiles: pure.

Of each figure it is counted how often it lay between powers of a number a little above 1, and zero by itself (as
DDSketch does: Masson, Rim, Lee, 2019). Counts add up, so what was folded can be folded again, and the error does not
grow: whatever percentile is told of folded readings is within ``ACCURACY`` of what it would be of them one by one.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

ACCURACY = 0.02
"""How far, as a share of it, a percentile of folded readings may lie from what it was."""
FIGURES = ("cpus", "memory", "disk", "network", "steal")
_GROWTH = (1 + ACCURACY) / (1 - ACCURACY)
_LEAST = 1e-9
"""Less than this is nothing: a CPU-nanosecond per second."""
_COUNT = "n"

Values = Iterable[tuple[float, int]]
"""Values, each with how often it was read."""


class Read(Protocol):
    """A row of readings: one, or several that were folded."""

    @property
    def at(self) -> float:
        """When it ended."""

    @property
    def span(self) -> float:
        """The seconds it is about."""

    @property
    def folded(self) -> str | None:
        """JSON; None: it is one reading."""


def count_of(row: Read) -> int:
    """Return how many readings a row stands for."""
    return 1 if row.folded is None else int(json.loads(row.folded)[_COUNT])


def values_of(rows: Iterable[Read], figure: str) -> Iterator[tuple[float, int]]:
    """Yield the values of a figure; what was not told is left out."""
    for row in rows:
        if row.folded is not None:
            yield from ((_value(bin_), often) for bin_, often in json.loads(row.folded)[figure])
        elif (value := getattr(row, figure)) is not None:
            yield float(value), 1


def fold(rows: Sequence[Read]) -> Mapping[str, Any]:
    """Return the columns of one row that stands for these, which are about one subject on one host, in their order."""
    told: dict[str, Any] = {_COUNT: sum(count_of(row) for row in rows)}
    means: dict[str, float | None] = {}
    for figure in FIGURES:
        bins: Counter[int | None] = Counter()
        for value, often in values_of(rows, figure):
            bins[_bin(value)] += often
        told[figure] = sorted(bins.items(), key=lambda item: -math.inf if item[0] is None else item[0])
        means[figure] = _mean((_value(bin_), often) for bin_, often in told[figure])
    first, last = rows[0], rows[-1]
    extent = {"at": last.at, "span": last.at - first.at + first.span}
    return {**means, **extent, "folded": json.dumps(told, separators=(",", ":"))}


def _mean(values: Values) -> float | None:
    pairs = list(values)
    often = sum(count for _, count in pairs)
    return sum(value * count for value, count in pairs) / often if often else None


def _bin(value: float) -> int | None:
    return None if value <= _LEAST else math.ceil(math.log(value, _GROWTH))


def _value(bin_: int | None) -> float:
    """The value from which none in its bin is further away than ACCURACY."""
    return 0.0 if bin_ is None else 2 * _GROWTH**bin_ / (_GROWTH + 1)
