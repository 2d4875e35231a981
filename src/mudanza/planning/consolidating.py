"""Everybody on the fewest hosts: keep those that already have most, pour the others in, and see whether it holds."""

from __future__ import annotations

import numpy as np

from mudanza.planning.board import Board
from mudanza.planning.imbalance import Imbalance
from mudanza.planning.needs import MEMORY, VCPUS
from mudanza.planning.placing import Choose, best_host, place
from mudanza.planning.problem import NOWHERE, Bools, Floats, Numbers
from mudanza.planning.reserve import Reserve, reserve_of
from mudanza.planning.search import Stop, Terms, shift

CEILING = 0.8
"""Where load was measured: the share of its CPUs that a host may come to use when others are switched off."""
TRIES = 12
"""So many numbers of hosts are tried from the bound on, before hosts are emptied one by one."""


def in_use(board: Board) -> Numbers:
    """Return the hosts that bear somebody."""
    return np.flatnonzero([bool(units) for units in board.on])


def hosts_counted_on(board: Board) -> Numbers:
    """Return the hosts that would take the VMs of one that fails: if any was emptied, those in use, for the others may
    be switched off. Where it was a rule that emptied one, and the others have not room enough, it is not to be."""
    used, everyone = in_use(board), np.flatnonzero(board.problem.open)
    emptied = set(board.problem.start.tolist()) - {NOWHERE} - set(used.tolist())
    before = reserve_of(Board(board.problem)) if emptied else None
    if not emptied or (before is not None and Reserve(board, used).is_worse_than(before)):
        return everyone
    return used


def least_hosts(board: Board) -> int:
    """Return the number of hosts that no arrangement could do without: by what all need, and who cannot move."""
    fixed = _bound_to_stay(board)
    needs = _need(board)
    usable = board.open | fixed
    least = 1 if len(in_use(board)) else 0
    for limit in range(board.room.shape[1]):
        rooms = np.sort(np.where(usable, board.room[:, limit], 0))[::-1]
        if limit > VCPUS or not np.isfinite(rooms).all() or needs[limit] <= 0:
            continue
        kept_free = rooms[: board.problem.rules.survive_hosts].sum() if limit == MEMORY else 0
        least = max(least, int(np.searchsorted(np.cumsum(rooms), needs[limit] + kept_free - 1e-6) + 1))
    return max(least, int(fixed.sum()))


def _need(board: Board) -> Floats:
    return np.asarray(board.problem.need.sum(axis=0))


def _bound_to_stay(board: Board) -> Bools:
    """The hosts that cannot be emptied: somebody there may go nowhere else, or must not be moved."""
    problem = board.problem
    stays = np.zeros(len(problem.hosts), dtype=np.bool_)
    placed = np.flatnonzero(board.where != NOWHERE)
    elsewhere = (problem.admit & board.open).sum(axis=1)
    at_home = problem.admit[problem.kind[placed], board.where[placed]] & board.open[board.where[placed]]
    tied = ~problem.movable[placed] | (elsewhere[problem.kind[placed]] - at_home < 1)
    stays[board.where[placed[tied]]] = True
    return stays


def consolidate(board: Board, score: Imbalance, terms: Terms, stop: Stop) -> None:
    """Empty as many hosts as can be."""
    board.ceiling = CEILING if board.problem.measured else None
    board.guard = None  # hosts are poured into one by one; whether failures find room is asked once they are full
    reserve = reserve_of(Board(board.problem))
    stays = _bound_to_stay(board)
    least, used = least_hosts(board), in_use(board)
    for count in range(least, min(least + TRIES, len(used))):
        if stop():
            break
        kept = _to_keep(board, stays, used, count)
        if len(kept) == count and _onto(board, score, terms, kept, reserve):
            break
    _one_by_one(board, score, terms, stays, reserve, stop)
    bring_back(board, score, terms, reserve, stop)
    board.guard = None if reserve is None else reserve_of(board, hosts_counted_on(board))
    score.refresh()


def _to_keep(board: Board, stays: Bools, used: Numbers, count: int) -> Numbers:
    """The hosts that have most already, for the fewest moves; larger ones where that would not be room enough."""
    movable = board.problem.movable
    there = np.array([sum(_at_home(board, u, h) for u in board.on[h] if movable[u]) for h in range(len(board.on))])
    open_hosts = used[board.open[used] | stays[used]]
    for key in (-there[open_hosts], -board.room[open_hosts, MEMORY]):
        kept = open_hosts[np.lexsort((open_hosts, key, ~stays[open_hosts]))][:count]
        if not _lacks(board, kept):
            return np.sort(kept)
    return np.sort(kept)


def _at_home(board: Board, unit: int, host: int) -> int:
    """How many VMs of a unit need not move to be there."""
    problem = board.problem
    return sum(problem.vms[vm].host == problem.names[host] for vm in problem.units[unit])


def _lacks(board: Board, kept: Numbers) -> bool:
    rooms, needs = board.room[kept], _need(board)
    over = [limit for limit in (MEMORY, VCPUS) if rooms[:, limit].sum() < needs[limit]]
    return bool(over) or not _survives(board, kept)


def _survives(board: Board, kept: Numbers) -> bool:
    return not lost_reserve(board, kept)


