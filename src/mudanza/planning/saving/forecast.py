"""What will be wanted in the hours ahead, by what was wanted in the same hours before: pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

HOUR, DAY = 3600, 24
WEEK = 7 * DAY
USUAL = 90.0
"""The percentile of what was wanted in an hour that is expected of it."""
SAME_WEEKDAY, ANY_DAY = 3, 2
"""So many times an hour must have been seen on the weekday, or else on any day, before anything is expected of it."""


def expected(hours: Sequence[tuple[float, float]], at: float, ahead: float) -> float | None:
    """Return the CPUs that all VMs together are expected to use at the most from ``at`` on for ``ahead`` seconds; None:
    no such hour was seen often enough.

    ``hours``: beginning of each hour seen (seconds since the epoch), and the CPUs used in it on average.
    """
    seen = [(int(begin // HOUR), used) for begin, used in hours if begin + HOUR <= at]
    found = [_of_hour(seen, hour) for hour in range(int(at // HOUR), int((at + ahead) // HOUR) + 1)]
    known = [each for each in found if each is not None]
    return max(known, default=None)


def _of_hour(seen: Sequence[tuple[int, float]], hour: int) -> float | None:
    for period, least in ((WEEK, SAME_WEEKDAY), (DAY, ANY_DAY)):
        used = [each for then, each in seen if (hour - then) % period == 0]
        if len(used) >= least:
            return float(np.percentile(used, USUAL))
    return None
