"""How fast a guest dirties its memory: pure, from how much changed within periods to what a pass will find dirty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LINEAR = 0.97
"""A second period that found more than this share of what steady writing would have dirtied shows no working set."""
SATURATED = 1.02
"""A second period that found less than this many times what the first one found shows all of the working set."""
FASTEST = 4.0
"""How often per second a saturated working set is taken to be written all over: it cannot be seen any more."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How many bytes of different pages changed within so many seconds."""

    seconds: float
    changed: float


@dataclass(frozen=True, slots=True)
class Dirtying:
    """A guest that writes ``rate`` bytes per second at random all over a working set of so many bytes."""

    rate: float
    working_set: float

    def within(self, seconds: float) -> float:
        """Return how many bytes of different pages it dirties in that time: never more than the working set."""
        if self.rate <= 0 or self.working_set <= 0 or seconds <= 0:
            return 0.0
        return -self.working_set * math.expm1(-seconds * self.rate / self.working_set)

    def faster(self, factor: float) -> Dirtying:
        """Return a guest that writes so many times as fast."""
        return Dirtying(self.rate * factor, self.working_set)


STILL = Dirtying(0.0, 0.0)


def fitted(samples: Sequence[Sample], most: float, grain: float = 0.0) -> Dirtying:
    """Return what explains samples of one or two different periods, the shorter one first; ``most``: all its memory.

    One period tells no working set: it is taken to be all the memory there is, which is the worst that can be.
    ``grain``: bytes that one sampled page stands for. The fewer pages were seen to change, the more chance there is in
    how many; the working set is taken to be as large as that allows for (one standard deviation).
    """
    first, last = samples[0], samples[-1]
    if first.changed <= 0 and last.changed <= 0:
        return STILL
    times = last.seconds / first.seconds
    growth = last.changed / first.changed if first.changed > 0 else times
    if first.changed > 0 and last.changed > 0:
        growth *= 1 + math.sqrt(grain / first.changed + grain / last.changed)
    if times <= 1 or growth >= 1 + (times - 1) * LINEAR:
        return _unbounded(last, most)
    if growth <= SATURATED:
        working_set = min(max(first.changed, last.changed), most)
        return Dirtying(working_set * FASTEST / first.seconds, working_set)
    # changed(t) = W (1 - x^t): the one x in (0, 1) for which the two of them stand in that relation.
    left = _solved(lambda x: (1 - x**times) / (1 - x), growth)
    working_set = min(first.changed / (1 - left), most)
    return Dirtying(-working_set * math.log(left) / first.seconds, working_set)


def _unbounded(sample: Sample, most: float) -> Dirtying:
    """Return a guest whose working set is all its memory, and that changes so much in that time."""
    share = min(sample.changed / most, 1 - math.exp(-FASTEST)) if most > 0 else 0.0
    return Dirtying(-most * math.log1p(-share) / sample.seconds, most)


def _solved(rising: Callable[[float], float], wanted: float) -> float:
    """Return where between 0 and 1 a rising function has that value."""
    low, high = 1e-9, 1 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2
