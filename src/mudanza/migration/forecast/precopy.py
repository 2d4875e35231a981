"""A model of QEMU's migration under our own controller: pure, pass by pass, with the very function that steers one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from mudanza.migration.convergence import Budget, Course, Orders, steer
from mudanza.migration.forecast.dirtying import Dirtying
from mudanza.migration.progress import COPYING_MEMORY
from mudanza.model.compression import Compressed
from mudanza.model.migration import Progress
from mudanza.model.units import GIB, MIB

LOOK = 0.25
"""Seconds between two looks of the controller, as in ``transfer``."""
SHORTEST_PASS = 0.01
"""Seconds between two passes at the least: QEMU has to ask what has become dirty."""
LONGEST = 20_000.0
"""Seconds of a move that are played through."""
ZEROES = 1.5 * GIB
"""Bytes per second of empty pages that QEMU finds to be so, and of which it sends next to nothing."""
ENCODED = 200.0 * MIB
"""Bytes of pages per second that QEMU compares with what it has sent of them before, at the most..."""
ENCODED_FROM = 3
"""...from this pass on: the first one sends all, the second one fills the cache."""
PAGE = 4096
LEAST_SHARE = 0.01
"""Of its size, what a page takes at the least of which little has changed: its address, and the lengths of what has
not."""
THROTTLED_FROM = 0.5
"""QEMU's auto-converge: the share of what was sent that is dirty again from which a pass counts as a bad one..."""
THROTTLED_AFTER = 2
"""...how many of these it takes for the guest to be slowed down (further)..."""
FIRST_THROTTLE, MORE_THROTTLE, MOST_THROTTLE = 0.2, 0.1, 0.99
"""...and by how much of its time."""


@dataclass(frozen=True, slots=True)
class Load:
    """A guest's memory and the way it takes. Bytes, bytes per second."""

    memory: float
    in_use: float
    """What of it is not empty."""
    link: float
    dirtying: Dirtying
    share: float | None = None
    """What part of its size a page takes that has changed again, where such pages are compressed; None: they are
    not."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a modelled transfer of memory went. Seconds, bytes."""

    took: float
    downtime: float = 0.0
    """For how long the last pages took while the vCPUs stood still; what QEMU needs beside them is not in it."""
    sent: float = 0.0
    passes: int = 1
    fetched: float = 0.0
    """For how long the guest ran at the target without all of its memory."""
    given_up: str = ""
    postcopy: str = ""
    """Why it went over to post-copy."""
    throttle: float = 0.0
    told: tuple[float, ...] = ()
    """The downtimes that QEMU was told one after the other."""

    @property
    def arrived(self) -> bool:
        """Whether the guest runs at the target in the end."""
        return not self.given_up


def carry(load: Load, budget: Budget, *, throttled: bool = False, fetch_after: int | None = None) -> Run:
    """Move a guest as QEMU would: it sends what is dirty in passes, and stops the guest as soon as the rest would get
    across within the downtime it was told.

    ``throttled``: QEMU may slow the guest down. ``fetch_after``: go over to post-copy after so many passes, whatever
    the controller would do.
    """
    return _Carrying(load, budget, throttled=throttled, fetch_after=fetch_after).to_the_end()