def lost_reserve(board: Board, hosts: Numbers) -> str:
    """Return what is missing for the VMs of any k hosts (or zones) to fit onto the others; empty: nothing is.

    By what all have together: whoever fails takes its own room along, so the largest ones count.
    """
    rules, room = board.problem.rules, board.room[hosts, MEMORY]
    free = float(room.sum() - _need(board)[MEMORY])
    if rules.survive_hosts and np.sort(room)[::-1][: rules.survive_hosts].sum() > free:
        return f"the VMs of {rules.survive_hosts} lost hosts would not fit onto the others"
    if rules.survive_zones:
        zone = board.problem.zone[hosts]
        by_zone = np.sort([room[zone == each].sum() for each in np.unique(zone[zone != NOWHERE])])[::-1]
        if by_zone[: rules.survive_zones].sum() > free:
            return f"the VMs of {rules.survive_zones} lost zones would not fit into the others"
    return ""


def _onto(board: Board, score: Imbalance, terms: Terms, kept: Numbers, reserve: Reserve | None) -> bool:
    """Try to have everybody on these hosts; if it cannot be, nothing has changed. With a reserve hosts are also filled
    evenly, which leaves room for each other's VMs on all of them."""
    before = board.where.copy()
    ways: tuple[Choose, ...] = (tightest,) if reserve is None else (tightest, best_host)
    return any(_poured(board, score, terms, kept, way) and _left_room(board, score, before, reserve) for way in ways)


def _left_room(board: Board, score: Imbalance, before: Numbers, reserve: Reserve | None) -> bool:
    """Whether failures of the hosts in use find room on the others in use; if not, all is as before."""
    if reserve is None:
        return True
    if not Reserve(board, in_use(board)).is_worse_than(reserve):
        return True
    board.go_back(before)
    score.refresh()
    return False


def _poured(board: Board, score: Imbalance, terms: Terms, kept: Numbers, way: Choose) -> bool:
    before, was_open = board.where.copy(), board.open.copy()
    board.open[:] = False
    board.open[kept] = was_open[kept]
    leaving = np.flatnonzero((before != NOWHERE) & ~np.isin(before, kept)).tolist()
    left = place(board, score, leaving, terms, way)
    board.open = was_open
    if left:
        board.go_back(before)
        score.refresh()
        return False
    return True


def _one_by_one(
    board: Board, score: Imbalance, terms: Terms, stays: Bools, reserve: Reserve | None, stop: Stop
) -> None:
    """Empty one host after the other, the one that costs least first, as long as it can be."""
    tried = stays.copy()
    while not stop():
        used = in_use(board)
        candidates = [h for h in used.tolist() if not tried[h] and board.open[h]]
        if not candidates:
            return
        host = min(candidates, key=lambda each: (len(board.on[each]), board.used[each, MEMORY], each))
        tried[host] = True
        kept = used[used != host]
        if len(kept) and not _lacks(board, kept):
            _onto(board, score, terms, kept, reserve)


def bring_back(board: Board, score: Imbalance, terms: Terms, reserve: Reserve | None, stop: Stop) -> None:
    """Undo moves away from hosts that stay in use, where there is room; or where one that has come there instead, and
    moves anyway, finds another place."""
    problem, before = board.problem, board.where.copy()
    was_open = board.open.copy()
    used = in_use(board)
    board.open[:] = False
    board.open[used] = was_open[used]
    found = True
    while found and not stop():
        away = np.flatnonzero((board.where != problem.start) & np.isin(problem.start, used) & (board.where != NOWHERE))
        homes = [(unit, int(problem.start[unit])) for unit in away.tolist()]
        back = [_is_back(board, score, terms, unit, home) for unit, home in homes if board.open[home]]
        found = any(back)
    board.open = was_open
    _left_room(board, score, before, reserve)


def _is_back(board: Board, score: Imbalance, terms: Terms, unit: int, home: int) -> bool:
    """Try to have a unit where it was; if it cannot be, nothing has changed."""
    who, there = np.array([unit]), np.array([home])
    if board.may(who, there)[0, 0]:
        shift(board, score, unit, home)
        return True
    if not board.allowed(who, there)[0, 0]:
        return False
    newcomers = [other for other in sorted(board.on[home]) if board.problem.start[other] not in (home, NOWHERE)]
    here = board.take(unit)  # what it leaves there may be room for one of them
    for other in newcomers:
        elsewhere = tightest(board, score, other, terms)
        if elsewhere is None:
            continue
        shift(board, score, other, elsewhere)
        if board.may(who, there)[0, 0]:
            board.put(unit, home)
            score.moved(here, home)
            return True
        shift(board, score, other, home)
    board.put(unit, here)
    return False


def tightest(board: Board, _score: Imbalance, unit: int, terms: Terms) -> int | None:
    """Return the host where the least is left over beside the unit; first hosts that grant its wishes, then those where
    VMs of it are at home."""
    problem = board.problem
    hosts = np.flatnonzero(board.open)
    if not len(hosts):
        return None
    hosts = hosts[board.may(np.array([unit]), hosts)[0]]
    if not len(hosts):
        return None
    room = np.where(np.isfinite(board.room[hosts]), board.room[hosts], 0)[:, : VCPUS + 1]
    left = np.where(room > 0, 1 - (board.used[hosts] + problem.need[unit])[:, : VCPUS + 1] / np.maximum(room, 1), 0)
    wishes = problem.wish[problem.wish_of[unit]][hosts] if terms.wish else np.zeros(len(hosts))
    home = np.array([-_at_home(board, unit, host) for host in hosts.tolist()])
    return int(hosts[np.lexsort((hosts, left.sum(axis=1), home, wishes))[0]])
