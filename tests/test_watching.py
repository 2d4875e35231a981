"""What is shown of a migration while it runs and after it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mudanza.cli.watching import LineView, report_text
from mudanza.model.migration import DiskProgress, MigrationReport, Progress

COPYING = Progress("copying disks", 1.0, disk_total=9, disk_remaining=5)
STILL = replace(COPYING, still_for=12.0, outlook="nothing has moved for 12.0 s")
CANCELLING = replace(STILL, cancelling="it is late", outlook="cancelling: it is late")

REPORT = MigrationReport(
    "web", "u-1", "h1", "h2", "live", 5.0, 0.08, 154, 0, 82.0, 3, True, "h1 → h2 directly", moving_time=2.5
)


def shown(*samples: Progress) -> list[str]:
    lines: list[str] = []
    view = LineView(lines.append)
    for sample in samples:
        view.on_progress("web", "h1 → h2", sample)
    return lines


def test_a_line_comes_when_it_stands_still_moves_again_or_is_cancelled() -> None:
    lines = shown(COPYING, COPYING, STILL, replace(STILL, still_for=12.3), COPYING, CANCELLING, CANCELLING)
    assert len(lines) == 4
    assert "nothing has moved for 12.0 s" in lines[1]
    assert "cancelling: it is late" in lines[3]


def test_how_long_it_is_still_is_said_again_from_time_to_time() -> None:
    assert len(shown(*(replace(STILL, elapsed=float(second)) for second in range(12)))) == 3


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (REPORT, "in 2.5 s (5.0 s with checking)"),
        (replace(REPORT, moving_time=5.0), "in 5.0 s"),
        (replace(REPORT, moving_time=None), "in 5.0 s"),
    ],
)
def test_both_times_are_told(report: MigrationReport, words: str) -> None:
    assert report_text(report).splitlines()[0] == f"web moved from h1 to h2 {words}"


@pytest.mark.parametrize("kind", ["failover", "reprotect", "set apart", "test failover", "recovery", "cold start"])
def test_what_is_no_move_is_told_in_its_own_words(kind: str) -> None:
    told = replace(REPORT, mode=kind, source="", target="h2", transport="runs on h2")
    assert report_text(told) == "web: runs on h2"


def test_several_disks_are_told_one_by_one() -> None:
    disks = (DiskProgress("vda", 1, 4), DiskProgress("vdb", 0, 0))
    (line,) = shown(replace(COPYING, disks=disks))
    assert "vda 25 %, vdb 0 %" in line
    (line,) = shown(replace(COPYING, disks=disks[:1]))
    assert "vda" not in line, "of one alone the line speaks anyway"


def test_a_cold_move_tells_what_was_compared_and_no_memory() -> None:
    told = report_text(replace(REPORT, mode="cold", downtime=None, verified="1 file compared in full"))
    assert "compared  1 file compared in full" in told
    assert "memory" not in told
    assert "compared  nothing" in report_text(replace(REPORT, mode="cold", verified=""))


def test_what_a_guest_felt_in_post_copy_stands_in_the_report() -> None:
    felt = replace(REPORT, postcopy_time=10.0, longest_stall=0.8, stalled_time=2.5)
    text = report_text(felt)
    assert "longest stall 800 ms after the switchover, silent for 25% of that time (seen by a client)" in text
    assert "stall" not in report_text(replace(REPORT, postcopy_time=10.0))
