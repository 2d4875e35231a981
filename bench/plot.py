"""The course of one hard move: rate, dirty rate and what remains, over time.

``python -m bench.plot record FILE.csv`` moves the guest that writes at 1.5 × the link's rate, by the default policy,
and keeps what the job told of its memory; ``draw FILE.csv FILE.png`` draws it. Drawing alone needs matplotlib
(``pip install matplotlib``, into any environment: nothing else of the project does).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.drawing import record_or_draw

COLUMNS = ("seconds", "phase", "pass", "remaining", "rate", "dirty_rate")
"""Seconds since the transfer began, MiB, MiB per second."""
MIB = 1024**2


def record(data: Path) -> None:
    """Move the guest once and write its course down."""
    from bench.migrate import BUSY, RATE, guests_of, introduce_hosts
    from mudanza.lab.lab import Lab

    lab = Lab.up(f"bench{os.getpid() % 100000}", hosts=2, tied=True)
    try:
        for name in lab.hosts:
            lab.set_uplink(name, RATE)
        introduce_hosts(lab)
        with guests_of(lab, [BUSY]) as (guest,):
            argv = [sys.executable, "-m", "mudanza", "migrate", guest.uuid, "--to", "h2", "-o", "json"]
            with lab.cell("controller").popen(argv, stdout=subprocess.PIPE) as command:
                told, _ = command.communicate()
    finally:
        lab.down()
    rows = course([json.loads(line) for line in told.splitlines()])
    with data.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def course(events: Sequence[Mapping[str, Any]]) -> list[tuple[float, str, int, float, float, float]]:
    """Return what the events say of memory, as COLUMNS has it."""
    return [
        (
            round(event["elapsed"], 2),
            event["phase"],
            event["iteration"],
            round(event["memory_remaining"] / MIB, 1),
            round(event["memory_rate"] / MIB, 1),
            round(event["dirty_rate"] / MIB, 1),
        )
        for event in events
        if event["event"] == "progress" and event["memory_total"]
    ]


def draw(data: Path, image: Path) -> None:
    """Draw a course that was recorded."""
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

    with data.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seconds = [float(row["seconds"]) for row in rows]
    fetching = [second for second, row in zip(seconds, rows, strict=True) if row["phase"] == "fetching memory"]
    figure, rates = pyplot.subplots(figsize=(8, 4), layout="constrained")
    rates.plot(seconds, [float(row["rate"]) for row in rows], color="tab:blue", label="sent (MiB/s)")
    # QEMU reckons it at the end of each pass: not known before the first one, and as it was in post-copy.
    known = [(float(row["seconds"]), float(row["dirty_rate"])) for row in rows if float(row["dirty_rate"])]
    if known:
        rates.plot(*zip(*known, strict=True), color="tab:red", label="dirtied, by QEMU's last pass (MiB/s)")
    most = max(float(row[column]) for row in rows for column in ("rate", "dirty_rate"))
    rates.set(xlabel="seconds since the transfer began", ylabel="MiB/s", ylim=(0, 1.7 * most), xlim=(0, None))
    left = rates.twinx()
    left.plot(seconds, [float(row["remaining"]) for row in rows], color="black", linewidth=2, label="remaining (MiB)")
    left.set(ylabel="MiB remaining", ylim=(0, None))
    if fetching:
        rates.axvspan(fetching[0], seconds[-1], color="0.9", label="post-copy")
    lines = [one for axes in (rates, left) for one in axes.get_legend_handles_labels()[0]]
    rates.legend(lines, [line.get_label() for line in lines], loc="upper right")
    figure.savefig(image, dpi=120)


if __name__ == "__main__":
    sys.exit(record_or_draw("bench.plot", __doc__ or "", record, draw))
