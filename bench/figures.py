"""What a benchmark prints: rows of name, value, unit, goal, met, and the peer's value from the same run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. ``met`` None: there is no goal for it."""

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None
    peer: float | None = None


def print_figures(figures: Sequence[Figure], output: str) -> None:
    """Print figures as a table or as JSON."""
    if output == "json":
        sys.stdout.write(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
        return
    width = max(len(figure.name) for figure in figures)
    sys.stdout.write(f"{'':<{width}}  {'value':>10} {'unit':<8} {'peer':>10}  goal\n")
    for figure in figures:
        peer = "" if figure.peer is None else f"{figure.peer:.3f}"
        met = {True: "met", False: "MISSED", None: ""}[figure.met]
        sys.stdout.write(
            f"{figure.name:<{width}}  {figure.value:>10.3f} {figure.unit:<8} {peer:>10}  {figure.goal} {met}\n"
        )
