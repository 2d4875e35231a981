"""Reading libvirt's job figures: pure, from one sample and what came before it to what a person wants to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mudanza.model.compression import Compressed
from mudanza.model.migration import Progress
from mudanza.model.units import format_duration, format_rate

Stats = Mapping[str, int | str]

SETTING_UP = "setting up"
COPYING_DISKS = "copying disks"
COPYING_MEMORY = "copying memory"
FETCHING_MEMORY = "fetching memory"
"""Post-copy: the guest runs at the target."""
PHASES = (SETTING_UP, COPYING_DISKS, COPYING_MEMORY, FETCHING_MEMORY)
"""In the order a migration goes through them."""

STILL_AFTER = {COPYING_DISKS: 12.0, COPYING_MEMORY: 5.0, FETCHING_MEMORY: 5.0}
"""Seconds without anything moving that are worth a word, by phase. A slow disk mirror reports every six seconds."""
STILL_ELSEWHERE = 30.0
"""The same while the target prepares: its QEMU may have much memory to lay out first."""
RATE_WINDOW = 20.0
"""Seconds over which the rate of the disks is the mean."""

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
        compressed=read_compressed(stats, page_size),
    )


def read_compressed(stats: Stats, page_size: int = 4096) -> Compressed | None:
    """Return what xbzrle has come to; None where it is not used."""
    if not stats.get("compression_cache"):
        return None
    return Compressed(
        cache=int(stats["compression_cache"]),
        pages=int(stats.get("compression_pages", 0)),
        bytes=int(stats.get("compression_bytes", 0)),
        misses=int(stats.get("compression_cache_misses", 0)),
        overflows=int(stats.get("compression_overflow", 0)),
        page_size=int(stats.get("memory_page_size", 0)) or page_size,
    )


def _phase(stats: Stats) -> str:
    if int(stats.get("memory_total", 0)) == 0:
        return COPYING_DISKS if int(stats.get("disk_total", 0)) else SETTING_UP
    return COPYING_MEMORY


@dataclass(frozen=True, slots=True)
class Trend:
    """What the samples so far amount to: what tells standing still from going on. Bytes, seconds."""

    phase: str = ""
    """The furthest phase seen: libvirt's figures vanish for moments between two of them."""
    moved_at: float = 0.0
    """When last anything moved."""
    nearer_at: float = 0.0
    """When last it came nearer to its end."""
    sent: tuple[int, int] = (0, 0)
    """Of memory and of disks."""
    least_disk: float = float("inf")
    pass_number: int = 0
    pass_promising: bool = True
    """Whether this pass over memory began with less to send than every one before it."""
    least_start: float = float("inf")
    """The least that a pass over memory began with."""
    least_in_pass: float = float("inf")
    disk_marks: tuple[tuple[float, int], ...] = ()
    """When how much of the disks had been sent: each step of the mirrors within RATE_WINDOW, in this phase."""

    def after(self, progress: Progress) -> Trend:
        """Return the trend once this sample is known."""
        phase = later_phase(self.phase, progress.phase)
        known = self._after_memory(progress)
        least_disk = min(self.least_disk, progress.disk_remaining) if progress.disk_total else self.least_disk
        sent = (max(self.sent[0], progress.memory_sent), max(self.sent[1], progress.disk_sent))
        lower = known.least_in_pass < self.least_in_pass or known.pass_number != self.pass_number
        nearer = phase != self.phase or least_disk < self.least_disk or (known.pass_promising and lower)
        moved = nearer or sent != self.sent
        # The mirrors' way through the disks, holes counted and flown over, tells nothing of what guests write later.
        marks = self.disk_marks if phase == self.phase else ()
        return replace(
            known,
            phase=phase,
            moved_at=progress.elapsed if moved else self.moved_at,
            nearer_at=progress.elapsed if nearer else self.nearer_at,
            sent=sent,
            least_disk=least_disk,
            disk_marks=_marked(marks, progress.elapsed, sent[1]) if progress.disk_total else (),
        )

    def _after_memory(self, progress: Progress) -> Trend:
        """A pass that begins with less than all before it is on the way to the end, and so is all it sends."""
        remaining = progress.memory_remaining
        if not progress.memory_total:
            return self
        if progress.iteration == self.pass_number and self.least_start != float("inf"):
            return replace(self, least_in_pass=min(self.least_in_pass, remaining))
        return replace(
            self,
            pass_number=progress.iteration,
            pass_promising=remaining < self.least_start,
            least_start=min(self.least_start, remaining),
            least_in_pass=remaining,
        )

    @property
    def disk_rate(self) -> float:
        """The mean from step to step over RATE_WINDOW: the steps are so coarse that a shorter look is a lottery."""
        if len(self.disk_marks) < 2:
            return 0.0
        (begun, first), (ended, last) = self.disk_marks[0], self.disk_marks[-1]
        return (last - first) / (ended - begun) if ended > begun else 0.0

    def still_for(self, elapsed: float) -> float:
        """Return for how long nothing has moved, 0 as long as that means nothing in its phase."""
        passed = elapsed - self.moved_at
        return passed if passed >= STILL_AFTER.get(self.phase, STILL_ELSEWHERE) else 0.0


