"""docs/reliability.md: people write what stands in front, the run writes the table of cells, and nobody else."""

from __future__ import annotations

import fcntl
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.lab.matrix.cells import CELLS, Cell

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/reliability.md"
RUN = ROOT / ".matrix-run"
"""The cells that a run which has not come to its end has played."""
NOT_RUN = "not run yet"

TABLE = "<!-- From here on scripts/soak --matrix writes. -->\n"
_HEAD = f"| move | fault | when | expected | seen | | seen on |\n{'| --- ' * 7}|\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table, as text."""

    kind: str
    fault: str
    moment: str
    expected: str
    seen: str = NOT_RUN
    mark: str = ""
    date: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.fault, self.moment

    @property
    def as_expected(self) -> bool:
        return self.mark == "✓"

    @property
    def text(self) -> str:
        fields = (self.kind, self.fault, self.moment, self.expected, self.seen, self.mark, self.date)
        return f"| {' | '.join(field.replace('|', '/') for field in fields)} |"


def row(cell: Cell, seen: str, *, as_expected: bool, took: float) -> Row:
    """Return the row of a cell that was played just now. ``took`` in seconds."""
    mark = "✓" if as_expected else "✗"
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    return Row(*cell.key, cell.expected, f"{seen}, {took:.0f} s", mark, today)


def add(new: Row) -> None:
    """Put a row into the page, leaving the others as they are, and note that this run has played it."""
    with RUN.open("a") as run:
        fcntl.flock(run, fcntl.LOCK_EX)  # others may play other cells
        known = {each.key: each for each in read()} | {new.key: new}
        rows = [_current(cell, known.get(cell.key)) for cell in CELLS]
        front, _, _ = PAGE.read_text().partition(TABLE)
        PAGE.write_text(f"{front}{TABLE}\n{_summary(rows)}\n\n{_HEAD}" + "".join(f"{each.text}\n" for each in rows))
        run.write(": ".join(new.key) + "\n")


def _current(cell: Cell, known: Row | None) -> Row:
    """Return the row of a cell: what was seen counts only for what is still expected."""
    if known is None or known.expected != cell.expected:
        return Row(*cell.key, cell.expected)
    return known


def _summary(rows: list[Row]) -> str:
    good, bad = (sum(each.mark == mark for each in rows) for mark in "✓✗")
    return f"{len(rows)} cells: {good} as expected, {bad} not, {len(rows) - good - bad} not run yet. {_versions()}"


def _versions() -> str:
    told = [
        subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()[:1]
        for argv in (["libvirtd", "--version"], ["qemu-system-x86_64", "--version"])
    ]
    return "; ".join(line for lines in told for line in lines)


def read() -> list[Row]:
    """Return the rows of the page as it is."""
    _, _, table = PAGE.read_text().partition(_HEAD)
    return [Row(*(field.strip() for field in line.strip("|\n").split("|"))) for line in table.splitlines()]


def seen_in_this_run() -> frozenset[str]:
    """Return the names of the cells that a run which was interrupted has played."""
    return frozenset(RUN.read_text().splitlines()) if RUN.exists() else frozenset()


def forget_run() -> None:
    """Let the next run begin with the first cell."""
    RUN.unlink(missing_ok=True)
