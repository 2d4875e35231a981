"""The yard behind ``order``: hosts with what is free on them, moves under way, and moves that wait."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mudanza.planning.order import Act, Leg, Limits, Room, Transfer
from mudanza.planning.rolling import HELD, MEMORY, Item, Place, Rolling, Temper


class Yard:
    """What is where, what begins and what ends. Who makes room is up to ``shunting``."""

    def __init__(self, transfers: Sequence[Transfer], room: Mapping[str, Room], limits: Limits, temper: Temper) -> None:
        self._room, self._limits, self._temper = room, limits, temper
        self._items = [Item(each, each.source, each.target) for each in transfers]
        self._now = 0.0
        self._legs: list[Rolling] = []
        self._under_way: list[tuple[float, int]] = []
        self._waiting: set[int] = set(range(len(transfers)))
        self._leaving: dict[str, set[int]] = defaultdict(set)
        self._coming: dict[str, set[int]] = defaultdict(set)
        self._departing: Counter[str] = Counter()
        """How many are on their way from a host..."""
        self._on_its_way: Counter[str] = Counter()
        """...and how much memory they will give back there."""
        self._to_come: Counter[str] = Counter()
        """Memory that waits to come to a host."""
        self._kept_for: dict[str, int] = {}
        """For whom the room is kept that comes free on a host: soon it will be enough."""
        self._slots: Counter[tuple[str, ...]] = Counter()
        self._rates: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._to_go: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._free: dict[Place, int] = {}
        self._lots: dict[Place, deque[tuple[int, int | None]]] = {}
        for host, has in room.items():
            held = ((HELD + name, size) for name, size in has.holds.items())
            for name, size in ((MEMORY, has.memory), *held, *has.pools.items()):
                self._free[host, name] = size
                self._lots[host, name] = deque([(size, None)] if size > 0 else ())
        numbers = {each.key: number for number, each in enumerate(transfers)}
        self._behind = {n: {numbers[key] for key in each.behind} for n, each in enumerate(transfers) if each.behind}
        """Who must have left before one may begin; and the other way round."""
        self._followers: dict[int, set[int]] = defaultdict(set)
        for number, others in self._behind.items():
            for other in others:
                self._followers[other].add(number)
        self._left_by: dict[int, int] = {}
        """The leg by which one has left its source."""
        for number in self._waiting:
            self._line_up(number)

    def _told(self, leg: Rolling) -> Leg:
        key = self._items[leg.item].of.key
        after, behind = tuple(sorted(leg.after)), tuple(sorted(leg.behind))
        return Leg(key, leg.act, leg.source, leg.target, leg.start, leg.finish, after, behind)

    # Lining up, beginning and ending.

    def _line_up(self, number: int) -> None:
        item = self._items[number]
        self._waiting.add(number)
        self._leaving[item.at].add(number)
        self._coming[item.to].add(number)
        self._to_come[item.to] += item.of.memory
        self._to_go[item.at, "out"] += item.of.seconds
        self._to_go[item.to, "in"] += item.of.seconds

    def _step_out(self, number: int) -> None:
        item = self._items[number]
        self._waiting.discard(number)
        self._leaving[item.at].discard(number)
        self._coming[item.to].discard(number)
        self._to_come[item.to] -= item.of.memory
        self._to_go[item.at, "out"] -= item.of.seconds
        self._to_go[item.to, "in"] -= item.of.seconds

    def _urgency(self, number: int) -> tuple[float, float, int]:
        item, temper = self._items[number], self._temper
        waits = self._to_go[item.at, "in"]
        if not temper.links:
            return -waits - temper.size * item.of.seconds, -item.of.seconds, number
        busiest = max(self._to_go[item.at, "out"], self._to_go[item.to, "in"])
        blocked = self._to_come[item.at] > self._free.get((item.at, MEMORY), 0)
        return -waits if blocked else 0.0, -busiest, number

    def _begin(self, wanted: Iterable[int]) -> None:
        """Begin those for which there is room and a way."""
        may = [number for number in wanted if number in self._waiting and not self._has_to_wait(number)]
        free_ways = [number for number in may if self._has_way(self._items[number])]
        for number in sorted(free_ways, key=self._urgency):
            item = self._items[number]
            if not self._has_way(item) or self._is_kept_from(number):
                continue
            if self._fits(item, item.to):
                self._start(number)
            elif self._will_fit(item):
                self._kept_for.setdefault(item.to, number)

    def _has_to_wait(self, number: int) -> bool:
        """Whether one that it must not meet has still to leave."""
        return not self._behind.get(number, set()) <= self._left_by.keys()

    def _will_fit(self, item: Item) -> bool:
        """Whether what is on its way from there gives back enough memory."""
        soon = self._on_its_way[item.to]
        return soon > 0 and self._free[item.to, MEMORY] + soon >= item.of.memory

    def _is_kept_from(self, number: int) -> bool:
        """Whether the room that it would take is kept for one that was more urgent and is larger."""
        item = self._items[number]
        first = self._kept_for.get(item.to)
        if first is None or first == number:
            return False
        other = self._items[first]
        if first not in self._waiting or other.to != item.to or not self._will_fit(other):
            del self._kept_for[item.to]
            return False
        left = self._free[item.to, MEMORY] + self._on_its_way[item.to] - item.of.memory
        return left < other.of.memory

    def _fits(self, item: Item, target: str) -> bool:
        free = self._free
        return all(free.get(place, size) >= size for place, size in item.needs(target))

    def _ways(self, item: Item) -> Iterator[tuple[tuple[str, ...], int]]:
        """Yield the places that it takes among those under way at once, and how many there are."""
        limits = self._limits
        yield ("out", item.at), limits.out
        yield ("in", item.to), limits.into
        yield ("link", item.at, item.to), limits.link
        yield from ((("pool", item.to, pool), limits.pool) for pool in item.of.fills)
        yield from ((("pool", item.at, pool), limits.pool) for pool in item.of.frees)
        if limits.total is not None:
            yield ("total",), limits.total

    def _has_way(self, item: Item) -> bool:
        if any(self._slots[name] >= places for name, places in self._ways(item)):
            return False
        return self._carries(item, item.at, "out") and self._carries(item, item.to, "in")

    def _carries(self, item: Item, host: str, way: str) -> bool:
        rate = self._room[host].rate_out if way == "out" else self._room[host].rate_in
        taken = self._rates[host, way]
        # Whoever is quicker than a link has it alone; the grain of floating-point sums stands in nobody's way.
        return rate is None or taken <= 0.0 or taken + item.of.rate <= rate * (1 + 1e-9)

    def _take_way(self, item: Item, by: int) -> None:
        for name, _ in self._ways(item):
            self._slots[name] += by
        for end in ((item.at, "out"), (item.to, "in")):
            left = self._rates[end] + by * item.of.rate
            self._rates[end] = left if left > item.of.rate * 1e-6 else 0.0
        self._departing[item.at] += by
        self._on_its_way[item.at] += by * (0 if item.resting else item.of.memory)

    def _start(self, number: int) -> None:
        item = self._items[number]
        self._step_out(number)
        act = Act.MOVE if item.to == item.of.target else Act.PARK
        leg = self._new_leg(number, act, item.to, item.of.seconds)
        for place, size in item.needs(item.to):
            if place in self._free:
                self._take(place, size, leg)
        self._take_way(item, 1)
        item.under_way = True

    def _new_leg(self, number: int, act: Act, target: str, seconds: float) -> Rolling:
        item = self._items[number]
        leg = Rolling(number, act, item.at, target, self._now, self._now + seconds)
        if item.last is not None:
            leg.after.add(item.last)
        if act is not Act.REST:
            leg.behind = {self._left_by[other] for other in self._behind.get(number, ())}
            leg.after |= leg.behind
        item.last = len(self._legs)
        heapq.heappush(self._under_way, (leg.finish, len(self._legs)))
        self._legs.append(leg)
        return leg

    def _take(self, place: Place, size: int, leg: Rolling) -> None:
        """Have a leg take room, and wait for those that gave it."""
        self._free[place] -= size
        lots = self._lots[place]
        while size > 0:
            has, giver = lots[0]
            if giver is not None:
                leg.after.add(giver)
            if has > size:
                lots[0] = (has - size, giver)
            else:
                lots.popleft()
            size -= has

    def _give(self, place: Place, size: int, giver: int) -> None:
        if place in self._free:
            before = self._free[place]
            self._free[place] += size
            # A place that was over-full at the beginning first makes up for that.
            if (given := size - max(-before, 0)) > 0:
                self._lots[place].append((given, giver))

    def _end_next(self) -> list[int]:
        """End what ends next, all that end at one instant together; return their legs."""
        ended: list[int] = []
        self._now = self._under_way[0][0]
        while self._under_way and self._under_way[0][0] <= self._now:
            _, number = heapq.heappop(self._under_way)
            ended.append(number)
            self._end(number)
        return ended

    def _end(self, number: int) -> None:
        leg = self._legs[number]
        item = self._items[leg.item]
        if leg.act is Act.REST:
            self._give((item.at, MEMORY), item.of.memory, number)
            for name, size in item.of.holds.items():
                self._give((item.at, HELD + name), size, number)
            item.resting, item.under_way = True, False
            self._line_up(leg.item)
            return
        self._take_way(item, -1)
        self._left_by.setdefault(leg.item, number)
        for place, size in item.gives():
            self._give(place, size, number)
        item.at, item.to, item.resting, item.under_way = leg.target, item.of.target, False, False
        if leg.act is Act.PARK:
            self._line_up(leg.item)

    def _interested(self, number: int) -> set[int]:
        """Return who may begin now that a leg has ended."""
        if self._limits.total is not None:
            return self._waiting
        leg = self._legs[number]
        own = self._items[leg.item].at  # one that was parked may go on at once
        followers = self._followers.get(leg.item, set())
        return (
            followers
            | self._leaving[leg.source]
            | self._coming[leg.target]
            | self._coming[leg.source]
            | self._leaving[own]
        )
