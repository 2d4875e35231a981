"""In which order moves are made, and at what pace: each one begins as soon as there is room and a way for it.

There are no batches: whenever a move ends, those that waited for what it gives back begin. Memory, huge pages, vCPUs
and disk space are held at the target from a move's start, and given back at the source at its end, so all count twice
meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

GOOD_ENOUGH = 1.15
"""How many times its bound an order may take for no other one to be tried."""
WORK = 40_000
"""Moves that may be played through in all, to find a better order."""

_NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Transfer:
    """One move as far as its place in the order goes. Bytes, seconds, bytes per second."""

    key: str
    """Which move it is: what the schedule calls it."""
    source: str
    target: str
    seconds: float
    """How long it takes at its rate."""
    memory: int = 0
    """What it holds of a host's memory; 0 for a VM that is off."""
    rate: float = 0.0
    """What it takes of the links it goes over."""
    fills: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """Pool of the target → what its disks take there."""
    frees: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """Pool of the source → what its disks give back there."""
    holds: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """What else it holds of a host as it holds memory: vCPUs, bytes of huge pages. Nothing for a VM that is off."""
    parking: frozenset[str] | None = None
    """Hosts on which it may be parked to make room, in pools of the target's names; None: on any."""
    behind: frozenset[str] = frozenset()
    """Keys of moves that must have left their sources before it begins: a rule keeps them apart."""
    may_rest: bool = False
    """Whether it may be switched off to make room, and move cold."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a host has left for newcomers: bytes, and bytes per second; None: no limit."""

    memory: int
    pools: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """A pool that is not named here has no limit."""
    rate_out: float | None = None
    rate_in: float | None = None
    holds: Mapping[str, int] = field(default_factory=lambda: _NOTHING)
    """What else there is, by the same names as what transfers hold; what is not named here has no limit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many moves may be under way at once."""

    out: int = 2
    """From one host."""
    into: int = 2
    """To one host."""
    link: int = 2
    """From one host to another one."""
    pool: int = 4
    """Reading and writing in one pool of one host."""
    total: int | None = None
    """In all; None: no limit."""


class Act(StrEnum):
    """What a leg does with its VM."""

    MOVE = "move"
    """It goes to its target."""
    PARK = "park"
    """It goes to a third host, to make room, and on from there later."""
    REST = "rest"
    """It is switched off where it is, to make room, and goes on cold."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One act with its time, in seconds from the beginning."""

    key: str
    act: Act
    source: str
    target: str
    start: float
    finish: float
    after: tuple[int, ...]
    """Which legs (places in the schedule) must have ended before it: the one before it of its VM, and those whose room
    it takes. With these kept no host is ever over-full, however long each leg really takes."""
    behind: tuple[int, ...] = ()
    """Those of them by which somebody left whom it must not meet (``Transfer.behind``)."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """A move for which there is no room on its way, and why."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """Every leg in the order of its start, what cannot be done, and when all is over."""

    legs: tuple[Leg, ...]
    stuck: tuple[Stuck, ...]
    finish: float
    """Seconds from the beginning."""
    bound: float
    """Seconds below which no order can get: what the busiest link, host or longest move takes by itself; or all of them
    together where memory is scarce: who is on the way holds memory twice, and of that there is so much in all."""


def schedule(transfers: Sequence[Transfer], room: Mapping[str, Room], limits: Limits | None = None) -> Schedule:
    """Return an order in which nothing of a host, and no pool, is over-full at any instant, as quick as can be seen.

    What leaves hosts that others wait for goes first, then what waits for the busiest link, and longer moves before
    shorter ones; where that is far from the bound, other weights are tried and the best is taken. Moves that wait for
    each other's room are untangled by parking one of them on a third host (``Transfer.parking``), else by switching one
    off (``may_rest``). Nobody begins before those
    it is ``behind`` have left. Moves that even so cannot be made are ``stuck``: choose other targets for them.

    It ends: each turn of the loop begins a leg, ends one or untangles, and there are finitely many of each. A move has
    one leg to its target, a VM is parked ``PARKS`` times and switched off once at the most, so there are no more than
    ``PARKS + 2`` legs for each move; and where nothing is under way, nothing can begin and nothing can be untangled,
    it is over. Deterministic: the same moves give the same schedule.

    Raises ValueError for two transfers of one key, or a host that ``room`` or a key that no transfer has.
    """
    from mudanza.planning.rolling import TEMPERS
    from mudanza.planning.shunting import Shunter

    _refuse_nonsense(transfers, room)
    limits = limits or Limits()
    least = bound(transfers, room, limits)
    best, tried = Shunter(transfers, room, limits, TEMPERS[0]).run(), len(transfers)
    for temper in TEMPERS[1:]:
        good = not best.stuck and best.finish <= GOOD_ENOUGH * least
        if good or (tried := tried + len(transfers)) > WORK:
            break
        best = min(
            best, Shunter(transfers, room, limits, temper).run(), key=lambda each: (len(each.stuck), each.finish)
        )
    return replace(best, bound=least)


def _refuse_nonsense(transfers: Sequence[Transfer], room: Mapping[str, Room]) -> None:
    if len({each.key for each in transfers}) != len(transfers):
        raise ValueError("two transfers have one key")
    if missing := {key for each in transfers for key in each.behind} - {each.key for each in transfers}:
        raise ValueError(f"nobody has the key {', '.join(sorted(missing))}, and others are to be behind it")
    unknown = {host for each in transfers for host in (each.source, each.target)} - room.keys()
    if unknown:
        raise ValueError(f"there is no word about the room on {', '.join(sorted(unknown))}")


def bound(transfers: Iterable[Transfer], room: Mapping[str, Room], limits: Limits) -> float:
    """Return the seconds below which no order can get: see ``Schedule.bound``."""
    moves = tuple(transfers)
    busy: dict[tuple[str, str], float] = {}
    longest = 0.0
    for each in moves:
        longest = max(longest, each.seconds)
        ends = (
            (each.source, "out", limits.out, room[each.source].rate_out),
            (each.target, "in", limits.into, room[each.target].rate_in),
        )
        for host, way, places, rate in ends:
            share = max(1 / places, each.rate / rate if rate else 0.0)
            busy[host, way] = busy.get((host, way), 0.0) + each.seconds * share
    return max(longest, max(busy.values(), default=0.0), _bound_by_memory(moves, room))


def _bound_by_memory(moves: Sequence[Transfer], room: Mapping[str, Room]) -> float:
    """Return the seconds for which what is held twice fills all the memory that anybody has left.

    Parking only adds to it. Who may be switched off holds nothing meanwhile, and is not counted.
    """
    left = sum(max(has.memory, 0) for has in room.values())
    held = sum(each.memory * each.seconds for each in moves if not each.may_rest)
    return held / left if left else 0.0
