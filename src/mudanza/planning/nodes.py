"""Memory of single NUMA nodes, as one more thing that hosts have and VMs hold: names of it, and how much. Pure.

For each union of sets of nodes that VMs are bound to there is a name of its own: see ``preflight.numa``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mudanza.model.host import Host, NumaNode
from mudanza.model.vm import BoundMemory, Vm
from mudanza.preflight.numa import Nodes, bound_within, to_be_had_on, unions

MEMORY_OF = "memory of NUMA nodes "
PAGES_OF, ON = "NUMA pages of ", " on nodes "
"""Huge pages of certain nodes: sizes, and which nodes."""


def names_of(vms: Iterable[Vm]) -> tuple[str, ...]:
    """Return the names of all that counts, where these VMs are bound to nodes."""
    bound: dict[tuple[int, ...], set[Nodes]] = {}
    for vm in vms:
        for part in vm.bound_memory:
            bound.setdefault(part.pages, set()).add(part.nodes)
    return tuple(_name(pages, nodes) for pages, sets in sorted(bound.items()) for nodes in unions(sets))


def is_of_nodes(name: str) -> bool:
    """Whether that is memory of certain nodes."""
    return name.startswith((MEMORY_OF, PAGES_OF))


def held_of(vm: Vm, name: str) -> int:
    """Return the bytes that a running VM holds of what has this name."""
    pages, nodes = _read(name)
    return bound_within(vm.bound_memory, nodes, pages) if vm.state.active else 0


def touched_of(vm: Vm, name: str) -> int:
    """Return what of that is taken already: of ordinary memory as much as it has touched of all it has."""
    held = held_of(vm, name)
    if _read(name)[0] or not vm.memory:
        return held
    return round(held * min((vm.memory_used or vm.memory) / vm.memory, 1.0))


def room_for(host: Host, name: str, there: Iterable[Vm], coming: Sequence[BoundMemory] = ()) -> float | None:
    """Return the bytes that VMs may hold of it in all, those ``there`` included; None: what there is is not known."""
    if not host.nodes:
        return None
    pages, nodes = _read(name)
    return (
        to_be_had_on(host, nodes, pages)
        + sum(touched_of(vm, name) for vm in there)
        - bound_within(coming, nodes, pages)
    )


def changed_nodes(nodes: Sequence[NumaNode], comings: Iterable[tuple[Vm, int]]) -> tuple[NumaNode, ...]:
    """Return what nodes would have once VMs had left (+1) or come (-1): each takes from, and gives back to, the nodes
    that it is bound to, the fullest last. Where one that is bound to none lies is not known: it is left out."""
    for vm, sign in sorted(comings, key=lambda each: -each[1]):
        used = min((vm.memory_used or vm.memory) / vm.memory, 1.0) if vm.memory else 1.0
        for part in sorted(vm.bound_memory, key=lambda each: len(each.nodes)):
            nodes = _spread(nodes, part, sign * (part.size if part.pages else round(part.size * used)))
    return tuple(nodes)


def _spread(nodes: Sequence[NumaNode], part: BoundMemory, change: int) -> list[NumaNode]:
    found = {node.number: node for node in nodes}
    there = [node for node in nodes if node.number in part.nodes]
    for node in sorted(there, key=lambda each: each.memory_free, reverse=change < 0):
        if part.pages:
            found[node.number], change = _with_pages(node, part.pages, change)
        else:
            free = min(max(node.memory_free + change, 0), node.memory_total)
            change -= free - node.memory_free
            found[node.number] = replace(node, memory_free=free)
    return [found[node.number] for node in nodes]


def _with_pages(node: NumaNode, sizes: tuple[int, ...], change: int) -> tuple[NumaNode, int]:
    pages = []
    for each in node.hugepages:
        free = each.free
        if each.size in sizes or 0 in sizes:
            free = min(max(each.free + change // each.size, 0), each.total)
            change -= (free - each.free) * each.size
        pages.append(replace(each, free=free))
    return replace(node, hugepages=tuple(pages)), change


def _name(pages: tuple[int, ...], nodes: Nodes) -> str:
    listed = ",".join(map(str, sorted(nodes)))
    return f"{PAGES_OF}{'/'.join(map(str, pages))}{ON}{listed}" if pages else f"{MEMORY_OF}{listed}"


def _read(name: str) -> tuple[tuple[int, ...], Nodes]:
    sizes, _, listed = name.removeprefix(PAGES_OF).partition(ON) if name.startswith(PAGES_OF) else ("", "", "")
    nodes = (listed or name.removeprefix(MEMORY_OF)).split(",")
    return tuple(int(size) for size in sizes.split("/") if size), frozenset(map(int, nodes))