def _marked(marks: tuple[tuple[float, int], ...], at: float, sent: int) -> tuple[tuple[float, int], ...]:
    """Add a mark if there was a step, and drop those that came before the window, but for the last of them."""
    if marks and marks[-1][1] == sent:
        return marks
    marks = (*marks, (at, sent))
    first = max((number for number, mark in enumerate(marks) if mark[0] <= at - RATE_WINDOW), default=0)
    return marks[first:]


def later_phase(one: str, other: str) -> str:
    """Return whichever of two phases comes later in a migration; one that is not known here counts as the first."""
    return max(one, other, key=lambda phase: PHASES.index(phase) if phase in PHASES else -1)


def told(progress: Progress, trend: Trend) -> Progress:
    """Return a sample as it is shown: with the phase, the rate of the disks and what to expect, as the trend has it."""
    shown = replace(progress, phase=trend.phase or progress.phase, still_for=trend.still_for(progress.elapsed))
    if shown.still_for:
        return replace(shown, disk_rate=0.0, memory_rate=0.0, eta=None, outlook="")
    shown = replace(shown, disk_rate=progress.disk_rate or trend.disk_rate)
    eta, sentence = outlook(shown)
    return replace(shown, eta=eta, outlook=sentence)


def outlook(progress: Progress) -> tuple[float | None, str]:
    """Return the seconds to go, as far as the figures tell, and one sentence about the end."""
    if progress.phase == COPYING_DISKS:
        if progress.disk_rate < 1 or not progress.disk_remaining:
            return None, ""
        eta = progress.disk_remaining / progress.disk_rate
        return eta, f"disks done in about {format_duration(eta)}, memory follows"
    if progress.memory_rate < 1 or progress.memory_total == 0:
        return None, ""
    if progress.postcopy:
        eta = progress.memory_remaining / progress.memory_rate
        return eta, f"it runs at the target, and has all of its memory in about {format_duration(eta)}"
    if progress.iteration <= 1:
        eta = progress.memory_remaining / progress.memory_rate
        return eta, f"first pass over memory done in about {format_duration(eta)}"
    packed = progress.compressed
    if packed is not None and (packed.share is None or packed.pays):
        return None, _compressed_so_far(packed)
    if progress.dirty_rate >= progress.memory_rate * HOPELESS_SHARE:
        return None, (
            f"will not converge: the guest dirties {format_rate(progress.dirty_rate)}, "
            f"{format_rate(progress.memory_rate)} get across; give it more --max-downtime or --bandwidth"
        )
    if progress.memory_remaining < NEARLY_NOTHING:
        return 0.0, "about to switch over"
    eta = progress.memory_remaining / (progress.memory_rate - progress.dirty_rate)
    return eta, f"done in about {format_duration(eta)}"


def _compressed_so_far(packed: Compressed) -> str:
    if packed.share is None:
        return "the cache for compression is being filled; what that gains shows in the next pass"
    return f"pages that change again take {packed.share:.0%} of their size; it is over once little enough is left"