class _Carrying:
    def __init__(self, load: Load, budget: Budget, *, throttled: bool, fetch_after: int | None) -> None:
        self._load = load
        self._budget = budget
        self._throttled = throttled
        self._fetch_after = fetch_after
        self._course = Course()
        self._told = [0.0]
        self._now = self._begun = self._sent = 0.0
        self._number, self._bad = 1, 0
        self._left = load.memory
        self._encoded = 0.0
        self._throttle = self._rate = 0.0

    def to_the_end(self) -> Run:
        while self._now < LONGEST:
            end = self._end_of_pass()
            look = math.ceil(self._now / LOOK - 1e-9) * LOOK
            if self._is_learning and look <= self._now:
                look += LOOK
            if look <= end:
                self._advance(look)
                if (run := self._looked()) is not None:
                    return run
                end = self._end_of_pass()
                if self._is_learning and self._now + LOOK <= end:
                    continue
            if self._budget.deadline is not None and end > self._budget.deadline:
                return self._run(max(self._budget.deadline, 0.0), given_up="not done within the deadline")
            self._advance(end)
            self._left = min(self._left, self._switched_over_at)
            if (run := self._next_pass()) is not None:
                return run
        return self._run(self._now, given_up="no end is in sight")

    @property
    def _pace(self) -> float:
        """How fast what is left becomes less: empty pages, all of them in the first pass, cost little."""
        load = self._load
        if self._is_encoding:
            return min(load.link / max(load.share or 0.0, LEAST_SHARE), ENCODED)
        if self._number > 1 or load.memory <= load.in_use:
            return load.link
        return load.memory / (load.in_use / load.link + (load.memory - load.in_use) / ZEROES)

    @property
    def _is_encoding(self) -> bool:
        return self._load.share is not None and self._number >= ENCODED_FROM

    @property
    def _is_learning(self) -> bool:
        """Whether the controller looks for what compression gains, and may decide in the middle of a pass."""
        return self._is_encoding and self._course.compression_pays is None

    @property
    def _bandwidth(self) -> float:
        """What QEMU sees get across: of pages that it compresses, what they have become."""
        if self._is_encoding:
            return min(self._load.link, self._pace * max(self._load.share or 0.0, LEAST_SHARE))
        return self._load.link

    @property
    def _switched_over_at(self) -> float:
        """The most that is left for QEMU to switch over: it does not count on compression then."""
        return self._bandwidth * self._told[-1]

    def _end_of_pass(self) -> float:
        end = self._now + max(self._left - self._switched_over_at, 0.0) / self._pace
        return max(end, self._begun + SHORTEST_PASS)

    def _advance(self, until: float) -> None:
        passed = min(until - self._now, self._left / self._pace)
        share = self._load.in_use / self._load.memory if self._number == 1 and self._load.memory else 1.0
        if self._is_encoding:
            share = self._load.share or 0.0
            self._encoded += self._pace * passed
        self._sent += self._pace * passed * share
        self._left = max(0.0, self._left - self._pace * passed)
        self._now = max(until, self._now)

    def _dirtied(self) -> float:
        """Return what has become dirty since the pass began; slowed down, the guest's own time runs slower."""
        return self._load.dirtying.within((self._now - self._begun) * (1 - self._throttle))

    def _looked(self) -> Run | None:
        seen = Progress(
            COPYING_MEMORY,
            self._now,
            memory_total=int(self._load.memory),
            memory_remaining=int(self._left),
            memory_rate=self._bandwidth,
            dirty_rate=self._rate,
            iteration=self._number,
            compressed=self._compressed,
        )
        self._course, orders = steer(self._course, seen, self._budget)
        if orders.downtime is not None:
            self._told.append(orders.downtime)
        return self._obeyed(orders)

    @property
    def _compressed(self) -> Compressed | None:
        share = self._load.share
        if share is None:
            return None
        return Compressed(cache=0, pages=int(self._encoded / PAGE), bytes=int(self._encoded * share))

    def _obeyed(self, orders: Orders) -> Run | None:
        if orders.postcopy:
            return self._fetching(orders.postcopy)
        if orders.give_up:
            return self._run(self._now, given_up=orders.give_up)
        return None

    def _next_pass(self) -> Run | None:
        """QEMU looks what has become dirty since, and switches over if that is little enough."""
        dirtied, lasted = self._dirtied(), self._now - self._begun
        if self._fetch_after is not None and self._number >= self._fetch_after:
            return self._fetching("asked for")
        self._slow_down(dirtied, lasted)
        self._left += dirtied * (1 - self._share_left())
        self._number, self._begun = self._number + 1, self._now
        self._rate = dirtied / lasted if lasted else 0.0
        if self._left > self._switched_over_at:
            return None
        self._sent += self._left * (self._load.share or 1.0 if self._is_encoding else 1.0)
        downtime = self._left / self._pace
        return self._run(self._now + downtime, downtime=downtime)

    def _share_left(self) -> float:
        """Return what share of the pages that may become dirty are among those left over from this pass."""
        among = self._load.memory if self._number == 1 else self._load.dirtying.working_set
        return min(self._left / among, 1.0) if among else 0.0

    def _slow_down(self, dirtied: float, lasted: float) -> None:
        if not self._throttled:
            return
        self._bad += dirtied > THROTTLED_FROM * self._load.link * lasted
        if self._bad >= THROTTLED_AFTER:
            self._bad = 0
            more = self._throttle + MORE_THROTTLE if self._throttle else FIRST_THROTTLE
            self._throttle = min(more, MOST_THROTTLE)

    def _fetching(self, why: str) -> Run:
        """Run at the target from now on: what is not there yet, or has become dirty since, is fetched."""
        rest = min(self._left + self._dirtied(), self._load.in_use)
        self._sent += rest
        fetched = rest / self._load.link
        return self._run(self._now + fetched, fetched=fetched, postcopy=why)

    def _run(self, took: float, **how: Any) -> Run:
        run = Run(took, sent=self._sent, passes=self._number, throttle=self._throttle, told=tuple(self._told))
        return replace(run, **how)
