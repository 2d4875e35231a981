"""Order and pace of many moves: seconds of the timeline beside the busiest link's bound, and moves that stay stuck.

Hosts of equal size with links of 1 GiB/s, VMs of 1 to 32 GiB; everything is shuffled: VMs that lie as they fell have to
get to where they fell another time. Peers from the same moves: batches with a barrier (each batch what fits at its
beginning, one move at a time to and from each host).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from random import Random

from bench.figures import Figure
from mudanza.model.units import GIB
from mudanza.planning.order import Limits, Room, Schedule, Transfer, bound, schedule

HOST = 256 * GIB
SIZES = (1, 2, 4, 8, 16, 32)
WEIGHTS = (4, 6, 6, 4, 2, 1)
LINK = float(GIB)
ONE = Limits(out=1, into=1, link=1)


@dataclass(frozen=True)
class Case:
    """One shuffle. ``moved``: the share of the VMs that are to be elsewhere."""

    hosts: int
    fill: float
    moved: float
    seed: int = 1

    @property
    def name(self) -> str:
        return f"{self.hosts} hosts, {self.fill:.0%} full, {self.moved:.0%} moved"


def fall(sizes: list[int], hosts: int, random: Random, rounds: int = 40) -> list[int] | None:
    """Let VMs fall onto hosts at random, the large ones first; None where they do not fit."""
    free = [HOST] * hosts
    where = [0] * len(sizes)
    for number in sorted(range(len(sizes)), key=lambda n: (-sizes[n], random.random())):
        for _ in range(rounds):
            host = random.randrange(hosts)
            if free[host] >= sizes[number]:
                break
        else:
            host = max(range(hosts), key=free.__getitem__)
            if free[host] < sizes[number]:
                return None
        where[number] = host
        free[host] -= sizes[number]
    return where


def shuffle(case: Case) -> tuple[list[Transfer], dict[str, Room]]:
    """Return the moves of a case, and the room there is."""
    random = Random(case.seed)
    sizes: list[int] = []
    while sum(sizes) < case.fill * HOST * case.hosts:
        sizes.append(random.choices(SIZES, WEIGHTS)[0] * GIB)
    before = fall(sizes, case.hosts, random)
    assert before is not None
    after = list(before)
    free = [HOST] * case.hosts
    for number, host in enumerate(before):
        free[host] -= sizes[number]
    room = {f"h{n}": Room(free[n], rate_out=LINK, rate_in=LINK) for n in range(case.hosts)}
    chosen = sorted(random.sample(range(len(sizes)), round(case.moved * len(sizes))))
    left = list(free)
    for number in chosen:
        left[before[number]] += sizes[number]
    for number in sorted(chosen, key=lambda n: (-sizes[n], random.random())):
        fitting = [h for h in random.sample(range(case.hosts), min(case.hosts, 60)) if left[h] >= sizes[number]]
        others = [h for h in fitting if h != before[number]]
        host = (others or fitting or [max(range(case.hosts), key=left.__getitem__)])[0]
        assert left[host] >= sizes[number], "the shuffle itself does not fit"
        left[host] -= sizes[number]
        after[number] = host
    moves = [
        Transfer(f"v{n}", f"h{before[n]}", f"h{after[n]}", sizes[n] / LINK, memory=sizes[n], rate=LINK)
        for n in chosen
        if before[n] != after[n]
    ]
    return moves, room


def batches(moves: list[Transfer], room: dict[str, Room]) -> tuple[float, int]:
    """Return when batches with a barrier between them end, and how many moves they leave stuck."""
    free = {host: has.memory for host, has in room.items()}
    waiting, took = list(moves), 0.0
    while waiting:
        busy: set[tuple[str, str]] = set()
        batch = []
        for each in sorted(waiting, key=lambda move: -move.seconds):
            ends = {(each.source, "out"), (each.target, "in")}
            if ends & busy or free[each.target] < each.memory:
                continue
            busy |= ends
            free[each.target] -= each.memory
            batch.append(each)
        if not batch:
            break
        took += max(each.seconds for each in batch)
        for each in batch:
            free[each.source] += each.memory
        begun = {each.key for each in batch}
        waiting = [each for each in waiting if each.key not in begun]
    return took, len(waiting)


def overfull(moves: list[Transfer], room: dict[str, Room], found: Schedule) -> str | None:
    """Replay a schedule, and return in words where a host has too little memory; None: nowhere."""
    sizes = {each.key: each.memory for each in moves}
    free = {host: has.memory for host, has in room.items()}
    events = [(leg.finish, 0, leg) for leg in found.legs] + [(leg.start, 1, leg) for leg in found.legs]
    for at, begins, leg in sorted(events, key=lambda event: event[:2]):
        free[leg.target if begins else leg.source] += -sizes[leg.key] if begins else sizes[leg.key]
        if begins and free[leg.target] < 0:
            return f"{leg.target} at {at:.1f} s by {leg.key}"
    return None


def figures_of(case: Case, goal: float) -> list[Figure]:
    """Return what comes of one case."""
    moves, room = shuffle(case)
    begun = time.perf_counter()
    found = schedule(moves, room, ONE)
    took = time.perf_counter() - begun
    assert overfull(moves, room, found) is None, overfull(moves, room, found)
    best = bound(moves, room, ONE)
    barrier, left = batches(moves, room) if len(moves) <= 10_000 else (float("nan"), 0)
    ratio = found.finish / best
    return [
        Figure(f"{case.name}: time over the bound", ratio, "×", f"<= {goal:g}", ratio <= goal, barrier / best),
        Figure(f"{case.name}: moves stuck", len(found.stuck), "of " + str(len(moves)), "0", not found.stuck, left),
        Figure(f"{case.name}: ordering them", took, "s"),
    ]


CASES = {
    "65": ([Case(50, 0.65, 1.0), Case(1000, 0.65, 0.5), Case(10_000, 0.65, 0.2)], 1.15),
    "93": ([Case(50, 0.93, 0.3), Case(50, 0.93, 1.0)], 2.0),
    "95": ([Case(50, 0.95, 0.3), Case(50, 0.95, 1.0), Case(1000, 0.95, 0.2)], 2.0),
}


def measure(runs: int = 1, only: str | None = None) -> list[Figure]:
    """Return the figures of all cases, or of one fill; ``runs`` seeds of each."""
    found = []
    for name, (cases, goal) in CASES.items():
        if only in (None, name):
            for case in cases:
                for seed in range(1, runs + 1) if case.hosts <= 50 else (1,):
                    found += figures_of(replace(case, seed=seed), goal)
    return found


if __name__ == "__main__":
    from bench.figures import print_figures

    print_figures(measure(), "table")
