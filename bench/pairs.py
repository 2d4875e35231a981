"""What a solver makes of a balance: greedy moves, swaps, and then CP-SAT on two hosts at a time, as a measure of ours.

The solver runs in a Python of its own (which is given this file as it is), for
OR-Tools is no part of mudanza. Loads are shares of equal hosts; what counts is the mean over hosts of how far vCPUs for
each CPU, and memory, are from their means.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mudanza.model.cluster import Cluster

PACKAGES = ("ortools",)
SECONDS = 60.0
"""That the solver may look for something better."""
OF_A_PAIR = 0.3
"""Seconds that it may take for two hosts."""
UNIT = 1_000_000
"""The whole of a host's CPU or memory, in the solver's whole numbers."""
MOST = (4 * UNIT, UNIT)
"""What may be promised of a host: four vCPUs for each CPU, and its memory once."""


@dataclass(frozen=True, slots=True)
class Solved:
    """What the solver came to."""

    deviation: float
    moves: int
    seconds: float


def deviation(cluster: Cluster, moved: Mapping[str, str]) -> float:
    """Return the mean deviation once these VMs (name → host) have moved."""
    asked = _asked(cluster, 0)
    numbers = {name: number for number, name in enumerate(asked["hosts"])}
    names = [vm.name for vm in cluster.vms]
    where = [numbers[moved[name]] if name in moved else at for name, at in zip(names, asked["where"], strict=True)]
    return _deviation(where, asked["need"], len(numbers)) / UNIT


def solve(python: Path, cluster: Cluster, moves: int) -> Solved:
    """Have the solver balance a cluster with so many moves at the most. Raises CalledProcessError."""
    asked = json.dumps(_asked(cluster, moves))
    done = subprocess.run((python, __file__), input=asked, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    return Solved(told["deviation"] / UNIT, told["moves"], told["seconds"])


def _asked(cluster: Cluster, moves: int) -> dict[str, Any]:
    hosts = [host.name for host in cluster.hosts]
    one = cluster.hosts[0]
    need = [(vm.vcpus * UNIT // one.cpus, vm.memory * UNIT // one.memory_total) for vm in cluster.vms]
    return {"hosts": hosts, "need": need, "where": [hosts.index(vm.host) for vm in cluster.vms], "moves": moves}


def _loads(where: list[int], need: list[tuple[int, int]], hosts: int) -> list[list[int]]:
    loads = [[0, 0] for _ in range(hosts)]
    for at, (cpu, memory) in zip(where, need, strict=True):
        loads[at][0] += cpu
        loads[at][1] += memory
    return loads


def _deviation(where: list[int], need: list[tuple[int, int]], hosts: int) -> float:
    loads = _loads(where, need, hosts)
    means = [sum(load[kind] for load in loads) / hosts for kind in (0, 1)]
    return sum(abs(load[kind] - means[kind]) for load in loads for kind in (0, 1)) / hosts


class Solver:
    """Improves one arrangement, step by step."""

    def __init__(self, need: list[tuple[int, int]], where: list[int], hosts: int, moves: int) -> None:
        self.need, self.start, self.where = need, list(where), list(where)
        self.hosts, self.moves = hosts, moves
        self.means = [sum(each[kind] for each in need) / hosts for kind in (0, 1)]
        self.loads = _loads(where, need, hosts)

    def run(self) -> None:
        """Move, swap, and solve for pairs, until there is nothing better or the time is over."""
        until = time.monotonic() + SECONDS
        while self._moved() < self.moves and self._best_move():
            pass
        while time.monotonic() < until and self._solve_pairs(until):
            pass

    def _moved(self) -> int:
        return sum(here != at for here, at in zip(self.where, self.start, strict=True))

    def _far(self, host: int, change: tuple[int, int] = (0, 0), sign: int = 1) -> float:
        return sum(abs(self.loads[host][kind] + sign * change[kind] - self.means[kind]) for kind in (0, 1))

    def _best_move(self) -> bool:
        best, gain = None, 1e-9
        for vm, here in enumerate(self.where):
            need = self.need[vm]
            left = self._far(here) - self._far(here, need, -1)
            for there in range(self.hosts):
                if there == here or any(self.loads[there][kind] + need[kind] > MOST[kind] for kind in (0, 1)):
                    continue
                found = left + self._far(there) - self._far(there, need)
                if found > gain:
                    best, gain = (vm, there), found
        if best is not None:
            self._put(*best)
        return best is not None

    def _put(self, vm: int, there: int) -> None:
        for kind in (0, 1):
            self.loads[self.where[vm]][kind] -= self.need[vm][kind]
            self.loads[there][kind] += self.need[vm][kind]
        self.where[vm] = there

    def _solve_pairs(self, until: float) -> bool:
        better = False
        order = sorted(range(self.hosts), key=self._far, reverse=True)
        for position, one in enumerate(order):
            for other in order[position + 1 :]:
                if time.monotonic() >= until:
                    return False
                better |= self._solve(one, other)
        return better

    def _solve(self, one: int, other: int) -> bool:
        from ortools.sat.python import cp_model

        vms = [vm for vm, at in enumerate(self.where) if at in (one, other)]
        model = cp_model.CpModel()
        on_one = {vm: model.new_bool_var(str(vm)) for vm in vms}
        far = []
        for kind in (0, 1):
            whole = sum(self.need[vm][kind] for vm in vms)
            load = sum(self.need[vm][kind] * on_one[vm] for vm in vms)
            for part in (load, whole - load):
                model.add(part <= MOST[kind])
                distance = model.new_int_var(0, 2 * MOST[kind], "")
                model.add(distance >= part - round(self.means[kind]))
                model.add(distance >= round(self.means[kind]) - part)
                far.append(distance)
        away = [_is_away(on_one[vm], self.start[vm], one, other) for vm in vms]
        elsewhere = self._moved() - sum(self.where[vm] != self.start[vm] for vm in vms)
        model.add(sum(away) <= self.moves - elsewhere)
        model.minimize(sum(far))
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = OF_A_PAIR
        solver.parameters.num_workers = 1
        if solver.solve(model) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return False
        if solver.objective_value >= self._far(one) + self._far(other) - 4:
            return False
        for vm in vms:
            self._put(vm, one if solver.value(on_one[vm]) else other)
        return True


def _is_away(on_one: Any, start: int, one: int, other: int) -> Any:
    """Return what is 1 where a VM is not where it was at the start."""
    if start == one:
        return 1 - on_one
    return on_one if start == other else 1


def main() -> None:
    """Solve what comes in, and print what came of it."""
    asked = json.load(sys.stdin)
    began = time.process_time()
    solver = Solver(asked["need"], asked["where"], len(asked["hosts"]), asked["moves"])
    solver.run()
    found = _deviation(solver.where, solver.need, solver.hosts)
    moved = sum(here != at for here, at in zip(solver.where, solver.start, strict=True))
    told = {"deviation": found, "moves": moved, "seconds": time.process_time() - began}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
