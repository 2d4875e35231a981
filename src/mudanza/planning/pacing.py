"""A plan's moves in their order, with their times: pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from mudanza.model.cluster import Cluster
from mudanza.model.plan import PlannedMove
from mudanza.model.rules import Rules
from mudanza.planning.needs import held, left_to_hold
from mudanza.planning.nodes import names_of
from mudanza.planning.order import Leg, Limits, Room, Stuck, Transfer, schedule

_NOBODY: Mapping[str, frozenset[str]] = MappingProxyType({})
UNKNOWN = 60.0
"""Seconds that a move is taken to last of which nobody has foreseen anything."""


def paced(
    moves: Sequence[PlannedMove],
    cluster: Cluster,
    rules: Rules,
    limits: Limits | None = None,
    behind: Mapping[str, frozenset[str]] = _NOBODY,
) -> tuple[tuple[PlannedMove, ...], tuple[Stuck, ...]]:
    """Return moves in the order of their starts, with their times and what each waits for, and what is stuck.

    ``behind``: by UUID, who must have left their sources before.

    Nobody is parked: on which hosts a VM could be is not known here. ``Stuck.key`` is a VM's UUID. Raises ValueError
    for two moves of one VM.
    """
    vms = {(vm.uuid, vm.host): vm for vm in cluster.vms}
    movers = {move.uuid: vm for move in moves if (vm := vms.get((move.uuid, move.source)))}
    names = names_of(movers.values())
    holds = {move.uuid: held(movers[move.uuid], names) if move.uuid in movers else {} for move in moves}
    transfers = [
        Transfer(
            move.uuid,
            move.source,
            move.target,
            move.seconds or UNKNOWN,
            move.memory,
            fills=move.disks,
            frees=move.freed,
            holds=holds[move.uuid],
            parking=frozenset(),
            behind=behind.get(move.uuid, frozenset()),
        )
        for move in moves
    ]
    wanted = frozenset(name for each in holds.values() for name in each)
    found = schedule(transfers, rooms(cluster, wanted, rules), limits)
    of = {move.uuid: move for move in moves}
    return tuple(_planned(of[leg.key], number, leg) for number, leg in enumerate(found.legs, start=1)), found.stuck


def rooms(cluster: Cluster, wanted: Collection[str] = (), rules: Rules | None = None) -> dict[str, Room]:
    """Return what each host has left for newcomers now, of what is ``wanted`` beside memory and pools as well."""
    return {
        host.name: Room(
            max(host.memory_free, 0),
            {pool.name: pool.available for pool in host.pools or () if pool.active},
            holds=left_to_hold(host, cluster.vms_on(host.name), wanted, rules or Rules()),
        )
        for host in cluster.hosts
    }


def _planned(move: PlannedMove, number: int, leg: Leg) -> PlannedMove:
    after = tuple(before + 1 for before in leg.after)
    behind = tuple(before + 1 for before in leg.behind)
    return replace(move, number=number, after=after, behind=behind, start=leg.start, finish=leg.finish)
