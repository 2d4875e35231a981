"""The order of many moves: room at every instant, each move once, and an end, whatever is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.order import Case, overfull, shuffle
from mudanza.planning.order import Act, Leg, Limits, Room, Schedule, Transfer, bound, schedule
from mudanza.planning.rolling import PARKS

HOSTS = ("a", "b", "c", "d")


def move(key: str, source: str, target: str, memory: int = 1, **more: object) -> Transfer:
    return Transfer(key, source, target, float(memory or 1), memory, **more)  # type: ignore[arg-type]


def rooms(**memory: int) -> dict[str, Room]:
    return {host: Room(size) for host, size in memory.items()}


def held(least: int) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(("vCPUs", "huge pages"), st.integers(least, 9)))


transfers = st.builds(
    lambda *drawn: drawn,
    st.permutations(HOSTS).map(lambda hosts: hosts[:2]),
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(1, 9),
    st.booleans(),
    held(1),
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Transfer], dict[str, Room]]:
    moves = [
        Transfer(
            f"v{n}",
            ends[0],
            ends[1],
            float(seconds),
            memory,
            rate=float(seconds),
            fills={"pool": disk} if disk else {},
            frees={"pool": disk} if disk else {},
            holds=holds,
            may_rest=rests,
        )
        for n, (ends, memory, disk, seconds, rests, holds) in enumerate(draw(st.lists(transfers, max_size=14)))
    ]
    room = {
        host: Room(
            draw(st.integers(0, 10)),
            {"pool": draw(st.integers(0, 10))},
            rate_out=draw(st.sampled_from([None, 9.0])),
            holds=draw(
                st.fixed_dictionaries({}, optional={"vCPUs": st.integers(0, 9), "huge pages": st.integers(0, 9)})
            ),
        )
        for host in HOSTS
    }
    return moves, room


limits = st.builds(Limits, *[st.integers(1, 3)] * 4, st.one_of(st.none(), st.integers(1, 3)))


def replayed(
    moves: Sequence[Transfer], room: Mapping[str, Room], legs: Sequence[tuple[float, float, Leg]]
) -> list[str]:
    """Play legs (start, finish, leg) through, and return in words what is too much at any instant."""
    of = {each.key: each for each in moves}
    free: Counter[tuple[str, str]] = Counter()
    for host, has in room.items():
        free[host, ""] = has.memory
        free.update({(host, pool): size for pool, size in has.pools.items()})
        free.update({(host, f"held {name}"): size for name, size in has.holds.items()})
    resting: set[str] = set()
    found = []
    events = [(finish, 0, n, leg) for n, (_, finish, leg) in enumerate(legs)]
    events += [(start, 1, n, leg) for n, (start, _, leg) in enumerate(legs)]
    # A leg that takes no time begins before it ends.
    for _, begins, _, leg in sorted(events, key=lambda event: (event[0], _at_one_instant(event, legs), event[2])):
        each = of[leg.key]
        if leg.act is Act.REST:
            if not begins:
                resting.add(leg.key)
                free[leg.source, ""] += each.memory
                hold(free, room, leg.source, each, 1)
            continue
        if begins:
            free[leg.target, ""] -= each.memory
            hold(free, room, leg.target, each, -1)
            for pool, size in each.fills.items():
                free[leg.target, pool] -= size
            found += [f"{place} at the start of {leg}" for place in free if free[place] < 0 and place[0] == leg.target]
        else:
            if leg.key not in resting:
                free[leg.source, ""] += each.memory
                hold(free, room, leg.source, each, 1)
            resting.discard(leg.key)
            for pool, size in (each.frees if leg.source == each.source else each.fills).items():
                free[leg.source, pool] += size
    return found


def hold(free: Counter[tuple[str, str]], room: Mapping[str, Room], host: str, each: Transfer, sign: int) -> None:
    """Take or give what a VM holds, as far as that has a limit there."""
    for name, size in each.holds.items():
        if name in room[host].holds:
            free[host, f"held {name}"] += sign * size


def _at_one_instant(event: tuple[float, int, int, Leg], legs: Sequence[tuple[float, float, Leg]]) -> int:
    start, finish, _ = legs[event[2]]
    return 1 if start == finish and not event[1] else event[1]


def assert_good(moves: Sequence[Transfer], room: Mapping[str, Room], limit: Limits, found: Schedule) -> None:
    assert replayed(moves, room, [(leg.start, leg.finish, leg) for leg in found.legs]) == []
    arrived = Counter(leg.key for leg in found.legs if leg.act is Act.MOVE)
    assert arrived + Counter(each.key for each in found.stuck) == Counter(each.key for each in moves)
    assert all(sum(leg.key == each.key and leg.act is Act.PARK for leg in found.legs) <= PARKS for each in moves), (
        "parked too often"
    )
    at = {each.key: each.source for each in moves}
    for leg in found.legs:
        assert leg.source == at[leg.key]
        at[leg.key] = leg.target if leg.act is not Act.REST else leg.source
    for n, leg in enumerate(found.legs):
        assert all(found.legs[before].finish <= leg.start for before in leg.after)
        for end, most in (("source", limit.out), ("target", limit.into)):
            same = [
                each for each in found.legs
                if each.act is not Act.REST and getattr(each, end) == getattr(leg, end)
                and each.start <= leg.start < each.finish
            ]  # fmt: skip
            assert len(same) <= most, (n, leg)
        if limit.total is not None:
            under_way = [e for e in found.legs if e.act is not Act.REST and e.start <= leg.start < e.finish]
            assert len(under_way) <= limit.total


@given(problems(), limits)
@example(([], {}), Limits())
def test_no_host_is_ever_overfull_every_move_is_made_once_and_it_ends(
    problem: tuple[list[Transfer], dict[str, Room]], limit: Limits
) -> None:
    moves, room = problem
    found = schedule(moves, room, limit)
    assert_good(moves, room, limit, found)
    assert schedule(moves, room, limit) == found
    if not found.stuck and not any(leg.act is Act.REST for leg in found.legs):
        assert found.finish >= bound(moves, room, limit) - 1e-6


@given(problems(), limits, st.integers(0, 2**32))
def test_with_what_each_leg_waits_for_no_host_is_overfull_however_long_each_takes(
    problem: tuple[list[Transfer], dict[str, Room]], limit: Limits, seed: int
) -> None:
    moves, room = problem
    found = schedule(moves, room, limit)
    random = Random(seed)
    ends: list[float] = []
    really = []
    for leg in found.legs:
        start = max((ends[before] for before in leg.after), default=0.0) + random.choice((0.0, 0.0, 1.0))
        ends.append(start + random.choice((0.5, 1.0, 9.0)))
        really.append((start, ends[-1], leg))
    assert replayed(moves, room, really) == []


def test_what_leaves_makes_room_for_what_comes() -> None:
    moves = [move("in", "a", "b", 4), move("out", "b", "c", 4)]
    found = schedule(moves, rooms(a=0, b=0, c=4))
    assert [(leg.key, leg.start, leg.finish) for leg in found.legs] == [("out", 0.0, 4.0), ("in", 4.0, 8.0)]
    assert found.legs[1].after == (0,)


def test_a_swap_on_full_hosts_is_opened_on_a_third_one() -> None:
    moves = [move("v", "a", "b", 4), move("w", "b", "a", 4)]
    found = schedule(moves, rooms(a=0, b=0, c=4, d=2))
    assert [(leg.act, leg.start, leg.after) for leg in found.legs] == [
        (Act.PARK, 0.0, ()),
        (Act.MOVE, 4.0, (0,)),
        (Act.MOVE, 8.0, (0, 1)),
    ]
    assert found.legs[0].target == "c"
    assert found.legs[0].key == found.legs[2].key
    assert found.stuck == ()


def test_nobody_is_parked_where_it_must_not_be() -> None:
    moves = [
        replace(move("v", "a", "b", 4), parking=frozenset()),
        replace(move("w", "b", "a", 4), parking=frozenset({"d"})),
    ]
    found = schedule(moves, rooms(a=0, b=0, c=9, d=4))
    assert [leg.target for leg in found.legs if leg.act is Act.PARK] == ["d"]
    assert not found.stuck


def test_where_there_is_no_third_host_one_is_switched_off_if_it_may_be() -> None:
    moves = [move("v", "a", "b", 4), replace(move("w", "b", "a", 4), may_rest=True)]
    found = schedule(moves, rooms(a=0, b=0))
    assert [(leg.key, leg.act) for leg in found.legs] == [("w", Act.REST), ("v", Act.MOVE), ("w", Act.MOVE)]
    assert_good(moves, rooms(a=0, b=0), Limits(), found)


def test_what_cannot_be_done_is_told_with_the_reason() -> None:
    moves = [move("v", "a", "b", 4), move("w", "b", "a", 4), move("x", "c", "d", 1)]
    found = schedule(moves, rooms(a=0, b=0, c=2, d=1))
    assert {each.key for each in found.stuck} == {"v", "w"}
    assert "it is on a; b lacks 4 B of memory" in found.stuck[0].why
    assert [leg.key for leg in found.legs] == ["x"]


def test_a_pool_counts_as_memory_does() -> None:
    moves = [
        replace(move("in", "a", "b", 0), fills={"pool": 5}),
        replace(move("out", "b", "c", 0), fills={"pool": 5}, frees={"pool": 5}),
    ]
    room = {"a": Room(0), "b": Room(0, {"pool": 0}), "c": Room(0, {"pool": 5})}
    assert [leg.key for leg in schedule(moves, room).legs] == ["out", "in"]


@pytest.mark.parametrize("name", ["vCPUs", "huge pages of 2097152"])
def test_what_else_a_vm_holds_counts_as_memory_does(name: str) -> None:
    moves = [replace(move("in", "a", "b"), holds={name: 4}), replace(move("out", "b", "c"), holds={name: 4})]
    room = {"a": Room(9, holds={name: 0}), "b": Room(9, holds={name: 3}), "c": Room(9)}
    found = schedule(moves, room)
    assert [(leg.key, leg.after) for leg in found.legs] == [("out", ()), ("in", (0,))]
    assert replayed(moves, room, [(0.0, 1.0, leg) for leg in found.legs]), "both at once is seen by the replay"
    alone = schedule(moves[:1], room)
    assert "b lacks 1 vCPUs" in alone.stuck[0].why or f"b lacks 1 B of {name}" in alone.stuck[0].why


def test_for_what_has_no_limit_somewhere_one_is_parked_there() -> None:
    moves = [replace(move("v", "a", "b"), holds={"vCPUs": 4}), replace(move("w", "b", "a"), holds={"vCPUs": 4})]
    room = {"a": Room(9, holds={"vCPUs": 0}), "b": Room(9, holds={"vCPUs": 0}), "c": Room(9)}
    found = schedule(moves, room)
    assert [leg.act for leg in found.legs] == [Act.PARK, Act.MOVE, Act.MOVE]
    assert_good(moves, room, Limits(), found)


def test_the_longest_way_is_begun_first() -> None:
    moves = [move(f"s{n}", "a", "b", 1) for n in range(4)] + [move("long", "a", "c", 4)]
    found = schedule(moves, rooms(a=0, b=9, c=9), Limits(out=2, into=1, link=1))
    assert found.legs[0].key == "long" or found.finish == 4.0
    assert found.finish == found.bound == 4.0


def test_a_link_is_shared_by_as_many_as_it_carries() -> None:
    moves = [replace(move(f"v{n}", "a", t, 4), rate=2.0) for n, t in enumerate("bcd")]
    room = {host: Room(9, rate_out=4.0) for host in HOSTS}
    starts = sorted(leg.start for leg in schedule(moves, room, Limits(out=9)).legs)
    assert starts == [0.0, 0.0, 4.0]


def test_who_is_on_the_way_holds_memory_twice_and_that_bounds_all_of_them_together() -> None:
    ways = [("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")]
    moves = [move(f"v{n}", source, target, 4) for n, (source, target) in enumerate(ways)]
    found = schedule(moves, rooms(a=4, b=0, c=4), Limits(out=9, into=9))
    assert found.bound == sum(each.seconds for each in moves) / 2, "there is room for two of them at once"
    assert found.finish >= found.bound


@pytest.mark.parametrize("key", ["v", "w"])
def test_nonsense_is_refused(key: str) -> None:
    moves = [move("v", "a", "b"), move(key, "a", "b" if key == "v" else "z")]
    with pytest.raises(ValueError, match="one key" if key == "v" else "no word about the room on z"):
        schedule(moves, rooms(a=1, b=1))


@pytest.mark.parametrize(("fill", "over"), [(0.65, 1.15), (0.93, 2.0), (0.95, 2.0)])
def test_a_shuffle_comes_through(fill: float, over: float) -> None:
    moves, room = shuffle(Case(20, fill, 0.5))
    one = Limits(out=1, into=1, link=1)
    found = schedule(moves, room, one)
    assert overfull(moves, room, found) is None
    assert found.stuck == ()
    assert found.finish <= over * found.bound


def test_a_host_without_room_is_seen_by_the_replay() -> None:
    moves = [move("v", "a", "b", 4)]
    leg = Leg("v", Act.MOVE, "a", "b", 0.0, 4.0, ())
    assert replayed(moves, rooms(a=0, b=3), [(0.0, 4.0, leg)])
    assert overfull(moves, rooms(a=0, b=3), Schedule((leg,), (), 4.0, 4.0)) is not None


def test_who_is_behind_another_one_begins_when_that_one_has_left() -> None:
    room = {name: Room(100) for name in ("a", "b", "c")}
    moves = [
        Transfer("one", "a", "b", 1.0, 10, behind=frozenset({"two"})),
        Transfer("two", "b", "c", 5.0, 10),
    ]
    found = schedule(moves, room)
    legs = {leg.key: leg for leg in found.legs}
    assert (legs["two"].start, legs["one"].start) == (0.0, 5.0)
    number = [leg.key for leg in found.legs].index("two")
    assert (legs["one"].after, legs["one"].behind) == ((number,), (number,))
    around = schedule([moves[0], Transfer("two", "b", "c", 5.0, 10, behind=frozenset({"one"}))], room)
    assert {each.key for each in around.stuck} == {"one", "two"}
    assert "a rule keeps it apart" in around.stuck[0].why
    with pytest.raises(ValueError, match="nobody has the key three"):
        schedule([Transfer("one", "a", "b", 1.0, 10, behind=frozenset({"three"}))], room)
