"""A round of saving: hosts that are too busy are relieved, those that are not needed are emptied. Pure.

VMs move for two reasons only: their host is too busy, or it can be emptied altogether and that pays. Nobody moves to
even things out. Where VMs find no place on the hosts that are on, one that sleeps is woken for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mudanza.planning.problem import Floats, Numbers
from mudanza.planning.saving.park import Park
from mudanza.planning.saving.terms import Terms


@dataclass(frozen=True, slots=True)
class Round:
    """What follows from one look."""

    moves: tuple[tuple[int, int, int], ...]
    """VM, from, to."""
    off: tuple[int, ...]
    """Hosts that are empty after the moves, and are switched off."""
    woken: tuple[int, ...]
    """Hosts that are switched on before the moves."""
    why: dict[int, str] = field(default_factory=dict)
    """Host → why it is switched on or off, or relieved."""


def decide(park: Park, rested: Floats, terms: Terms) -> Round:
    """Return what is to be done now; ``park`` is as it is after that. ``rested``: seconds since each host was switched
    on or off, infinite where nobody has."""
    before, on_before = park.place.copy(), park.on.copy()
    why: dict[int, str] = {}
    for host in too_busy(park, terms).tolist():
        _relieve(park, host, terms, why)
    _empty(park, rested, terms, why)
    moved = np.flatnonzero(park.place != before).tolist()
    moves = tuple((vm, int(before[vm]), int(park.place[vm])) for vm in moved)
    off = np.flatnonzero(on_before & ~park.on).tolist()
    woken = np.flatnonzero(park.on & ~on_before).tolist()
    return Round(moves, tuple(off), tuple(woken), why)


def too_busy(park: Park, terms: Terms) -> Numbers:
    """Return the hosts that are too busy now, the busiest first."""
    now = park.sums[:, -1] / park.capacity
    busy = np.flatnonzero(park.on & (now > terms.relief))
    return busy[np.argsort(-now[busy], kind="stable")]


def _relieve(park: Park, host: int, terms: Terms, why: dict[int, str]) -> None:
    """Take the fewest VMs off a host that is too busy: the smallest that is enough by itself; else the largest."""
    while True:
        excess = park.sums[host, -1] - terms.relieved * park.capacity[host]
        if excess <= 0:
            return
        there = park.on_host(host)
        # What a VM usually uses counts: one that is busy for this moment alone would leave for nothing.
        steady = np.minimum(park.recent[there, -1], np.median(park.recent[there], axis=1) * 1.5)
        enough = there[steady >= excess]
        order = enough[np.argsort(steady[steady >= excess], kind="stable")] if len(enough) else there
        if not len(enough):
            order = there[np.argsort(-steady, kind="stable")]
        if len(there) < 2 or not any(_sent_away(park, vm, host, terms, why) for vm in order[:3].tolist()):
            return


def _sent_away(park: Park, vm: int, host: int, terms: Terms, why: dict[int, str]) -> bool:
    others = np.flatnonzero(park.on & (np.arange(len(park.capacity)) != host))
    fits, share = park.fitting(vm, others, terms)
    target = int(fits[np.argmin(share)]) if len(fits) else _wake(park, vm, terms, why)
    if target is None:
        return False
    now = park.sums[host, -1] / park.capacity[host]
    why.setdefault(host, f"it has {now:.0%} of its CPUs in use")
    park.move(vm, target)
    return True


def _wake(park: Park, vm: int, terms: Terms, why: dict[int, str]) -> int | None:
    """Wake the host that draws least for what it does, if a VM fits there; return it."""
    asleep = np.flatnonzero(park.asleep & ~park.on)
    fits, _ = park.fitting(vm, asleep, terms)
    if not len(fits):
        return None
    host = int(fits[np.argmin(park.per_work[fits])])
    park.on[host] = True
    why[host] = "VMs of hosts that are too busy have no other place"
    return host


def _empty(park: Park, rested: Floats, terms: Terms, why: dict[int, str]) -> None:
    """Empty hosts, those first that draw most for what they do, of equal ones the least used."""
    now = park.sums.mean(axis=1)
    may = park.on & ~park.fixed & (rested >= terms.least_on)
    order = np.flatnonzero(may)
    order = order[np.lexsort((order, now[order], -park.per_work[order]))]
    refused = 0
    for host in order.tolist():
        if refused >= terms.most_refusals:
            return
        if not _kept_in_reserve(park, host, terms) or not _emptied(park, host, terms):
            refused += 1
            continue
        park.on[host] = False
        why[host] = f"its VMs use {now[host] / park.capacity[host]:.0%} of its CPUs, and fit onto the others"


def _kept_in_reserve(park: Park, host: int, terms: Terms) -> bool:
    """Whether without a host the others could still bear all, and any ``reserve`` of them fail."""
    others = np.flatnonzero(park.on & (np.arange(len(park.capacity)) != host))
    if not len(others):
        return False
    left = np.sort(park.capacity[others])[: len(others) - terms.reserve].sum()
    usual = float(park.usual(park.sums.sum(axis=0, keepdims=True), terms)[0])
    return bool(usual <= (terms.relief if terms.reserve else terms.full_at(park.readings)) * left)


def _emptied(park: Park, host: int, terms: Terms) -> bool:
    """Move everybody off a host, the largest first; if that cannot be, or does not pay, nothing has changed."""
    there = park.on_host(host)
    saved = park.models[host].idle * terms.horizon / 3600.0
    if len(there) * terms.move_price > saved:
        return False
    before = park.place.copy()
    steady = park.usual(park.recent[there], terms)
    for vm in there[np.argsort(-steady, kind="stable")].tolist():
        target = _fullest(park, vm, host, terms)
        if target is None:
            park.go_back(before)
            return False
        park.move(vm, target)
    return True


def _fullest(park: Park, vm: int, host: int, terms: Terms) -> int | None:
    """Return the host that draws least for what it does and of equal ones the fullest that a VM fits onto; or None."""
    others = np.flatnonzero(park.on & (np.arange(len(park.capacity)) != host) & (park.per_work <= park.per_work[host]))
    fits, share = park.fitting(vm, others, terms)
    if not len(fits):
        return None
    return int(fits[np.lexsort((fits, -share, park.per_work[fits]))[0]])
