"""The shunting behind ``order``: plays moves through, and makes room where they wait for each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mudanza.model.units import format_size
from mudanza.planning.order import Act, Schedule, Stuck
from mudanza.planning.rolling import HELD, MEMORY, PARKS, Item, Place
from mudanza.planning.yard import Yard

VCPUS = "vCPUs"
"""What is counted by number; all else is bytes."""
LOOK_SHARE = 64
"""One in so many of the moves that wait: after as many have ended it is looked whether some wait for each other."""


class Shunter(Yard):
    """Plays the moves through, event by event."""

    def run(self) -> Schedule:
        """Return the whole of it."""
        self._begin(self._waiting)
        ended = 0
        while True:
            while self._under_way:
                freed = self._end_next()
                ended += len(freed)
                self._begin(set().union(*(self._interested(each) for each in freed)))
                if self._is_quiet():
                    self._use_the_quiet()
                if ended * LOOK_SHARE >= len(self._waiting) and self._waiting:
                    ended = 0
                    self._untangle(idle=False)
            if not self._waiting or not self._untangle(idle=True):
                break
        stuck = tuple(Stuck(self._items[n].of.key, self._why_stuck(n)) for n in sorted(self._waiting))
        finish = max((leg.finish for leg in self._legs), default=0.0)
        return Schedule(tuple(self._told(leg) for leg in self._legs), stuck, finish, bound=0.0)

    # Untangling.

    def _untangle(self, *, idle: bool) -> bool:
        """Make room for those that wait for each other; return whether anything began.

        ``idle``: nothing is under way, so that whoever waits now waits for ever. Else only hosts from which nothing
        can go before that are seen to.
        """
        begun = False
        for host in self._jammed(idle=idle):
            begun = self._make_room_on(host) or begun
        if not begun and idle:
            begun = self._rest_one()
        return begun

    def _is_quiet(self) -> bool:
        """Whether so few are under way that links lie idle."""
        return bool(self._waiting) and len(self._under_way) < self._temper.eager * len(self._room)

    def _use_the_quiet(self) -> None:
        """Park VMs of hosts that neither take nor send anything, and that others wait for: most waited for first."""
        idle = [host for host, coming in self._coming.items() if coming and not self._is_busy(host)]
        for host in sorted(idle, key=lambda each: (-self._to_go[each, "in"], each)):
            if not self._is_quiet():
                return
            if not any(self._fits(self._items[number], host) for number in self._coming[host]):
                self._make_room_on(host)

    def _is_busy(self, host: str) -> bool:
        return bool(self._slots["in", host] or self._slots["out", host])

    def _jammed(self, *, idle: bool) -> list[str]:
        """Return the hosts to which somebody waits to go, and from which nobody can go as things are."""
        waited_for = [host for host, coming in self._coming.items() if coming]
        if idle:
            return sorted(waited_for)
        alive = {host for host, count in self._departing.items() if count > 0}
        alive |= {item.at for n in self._waiting if self._fits(item := self._items[n], item.to)}
        edge = list(alive)
        while edge:
            for number in self._coming[edge.pop()]:
                if (at := self._items[number].at) not in alive:
                    alive.add(at)
                    edge.append(at)
        return sorted(host for host in waited_for if host not in alive)

    def _make_room_on(self, host: str) -> bool:
        """Park VMs of a host that are to leave it anyway, as few bytes as let one in; return whether one began."""
        best: tuple[int, list[tuple[int, str]]] | None = None
        for number in sorted(self._coming[host]):
            item = self._items[number]
            if self._fits(item, host) or self._has_to_wait(number):
                continue
            found = self._parked_for(item, host)
            if found is not None:
                cost = sum(self._items[n].of.memory + sum(self._items[n].of.fills.values()) for n, _ in found)
                if best is None or cost < best[0]:
                    best = cost, found
        begun = False
        for number, where in best[1] if best else ():
            begun = self._park(number, where) or begun
        return begun

    def _parked_for(self, item: Item, host: str) -> list[tuple[int, str]] | None:
        """Return whom to park where so that a VM gets in; None where that cannot be done."""
        missing = {place: size - self._free[place] for place, size in item.needs(host) if place in self._free}
        missing = {place: size for place, size in missing.items() if size > 0}
        chosen: list[tuple[int, str]] = []
        taken: Counter[Place] = Counter()
        leaving = [n for n in self._leaving[host] if self._items[n].parks < PARKS]
        for number in sorted(leaving, key=lambda n: self._usefulness(n, missing)):
            if not missing:
                break
            useful = {place: size for place, size in self._items[number].gives() if place in missing}
            where = self._place_for(number, taken) if useful else None
            if where is None:
                continue
            chosen.append((number, where))
            taken.update(dict(self._items[number].needs(where)))
            missing = {place: left for place, size in missing.items() if (left := size - useful.get(place, 0)) > 0}
        return chosen if not missing else None

    def _usefulness(self, number: int, missing: Mapping[Place, int]) -> tuple[bool, int, int]:
        """The smallest that is enough by itself comes first, then the largest."""
        gives = dict(self._items[number].gives())
        enough = all(gives.get(place, 0) >= size for place, size in missing.items())
        size = sum(gives.values())
        return not enough, size if enough else -size, number

    def _place_for(self, number: int, taken: Mapping[Place, int]) -> str | None:
        """Return a host on which a VM can be parked: where the least is waited for, then where most is free."""
        item = self._items[number]
        best: tuple[tuple[float, int, str], str] | None = None
        allowed = self._room if item.of.parking is None else sorted(item.of.parking & self._room.keys())
        for host in allowed:
            if host in (item.at, item.of.target):
                continue
            needs = list(item.needs(host))
            if not all(self._has_room(place, size + taken.get(place, 0)) for place, size in needs):
                continue
            key = (self._to_go[host, "in"], -self._free[host, MEMORY], host)
            if best is None or key < best[0]:
                best = key, host
        return best[1] if best else None

    def _has_room(self, place: Place, size: int) -> bool:
        """Whether so much is free; a pool that nobody has told of is none to park in."""
        return self._free[place] >= size if place in self._free else place[1].startswith(HELD)

    def _park(self, number: int, where: str) -> bool:
        """Send a VM to a third host instead, now or as soon as it has a way; return whether it began."""
        item = self._items[number]
        self._step_out(number)
        item.to = where
        item.parks += 1
        self._line_up(number)
        self._begin([number])
        return item.under_way

    def _rest_one(self) -> bool:
        """Switch the smallest VM off that may be, and that somebody waits for; return whether there was one."""
        may = [n for n in self._waiting if (item := self._items[n]).of.may_rest and not item.resting and item.of.memory]
        useful = [n for n in may if self._coming[self._items[n].at] and not self._items[n].parked]
        if not useful:
            return False
        number = min(useful, key=lambda n: (self._items[n].of.memory, n))
        self._step_out(number)
        item = self._items[number]
        item.under_way = True
        self._new_leg(number, Act.REST, item.at, 0.0)
        return True

    def _why_stuck(self, number: int) -> str:
        item = self._items[number]
        short = [
            _lacking(place[1], size - self._free[place])
            for place, size in item.needs(item.of.target)
            if place in self._free and self._free[place] < size
        ]
        if self._has_to_wait(number):
            others = ", ".join(self._items[n].of.key for n in sorted(self._behind[number] - self._left_by.keys()))
            return f"a rule keeps it apart from what has still to leave (moves {others}), and that waits for others"
        where = f"it waits on {item.at}" if item.parked else f"it is on {item.at}"
        return f"{where}; {item.of.target} lacks {' and '.join(short) or 'a way to it'}, and nothing that could go does"


def _lacking(name: str, size: int) -> str:
    """Say how much of what there is too little."""
    if name.startswith(HELD):
        return f"{size} {VCPUS}" if name == HELD + VCPUS else f"{format_size(size)} of {name.removeprefix(HELD)}"
    return f"{format_size(size)} of {f'space in pool {name}' if name else 'memory'}"
