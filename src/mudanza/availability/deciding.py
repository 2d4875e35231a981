"""Which VMs are to be started elsewhere now: pure. It goes by what is so and not by what has just happened, so that
another controller finds the same: a host that is proven off, and VMs that ran there when it was last seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mudanza.model.cluster import Cluster
from mudanza.model.kept import KeptUp, Past
from mudanza.model.plan import PlannedMove
from mudanza.model.vm import Vm

TRY_AGAIN, MOST_PAUSE = 60.0, 3600.0
"""Seconds after which a VM that could not be started elsewhere is tried again: twice as many each time, to the most."""


_Place = tuple[str, bool]
"""A host, and whether VMs come up from replicas."""


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be started elsewhere."""

    hosts: Mapping[str, tuple[str, ...]]
    """Host that is proven off → UUIDs of VMs."""
    replicas: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The same of those that come up from their replicas, in the order in which they do."""
    told: tuple[str, ...] = ()
    """Who is not started, and why, in words."""


def due(
    kept: Mapping[str, KeptUp],
    cluster: Cluster,
    proven: Sequence[str],
    past: Mapping[str, Past],
    replicated: Collection[str] = (),
    left: Collection[tuple[str, str]] = (),
) -> Due:
    """Return which VMs of which hosts are to be started elsewhere. One that was shut down on purpose stays down, and
    one that a host which answers has is left alone, whatever it does there. ``replicated``: UUIDs of those that have
    a replica; it is used only where somebody has said so. ``left``: UUIDs and hosts of copies that their VMs have left
    by failover, which are nobody's place any more."""
    vms = [vm for vm in cluster.vms if vm.state.active or (vm.uuid, vm.host) not in left]
    there = {vm.uuid: vm for vm in sorted(vms, key=lambda vm: vm.state.active)}
    places: dict[_Place, tuple[str, ...]] = {}
    told = []
    for host in proven:
        for uuid in running_last_on(host, kept):
            before = past.get(uuid, Past())
            found = there.get(uuid)
            if before.under_way or (found is not None and found.state.active):
                continue
            if found is not None:
                told.append(f"{found.name} is not started elsewhere: {found.host} has it, and it is off there")
            elif before.within_a_day >= kept[uuid].most:
                times = f"{before.within_a_day} times within a day"
                told.append(f"{kept[uuid].name} was started elsewhere {times}: not again")
            elif before.ago is None or before.ago >= pause_after(before.failed):
                place = host, kept[uuid].care.from_replica and uuid in replicated
                places[place] = (*places.get(place, ()), uuid)
    ready = _without_waiting(places, kept, there, past, told)
    hosts = {host: uuids for (host, replica), uuids in ready.items() if not replica}
    replicas = {
        host: tuple(sorted(uuids, key=lambda uuid: _rank(uuid, kept)))
        for (host, replica), uuids in ready.items()
        if replica
    }
    return Due(hosts, replicas, tuple(told))


def loss_of(taken_at: float, off_at: float) -> float:
    """Return how many seconds of a VM's work are lost at the most that comes up from a restore point. ``off_at``: when
    its host was proven off: until then it may have written."""
    return max(off_at - taken_at, 0.0)


def _without_waiting(
    places: Mapping[_Place, tuple[str, ...]],
    kept: Mapping[str, KeptUp],
    there: Mapping[str, Vm],
    past: Mapping[str, Past],
    told: list[str],
) -> Mapping[_Place, tuple[str, ...]]:
    """Return what is due without those that are to be started after others of other hosts, or in another way, which are
    being started just now; those of one host are put into order by its plan."""
    of = {uuid: place for place, uuids in places.items() for uuid in uuids}
    waiting: set[str] = set()

    def is_coming(other: str, place: _Place) -> bool:
        if other in there and there[other].state.active:
            return False
        return other in waiting or of.get(other, place) != place or past.get(other, Past()).under_way

    while True:  # whoever waits is coming still, and has others wait
        more = {
            uuid: next((other for other in kept[uuid].after if is_coming(other, place)), None)
            for uuid, place in of.items()
            if uuid not in waiting
        }
        if not any(more.values()):
            return {
                place: left for place, uuids in places.items() if (left := tuple(u for u in uuids if u not in waiting))
            }
        for uuid, other in more.items():
            if other is not None:
                waiting.add(uuid)
                told.append(f"{kept[uuid].name} waits for {kept[other].name if other in kept else other}")


def pause_after(failed: int) -> float:
    """Return for how many seconds a VM rests that could not be started elsewhere so often since it last was."""
    return float(min(TRY_AGAIN * 2 ** (min(failed, 10) - 1), MOST_PAUSE)) if failed else 0.0


def running_last_on(host: str, kept: Mapping[str, KeptUp]) -> list[str]:
    """Return the UUIDs of VMs to be kept up that ran on a host when they were last seen anywhere, and that nobody has
    shut down since."""
    return [each.uuid for each in kept.values() if each.ran_on == host]


def in_groups(moves: Sequence[PlannedMove], kept: Mapping[str, KeptUp]) -> tuple[PlannedMove, ...]:
    """Return the moves by priority, renumbered: each waits for all those of the group before, and for those that it is
    to be started after. One that is to be started after others is of no earlier group than these."""
    ranks = {move.uuid: _rank(move.uuid, kept) for move in moves}
    ordered = sorted(moves, key=lambda move: (*ranks[move.uuid], move.number))
    numbers = {move.uuid: number for number, move in enumerate(ordered, 1)}
    priorities = sorted({priority for priority, _ in ranks.values()})
    before = {
        priority: [numbers[move.uuid] for move in ordered if ranks[move.uuid][0] == priorities[n - 1]] if n else []
        for n, priority in enumerate(priorities)
    }
    return tuple(
        replace(move, number=numbers[move.uuid], behind=(), after=tuple(sorted({*before[ranks[move.uuid][0]], *waits})))
        for move in ordered
        for waits in [[numbers[other] for other in kept[move.uuid].after if other in numbers]]
    )


def _rank(uuid: str, kept: Mapping[str, KeptUp], above: frozenset[str] = frozenset()) -> tuple[int, int]:
    """Return the priority of the group in which a VM is started, and how many others stand before it in a row."""
    others = [_rank(other, kept, above | {uuid}) for other in kept[uuid].after if other in kept and other not in above]
    depth = 1 + max((depth for _, depth in others), default=-1)
    return max(kept[uuid].priority, *(priority for priority, _ in others), 0), depth


def leads_back(uuid: str, after: Sequence[str], kept: Mapping[str, KeptUp]) -> bool:
    """Whether a VM would be started after itself, were it to be started after these."""
    seen, edge = set[str](), list(after)
    while edge:
        other = edge.pop()
        if other == uuid:
            return True
        if other not in seen:
            seen.add(other)
            edge += kept[other].after if other in kept else ()
    return False
