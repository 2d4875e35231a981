"""Showing migrations while they run: a live picture on a terminal, lines elsewhere, JSON events for scripts."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from mudanza import clock
from mudanza.cli.output import Format, console, say, write_line
from mudanza.journal.protocol import RESTART
from mudanza.model.migration import MigrationReport, Progress
from mudanza.model.plain import plain
from mudanza.model.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from rich.live import Live

LINE_EVERY = 5.0
"""Seconds between two lines about one VM where there is no terminal to draw on."""


_Stage = tuple[str, bool, str]
"""Phase, whether nothing moves, and why it is being cancelled."""


class View(Protocol):
    """Somewhere to show how several migrations go; safe to call from their threads."""

    def on_progress(self, vm: str, way: str, progress: Progress) -> None:
        """Show one sample."""

    def on_end(self, vm: str) -> None:
        """The VM's migration is over: stop showing it."""

    def __enter__(self) -> View:
        """Begin showing."""

    def __exit__(self, *_: object) -> None:
        """Stop showing."""


def line(vm: str, way: str, progress: Progress) -> str:
    """Return one line about one sample: phase, bytes left, rates, pass and what to expect."""
    parts = [f"{vm}  {way}", progress.phase]
    if progress.disk_total and progress.disk_remaining:
        parts.append(f"{format_size(progress.disk_remaining)} of disk left")
        if progress.disk_rate:
            parts.append(format_rate(progress.disk_rate))
    if len(progress.disks) > 1:
        shares = (f"{disk.label} {100 * disk.done // max(disk.total, 1)} %" for disk in progress.disks)
        parts.append(", ".join(shares))
    if progress.memory_total:
        parts.append(f"{format_size(progress.memory_remaining)} of memory left")
        parts.append(format_rate(progress.memory_rate))
        if progress.dirty_rate:
            parts.append(f"guest dirties {format_rate(progress.dirty_rate)}")
        if progress.iteration:
            parts.append(f"pass {progress.iteration}")
    if progress.outlook:
        parts.append(progress.outlook)
    if progress.elapsed:
        parts.append(format_duration(progress.elapsed))
    return "  ".join(parts)


class LineView:
    """A line when the phase changes, when it stands still or is cancelled, and every few seconds."""

    def __init__(self, write: Callable[[str], None] = say) -> None:
        self._write = write
        self._shown: dict[str, tuple[_Stage, float]] = {}

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def on_progress(self, vm: str, way: str, progress: Progress) -> None:
        stage = (progress.phase, progress.still_for > 0, progress.cancelling)
        before, at = self._shown.get(vm, (None, 0.0))
        if stage != before or progress.elapsed - at >= LINE_EVERY:
            self._shown[vm] = (stage, progress.elapsed)
            self._write(line(vm, way, progress))

    def on_end(self, vm: str) -> None:
        self._shown.pop(vm, None)


def _new_live() -> Live:
    from rich.live import Live

    return Live(console=console(stderr=True), refresh_per_second=8, transient=True)


