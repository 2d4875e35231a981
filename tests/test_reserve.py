"""Room for failures: what is claimed is there, what is there is found in small clusters, and no plan uses it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mudanza.model.cluster import Cluster
from mudanza.model.plan import Goal
from mudanza.model.rules import Rule, RuleKind, Rules
from mudanza.model.units import GIB
from mudanza.planning.board import Board
from mudanza.planning.building import build
from mudanza.planning.consolidating import hosts_counted_on
from mudanza.planning.packing import pack
from mudanza.planning.planner import Request, think
from mudanza.planning.reserve import Reserve, reserve_of
from mudanza.planning.result import as_plan
from tests import factories as make

NAMES = ("h1", "h2", "h3", "h4")
ZONES = {"a": ("h1", "h2"), "b": ("h3",)}


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    sizes = {name: draw(st.sampled_from([16, 24, 32])) * GIB for name in NAMES}
    vms = tuple(
        make.vm(
            uuid=f"u{number}",
            name=f"vm{number}",
            host=draw(st.sampled_from(NAMES)),
            memory=(size := draw(st.integers(1, 9)) * GIB),
            memory_used=size,
            vcpus=draw(st.integers(1, 3)),
            disks=(),
            nics=(make.nic(mac=f"52:54:00:00:00:{number:02x}"),),
        )
        for number in range(draw(st.integers(1, 9)))
    )
    free = {name: max(0, sizes[name] - sum(vm.memory for vm in vms if vm.host == name)) for name in NAMES}
    hosts = tuple(make.host(name, memory_total=sizes[name], memory_free=free[name]) for name in NAMES)
    return Cluster(hosts, vms)


@st.composite
def wishes(draw: st.DrawFn) -> Rules:
    names = st.lists(st.integers(0, 8).map(lambda n: f"vm{n}"), min_size=2, max_size=3, unique=True)
    found = []
    for number in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from([RuleKind.APART, RuleKind.MUST_NOT]))
        across = draw(st.sampled_from(["host", "zone"])) if kind is RuleKind.APART else "host"
        hosts = (draw(st.sampled_from(NAMES)),) if kind is RuleKind.MUST_NOT else ()
        found.append(Rule(f"r{number}", kind, tuple(draw(names)), hosts=hosts, across=across))
    hosts_lost, zones_lost = draw(st.sampled_from([(1, 0), (2, 0), (0, 1), (1, 1)]))
    return Rules(
        tuple(found), zones=ZONES, survive_hosts=hosts_lost, survive_zones=zones_lost, level=5, vcpus_per_cpu=2.0
    )


def room_is_found(board: Board, failed: frozenset[int], hosts: Sequence[int]) -> bool:
    """Try everything, with nothing of the product's but its figures."""
    problem = board.problem
    lost = [unit for host in failed for unit in sorted(board.on[host])]
    others = [host for host in hosts if host not in failed]
    able = []
    for unit in lost:
        fits = [
            h for h in others if problem.admit[problem.kind[unit], h] and (problem.need[unit] <= board.room[h]).all()
        ]
        if fits:
            able.append(unit)
    where = {
        unit: int(board.where[unit]) for unit in range(len(problem.units)) if board.where[unit] not in (-1, *failed)
    }
    return any(_holds(board, {**where, **dict(zip(able, chosen, strict=True))}, able)
               for chosen in product(others, repeat=len(able)))  # fmt: skip


def _holds(board: Board, where: dict[int, int], moved: Sequence[int]) -> bool:
    problem = board.problem
    for host in {where[unit] for unit in moved}:
        need = sum(problem.need[unit] for unit, at in where.items() if at == host)
        if (need > board.room[host] + 1).any():
            return False
    for unit in moved:
        host = where[unit]
        if not problem.admit[problem.kind[unit], host]:
            return False
        for row in set(problem.blocked_by[unit].tolist()) - {len(problem.rows)}:
            for other, at in where.items():
                zone = problem.zone[host]
                near = at == host if not problem.rows[row].zonal else zone != -1 and problem.zone[at] == zone
                if other != unit and near and row in problem.adds[other]:
                    return False
    return True


def _cases(reserve: Reserve) -> list[tuple[frozenset[int], bool]]:
    short = {each.failure.hosts for each in reserve.shortages()}
    return [(failure.hosts, failure.hosts not in short) for failure in reserve.failures]


def _few(board: Board, failed: frozenset[int]) -> bool:
    return sum(len(board.on[host]) for host in failed) <= 4


@settings(max_examples=60, deadline=None)
@given(clusters(), wishes())
def test_room_is_claimed_exactly_where_it_is(cluster: Cluster, wanted: Rules) -> None:
    board = Board(build(cluster, wanted))
    reserve = reserve_of(board)
    assert reserve is not None
    for failed, claimed in _cases(reserve):
        if _few(board, failed):
            assert claimed == room_is_found(board, failed, range(4)), (failed, claimed)
    assert all(each.packed.sure for each in reserve.shortages() if _few(board, each.failure.hosts))


