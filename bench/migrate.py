"""Live moves over a capped link, beside plain ``virsh migrate`` and ``virsh migrate`` at its best hand-picked flags.

All go by turns between the same two hosts, peer to peer with TLS, ordered from a seat that reaches the hosts by ssh
only; bytes are counted at the switch. A median, and in parentheses the worst. ``blackout``: the longest time without
an answer to a ping; ``switchover``: the same around the moment when the guest's clock stood still; ``stall``: the
longest that the guest felt by its own clock; ``wrote``: the share of its writes that it got done meanwhile; ``floor``:
what is not zero in the guest's memory and what its disks have allocated ÷ the link's rate. Ours is the whole command:
it reads and checks both hosts, keeps its journal, asks both hosts afterwards and cleans up.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from bench.comparison import Goal, Result, Row, rows_of, show
from bench.moves import Moved, Tool, disks_of, host_of, move
from bench.tools import mudanza, virsh
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest
from mudanza.lab.guest import virsh as on_host
from mudanza.lab.lab import Lab, Via
from mudanza.model.units import GIB, MIB

__all__ = ["CASES", "measure", "show"]

RATE = 25 * MIB
"""Bytes per second that each host's uplink takes: 200 Mbit/s, which two processors that emulate the guests fill."""
BUDGET = 0.3
"""Seconds that the guest may stand still, ours and QEMU's default."""
BOOT_LIMIT = 300.0
COPY_ALL = "--copy-storage-all"
AFTER_PRECOPY = ("--postcopy", "--postcopy-after-precopy")
AT_ONCE = ("--postcopy", "--timeout", "1", "--timeout-postcopy")

LOWAT = "net.ipv4.tcp_notsent_lowat"
SHORT_QUEUE, NO_LOWAT = 64 * 1024, 2**32 - 1
"""Bytes; Linux's default is no limit."""

Case = Callable[[Lab, int], Sequence[Result]]


def measure(runs: int, only: str | None = None) -> Sequence[Result]:
    """Measure every case, or only one, with as many moves of each tool. Prints each move on stderr as it ends."""
    lab = Lab.up(f"bench{os.getpid() % 100000}", hosts=2, tied=True)
    try:
        for name in lab.hosts:
            lab.set_uplink(name, RATE)
        introduce_hosts(lab)
        chosen = [only] if only else list(CASES)
        measured = [result for name in chosen for result in CASES[name](lab, runs)]
        return [*measured, *_forecasts(lab)]
    finally:
        lab.down()


def introduce_hosts(lab: Lab) -> None:
    """Tell the controller in its seat of both hosts, and have each pair used once."""
    program = [sys.executable, "-m", "mudanza"]
    controller = lab.cell("controller")
    for name in lab.hosts:
        add = ["host", "add", name, lab.uri(name, Via.SSH), "--peer-uri", lab.peer_uri(name)]
        controller.run([*program, *add])
    with guests_of(lab, [GuestSpec("first", memory=96 * MIB, disk=0)]) as (guest,):
        for target in ("h2", "h1"):  # the first use of a pair rehearses TLS, once
            controller.run([*program, "migrate", guest.uuid, "--to", target])


def _forecasts(lab: Lab) -> Sequence[Goal]:
    """Return how far off the forecasts of all moves of ours were, from the seat's own journal."""
    command = [sys.executable, "-m", "mudanza", "forecast", "--accuracy", "-o", "json"]
    over_all = json.loads(lab.cell("controller").run(command).stdout)[0]
    name = f"forecasts of {over_all['moves']} moves"
    goals = [Goal(name, "error of the total time, median", over_all["total_median"] * 100, "%", 20)]
    if over_all["downtime_median"] is not None:
        goals.append(Goal(name, "error of the downtime, median", over_all["downtime_median"], "×", 2))
    return goals


