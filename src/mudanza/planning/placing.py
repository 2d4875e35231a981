"""Placing units that must leave where they are, each where imbalance grows least; others give way if need be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mudanza.planning.board import Board
from mudanza.planning.imbalance import Imbalance
from mudanza.planning.problem import NOWHERE, Bools, Floats
from mudanza.planning.search import Terms, net_gains, shift

Choose = Callable[[Board, Imbalance, int, Terms], int | None]
ASKED = 64
"""Hosts of which it is asked whether the reserve lets a unit go there, the best first."""
GIVING_WAY = 64
"""Hosts of which it is tried whether one VM there could give way."""


def by_size(board: Board, units: Sequence[int]) -> list[int]:
    """Return units, the hardest to place first: by the largest part of an average host that they need."""
    problem = board.problem
    typical = np.maximum(problem.room[problem.open].mean(axis=0), 1) if problem.open.any() else np.inf
    size = (problem.need / typical).max(axis=1) if problem.need.shape[1] else np.zeros(len(problem.units))
    return sorted(units, key=lambda unit: (-size[unit], unit))


def place(
    board: Board, score: Imbalance, units: Sequence[int], terms: Terms, choose: Choose | None = None
) -> list[int]:
    """Find a place for each; return those that have none, where they were.

    ``terms`` say who may give way, and what that costs. ``choose``: which host; else where imbalance grows least.
    """
    choose = choose or best_host
    left = []
    for unit in by_size(board, units):
        host = choose(board, score, unit, terms)
        if host is None:
            host = _make_room(board, score, unit, terms, frozenset(units), choose)
        if host is None:
            left.append(unit)
        else:
            shift(board, score, unit, host)
    return left


def best_host(board: Board, score: Imbalance, unit: int, terms: Terms) -> int | None:
    """Return the host where it does best, whatever it costs; None if it may go nowhere."""
    hosts = np.flatnonzero(board.open)
    if not len(hosts):
        return None
    gain = net_gains(board, score, terms, np.array([unit]), hosts)[0] - _vms_moved(board, unit)[hosts]
    for best in np.argsort(-gain, kind="stable")[:ASKED].tolist():
        if gain[best] == -np.inf:
            return None
        if board.may_be_made(unit, int(hosts[best])):
            return int(hosts[best])
    return None


def _vms_moved(board: Board, unit: int) -> Floats:
    """What it would cost to gather VMs that are apart: above all, as few as possible are moved. (m)"""
    problem = board.problem
    cost = np.zeros(len(problem.hosts))
    if problem.start[unit] == NOWHERE and len(problem.units[unit]) > 1:
        cost += 1e6 * len(problem.units[unit])
        for vm in problem.units[unit]:
            cost[problem.host_number(problem.vms[vm].host)] -= 1e6
    return cost


def _make_room(
    board: Board, score: Imbalance, unit: int, terms: Terms, staying: frozenset[int], choose: Choose
) -> int | None:
    """Move one other unit off a host so that this one fits there; return that host."""
    problem = board.problem
    hosts = np.flatnonzero(board.open)
    hosts = hosts[board.allowed(np.array([unit]), hosts)[0]]
    lacking = np.maximum(0, board.used[hosts] + problem.need[unit] - board.room[hosts])
    lacking[:, problem.need[unit] == 0] = 0
    share = (lacking / np.maximum(np.where(np.isfinite(board.room[hosts]), board.room[hosts], 1), 1)).sum(axis=1)
    for place_number in np.argsort(share, kind="stable")[:GIVING_WAY].tolist():
        host = int(hosts[place_number])
        enough: Bools = (problem.need[list(board.on[host])] >= lacking[place_number]).all(axis=1)
        giving = [u for u, ok in zip(board.on[host], enough.tolist(), strict=True) if ok]
        giving = [u for u in giving if terms.movable[u] and u not in staying]
        for other in sorted(giving, key=lambda each: (problem.travel[each], each)):
            elsewhere = choose(board, score, other, terms)
            if elsewhere is not None and elsewhere != board.where[unit]:
                shift(board, score, other, elsewhere)
                if board.may(np.array([unit]), np.array([host]))[0, 0] and board.may_be_made(unit, host):
                    return host
                shift(board, score, other, host)
    return None