@settings(max_examples=60, deadline=None)
@given(clusters(), wishes(), st.sampled_from([Goal.BALANCE, Goal.CONSOLIDATE, Goal.REPAIR, Goal.PLACE]))
def test_no_plan_takes_the_room_that_a_failure_would_have_found(cluster: Cluster, wanted: Rules, goal: Goal) -> None:
    outcome = think(Request(goal, "vm0" if goal is Goal.PLACE else ""), cluster, wanted)
    as_plan(outcome)
    before = Reserve(Board(outcome.problem))
    board = outcome.board
    hosts = hosts_counted_on(board) if goal is Goal.CONSOLIDATE else np.arange(4)
    for failed, claimed in _cases(before):
        if claimed and _few(board, failed) and (goal is not Goal.CONSOLIDATE or failed <= set(hosts.tolist())):
            assert room_is_found(board, failed, hosts.tolist()), (failed, outcome.problem.start, board.where)


def test_what_follows_the_moves_is_what_a_fresh_look_finds() -> None:
    cluster = Cluster(
        tuple(make.host(name, memory_total=32 * GIB, memory_free=32 * GIB) for name in NAMES),
        tuple(
            make.vm(uuid=f"u{n}", name=f"vm{n}", host=NAMES[n % 3], memory=(3 + n % 5) * GIB, memory_used=3 * GIB,
                    disks=(), nics=())
            for n in range(12)
        ),
    )  # fmt: skip
    board = Board(build(cluster, Rules(survive_hosts=1)))
    reserve = Reserve(board)
    dice = np.random.default_rng(1)
    for _ in range(40):
        unit, host = int(dice.integers(12)), int(dice.integers(4))
        if board.where[unit] != host and board.may(np.array([unit]), np.array([host]))[0, 0]:
            told = reserve.keeps(unit, host)
            board.move(unit, host)
            assert told == reserve.holds()
            assert _cases(reserve) == _cases(Reserve(board))


def test_one_arrangement_of_many_is_found() -> None:
    """10 GiB are free on each of two hosts. Largest first leaves one VM of 2 GiB over, wherever the others go."""
    hosts = tuple(
        make.host(name, memory_total=10 * GIB + extra, memory_free=10 * GIB + extra)
        for name, extra in (("h1", 30 * GIB), ("h2", 4 * GIB), ("h3", 4 * GIB))
    )
    vms = tuple(
        make.vm(uuid=f"u{n}", name=f"vm{n}", host="h1", memory=size * GIB, memory_used=size * GIB, disks=(), nics=())
        for n, size in enumerate((5, 4, 4, 3, 2, 2))
    )
    board = Board(build(Cluster(hosts, vms), Rules(host_reserve=1)))
    board.room[1:, 0] = board.problem.need[[0, 3, 4], 0].sum()
    found = pack(board, range(6), np.array([1, 2]))
    assert not found.left
    taken = np.zeros(3)
    for unit, host in found.places.items():
        taken[host] += board.problem.need[unit, 0]
    assert (taken <= board.room[:, 0]).all()
    board.room[2, 0] -= 1 * GIB
    assert pack(board, range(6), np.array([1, 2])).left
    assert pack(board, range(6), np.array([1, 2])).sure


def test_of_many_hosts_at_a_time_room_is_counted_in_slots() -> None:
    """Of eighty hosts any two may fail: 3160 cases are not gone through. What is claimed holds for every pair."""
    names = [f"h{n:02d}" for n in range(80)]
    vms = tuple(
        make.vm(uuid=f"u{n}", name=f"vm{n}", host=names[n % 80], memory=4 * GIB, memory_used=4 * GIB, disks=(), nics=())
        for n in range(160)
    )

    def reserve(size: int) -> Reserve:
        hosts = tuple(make.host(name, memory_total=size, memory_free=size - 8 * GIB) for name in names)
        return Reserve(Board(build(Cluster(hosts, vms), Rules(survive_hosts=2))))

    roomy = reserve(16 * GIB)
    assert roomy.slots == 2
    assert not roomy.unproven
    single = Reserve(Board(replace(roomy.board.problem, rules=Rules(survive_hosts=1))))
    assert all(not each.packed.left for each in single.shortages())
    full = reserve(11 * GIB)
    assert full.unproven
    for pair in list(combinations(range(80), 2))[:20]:
        lost = [unit for host in pair for unit in roomy.board.on[host]]
        assert not pack(roomy.board, lost, np.array([h for h in range(80) if h not in pair])).left
