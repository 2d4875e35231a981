"""Reading libvirt's job figures: pure, from one sample and the best one so far to what a person wants to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mudanza.model.migration import Progress
from mudanza.model.units import format_duration, format_rate

Stats = Mapping[str, int | str]

# A dirty rate this close to the link's rate leaves nothing to converge with.
HOPELESS_SHARE = 0.95
# Fewer bytes than this are "the rest": the switchover takes them.
NEARLY_NOTHING = 1024**2


def read_progress(stats: Stats, elapsed: float, page_size: int = 4096) -> Progress:
    """Turn libvirt's job statistics (typed parameters of virDomainGetJobStats) into a Progress.

    ``memory_dirty_rate`` is in pages per second, ``*_bps`` in bytes per second, times in milliseconds.
    """

    def figure(name: str) -> int:
        return int(stats.get(name, 0))

    memory_remaining = figure("memory_remaining")
    disk_remaining = figure("disk_remaining")
    dirty_rate = figure("memory_dirty_rate") * (figure("memory_page_size") or page_size)
    return Progress(
        phase=_phase(stats),
        elapsed=elapsed,
        memory_total=figure("memory_total"),
        memory_sent=figure("memory_processed"),
        memory_remaining=memory_remaining,
        memory_rate=float(figure("memory_bps")),
        dirty_rate=float(dirty_rate),
        iteration=figure("memory_iteration"),
        disk_total=figure("disk_total"),
        disk_sent=figure("disk_processed"),
        disk_remaining=disk_remaining,
        disk_rate=float(figure("disk_bps")),
        downtime=figure("downtime") / 1000,
        setup_time=figure("setup_time") / 1000,
        auto_converge=figure("auto_converge_throttle"),
    )


def _phase(stats: Stats) -> str:
    if int(stats.get("memory_total", 0)) == 0:
        return "copying disks" if int(stats.get("disk_total", 0)) else "setting up"
    return "copying memory"


@dataclass(frozen=True, slots=True)
class Trend:
    """The best seen so far, and when: what tells standing still from going on. Bytes, seconds."""

    least_memory: float = float("inf")
    least_disk: float = float("inf")
    phase: str = ""
    improved_at: float = 0.0
    disks_begun: float | None = None
    disk_rate: float = 0.0
    """The mean since disks began: the mirror reports in steps so coarse that any shorter look is a lottery."""

    def after(self, progress: Progress) -> Trend:
        """Return the trend once this sample is known."""
        least_memory = _least(self.least_memory, progress.memory_remaining, progress.memory_total)
        least_disk = _least(self.least_disk, progress.disk_remaining, progress.disk_total)
        begun = self.disks_begun
        if begun is None and progress.disk_total:
            begun = progress.elapsed
        passed = progress.elapsed - begun if begun is not None else 0.0
        better = progress.phase != self.phase or least_memory < self.least_memory or least_disk < self.least_disk
        return Trend(
            least_memory=least_memory,
            least_disk=least_disk,
            phase=progress.phase,
            improved_at=progress.elapsed if better else self.improved_at,
            disks_begun=begun,
            disk_rate=progress.disk_rate or (progress.disk_sent / passed if passed > 0 else 0.0),
        )


def _least(before: float, remaining: int, total: int) -> float:
    return min(before, remaining) if total else before


def outlook(progress: Progress, trend: Trend) -> tuple[float | None, str]:
    """Return the seconds to go, as far as the figures tell, and one sentence about the end."""
    if progress.phase == "copying disks":
        if trend.disk_rate < 1:
            return None, ""
        eta = progress.disk_remaining / trend.disk_rate
        return eta, f"disks done in about {format_duration(eta)}, memory follows"
    if progress.memory_rate < 1 or progress.memory_total == 0:
        return None, ""
    if progress.iteration <= 1:
        eta = progress.memory_remaining / progress.memory_rate
        return eta, f"first pass over memory done in about {format_duration(eta)}"
    if progress.dirty_rate >= progress.memory_rate * HOPELESS_SHARE:
        return None, (
            f"will not converge: the guest dirties {format_rate(progress.dirty_rate)}, "
            f"{format_rate(progress.memory_rate)} get across; give it more --max-downtime or --bandwidth"
        )
    if progress.memory_remaining < NEARLY_NOTHING:
        return 0.0, "about to switch over"
    eta = progress.memory_remaining / (progress.memory_rate - progress.dirty_rate)
    return eta, f"done in about {format_duration(eta)}"
