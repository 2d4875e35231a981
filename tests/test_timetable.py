"""Plans in time: no host is over-full and no rule broken at any instant of the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host, HugePages, NumaNode
from mudanza.model.plan import Goal, MoveMode, Plan, PlannedMove
from mudanza.model.rules import Rule, RuleKind, Rules
from mudanza.model.units import GIB, MIB
from mudanza.model.vm import BoundMemory, Vm
from mudanza.planning.applied import applied
from mudanza.planning.homecoming import move_of
from mudanza.planning.needs import MEMORY, POOL, held
from mudanza.planning.pacing import paced
from mudanza.planning.planner import Outcome, Request, think
from mudanza.planning.result import as_plan
from tests import factories as make
from tests.test_planning_properties import clusters, requests, rules


def occupied(plan: Plan, outcome: Outcome, instant: float) -> dict[str, set[str]]:
    """Return the VMs (UUIDs) that each host bears at an instant; one that is on its way counts on both."""
    at: dict[str, set[str]] = defaultdict(set)
    for vm in outcome.problem.vms:
        mine = sorted((move for move in plan.moves if move.uuid == vm.uuid), key=lambda move: move.number)
        here = vm.host
        for move in mine:
            assert move.start is not None
            assert move.finish is not None
            if move.finish <= instant:
                here = move.target
            elif move.start <= instant:
                at[move.target].add(vm.uuid)
        at[here].add(vm.uuid)
    return at


def instants(plan: Plan) -> list[float]:
    return sorted({0.0, *(time for move in plan.moves for time in (move.start or 0.0, move.finish or 0.0))})


@settings(max_examples=80, deadline=None)
@given(clusters(), rules(), requests())
def test_no_memory_is_over_full_and_no_two_meet_that_must_not(
    cluster: Cluster, wanted: Rules, request: Request
) -> None:
    outcome = think(request, cluster, wanted)
    plan = as_plan(outcome)
    problem = outcome.problem
    need = {problem.vms[vm].uuid: 0.0 for members in problem.units for vm in members}
    need |= {vm.uuid: float(vm.memory + 100 * 2**20 + 8 * 2**20 * vm.vcpus + vm.memory // 512) for vm in problem.vms}
    first = occupied(plan, outcome, -1.0)
    names = {vm.uuid: vm.name for vm in problem.vms}
    apart = [set(rule.vms) for rule in wanted.rules if rule.kind is RuleKind.APART and rule.across == "host"]
    for instant in instants(plan):
        now = occupied(plan, outcome, instant)
        for number, host in enumerate(problem.names):
            used = sum(need[uuid] for uuid in now[host])
            before = sum(need[uuid] for uuid in first[host])
            assert used <= max(before, outcome.board.room[number, MEMORY]) + 1024
            for group in apart:
                there = {names[uuid] for uuid in now[host]} & group
                assert len(there) <= 1 or there <= {names[uuid] for uuid in first[host]}


PAGE = 2 * MIB


@st.composite
def maybe_bound(draw: st.DrawFn, vm: Vm) -> Vm:
    """Bind its memory to some of two nodes, or leave it."""
    nodes = draw(st.sets(st.integers(0, 1)).map(frozenset))
    return replace(vm, bound_memory=(BoundMemory(nodes, vm.memory, vm.hugepages),) if nodes else (), numa_nodes=nodes)


@st.composite
def nodes_of(draw: st.DrawFn, host: Host) -> tuple[NumaNode, ...]:
    """Two of them, or none that anybody has told of."""
    if not draw(st.integers(0, 4)):
        return ()
    free = [draw(st.integers(0, 6)) for _ in range(2)]
    return tuple(
        NumaNode(n, host.memory_total // 2, each * GIB, (HugePages(PAGE, 1 << 20, each * GIB // PAGE),))
        for n, each in enumerate(free)
    )


@st.composite
def crowded(draw: st.DrawFn) -> tuple[Cluster, Rules]:
    """Hosts with few huge pages and vCPUs to promise, some beyond their limit, and rules that keep VMs apart."""
    cluster, wanted = draw(clusters()), draw(rules())
    on_pages = [replace(vm, hugepages=(PAGE,) if draw(st.booleans()) else ()) for vm in cluster.vms]
    spare = {host.name: draw(st.integers(0, 6)) * GIB // PAGE for host in cluster.hosts}
    hosts = tuple(replace(host, hugepages=(HugePages(PAGE, 1 << 20, spare[host.name]),)) for host in cluster.hosts)
    on_pages = [draw(maybe_bound(vm)) for vm in on_pages]
    hosts = tuple(replace(host, nodes=draw(nodes_of(host))) for host in hosts)
    few = replace(wanted, vcpus_per_cpu=draw(st.sampled_from([0.25, 0.5, 1.0, 4.0])))
    return Cluster(hosts, tuple(on_pages)), few


def really(plan: Plan, seed: int) -> Plan:
    """The plan as it may go: each move begins when those it waits for have ended, and takes as long as it takes."""
    random, ends = Random(seed), dict[int, float]()
    moves: list[PlannedMove] = []
    for move in plan.moves:
        earlier = [ends[each.number] for each in moves if each.uuid == move.uuid]
        start = max([0.0, *earlier, *(ends[n] for n in move.after)]) + random.choice((0.0, 0.0, 1.0))
        ends[move.number] = start + random.choice((0.5, 1.0, 9.0))
        moves.append(replace(move, start=start, finish=ends[move.number]))
    return replace(plan, moves=tuple(moves))


@settings(max_examples=120, deadline=None)
@given(crowded(), requests(), st.integers(0, 2**32))
def test_vcpus_huge_pages_nodes_and_groups_are_kept_at_every_instant_however_long_each_move_takes(
    problem: tuple[Cluster, Rules], request: Request, seed: int
) -> None:
    cluster, wanted = problem
    outcome = think(request, cluster, wanted)
    plan = as_plan(outcome)
    for each in (plan, really(plan, seed)):
        assert list(too_much(each, outcome)) == []
        assert list(meetings(each, outcome)) == []


def too_much(plan: Plan, outcome: Outcome) -> Iterator[str]:
    """Say which host bears more vCPUs, huge pages or memory of nodes than it may, and than it did, at any instant."""
    problem = outcome.problem
    holds = {vm.uuid: held(vm, problem.dimensions) for vm in problem.vms}
    first = occupied(plan, outcome, -1.0)
    for instant in instants(plan):
        now = occupied(plan, outcome, instant)
        for number, host in enumerate(problem.names):
            for column, name in enumerate(problem.dimensions):
                if name == "memory" or name.startswith(POOL):
                    continue
                used, before = (sum(holds[uuid].get(name, 0) for uuid in there[host]) for there in (now, first))
                if used > max(before, outcome.board.room[number, column]) + 0.5:
                    yield f"{host} bears {used} {name} at {instant}, may {outcome.board.room[number, column]}"


def meetings(plan: Plan, outcome: Outcome) -> Iterator[str]:
    """Say who meets whom at any instant that must not, and did not at the beginning."""
    problem, wanted = outcome.problem, outcome.problem.rules
    names = {vm.uuid: vm.name for vm in problem.vms}

    def met(instant: float) -> set[tuple[str, ...]]:
        at = occupied(plan, outcome, instant)
        found: set[tuple[str, ...]] = set()
        for rule in wanted.rules:
            if rule.kind not in (RuleKind.APART, RuleKind.GROUPS_APART):
                continue
            places: dict[str | None, set[str]] = defaultdict(set)
            for host, uuids in at.items():
                place = wanted.zone_of(host) if rule.across == "zone" else host
                places[place] |= {names[uuid] for uuid in uuids}
            places.pop(None, None)
            others = rule.others or rule.vms
            for there in places.values():
                found |= {
                    (rule.name, *sorted((one, other)))
                    for one in there & set(rule.vms)
                    for other in there & set(others)
                    if one != other
                }
        return found

    first = met(-1.0)
    for instant in instants(plan):
        yield from (f"{meeting} at {instant}" for meeting in sorted(met(instant) - first))


def test_what_is_paced_without_a_plan_waits_for_huge_pages_and_vcpus_too() -> None:
    """As VMs that come home, and those of a host that is emptied."""
    there = tuple(replace(host, cpus=4, hugepages=(HugePages(PAGE, 1024, 0),)) for host in hosts())
    there = (*there[:2], replace(there[2], hugepages=(HugePages(PAGE, 1024, 1024),)))
    one, two = (replace(vm(name, host, 1), hugepages=(PAGE,), vcpus=3) for name, host in (("one", "h1"), ("two", "h2")))
    cluster = Cluster(there, (one, two))
    ways = [move_of(one, cluster, "h2", "test", number=1), move_of(two, cluster, "h3", "test", number=2)]
    for wanted in (Rules(), Rules(vcpus_per_cpu=1.0)):
        moves, stuck = paced(ways, cluster, wanted)
        assert stuck == ()
        assert [(move.vm, move.after) for move in moves] == [("two", ()), ("one", (1,))]
    plain = Cluster(there, (replace(one, hugepages=()), replace(two, hugepages=())))
    assert all(not move.after for move in paced(ways, plain, Rules())[0])
    assert any(move.after for move in paced(ways, plain, Rules(vcpus_per_cpu=1.0))[0])


def test_the_replay_sees_two_that_meet_and_too_many_vcpus() -> None:
    """Both at once, as no plan has it."""
    vms = (vm("one", "h1", 1), vm("two", "h2", 1))
    apart = Rule("c", RuleKind.GROUPS_APART, ("one",), ("two",))
    outcome = think(Request(Goal.REPAIR), Cluster(hosts(), vms), Rules((apart,), vcpus_per_cpu=0.25))
    ways = [("one", "h1", "h2"), ("two", "h2", "h3")]
    moves = [
        PlannedMove(n, name, name, source, target, "test", MoveMode.LIVE, 0, start=0.0, finish=9.0)
        for n, (name, source, target) in enumerate(ways, 1)
    ]
    plan = replace(as_plan(outcome), moves=tuple(moves))
    assert list(meetings(plan, outcome))
    assert list(too_much(plan, outcome))


@settings(max_examples=40, deadline=None)
@given(clusters(), rules(), requests())
def test_what_a_move_waits_for_has_ended_before_it_starts(cluster: Cluster, wanted: Rules, request: Request) -> None:
    plan = as_plan(think(request, cluster, wanted))
    for move in plan.moves:
        assert all((plan.moves[n - 1].finish or 0) <= (move.start or 0) + 0.11 for n in move.after)
        assert move.finish is not None
        assert plan.seconds is not None
        assert move.finish <= plan.seconds + 0.1


def hosts() -> tuple[Host, ...]:
    san = (make.pool(name="san", kind="netfs", path="/san"),)
    return tuple(make.host(name, memory_total=16 * GIB, memory_free=16 * GIB, pools=san) for name in ("h1", "h2", "h3"))


def vm(name: str, host: str, memory: int) -> Vm:
    disk = make.disk(pool="san", source=f"/san/{name}", cache="none")
    size = memory * GIB
    return make.vm(uuid=name, name=name, host=host, memory=size, memory_used=size, disks=(disk,))


def repaired(vms: tuple[Vm, ...], *rules: Rule) -> tuple[Plan, Outcome]:
    outcome = think(Request(Goal.REPAIR), Cluster(hosts(), vms), Rules(rules))
    return as_plan(outcome), outcome


ONE_COMES, TWO_LEAVES = (
    Rule("a", RuleKind.MUST, ("one",), hosts=("h2",)),
    Rule("b", RuleKind.MUST, ("two",), hosts=("h3",)),
)


def test_who_needs_anothers_room_waits_until_it_has_left() -> None:
    plan, _ = repaired((vm("one", "h1", 10), vm("two", "h2", 12)), ONE_COMES, TWO_LEAVES)
    two, one = plan.moves
    assert (two.vm, one.vm) == ("two", "one")
    assert one.after == (two.number,)
    assert one.start == two.finish


def test_rules_hold_on_the_way_too() -> None:
    """Both could be under way at once, and would meet on h2. So one of them waits until the other one has left."""
    apart = Rule("c", RuleKind.APART, ("one", "two"))
    vms = (vm("one", "h1", 1), vm("two", "h2", 1))
    plan, outcome = repaired(vms, ONE_COMES, TWO_LEAVES, apart)
    for instant in instants(plan):
        assert not {"one", "two"} <= occupied(plan, outcome, instant)["h2"]
    assert [(move.vm, move.target, move.after) for move in plan.moves] == [("two", "h3", ()), ("one", "h2", (1,))]
    then = applied(Cluster(hosts(), vms), {"two": "h3", "one": "h2"})
    second = as_plan(think(Request(Goal.REPAIR), then, Rules((ONE_COMES, TWO_LEAVES, apart))))
    assert second.moves == ()


def test_two_that_would_have_to_change_places_and_cannot_are_told_of() -> None:
    """Both hosts are full, and the third one may have neither."""
    plan, outcome = repaired(
        (vm("one", "h1", 12), vm("two", "h2", 12)),
        Rule("a", RuleKind.MUST_NOT, ("one",), hosts=("h1", "h3")),
        Rule("b", RuleKind.MUST_NOT, ("two",), hosts=("h2", "h3")),
    )
    assert plan.moves == ()
    assert len(outcome.broken_after) == 2
    assert "it needs 12 GiB of memory" in "".join(plan.notes)
