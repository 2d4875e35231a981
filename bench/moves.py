"""One measured move: how long it took, what a client saw, what the guest felt, what crossed the wire."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

from mudanza.lab.guest import Guest, virsh
from mudanza.lab.lab import Lab
from mudanza.lab.series import Beat, Recording
from mudanza.lab.watch import Watch

ANSWER_LIMIT = 60.0
"""Seconds until a guest that has moved must have answered a client."""
ABORT_LIMIT = 120.0
"""Seconds within which a cancelled command must have ended."""
PING_STEP, PING_STEP_OF_MANY = 0.008, 0.02
"""Seconds between two pings; many clients at once are to leave the processors to the guests."""
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Moved:
    """What one move of one or more guests came to. Seconds, bytes; of several guests the worst."""

    took: float
    """From the start of the command to its end."""
    done: bool
    """Whether the guests are at the target; if not, the command was cancelled, or said why not."""
    blackout: float
    """The longest time without any reply to a ping, whenever it was."""
    switchover: float | None
    """The longest such time around the moment at which the guest's clock stood still: None where it did not move."""
    stall: float
    """The longest that the guest stood still by its own clock, between two writes of its memory writer or two turns
    of its 1 ms tick; it does not see the switchover itself, in which its clock stands still as well."""
    wrote: float
    """The share of what its writers were to write meanwhile, to memory and disk, that they wrote; 1 for a guest
    without any."""
    downtime: float | None
    """vCPUs stopped, as QEMU has it."""
    sent: int
    """By the source host, as the switch counts."""
    content: int
    """The guests' memory that is not zero, and what their disks have allocated: what has to get across at least.
    0 where libvirt did not tell."""
    said: str = ""
    """The last words of a command that failed."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A command that moves guests, run in the controller's seat."""

    name: str
    argv: Callable[[Lab, Sequence[Guest], str, str], Sequence[str]]
    """Of lab, guests, source and target."""
    limit: float = 600.0
    """Seconds after which it is cancelled."""
    once: bool = False
    """Measured once only: it is known to run into its limit, or into the deadline it was given."""
    leaves_copy: bool = True
    """It does not delete the source's disk."""


def host_of(guest: Guest) -> str:
    """Return where a guest runs."""
    return next(host for host, state in guest.states().items() if state == "running")


def move(lab: Lab, guests: Sequence[Guest], tool: Tool) -> Moved:
    """Move guests that are all on one host to the other one, and measure it."""
    here = host_of(guests[0])
    there = next(host for host in lab.hosts if host != here)
    disks = sum(_allocated(lab, guest, here) for guest in guests)
    for guest in guests:
        guest.longest_write_gap()
    step = PING_STEP if len(guests) == 1 else PING_STEP_OF_MANY
    with ExitStack() as watching:
        watches = [watching.enter_context(Watch(lab, guest.address, step=step)) for guest in guests]
        written, before, begun = [_written(guest) for guest in guests], lab.switch_bytes(), time.monotonic()
        code, said, unfinished = _run(lab, guests, tool, here, there)
        took, after = time.monotonic() - begun, lab.switch_bytes()
        wrote = min(_share_written(guest, *at_first) for guest, at_first in zip(guests, written, strict=True))
        for watch in watches:
            _await_reply(watch)
        switchovers = [switchover_of(watch.recording()) for watch in watches]
    done = all(host_of(guest) == there for guest in guests)
    figures = [_figures(lab, guest, there, ended=True) for guest in guests] if done else unfinished
    return Moved(
        took=took,
        done=done,
        blackout=max(watch.series.longest_dark for watch in watches),
        switchover=max(switchovers) if done else None,
        stall=max(
            max(guest.longest_write_gap(), watch.series.longest_tick_stall)
            for guest, watch in zip(guests, watches, strict=True)
        ),
        wrote=wrote,
        downtime=_longest_downtime(figures),
        sent=after[here].received - before[here].received,
        content=disks + sum(map(_not_zero, figures)) if figures and all(map(_not_zero, figures)) else 0,
        said="" if code == 0 else _last_line(said),
    )


