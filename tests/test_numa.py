"""Memory of NUMA nodes: read of definitions and hosts, judged before a move, held by plans at every instant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import read_host
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.model.finding import Finding, Level
from mudanza.model.host import Host, HugePages, NumaNode
from mudanza.model.migration import MigrationOptions
from mudanza.model.units import GIB, MIB
from mudanza.model.vm import BoundMemory, Vm, VmState
from mudanza.planning.nodes import changed_nodes, held_of, is_of_nodes, names_of, room_for
from mudanza.preflight.arrivals import Arrival, reserved_at
from mudanza.preflight.checklist import check
from mudanza.preflight.numa import MOST_UNIONS, bound_within, left_on, to_be_had_on, unions
from tests import factories as make
from tests.twin.scene import scene

UUID = "5f0ec2d8-9a0e-4c58-a1b5-7d3b45a7a1c1"
BOTH = frozenset({0, 1})
ZERO, ONE = frozenset({0}), frozenset({1})


def node(number: int, free: int, total: int = 16, pages: int = 0) -> NumaNode:
    huge = (HugePages(2 * MIB, pages, pages),) if pages else ()
    return NumaNode(number, total * GIB, free * GIB, huge)


def host(*free: int, cached: int = 0, name: str = "h2") -> Host:
    nodes = tuple(node(number, each) for number, each in enumerate(free))
    memory = {"memory_total": 16 * GIB * len(free), "memory_free": (sum(free) + cached) * GIB}
    return make.host(name, nodes=nodes, cpu_count_by_node=(4,) * len(free), **memory)


def bound(*parts: tuple[frozenset[int], int], pages: tuple[int, ...] = (), **changes: Any) -> Vm:
    memory = tuple(BoundMemory(nodes, size * GIB, pages) for nodes, size in parts)
    whole = sum(part.size for part in memory)
    about = {"memory": whole, "memory_used": whole, "hugepages": pages, **changes}
    return make.vm(bound_memory=memory, numa_nodes=frozenset[int]().union(*(part.nodes for part in memory)), **about)


def findings(vm: Vm, target: Host, *coming: BoundMemory) -> dict[str, Finding]:
    source = make.host("h1", memory_free=12 * GIB)
    facts = replace(make.facts(vm, target), reserved_bound=coming)
    found = check(vm, source, target, make.cluster((source, target), (vm,)), MigrationOptions(), facts)
    return {each.code: each for each in found if each.code.startswith("numa")}


def parsed(body: str) -> tuple[BoundMemory, ...]:
    xml = f"<domain type='kvm'><name>x</name><uuid>{UUID}</uuid><memory unit='GiB'>8</memory>{body}</domain>"
    return parse_vm(xml, host="h1", state=VmState.SHUTOFF).bound_memory


CELLS = (
    """<cpu><numa><cell id='0' cpus='0' memory='2' unit='GiB'/><cell id='1' cpus='1' memory='6291456'/></numa></cpu>"""
)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", ()),
        ("<numatune><memory mode='strict' nodeset='0-1'/></numatune>", ((BOTH, 8, ()),)),
        ("<numatune><memory nodeset='1'/></numatune>", ((ONE, 8, ()),)),
        ("<numatune><memory mode='restrictive' nodeset='1'/></numatune>", ((ONE, 8, ()),)),
        ("<numatune><memory mode='preferred' nodeset='1'/></numatune>", ()),
        ("<numatune><memory mode='interleave' nodeset='0-1'/></numatune>", ()),
        ("<numatune><memory mode='strict' placement='auto'/></numatune>", ()),
        (
            f"{CELLS}<numatune><memory mode='strict' nodeset='0-1'/><memnode cellid='1' nodeset='1'/></numatune>",
            ((ONE, 6, ()), (BOTH, 2, ())),
        ),
        (f"{CELLS}<numatune><memnode cellid='0' mode='strict' nodeset='0'/></numatune>", ((ZERO, 2, ()),)),
        (
            "<memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages></memoryBacking>"
            "<numatune><memory mode='strict' nodeset='0'/></numatune>",
            ((ZERO, 8, (2 * MIB,)),),
        ),
    ],
)
def test_what_must_come_from_certain_nodes_is_read(
    body: str, expected: Sequence[tuple[frozenset[int], int, tuple[int, ...]]]
) -> None:
    assert parsed(body) == tuple(BoundMemory(nodes, size * GIB, pages) for nodes, size, pages in expected)


def test_a_host_with_two_nodes_tells_what_each_has(tmp_path: Path) -> None:
    with scene(Random(1).randrange, tmp_path) as the:
        the.make_vm("web", "h1")
        the.twin.hosts["h1"].nodes = 2

        def look() -> list[Host]:
            with Connections(the.inventory.hosts()) as connections:
                return [read_host(entry, connections=connections)[0] for entry in the.inventory.hosts()]

        two, one = (next(each for each in the.do(look) if each.name == name) for name in ("h1", "h2"))
    assert [each.number for each in two.nodes] == [0, 1]
    assert sum(each.memory_free for each in two.nodes) == two.memory_free < two.memory_total
    assert {each.memory_total for each in two.nodes} == {two.memory_total // 2}
    assert [each.memory_free for each in one.nodes] == [one.memory_free]


def test_a_single_node_need_not_have_all_that_the_host_has(tmp_path: Path) -> None:
    with scene(Random(1).randrange, tmp_path) as the:
        the.twin.hosts["h1"].beyond_nodes = 2 * GIB

        def look() -> Host:
            with Connections(the.inventory.hosts()) as connections:
                return read_host(the.inventory.hosts()[0], connections=connections)[0]

        host = the.do(look)
    (node,) = host.nodes
    assert (host.memory_total - node.memory_total, host.memory_free - node.memory_free) == (2 * GIB, 2 * GIB)


def test_a_node_with_too_little_stands_in_the_way_however_much_the_host_has() -> None:
    vm = bound((ZERO, 8))
    assert findings(vm, host(8, 0)) == {}
    assert findings(bound((BOTH, 8)), host(4, 4)) == {}
    found = findings(vm, host(7, 16))["numa-memory"]
    assert found.level is Level.BLOCKER
    assert found.message == "8 GiB of memory must come from NUMA nodes 0, and h2 has 7 GiB there"
    assert findings(vm, replace(host(7, 16), nodes=())) == {}, "what nobody has told stands in nobody's way"


def test_what_caches_may_give_up_is_a_warning() -> None:
    found = findings(bound((ZERO, 8)), host(7, 10, cached=2))["numa-memory-cached"]
    assert found.level is Level.WARNING
    assert "h2 has 7 GiB free there" in found.message
    assert to_be_had_on(host(15, 3, cached=9), ZERO) == 16 * GIB, "never more than the node has"


def test_huge_pages_have_to_be_there_at_the_node() -> None:
    target = make.host("h2", nodes=(node(0, 1, pages=512), node(1, 9, pages=4096)), cpu_count_by_node=(4, 4))
    target = replace(target, hugepages=(HugePages(2 * MIB, 4608, 4608),))
    assert findings(bound((ONE, 8), pages=(2 * MIB,)), target) == {}
    found = findings(bound((ZERO, 8), pages=(2 * MIB,)), target)["numa-memory"]
    assert found.message == "8 GiB in huge pages must come from NUMA nodes 0, and h2 has 1 GiB there"
    assert left_on(target, BOTH, (0,)) == 9 * GIB, "the default size: any of them"


def test_who_is_on_the_way_there_is_counted_too() -> None:
    coming = BoundMemory(BOTH, 6 * GIB)
    assert findings(bound((ZERO, 4)), host(5, 5), coming) == {}
    found = findings(bound((ZERO, 5)), host(5, 5), coming)["numa-memory"]
    assert "5 GiB of memory must come from NUMA nodes 0, 1 beside 6 GiB for VMs on their way there" in found.message


def test_a_node_that_is_not_there_is_named() -> None:
    found = findings(bound((frozenset({0, 8}), 1)), host(4, 4))
    assert set(found) == {"numa-node-missing"}
    assert "bound to NUMA nodes 8, and h2 has nodes 0, 1" in found["numa-node-missing"].message


def test_what_arrives_takes_what_has_not_come_yet() -> None:
    vm, target = bound((ZERO, 8), host="h1"), host(16, 16)
    hosts, arrival = (make.host("h1"), target), Arrival(vm.uuid, vm.name, "h2")

    def still(*listed: Vm) -> tuple[BoundMemory, ...]:
        return reserved_at(target, [arrival], make.cluster(hosts, listed)).bound

    there = replace(vm, host="h2", state=VmState.PAUSED, reason="migrating", memory_used=2 * GIB)
    assert still(vm) == vm.bound_memory
    assert still(vm, there) == (BoundMemory(ZERO, 6 * GIB),)
    assert still(replace(there, state=VmState.RUNNING, reason="migrated")) == ()
    paged = bound((ZERO, 8), pages=(2 * MIB,), host="h1")
    assert still(paged, replace(there, bound_memory=paged.bound_memory)) == (), "huge pages are taken at once"


def fits_somehow(parts: Sequence[tuple[frozenset[int], int]], free: Sequence[int]) -> bool:
    """Try every way of laying whole pieces on the nodes that they may lie on."""
    pieces = [nodes for nodes, size in parts for _ in range(size)]
    return any(
        all(list(chosen).count(number) <= left for number, left in enumerate(free))
        for chosen in product(*(sorted(nodes) for nodes in pieces))
    )


SETS = st.sets(st.integers(0, 2), min_size=1).map(frozenset)


@given(st.lists(st.tuples(SETS, st.integers(1, 2)), max_size=3), st.tuples(*[st.integers(0, 3)] * 3))
def test_counting_unions_finds_exactly_what_fits(
    parts: list[tuple[frozenset[int], int]], free: tuple[int, ...]
) -> None:
    target, memory = host(*free), [BoundMemory(nodes, size * GIB) for nodes, size in parts]
    counted = all(
        bound_within(memory, nodes, ()) <= left_on(target, nodes) for nodes in unions(nodes for nodes, _ in parts)
    )
    assert counted == fits_somehow(parts, free)


def test_unions_of_very_many_sets_are_not_all_looked_at() -> None:
    many = [frozenset({number}) for number in range(12)]
    found = unions(many)
    assert len(found) == 13 <= MOST_UNIONS
    assert frozenset(range(12)) in found


@given(st.lists(st.tuples(SETS, st.integers(1, 4), st.booleans()), max_size=4), st.tuples(*[st.integers(0, 9)] * 3))
def test_who_leaves_and_comes_back_leaves_nodes_as_they_were_in_all(
    parts: list[tuple[frozenset[int], int, bool]], free: tuple[int, ...]
) -> None:
    there = tuple(node(number, each + 4, total=99, pages=4096) for number, each in enumerate(free))
    vms = [bound((nodes, size), pages=(2 * MIB,) if huge else ()) for nodes, size, huge in parts]
    gone = changed_nodes(there, [(vm, -1) for vm in vms])
    for before, after in zip(there, gone, strict=True):
        assert 0 <= after.memory_free <= before.memory_free
        assert 0 <= after.hugepages[0].free <= before.hugepages[0].free
    if all(each.memory_free and each.hugepages[0].free for each in gone):
        back = changed_nodes(gone, [(vm, 1) for vm in vms])
        assert sum(each.memory_free for each in back) == sum(each.memory_free for each in there)


def test_names_tell_pages_and_nodes_and_what_is_held_of_them() -> None:
    plain, paged = bound((ZERO, 4), (BOTH, 2)), bound((ONE, 8), pages=(2 * MIB, GIB))
    names = names_of([plain, paged, make.vm()])
    assert names == (
        "memory of NUMA nodes 0",
        "memory of NUMA nodes 0,1",
        "NUMA pages of 2097152/1073741824 on nodes 1",
    )
    assert all(map(is_of_nodes, names))
    assert [held_of(plain, name) // GIB for name in names] == [4, 6, 0]
    assert [held_of(paged, name) // GIB for name in names] == [0, 0, 8]
    assert held_of(replace(plain, state=VmState.SHUTOFF), names[0]) == 0
    half = replace(plain, memory_used=3 * GIB)
    assert room_for(host(5, 5), names[0], [half]) == 7 * GIB, "what it has not touched is free still"
    assert room_for(replace(host(5, 5), nodes=()), names[0], [half]) is None
