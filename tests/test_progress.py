"""Reading libvirt's figures and saying what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.migration.mirrored import WINDOW as MIRRORED_WINDOW
from mudanza.migration.mirrored import Mirrored
from mudanza.migration.progress import (
    COPYING_DISKS,
    COPYING_MEMORY,
    PHASES,
    STILL_AFTER,
    Trend,
    later_phase,
    outlook,
    read_progress,
    told,
)
from mudanza.model.migration import Progress
from mudanza.model.units import KIB, MIB

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
    eta, sentence = outlook(progress)
    assert eta is None
    assert "will not converge" in sentence
    assert "--max-downtime" in sentence


def test_a_quiet_guest_gets_a_time() -> None:
    progress = replace(MEMORY, iteration=2, dirty_rate=50.0 * MIB, memory_remaining=100 * MIB)
    eta, sentence = outlook(progress)
    assert eta == 2.0
    assert "2.0 s" in sentence


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
def test_a_new_low_within_a_pass_counts_as_nearer(remaining: list[int]) -> None:
    trend = Trend()
    lowest = None
    nearer_at = 0.0
    for second, left in enumerate(remaining, start=1):
        if lowest is None or left < lowest:
            lowest, nearer_at = left, float(second)
        trend = trend.after(replace(MEMORY, elapsed=float(second), memory_remaining=left))
        assert trend.nearer_at == nearer_at


def passes(*starts: int, seconds: int = 10) -> list[Progress]:
    """Return passes over memory, a sample each second, each sent to its end."""
    samples = []
    for number, start in enumerate(starts, start=1):
        for second in range(seconds):
            left = start * (seconds - second) // seconds
            at = float((number - 1) * seconds + second + 1)
            samples.append(replace(MEMORY, elapsed=at, iteration=number, memory_remaining=left, memory_sent=int(at)))
    return samples


def after(samples: Iterable[Progress]) -> Trend:
    trend = Trend()
    for sample in samples:
        trend = trend.after(sample)
    return trend


def test_a_slow_pass_that_began_with_less_is_nearer_all_along() -> None:
    assert after(passes(512 * MIB, 100 * MIB, 20 * MIB, seconds=400)).nearer_at == 1200.0


def test_passes_that_begin_with_as_much_come_no_nearer_though_much_is_sent() -> None:
    trend = after(passes(512 * MIB, 100 * MIB, 100 * MIB, 110 * MIB))
    assert (trend.nearer_at, trend.moved_at) == (20.0, 40.0)


@given(st.lists(st.sampled_from(PHASES), min_size=1))
def test_the_phase_never_runs_backwards(phases: list[str]) -> None:
    trend = Trend()
    shown = []
    for second, phase in enumerate(phases):
        sample = Progress(phase, float(second))
        trend = trend.after(sample)
        shown.append(PHASES.index(told(sample, trend).phase))
    assert shown == sorted(shown)
    assert shown[-1] == max(PHASES.index(phase) for phase in phases)


def test_a_phase_that_is_not_known_comes_before_all_others() -> None:
    assert later_phase("starting", PHASES[0]) == later_phase(PHASES[0], "starting") == PHASES[0]


@pytest.mark.parametrize("phase", [COPYING_DISKS, COPYING_MEMORY])
def test_a_standstill_is_told_and_promises_nothing(phase: str) -> None:
    begun = replace(
        MEMORY, phase=phase, iteration=1, memory_remaining=MIB, disk_total=9 * MIB, disk_sent=MIB, disk_remaining=MIB
    )
    trend = after([replace(begun, elapsed=1.0, disk_sent=0), replace(begun, elapsed=2.0)])
    moving = told(replace(begun, elapsed=2.0), trend)
    assert moving.still_for == 0
    assert "done in about" in moving.outlook
    later = replace(begun, elapsed=2.0 + STILL_AFTER[phase])
    still = told(later, trend.after(later))
    assert still.still_for == STILL_AFTER[phase]
    assert (still.eta, still.outlook, still.disk_rate, still.memory_rate) == (None, "", 0.0, 0.0)


@given(st.integers(0, 2**40), st.floats(0, 1e10), st.floats(0, 1e10), st.integers(0, 50))
def test_an_outlook_never_promises_a_negative_time(left: int, rate: float, dirty: float, iteration: int) -> None:
    progress = replace(MEMORY, memory_remaining=left, memory_rate=rate, dirty_rate=dirty, iteration=iteration)
    eta, _ = outlook(progress)
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


def test_the_rate_of_disks_forgets_what_was_long_ago() -> None:
    samples = [
        Progress(COPYING_DISKS, float(second), disk_total=900 * MIB, disk_sent=sent, disk_remaining=900 * MIB - sent)
        for second in range(60)
        for sent in [(min(second, 30) * 10 + max(0, second - 30)) * MIB]
    ]
    assert after(samples[:31]).disk_rate == 10 * MIB
    assert after(samples).disk_rate == MIB


def test_holes_flown_over_are_no_rate_at_which_the_guest_writes_later() -> None:
    """1 GiB, nearly all of it holes, is through the mirror within a second; then memory is copied, and a page goes
    through the mirror now and then."""
    disks = [
        Progress(COPYING_DISKS, at, disk_total=1024 * MIB, disk_sent=sent * MIB, disk_remaining=(1024 - sent) * MIB)
        for at, sent in ((0.25, 0), (1.25, 1024))
    ]
    trend = after(disks)
    assert trend.disk_rate == 1024 * MIB, "as libvirt counts, while they are copied"
    for quarter in range(1, 9):
        sample = replace(
            MEMORY,
            elapsed=1.25 + quarter / 4,
            disk_total=1024 * MIB + quarter * KIB,
            disk_sent=1024 * MIB + quarter * KIB,
            disk_remaining=4 * KIB,
        )
        trend = trend.after(sample)
        assert told(sample, trend).disk_rate == (4 * KIB if quarter > 1 else 0)


def test_the_rate_of_mirrors_is_the_mean_over_a_short_while() -> None:
    seen = Mirrored()
    assert seen.rate == 0.0
    for at in range(10):
        seen = seen.after(float(at), 5 * MIB * at if at < 6 else 25 * MIB)
        assert len(seen.marks) <= MIRRORED_WINDOW + 1
        if 0 < at < 6:
            assert seen.rate == 5 * MIB
    assert seen.rate == 0.0, "the guest writes no more"
