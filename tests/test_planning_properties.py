"""What holds for every plan, whatever the cluster."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mudanza.model.cluster import Cluster
from mudanza.model.load import HostLoad, Loads, Spread, VmLoad
from mudanza.model.plan import Goal, Plan
from mudanza.model.rules import Rule, RuleKind, Rules
from mudanza.model.units import GIB
from mudanza.model.vm import Vm
from mudanza.planning.applied import applied
from mudanza.planning.board import Board
from mudanza.planning.eagerness import held
from mudanza.planning.imbalance import Imbalance, weights_of
from mudanza.planning.planner import Request, think
from mudanza.planning.recent import Recent
from mudanza.planning.repair import breaches
from mudanza.planning.result import as_plan
from tests import factories as make

NAMES = ("h1", "h2", "h3", "h4")


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    hosts = [
        make.host(name, cpus=draw(st.sampled_from([4, 8, 16])), memory_total=size, memory_free=size)
        for name in NAMES
        for size in [draw(st.sampled_from([16, 32, 64])) * GIB]
    ]
    count = draw(st.integers(0, 14))
    vms = [
        _vm(number, draw(st.sampled_from(NAMES)), draw(st.integers(1, 6)), draw(st.integers(1, 4)))
        for number in range(count)
    ]
    free = {host.name: host.memory_free - sum(vm.memory for vm in vms if vm.host == host.name) for host in hosts}
    return Cluster(tuple(replace(host, memory_free=max(0, free[host.name])) for host in hosts), tuple(vms))


def _vm(number: int, host: str, memory: int, vcpus: int) -> Vm:
    disk = make.disk(source=f"{make.IMAGES}/{number}.qcow2", volume=f"{number}.qcow2", allocation=GIB)
    return make.vm(
        uuid=f"u{number:03d}",
        name=f"vm{number}",
        host=host,
        memory=memory * GIB,
        memory_used=memory * GIB,
        vcpus=vcpus,
        disks=(disk,),
        nics=(make.nic(mac=f"52:54:00:00:00:{number:02x}"),),
    )


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    names = st.lists(st.integers(0, 13).map(lambda n: f"vm{n}"), min_size=2, max_size=4, unique=True)
    found = []
    for number in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(list(RuleKind)))
        vms = draw(names)
        hosts = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)) if kind.is_of_hosts else []
        others = draw(names) if kind is RuleKind.GROUPS_APART else []
        across = draw(st.sampled_from(["host", "zone"])) if kind in (RuleKind.APART, RuleKind.GROUPS_APART) else "host"
        found.append(Rule(f"r{number}", kind, tuple(vms), tuple(others), tuple(hosts), across))
    return Rules(tuple(found), zones={"a": ("h1", "h2"), "b": ("h3",)}, level=draw(st.integers(1, 5)))


def requests() -> st.SearchStrategy[Request]:
    plain = st.sampled_from([Request(Goal.BALANCE), Request(Goal.CONSOLIDATE), Request(Goal.REPAIR)])
    return plain | st.sampled_from(NAMES).map(lambda name: Request(Goal.DRAIN, name))


def keys(found: Board) -> set[str]:
    """What is broken, apart from who and by how much: mending a rule in part leaves it broken."""
    return {breach.text.split(" by ")[0].split(" of memory are")[0] for breach in breaches(found)}


@settings(max_examples=100, deadline=None)
@given(clusters(), rules(), requests())
def test_no_plan_breaks_a_rule_or_a_limit_that_held(cluster: Cluster, wanted: Rules, request: Request) -> None:
    outcome = think(request, cluster, wanted)
    board, before = outcome.board, Board(outcome.problem)
    assert keys(board) <= keys(before)
    arrived = np.flatnonzero(board.where != outcome.problem.start)
    for unit in arrived.tolist():
        host = int(board.where[unit])
        if host == -1:
            continue
        assert outcome.problem.admit[outcome.problem.kind[unit], host]
        assert board.excess()[host].max() <= max(before.excess()[host].max(), 0) + 1
        assert outcome.problem.open[host]


@settings(max_examples=50, deadline=None)
@given(clusters(), rules(), requests())
def test_the_same_question_has_the_same_answer(cluster: Cluster, wanted: Rules, request: Request) -> None:
    one, two = (as_plan(think(request, cluster, wanted)) for _ in range(2))
    assert one == two
    assert one.summary
    assert all(move.reason for move in one.moves)
    assert one.bound is None or request.goal is Goal.REPAIR or one.bound <= one.score_after + 1e-9


@settings(max_examples=100, deadline=None)
@given(clusters(), rules(), requests())
def test_once_done_there_is_nothing_to_do(cluster: Cluster, wanted: Rules, request: Request) -> None:
    outcome = think(request, cluster, wanted)
    first = as_plan(outcome)
    last = as_plan(think(request, _after(cluster, first), wanted))
    assert not last.moves, (first.summary, last.summary, [(m.vm, m.source, m.target, m.reason) for m in last.moves])


def _after(cluster: Cluster, plan: Plan) -> Cluster:
    return applied(cluster, {move.uuid: move.target for move in plan.moves})


@settings(max_examples=50, deadline=None)
@given(clusters(), st.integers(0, 2**32 - 1))
def test_gains_are_what_the_imbalance_really_falls_by(cluster: Cluster, seed: int) -> None:
    outcome = think(Request(Goal.REPAIR), cluster, Rules())
    problem, dice = outcome.problem, random.Random(seed)
    if not problem.units:
        return
    board = Board(problem)
    score = Imbalance(board, weights_of(problem))
    unit, host = dice.randrange(len(problem.units)), dice.randrange(len(NAMES))
    if board.where[unit] == host:
        return
    before = score.value
    told = score.gains(np.array([unit]), np.array([host]))[0, 0] / score.hosts
    here = int(board.where[unit])
    board.move(unit, host)
    score.moved(here, host)
    assert before - score.value == pytest.approx(told, abs=1e-9)
    followed = score.value
    score.refresh()
    assert score.value == pytest.approx(followed, abs=1e-9)


def _spread(dice: random.Random, middle: float, noise: float) -> Spread:
    seen = sorted(max(0.0, dice.gauss(middle, noise)) for _ in range(20))
    return Spread(seen[10], seen[18], seen[19])


@pytest.mark.parametrize("seed", range(3))
def test_noise_does_not_set_vms_wandering(seed: int) -> None:
    """A hundred rounds of noisy readings around steady loads: what moves moves once, and then there is peace."""
    dice = random.Random(seed)
    hosts = tuple(make.host(name, memory_total=32 * GIB, memory_free=32 * GIB) for name in NAMES)
    vms = tuple(_vm(number, "h1" if number < 6 else dice.choice(NAMES), 2, 2) for number in range(20))
    used = {vm.uuid: dice.uniform(0.1, 1.2) for vm in vms}
    cluster = _settle_memory(Cluster(hosts, vms))
    wanted = Rules()
    moved: dict[str, list[int]] = {}
    asked: list[bool] = []
    last_vm: dict[str, int] = {}
    last_host: dict[str, int] = {}
    for round_number in range(100):
        loads = _noisy(dice, cluster, used)
        minute = {uuid: 60.0 * (round_number - at) for uuid, at in last_vm.items()}
        recent = Recent(minute, {name: 60.0 * (round_number - at) for name, at in last_host.items()})
        plan = as_plan(think(Request(Goal.BALANCE), cluster, wanted, loads, recent=recent))
        asked.append(bool(plan.moves))
        if not held(asked, wanted):
            continue
        asked.clear()
        for move in plan.moves:
            moved.setdefault(move.uuid, []).append(round_number)
            last_vm[move.uuid] = last_host[move.source] = last_host[move.target] = round_number
        cluster = _settle_memory(_after(cluster, plan))
    assert moved, "the cluster was uneven to begin with"
    assert max(len(rounds) for rounds in moved.values()) <= 2
    assert sum(len(rounds) for rounds in moved.values()) <= 12
    assert max(rounds[-1] for rounds in moved.values()) < 60, "after a while nothing moves any more"


def _settle_memory(cluster: Cluster) -> Cluster:
    used = {host.name: sum(vm.memory for vm in cluster.vms_on(host.name)) for host in cluster.hosts}
    hosts = (replace(host, memory_free=host.memory_total - used[host.name]) for host in cluster.hosts)
    return Cluster(tuple(hosts), cluster.vms)


def _noisy(dice: random.Random, cluster: Cluster, used: dict[str, float]) -> Loads:
    quiet = Spread()
    vms = {
        vm.uuid: VmLoad(
            vm.uuid,
            _spread(dice, used[vm.uuid], 0.15),
            _spread(dice, vm.memory * 0.6, 0.05 * GIB),
            quiet,
            quiet,
            20,
            600,
        )
        for vm in cluster.vms
    }
    hosts = {}
    for host in cluster.hosts:
        mine = [vms[vm.uuid] for vm in cluster.vms_on(host.name)]
        cpus = sum(load.cpus.median for load in mine) + 0.1
        memory = sum(load.memory.median for load in mine) + GIB / 2
        hosts[host.name] = HostLoad(
            host.name, _spread(dice, cpus, 0.2), _spread(dice, memory, 0.1 * GIB), quiet, quiet, 20, 600
        )
    return Loads(vms, hosts)