def _run(
    lab: Lab, guests: Sequence[Guest], tool: Tool, here: str, there: str
) -> tuple[int, str, Sequence[dict[str, int]]]:
    """Return the exit code, what it said, and of a cancelled move libvirt's figures on each guest."""
    pipe, figures = subprocess.PIPE, list[dict[str, int]]()
    argv = tool.argv(lab, guests, here, there)
    with lab.cell("controller").popen(argv, stdout=pipe, stderr=subprocess.STDOUT) as command:
        try:
            said, _ = command.communicate(timeout=tool.limit)
        except subprocess.TimeoutExpired:
            figures = [_figures(lab, guest, here, ended=False) for guest in guests]
            for guest in guests:
                virsh(lab.cell(here), "domjobabort", guest.uuid, check=False)
            said, _ = command.communicate(timeout=ABORT_LIMIT)
    return command.returncode, said.strip(), figures


def _last_line(said: str) -> str:
    """Return the line that says what went wrong: the last one that is no remedy."""
    lines = [line.strip() for line in said.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["nothing"])[-1]


def _await_reply(watch: Watch) -> None:
    """Wait until the guest has answered once more: it may be there before its packets find it."""
    since = time.monotonic_ns()
    watch.until(lambda seen: bool(seen.replies) and seen.replies[-1].at > since, limit=ANSWER_LIMIT)


def switchover_of(seen: Recording) -> float:
    """Return the longest time without a reply that lies where the client's clock went on most and the guest's did not.

    QEMU makes an emulated guest stand still at other moments, too, with its clock going on.
    """
    earlier, later = max(pairwise(seen.beats), key=lambda two: _stood_still(*two))
    replies = sorted(reply.at for reply in seen.replies)
    gaps = [end - begin for begin, end in pairwise(replies) if begin < later.at and end > earlier.at]
    return max(gaps, default=0) / 10**9


def _stood_still(earlier: Beat, later: Beat) -> int:
    return (later.at - earlier.at) - (later.monotonic - earlier.monotonic)


def _written(guest: Guest) -> tuple[int, int]:
    """Return what the writers have written, and the guest's clock in ns."""
    stats = guest.stats()
    return stats["memory_written"] + stats["disk_written"], stats["monotonic_ns"]


def _share_written(guest: Guest, written: int, at: int) -> float:
    stats = guest.stats()
    due = (stats["memory_rate"] + stats["disk_rate"]) * (stats["monotonic_ns"] - at) / 10**9
    return (stats["memory_written"] + stats["disk_written"] - written) / due if due else 1.0


def disks_of(lab: Lab, guest: Guest, host: str) -> list[str]:
    """Return the paths of a guest's disks on a host."""
    listed = virsh(lab.cell(host), "domblklist", guest.uuid, "--details").splitlines()
    return [words[3] for words in map(str.split, listed) if words and words[1] == "disk"]


def _allocated(lab: Lab, guest: Guest, host: str) -> int:
    return sum(int(_stat(lab, host, path, "%b")) * SECTOR for path in disks_of(lab, guest, host))


def _stat(lab: Lab, host: str, path: str, what: str) -> str:
    return lab.cell(host).run(["stat", "--format", what, "--", path]).stdout.strip()


def _figures(lab: Lab, guest: Guest, host: str, *, ended: bool) -> dict[str, int]:
    """Return libvirt's own figures on a move, by its names; none after post-copy, which it does not tell of."""
    of_ended = ["--completed", "--keep-completed"] if ended else []
    told = virsh(lab.cell(host), "domjobinfo", guest.uuid, *of_ended, "--rawstats", check=False)
    pairs = (line.partition(":") for line in told.splitlines())
    return {name.strip(): int(value) for name, _, value in pairs if value.strip().isdecimal()}


def _longest_downtime(figures: Sequence[dict[str, int]]) -> float | None:
    known = [each["downtime"] for each in figures if "downtime" in each]
    return max(known) / 1000 if known else None


def _not_zero(figures: dict[str, int]) -> int:
    """Return the bytes of memory that are not zero; 0 where it is not told."""
    zeroes = figures.get("memory_constant", 0) * figures.get("memory_page_size", 0)
    return max(0, figures.get("memory_total", 0) - zeroes)
