"""The course of a move as a plot 800 wide and 200 high: pure, from samples to paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mudanza.model.migration import Progress

WIDTH, HEIGHT = 800.0, 180.0


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over time. Bytes, bytes per second, seconds."""

    rate: str
    """What was sent per second, as an SVG path."""
    dirty: str
    """What the guest wrote to its memory per second."""
    left: str
    """What was left to send, as an area."""
    most_rate: float
    most_left: float
    begins: float
    ends: float


def plot(samples: Sequence[Progress]) -> Plot | None:
    """Return the plot; None where there are fewer than two samples."""
    if len(samples) < 2:
        return None
    begins, ends = samples[0].elapsed, samples[-1].elapsed
    rates = [each.memory_rate + each.disk_rate for each in samples]
    dirty = [each.dirty_rate for each in samples]
    left = [float(each.memory_remaining + each.disk_remaining) for each in samples]
    most_rate, most_left = max(*rates, *dirty, 1.0), max(*left, 1.0)
    span = max(ends - begins, 0.001)
    across = [(each.elapsed - begins) / span * WIDTH for each in samples]
    area = _line(across, left, most_left)
    return Plot(
        rate=_line(across, rates, most_rate),
        dirty=_line(across, dirty, most_rate),
        left=f"{area} L{WIDTH:.0f} {HEIGHT:.0f} L0 {HEIGHT:.0f} Z",
        most_rate=most_rate,
        most_left=most_left,
        begins=begins,
        ends=ends,
    )


def _line(across: Sequence[float], values: Sequence[float], most: float) -> str:
    points = (f"{x:.1f} {HEIGHT * (1 - value / most):.1f}" for x, value in zip(across, values, strict=True))
    return "M" + " L".join(points)
