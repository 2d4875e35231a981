"""Bringing VMs home that left a host for its maintenance: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from mudanza.model.cluster import Cluster
from mudanza.model.plan import Goal, MoveMode, Plan, PlannedMove, Unmoved
from mudanza.model.rules import Rules
from mudanza.model.units import MIB
from mudanza.model.vm import Vm
from mudanza.planning.compatibility import place_for
from mudanza.planning.fingerprint import fingerprint
from mudanza.planning.needs import copied_disks, promised
from mudanza.planning.pacing import paced

LINK = 112.0 * MIB
"""Bytes per second a link is taken to carry: 1 Gbit/s, less its overhead."""
SET_UP = 2.0
"""Seconds that a move takes beside its data."""


def move_of(
    vm: Vm, cluster: Cluster, target: str, reason: str, *, number: int = 1, mode: MoveMode | None = None
) -> PlannedMove:
    """Return the move of a VM to a host that is known already."""
    source, there = cluster.host(vm.host), cluster.host(target)
    into: Counter[str] = Counter()
    freed: Counter[str] = Counter()
    for disk, _, size in copied_disks(vm, source):
        pool = place_for(disk, source, there)
        if pool is not None:
            into[pool.name] += size
        if disk.pool is not None:
            freed[disk.pool] += size
    sent = into.total() + ((vm.memory_used or vm.memory) if vm.state.active else 0)
    return PlannedMove(
        number=number,
        vm=vm.name,
        uuid=vm.uuid,
        source=vm.host,
        target=target,
        reason=reason,
        mode=mode or (MoveMode.LIVE if vm.state.active else MoveMode.COLD),
        memory=promised(vm) if vm.state.active else 0,
        disks=dict(into),
        freed=dict(freed),
        bytes=sent,
        seconds=round(SET_UP + sent / LINK, 1),
    )


def way_home(cluster: Cluster, rules: Rules, host: str, away: Mapping[str, str], stay: Collection[str] = ()) -> Plan:
    """Return the plan that brings VMs (UUID → name) back to their host. Those in ``stay`` are at home by now."""
    found: list[PlannedMove] = []
    lost: list[Unmoved] = []
    for uuid, name in sorted(away.items(), key=lambda each: each[1]):
        places = [vm for vm in cluster.vms if vm.uuid == uuid]
        if uuid in stay or any(vm.host == host for vm in places):
            continue
        if len(places) == 1:
            found.append(move_of(places[0], cluster, host, f"it left {host} for its maintenance"))
        else:
            where = "several hosts list it" if places else "no host that answers lists it"
            lost.append(Unmoved(name, uuid, "", where))
    moves, stuck = paced(found, cluster, rules)
    names = {move.uuid: move for move in found}
    lost += [Unmoved(names[each.key].vm, each.key, names[each.key].source, each.why) for each in stuck]
    summary = f"{len({move.uuid for move in moves})} VMs that left {host} for its maintenance come home"
    return Plan(
        goal=Goal.PLACE,
        summary=summary if moves else f"nobody is to be brought home to {host}",
        moves=moves,
        subject=host,
        unmoved=tuple(lost),
        fingerprint=fingerprint(cluster, rules, moves),
        seconds=max((move.finish or 0.0 for move in moves), default=0.0),
    )
