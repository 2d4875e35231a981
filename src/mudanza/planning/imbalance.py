"""How unevenly hosts are loaded, what each move would change of that, and below what no plan could bring it.

A host's *share* of a load is what it bears divided by what it has. Imbalance is how far shares lie from the one that
all hosts would have if load were a liquid: the root of the mean square, for CPU, memory, disk and network, weighted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mudanza.planning.board import Board
from mudanza.planning.problem import NOWHERE, Floats, Numbers, Problem

KINDS_OF_HOSTS = 64
"""Of so many different hosts at the most it is tried where the largest VM would be best."""


class Imbalance:
    """Follows a board: ``moved`` has to be told of every move. 0: perfectly even."""

    def __init__(self, board: Board, weights: Floats, coming: Sequence[int] = ()) -> None:
        """``coming``: units that are on hosts that do not count, or nowhere, and will be on hosts that do."""
        problem = board.problem
        self.board = board
        self.counted = np.flatnonzero(problem.open)
        self.hosts = max(len(self.counted), 1)
        self._counts = problem.open.astype(np.float64)
        total = board.load[self.counted].sum(axis=0) + problem.use[list(coming)].sum(axis=0)
        self.ideal = total / np.maximum(problem.capacity[self.counted].sum(axis=0), 1)
        heard = np.where(total > 0, weights, 0.0)
        self.weights = heard / max(heard.sum(), 1e-12)
        self._loads: list[int] = np.flatnonzero(self.weights > 0).tolist()
        self.refresh()

    def refresh(self) -> None:
        """Add everything up anew."""
        self.deviation = self.board.load / self.board.problem.capacity - self.ideal
        self.squares = (self.deviation[self.counted] ** 2).sum(axis=0)

    def moved(self, *hosts: int) -> None:
        """Take in what has changed at those hosts."""
        problem = self.board.problem
        for host in hosts:
            now = self.board.load[host] / problem.capacity[host] - self.ideal
            if self._counts[host]:
                self.squares += now**2 - self.deviation[host] ** 2
            self.deviation[host] = now
        np.maximum(self.squares, 0, out=self.squares)

    @property
    def value(self) -> float:
        """The imbalance."""
        return float((self.weights * np.sqrt(self.squares / self.hosts)).sum())

    def gains(self, units: Numbers, hosts: Numbers) -> Floats:
        """Return (units x hosts) by how much imbalance would fall if one unit went to one host, times the hosts: so a
        move weighs the same in a small and in a large cluster."""
        problem = self.board.problem
        here = self.board.where[units]
        gone = (here != NOWHERE) * self._counts[here]
        gain = np.zeros((len(units), len(hosts)))
        for load in self._loads:
            use = problem.use[units, load]
            out = use / problem.capacity[here, load]
            leaving = gone * out * (out - 2 * self.deviation[here, load])
            change = use[:, None] / problem.capacity[hosts, load]
            change *= (change + 2 * self.deviation[hosts, load]) * self._counts[hosts]
            change += leaving[:, None]
            gain += self._fall(load, change)
        return gain

    def swap_gains(self, units: Numbers, others: Numbers) -> Floats:
        """Return (units x others) the same for two units on two hosts that change places."""
        problem = self.board.problem
        here, there = self.board.where[units], self.board.where[others]
        gain = np.zeros((len(units), len(others)))
        for load in self._loads:
            net = problem.use[units, load][:, None] - problem.use[others, load]
            out = net / problem.capacity[here, load][:, None]
            back = net / problem.capacity[there, load]
            change = out * (out - 2 * self.deviation[here, load][:, None])
            change += back * (back + 2 * self.deviation[there, load])
            gain += self._fall(load, change)
        return gain

    def _fall(self, load: int, change: Floats) -> Floats:
        squares = self.squares[load]
        after = np.sqrt(np.maximum(squares + change, 0))
        return np.asarray((np.sqrt(squares) - after) * (self.weights[load] * np.sqrt(self.hosts)))

    def strain(self) -> Floats:
        """Return (m) how much each host adds to the imbalance by bearing too much."""
        slope = self.weights / np.sqrt(np.maximum(self.squares, 1e-12))
        return np.asarray((slope * np.maximum(self.deviation, 0) ** 2).sum(axis=1) * self._counts)

    def slack(self) -> Floats:
        """Return (m) how welcome more load is at each host; the lower, the more."""
        slope = self.weights / np.sqrt(np.maximum(self.squares, 1e-12))
        return np.asarray((slope * self.deviation).sum(axis=1))

    def bound(self, fixed: Floats) -> float:
        """Return what no arrangement could go below, if ``fixed`` (m x 4) cannot be moved, the one largest VM of each
        load is on one host, and all else were liquid."""
        problem = self.board.problem
        total = self.board.load[self.counted].sum(axis=0)
        bound = 0.0
        for load in self._loads:
            here, capacity = fixed[self.counted, load], problem.capacity[self.counted, load]
            squares = _level(here, capacity, float(total[load]), self.ideal[load])
            here_now = problem.movable & np.isin(self.board.where, self.counted)
            largest = float(problem.use[here_now, load].max(initial=0))
            kinds = np.unique(np.stack([here, capacity], axis=1), axis=0, return_index=True)[1]
            if len(kinds) <= KINDS_OF_HOSTS:
                places = (here + largest * (np.arange(len(here)) == each) for each in kinds)
                squares = max(squares, min(_level(p, capacity, float(total[load]), self.ideal[load]) for p in places))
            bound += self.weights[load] * np.sqrt(squares / self.hosts)
        return float(bound)


def weights_of(problem: Problem) -> Floats:
    """Return the weight of each load, as the rules have it; together 1."""
    rules = problem.rules
    weights = np.array([rules.cpu_weight, rules.memory_weight, rules.disk_weight, rules.network_weight])
    return np.asarray(weights / max(weights.sum(), 1e-12))


def _level(fixed: Floats, capacity: Floats, total: float, ideal: float) -> float:
    """Pour what is not fixed onto the hosts so that the sum of squared deviations is least, and return that.

    Minimising sum (x_h - ideal)^2 with capacity-weighted sum given and x_h >= fixed share: x_h rises with its
    capacity's multiple of one multiplier, so it is found by bisection.
    """
    least = fixed / capacity
    low, high = -1e6, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        shares = np.maximum(least, ideal + middle * capacity / capacity.mean())
        if float((shares * capacity).sum()) > total:
            high = middle
        else:
            low = middle
    shares = np.maximum(least, ideal + low * capacity / capacity.mean())
    return float(((shares - ideal) ** 2).sum())
