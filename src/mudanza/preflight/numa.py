"""Memory of single NUMA nodes: what a guest must have of which of them, and what they have left. Pure.

Parts of memory that are bound to sets of nodes find room on them exactly where each union of such sets has room for all
that is bound within it (Hall's theorem): so that is what is counted, here and by the planner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.units import format_size
from mudanza.model.vm import BoundMemory
from mudanza.preflight.case import Case, blocks_live
from mudanza.preflight.wording import blocker, mudanza, warning

Nodes = frozenset[int]
MOST_UNIONS = 64
"""Of more unions than this only the sets themselves, and all of them together, are looked at."""


def unions(sets: Iterable[Nodes]) -> tuple[Nodes, ...]:
    """Return all unions of sets of nodes, in order; see ``MOST_UNIONS``."""
    given = sorted(set(sets), key=sorted)
    found: set[Nodes] = set()
    for each in given:
        found |= {each, *(each | other for other in found)}
        if len(found) > MOST_UNIONS:
            found = {*given, Nodes().union(*given)}
            break
    return tuple(sorted(found, key=sorted))


def bound_within(parts: Iterable[BoundMemory], nodes: Nodes, pages: tuple[int, ...]) -> int:
    """Return the bytes of these parts that can come from nowhere but these nodes, in such pages."""
    return sum(part.size for part in parts if part.pages == pages and part.nodes <= nodes)


def left_on(host: Host, nodes: Nodes, pages: tuple[int, ...] = ()) -> int:
    """Return the bytes that nobody uses on these nodes: ordinary memory, or huge pages of these sizes (0: of any)."""
    here = [node for node in host.nodes if node.number in nodes]
    if not pages:
        return sum(node.memory_free for node in here)
    return sum(each.size * each.free for node in here for each in node.hugepages if each.size in pages or 0 in pages)


def to_be_had_on(host: Host, nodes: Nodes, pages: tuple[int, ...] = ()) -> int:
    """Return the most that could be had there: caches, which are told of the whole host only, may all lie there."""
    free = left_on(host, nodes, pages)
    if pages:
        return free
    cached = max(host.memory_free - sum(node.memory_free for node in host.nodes), 0)
    return min(free + cached, sum(node.memory_total for node in host.nodes if node.number in nodes))


def numa_nodes(case: Case) -> Iterator[Finding]:
    """Memory bound to NUMA nodes needs those nodes."""
    known = [node.number for node in case.target.nodes] or list(range(max(len(case.target.cpu_count_by_node), 1)))
    missing = sorted(case.vm.numa_nodes - set(known))
    if missing:
        yield blocker(
            "numa-node-missing",
            f"host {case.target.name}",
            f"its memory is bound to NUMA nodes {named(missing)}, and {case.target.name} has nodes {named(known)}",
            "change the binding while it is shut off: virsh numatune --config",
        )


def numa_memory(case: Case) -> Iterator[Finding]:
    """The nodes that memory must come from have enough of it, beside what is on its way there."""
    target, wanted, coming = case.target, case.vm.bound_memory, case.facts.reserved_bound
    if not target.nodes or case.vm.numa_nodes - {node.number for node in target.nodes}:
        return
    for pages in dict.fromkeys(part.pages for part in wanted):
        for nodes in unions(part.nodes for part in (*wanted, *coming) if part.pages == pages):
            own, others = bound_within(wanted, nodes, pages), bound_within(coming, nodes, pages)
            if own and own + others > left_on(target, nodes, pages):
                yield _too_little(case, nodes, pages, own, others)


def _too_little(case: Case, nodes: Nodes, pages: tuple[int, ...], own: int, others: int) -> Finding:
    target = case.target
    most, free = to_be_had_on(target, nodes, pages), left_on(target, nodes, pages)
    kind = "in huge pages" if pages else "of memory"
    for_others = f" beside {format_size(others)} for VMs on their way there" if others else ""
    needs = f"{format_size(own)} {kind} must come from NUMA nodes {named(sorted(nodes))}{for_others}"
    if own + others > most:
        return blocks_live(
            case,
            "numa-memory",
            f"host {target.name}",
            f"{needs}, and {target.name} has {format_size(most)} there",
            f"move another VM off these nodes, choose another host ({mudanza('hosts')}), or change the binding while "
            "it is shut off: virsh numatune --config",
        )
    return warning(
        "numa-memory-cached",
        f"host {target.name}",
        f"{needs}, and {target.name} has {format_size(free)} free there: the rest must be in caches that its kernel "
        "gives up, or QEMU ends for lack of memory",
        f"look at what is there: numastat -m on {target.name}",
    )


def named(nodes: Sequence[int]) -> str:
    """Return nodes in words."""
    return ", ".join(map(str, nodes))
