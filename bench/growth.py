"""How time and memory of a plan grow with the cluster, for 10², 10³ and 10⁴ hosts with ten VMs each.

``python -m bench.growth record FILE.csv`` plans for each size in a process of its own; ``draw FILE.csv FILE.png`` draws
it. Drawing alone needs matplotlib (``pip install matplotlib``, into any environment: nothing else of the project does).
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

from bench.drawing import record_or_draw

SIZES = (100, 1_000, 10_000)
COLUMNS = ("hosts", "vms", "seconds", "memory", "moves")
"""CPU seconds; MiB at the most."""


def record(data: Path) -> None:
    """Plan for each size once and write down what it took."""
    with data.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for hosts in SIZES:
            argv = (sys.executable, "-m", "bench.planning", str(hosts), str(10 * hosts))
            told = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
            seconds, memory = round(told["seconds"], 2), round(told["memory"], 1)
            writer.writerow((hosts, 10 * hosts, seconds, memory, told["moves"]))


def draw(data: Path, image: Path) -> None:
    """Draw what was recorded."""
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

    with data.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    hosts = [int(row["hosts"]) for row in rows]
    figure, times = pyplot.subplots(figsize=(8, 4), layout="constrained")
    times.loglog(hosts, [float(row["seconds"]) for row in rows], "o-", color="tab:blue", label="CPU seconds")
    times.set(xlabel="hosts, with ten VMs each", ylabel="CPU seconds of plan and order")
    memory = times.twinx()
    memory.loglog(hosts, [float(row["memory"]) for row in rows], "s--", color="tab:red", label="memory (MiB)")
    memory.set(ylabel="MiB", ylim=(10, 2048))
    lines = [one for axes in (times, memory) for one in axes.get_legend_handles_labels()[0]]
    times.legend(lines, [line.get_label() for line in lines], loc="upper left")
    times.grid(visible=True, alpha=0.3)
    figure.savefig(image, dpi=120)


if __name__ == "__main__":
    sys.exit(record_or_draw("bench.growth", __doc__ or "", record, draw))