@contextmanager
def guests_of(lab: Lab, specs: Sequence[GuestSpec]) -> Iterator[list[Guest]]:
    """Have guests on the first host, and take them away in the end, wherever they are."""
    made: list[Guest] = []
    try:
        for spec in specs:
            made.append(create_guest(lab, spec, on="h1", limit=BOOT_LIMIT))
        yield made
    finally:
        for guest in made:
            guest.remove()


def _by_turns(lab: Lab, case: str, guests: Sequence[Guest], tools: Sequence[Tool], runs: int) -> dict[str, Row]:
    """Move the guests with each tool in turn, each turn beginning with another one, so that all go both ways."""
    taken: dict[str, list[Moved]] = {tool.name: [] for tool in tools}
    for turn in range(runs):
        for tool in (*tools[turn % len(tools) :], *tools[: turn % len(tools)]):
            if not (tool.once and taken[tool.name]):
                taken[tool.name].append(_one(lab, case, guests, tool))
    return rows_of(case, taken, RATE)


def _one(lab: Lab, case: str, guests: Sequence[Guest], tool: Tool) -> Moved:
    here = host_of(guests[0])
    there = next(host for host in lab.hosts if host != here)
    disks = [path for guest in guests for path in disks_of(lab, guest, here)]
    moved = move(lab, guests, tool)
    if disks and tool.leaves_copy:
        left = lab.cell(here if moved.done else there)
        left.run(["rm", "-f", "--", *disks])
        on_host(left, "pool-refresh", "default")
    for guest in guests if len(guests) > 1 else ():
        if host_of(guest) == here:  # it stayed behind: the next move is of all of them again
            lab.cell("controller").run(virsh().argv(lab, [guest], here, there), timeout=BOOT_LIMIT)
    print(f"{case}: {tool.name}: {_told(moved)}", file=sys.stderr, flush=True)
    return moved


def _told(moved: Moved) -> str:
    """Return one move in words, for whoever waits."""
    end = f"done after {moved.took:.2f} s" if moved.done else f"NOT done after {moved.took:.2f} s ({moved.said})"
    times = {
        "dark": moved.blackout, "at the switchover": moved.switchover, "down": moved.downtime, "stall": moved.stall,
    }  # fmt: skip
    felt = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in times.items() if seconds is not None)
    return f"{end}, {felt}, wrote {moved.wrote:.0%}, {moved.sent / MIB:.1f} MiB of {moved.content / MIB:.1f} MiB"


def _idle(memory: int, used: int) -> Case:
    def case(lab: Lab, runs: int) -> Sequence[Result]:
        name = f"idle, {memory // MIB} MiB, {used // MIB} MiB of it filled"
        ours, plain = mudanza(), virsh()
        with guests_of(lab, [GuestSpec("idle", memory=memory, disk=0, beat=0.1, working_set=used)]) as guests:
            rows = _by_turns(lab, name, guests, [ours, plain], runs)
        mine, peer = rows[ours.name], rows[plain.name]
        return [
            *rows.values(),
            Goal(name, "total ≤ 1.05 × virsh", mine.total / peer.total, "×", 1.05),
            _darkness(name, mine, peer, "virsh"),
            Goal(name, "bytes ≤ virsh", mine.sent / MIB, "MiB", peer.sent / MIB),
        ]

    return case


