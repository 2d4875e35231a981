"""``python -m bench NAME [-o table|json]``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from bench.figures import Figure, print_figures

BENCHMARKS = {
    "disks": "a cold move over a capped link, beside qemu-img convert, rsync and scp",
    "overhead": "our whole command for an idle guest, over plain virsh migrate's",
    "writer": "a guest that writes to its disk at two thirds of the link, beside virsh migrate",
}


def main() -> int:
    """Run one benchmark, print its figures; 1 when a goal was missed."""
    names = "\n".join(f"  {name:<12}{about}" for name, about in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench", epilog=f"benchmarks:\n{names}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--runs", type=int, default=5, help="measurements of each side")
    arguments = parser.parse_args()
    measure: Callable[[int], Sequence[Figure]] = importlib.import_module(f"bench.{arguments.name}").measure
    figures = measure(arguments.runs)
    print_figures(figures, arguments.output)
    return 0 if all(figure.met is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