class TerminalView:
    """One line for each VM, redrawn in place."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}
        self._lock = threading.Lock()
        self._live = _new_live()

    def __enter__(self) -> TerminalView:
        # A new one each time: it would draw over what was said since the last one stopped.
        self._live = _new_live()
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on_progress(self, vm: str, way: str, progress: Progress) -> None:
        self._show(vm, line(vm, way, progress))

    def on_end(self, vm: str) -> None:
        self._show(vm, None)

    def _show(self, vm: str, text: str | None) -> None:
        from rich.text import Text

        with self._lock:
            if text is None:
                self._lines.pop(vm, None)
            else:
                self._lines[vm] = text
            self._live.update(Text("\n".join(self._lines.values())))


class Overheard:
    """Shows in another view, and lets somebody hear of it, too."""

    def __init__(self, view: View, hear: Callable[[str, Progress], None]) -> None:
        """``hear`` is told from where to where, and each sample."""
        self._view = view
        self._hear = hear

    def __enter__(self) -> Overheard:
        self._view.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._view.__exit__()

    def on_progress(self, vm: str, way: str, progress: Progress) -> None:
        self._hear(way, progress)
        self._view.on_progress(vm, way, progress)

    def on_end(self, vm: str) -> None:
        self._view.on_end(vm)


class EventView:
    """Newline-delimited JSON on stdout."""

    def __enter__(self) -> EventView:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def on_progress(self, vm: str, way: str, progress: Progress) -> None:
        emit("progress", vm=vm, way=way, **plain(progress))

    def on_end(self, vm: str) -> None:
        emit("end", vm=vm)


_EMIT = threading.Lock()
_OFF = frozenset({"cold", "in place, off"})
"""Modes in which the guest is switched off."""
_MOVES = _OFF | {"live", "in place"}
"""Modes of moves: what else is finished for a controller that died is told in its own words."""


def emit(event: str, **fields: Any) -> None:
    """Print one event as a line of JSON on stdout."""
    text = json.dumps({"event": event, "at": clock.time(), **fields}, ensure_ascii=False)
    with _EMIT:
        write_line(sys.stdout, text)


def view_for(output: Format) -> View:
    """Return the view that fits the wanted output and the terminal."""
    if output is Format.JSON:
        return EventView()
    return TerminalView() if sys.stderr.isatty() else LineView()


def _times(report: MigrationReport) -> str:
    total = format_duration(report.total_time)
    if report.moving_time is None or report.moving_time == report.total_time:
        return total
    return f"{format_duration(report.moving_time)} ({total} with checking)"


def report_text(report: MigrationReport) -> str:
    """Write a report for people."""
    from mudanza.migration.forecast.model import outcome_beside

    if report.mode == RESTART:
        return f"{report.vm} {report.transport}; it took {format_duration(report.total_time)}"
    if report.mode == "cpu":
        return "\n".join([report.transport, *(f"  warning   {each}" for each in report.warnings)])
    if report.mode not in _MOVES:
        return f"{report.vm}: {report.transport}"
    in_place = report.source == report.target
    encrypted = "" if report.tls or in_place else "  (not encrypted)"
    facts = [
        ("downtime", _downtime(report)),
        ("blackout", _blackout(report)),
        ("post-copy", "\n".join(_post_copy(report))),
        ("memory", _memory(report)),
        ("disks", f"{format_size(report.disk_bytes)}, holes left out" if report.disk_bytes else "nothing to copy"),
        ("rate", format_rate(report.rate) if report.rate else ""),
        ("way", report.transport + encrypted if "encrypted" not in report.transport else report.transport),
        ("compared", report.verified or ("nothing" if report.mode in _OFF else "")),
        ("clock", report.guest_clock),
        ("hooks", ", ".join(report.hooks)),
        ("wishes", f"{', '.join(report.own_wishes)}, as the VM itself has it" if report.own_wishes else ""),
        ("foreseen", outcome_beside(report.forecast) if report.forecast else ""),
        ("removed", "\n".join(report.removed)),
        ("kept", "\n".join(report.kept)),
        ("warning", "\n".join(report.warnings)),
    ]
    way = f"'s disks moved within {report.source}" if in_place else f" moved from {report.source} to {report.target}"
    lines = [f"{report.vm}{way} in {_times(report)}"]
    for label, value in facts:
        lines += [f"  {label:<10}{entry}" for entry in value.split("\n") if entry]
    return "\n".join(lines)


def _downtime(report: MigrationReport) -> str:
    if report.mode == "in place":
        return "none"
    if report.mode in _OFF:
        return f"{format_duration(report.downtime)} (from shut down to started)" if report.downtime else ""
    return f"{report.downtime * 1000:.0f} ms (vCPUs stopped, as QEMU measured)" if report.downtime else "unknown"


def _blackout(report: MigrationReport) -> str:
    if report.blackout is None:
        return ""
    several = f"; silent {report.silences} times, {format_duration(report.silent_time or 0.0)} in all"
    return f"{report.blackout * 1000:.0f} ms (seen by a client{several if report.silences > 1 else ''})"


def _post_copy(report: MigrationReport) -> Iterator[str]:
    lasted = report.postcopy_time
    if lasted is None:
        return
    yield f"ran on {report.target} for {format_duration(lasted)} before all of its memory was there"
    if report.longest_stall is not None and report.stalled_time is not None:
        longest, share = f"{report.longest_stall * 1000:.0f} ms", _share(report.stalled_time, lasted)
        yield f"longest stall {longest} after the switchover, silent for {share} of that time (seen by a client)"


def _share(part: float, whole: float) -> str:
    return f"{min(part / whole, 1.0) if whole else 0.0:.0%}"


def _memory(report: MigrationReport) -> str:
    if report.mode in ("in place", *_OFF):
        return ""
    return f"{format_size(report.memory_bytes)} in {report.iterations or 'an unknown number of'} passes"
