"""Reading libvirt's figures and saying what they mean."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mudanza.migration.progress import Trend, outlook, read_progress
from mudanza.model.migration import Progress
from mudanza.model.units import MIB

MEMORY = Progress("copying memory", 5.0, memory_total=512 * MIB, memory_rate=100.0 * MIB)


def test_figures_keep_memory_and_disks_apart() -> None:
    stats = {
        "memory_total": 1000, "memory_processed": 600, "memory_remaining": 400, "memory_bps": 50,
        "memory_dirty_rate": 3, "memory_page_size": 4096, "memory_iteration": 2,
        "disk_total": 70, "disk_processed": 60, "disk_remaining": 10, "downtime": 147,
    }  # fmt: skip
    progress = read_progress(stats, 1.5)
    assert (progress.memory_remaining, progress.disk_remaining) == (400, 10)
    assert progress.dirty_rate == 3 * 4096
    assert progress.downtime == 0.147
    assert progress.phase == "copying memory"


def test_the_phase_follows_the_figures() -> None:
    assert read_progress({}, 0).phase == "setting up"
    assert read_progress({"disk_total": 5, "disk_remaining": 5}, 0).phase == "copying disks"


def test_a_guest_faster_than_the_link_is_said_not_to_converge() -> None:
    progress = replace(MEMORY, iteration=3, dirty_rate=120.0 * MIB, memory_remaining=90 * MIB)
    eta, sentence = outlook(progress, Trend())
    assert eta is None
    assert "will not converge" in sentence
    assert "--max-downtime" in sentence


def test_a_quiet_guest_gets_a_time() -> None:
    progress = replace(MEMORY, iteration=2, dirty_rate=50.0 * MIB, memory_remaining=100 * MIB)
    eta, sentence = outlook(progress, Trend())
    assert eta == 2.0
    assert "2.0 s" in sentence


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
def test_standing_still_is_noticed_and_a_new_low_counts_as_progress(remaining: list[int]) -> None:
    trend = Trend()
    lowest = None
    improved_at = 0.0
    for second, left in enumerate(remaining, start=1):
        if lowest is None or left < lowest:
            lowest, improved_at = left, float(second)
        trend = trend.after(replace(MEMORY, elapsed=float(second), memory_remaining=left))
        assert trend.improved_at == improved_at


@given(st.integers(0, 2**40), st.floats(0, 1e10), st.floats(0, 1e10), st.integers(0, 50))
def test_an_outlook_never_promises_a_negative_time(left: int, rate: float, dirty: float, iteration: int) -> None:
    progress = replace(MEMORY, memory_remaining=left, memory_rate=rate, dirty_rate=dirty, iteration=iteration)
    eta, _ = outlook(progress, Trend())
    assert eta is None or eta >= 0


def test_the_rate_of_disks_is_steady_though_they_report_in_steps() -> None:
    trend = Trend()
    rates = []
    for second in range(1, 61):
        sent = second // 6 * 60 * MIB  # 10 MiB/s, told every six seconds
        progress = Progress("copying disks", float(second), disk_total=1024 * MIB, disk_sent=sent)
        trend = trend.after(replace(progress, disk_remaining=1024 * MIB - sent))
        rates.append(trend.disk_rate / MIB)
    assert all(8 < rate < 12 for rate in rates[30:])