def _half(lab: Lab, runs: int) -> Sequence[Result]:
    name = "writes at half the link's rate"
    spec = GuestSpec("half", memory=384 * MIB, disk=0, beat=0.1, working_set=128 * MIB, write_rate=RATE // 2)
    ours, plain, best = mudanza(), virsh(), virsh(*AFTER_PRECOPY)
    with guests_of(lab, [spec]) as guests:
        rows = _by_turns(lab, name, guests, [ours, plain, best], runs)
    mine, by_precopy = rows[ours.name], [rows[plain.name]]
    return [
        *rows.values(),
        *_against_best(name, mine, [*by_precopy, rows[best.name]]),
        *_against_best(name, mine, by_precopy),
    ]


def _against_best(case: str, ours: Row, peers: Sequence[Row], times: float = 1.0) -> list[Goal]:
    fastest = min((row for row in peers if row.done == row.runs), key=lambda row: row.total)
    factor = f"{times:g} × " if times != 1 else ""
    return [
        Goal(case, f"total ≤ {factor}{fastest.tool}", ours.total, "s", times * fastest.total),
        _darkness(case, ours, fastest, fastest.tool),
    ]


def _darkness(case: str, ours: Row, peer: Row, name: str) -> Goal:
    """Compare the switchovers: how long QEMU sets a move up is nobody's choice, and shows with emulated guests only."""
    dark, limit = ours.switchover, peer.switchover
    return Goal(
        case,
        f"blackout at the switchover ≤ {name}",
        math.inf if dark is None else dark,
        "s",
        math.inf if limit is None else limit,
    )


def _worst(row: Row) -> float:
    return math.inf if row.worst_switchover is None else row.worst_switchover


BUSY = GuestSpec("busy", memory=256 * MIB, disk=0, beat=0.1, working_set=128 * MIB, write_rate=RATE * 3 // 2)
BUSY_NAME = "writes at 1.5 × the link's rate"


def _busy(lab: Lab, runs: int, name: str = BUSY_NAME) -> Sequence[Result]:
    most = 2 * BUSY.memory / RATE
    ours = mudanza()
    plain = virsh(name=f"virsh, cancelled after {3 * most:.0f} s", limit=3 * most, once=True)
    tools = [ours, plain, virsh(*AFTER_PRECOPY), virsh(*AT_ONCE)]
    with guests_of(lab, [BUSY]) as guests:
        rows = _by_turns(lab, name, guests, tools, runs)
    mine = rows[ours.name]
    return [
        *rows.values(),
        Goal(name, "moves that got across", mine.runs - mine.done, "short", 0),
        Goal(name, "worst total ≤ 2 × (RAM ÷ rate)", mine.worst_total, "s", most),
        Goal(name, "worst blackout at the switchover ≤ budget + 20 %", _worst(mine), "s", 1.2 * BUDGET),
        Goal(name, "worst stall ≤ budget + 20 %", mine.worst_stall, "s", 1.2 * BUDGET),
    ]


def _busy_with_short_queues(lab: Lab, runs: int) -> Sequence[Result]:
    with _short_queues(lab):
        return _busy(lab, runs, f"{BUSY_NAME}, hosts with {LOWAT} = {SHORT_QUEUE // 1024} KiB")


@contextmanager
def _short_queues(lab: Lab) -> Iterator[None]:
    """Have the hosts' kernels take no more than this much for a connection that they have not sent yet."""
    _set_on_hosts(lab, LOWAT, SHORT_QUEUE)
    try:
        yield
    finally:
        _set_on_hosts(lab, LOWAT, NO_LOWAT)


def _set_on_hosts(lab: Lab, setting: str, value: int) -> None:
    for name in lab.hosts:
        lab.cell(name).run_in_network(["sysctl", "-qw", f"{setting}={value}"])


def _forbidden(lab: Lab, runs: int) -> Sequence[Result]:
    name, deadline = f"{BUSY_NAME}, post-copy forbidden", round(3 * BUSY.memory / RATE)
    within = ("--post-copy", "never", "--deadline", f"{deadline}s")
    ours, throttled = mudanza(*within), mudanza("--policy", "deadline", *within, once=True)
    best = virsh("--auto-converge", limit=2 * deadline, once=True)
    with guests_of(lab, [BUSY]) as guests:
        rows = _by_turns(lab, name, guests, [ours, throttled, best], runs)
    return [
        *rows.values(),
        *(
            Goal(
                name,
                f"{row.tool}: over within the deadline, or earlier with the reason",
                row.worst_total,
                "s",
                deadline,
            )
            for row in (rows[ours.name], rows[throttled.name])
        ),
    ]


def _compressed(spec: GuestSpec, what: str) -> Case:
    """Ours without compression, with it, and as it chooses: its first move is the trial."""

    def case(lab: Lab, runs: int) -> Sequence[Result]:
        name = f"{what} at 1.5 × the link's rate"
        without, by_hand = mudanza("--compression", "off"), mudanza("--compression", "xbzrle")
        chosen = mudanza(name="mudanza, as it chooses")
        with guests_of(lab, [spec]) as guests:
            rows = _by_turns(lab, name, guests, [chosen, without, by_hand], runs)
        return [
            *rows.values(),
            Goal(
                name,
                "total, as it chooses ≤ 1.05 × the better of the two",
                rows[chosen.name].total / min(rows[without.name].total, rows[by_hand.name].total),
                "×",
                1.05,
            ),
        ]

    return case


DISK_WRITER = GuestSpec("writer", memory=128 * MIB, disk=4 * GIB, beat=0.1, disk_write_rate=4 * MIB)
DISK_CONTENT = 128 * MIB
"""Bytes written to the disk before it moves."""


def _disk(lab: Lab, runs: int) -> Sequence[Result]:
    name = "disk writer, local 4 GiB disk"
    ours, plain, best = mudanza(), virsh(COPY_ALL), virsh(COPY_ALL, "--copy-storage-synchronous-writes")
    taken: dict[Tool, list[Moved]] = {ours: [], plain: [], best: []}
    for turn in range(runs):
        for tool in (*taken, *taken)[turn % 3 : turn % 3 + 3]:
            with guests_of(lab, [DISK_WRITER]) as (guest,):  # a new one each time: what it writes adds up
                _fill(guest)
                taken[tool].append(_one(lab, name, [guest], tool))
    rows = rows_of(name, {tool.name: moves for tool, moves in taken.items()}, RATE)
    mine, peers = rows[ours.name], [rows[plain.name], rows[best.name]]
    return [*rows.values(), *_against_best(name, mine, peers, times=1.05)]


def _fill(guest: Guest) -> None:
    guest.command(f"disk {32 * MIB}")
    while guest.stats()["disk_written"] < DISK_CONTENT:
        pass
    guest.command(f"disk {DISK_WRITER.disk_write_rate}")


def _several(lab: Lab, runs: int) -> Sequence[Result]:
    results: list[Result] = []
    single: Row | None = None
    for count in (1, 4, 8):
        name = f"{count} from one host" if count > 1 else "1 alone"
        specs = [GuestSpec(f"small{number}", memory=96 * MIB, disk=0, beat=0.1) for number in range(count)]
        ours, theirs = mudanza(), virsh(name="virsh, side by side" if count > 1 else "virsh")
        with guests_of(lab, specs) as guests:
            rows = _by_turns(lab, name, guests, [ours, theirs], runs)
        mine = rows[ours.name]
        single = single or mine
        results += rows.values()
        results.append(Goal(name, "total ≤ 1.15 × (bytes ÷ uplink)", mine.total / (mine.sent / RATE), "×", 1.15))
        if count > 1:
            results.append(
                Goal(
                    name,
                    "worst blackout at the switchover ≤ 1.5 × a single one's",
                    _worst(mine),
                    "s",
                    1.5 * _worst(single),
                )
            )
    return results


CASES: dict[str, Case] = {
    "idle-512": _idle(512 * MIB, 256 * MIB),
    "idle-2048": _idle(2 * GIB, 384 * MIB),
    "half": _half,
    "busy": _busy,
    "busy-short-queues": _busy_with_short_queues,
    "forbidden": _forbidden,
    "compression": _compressed(replace(BUSY, name="little", changes_little=True), "changes a word of each page"),
    "compression-in-vain": _compressed(BUSY, "rewrites its pages"),
    "disk": _disk,
    "several": _several,
}
