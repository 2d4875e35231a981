"""What is wrong with availability and with standbys, as ``mudanza doctor`` asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mudanza.availability.health import State, of_availability
from mudanza.fleet.health import Examined
from mudanza.hypervisor.connections import LOCKS_LIMIT
from mudanza.journal.fences import WAKE, Fences
from mudanza.journal.kept import KeptUps
from mudanza.journal.protections import Protections
from mudanza.journal.standbys import Standby, Standbys
from mudanza.model.units import format_duration
from mudanza.operations.cleaning import stale
from mudanza.preflight.wording import warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mudanza.model.cluster import Cluster
    from mudanza.model.disk_locks import DiskLocks
    from mudanza.model.finding import Finding
    from mudanza.operations.means import Means

AT_ONCE = 16
"""Hosts that are asked at one time how they lock disks."""


def examine_availability(means: Means, cluster: Cluster) -> Examined:
    """Look at what would show only when a host dies. Raises JournalLostError."""
    database = means.database
    fences, kept = Fences(database), KeptUps(database).all()
    protections, devices = Protections(database).all(), fences.devices()
    locks = locks_of(means, [host.name for host in cluster.hosts if host.seen])
    state = State(
        cluster,
        kept,
        protections,
        devices,
        fences.tests(),
        [each for each in fences.matches() if each.device != WAKE],
        stale(means, cluster),
        _shortages(means, cluster),
        _moving(means, cluster),
        locks,
        means.inventory.rules().shared_pools,
        means.fencing.test_every,
    )
    said = f"{len(kept)} VMs kept up, {len(protections)} protected, {sum(map(len, devices.values()))} fence devices"
    return Examined("availability", said, of_availability(state))


def examine_standbys(means: Means) -> tuple[Examined, ...]:
    """Look how old the copies of the journal are at each standby. Raises JournalLostError."""
    return tuple(
        Examined(
            f"standby {each.name}",
            "no copy yet" if each.lag is None else f"generation {each.generation}, {format_duration(each.lag)} old",
            tuple(_of_standby(each)),
        )
        for each in Standbys(means.database).all()
    )


def _of_standby(standby: Standby) -> Iterator[Finding]:
    if standby.overdue:
        said = f"its copy of the journal is older than twice {format_duration(standby.every)}"
        remedy = f"have somebody send them: mudanza serve; or one now: mudanza standby send {standby.name}"
        yield warning("standby-late", f"standby {standby.name}", said, remedy)
    if standby.said:
        said = f"the last copy was not brought there: {standby.said}"
        remedy = f"mend that, and try: mudanza standby send {standby.name}"
        yield warning("standby-failing", f"standby {standby.name}", said, remedy)


def locks_of(means: Means, hosts: Sequence[str]) -> Mapping[str, DiskLocks]:
    """Return how these hosts lock disks, as far as they tell."""
    from mudanza.hypervisor.bounded import for_each
    from mudanza.model.disk_locks import DiskLocks

    if not hosts:
        return {}
    with means.connections() as connections:
        rounds = -(-len(hosts) // AT_ONCE)
        found = for_each(connections.disk_locks, hosts, workers=AT_ONCE, timeout=LOCKS_LIMIT * rounds)
    told = (each if isinstance(each, DiskLocks) else DiskLocks(why=str(each)) for each in found)
    return dict(zip(hosts, told, strict=True))


def _moving(means: Means, cluster: Cluster) -> frozenset[str]:
    """Return the UUIDs of VMs that are listed twice because a job has them."""
    seen, twice = set[str](), set[str]()
    for vm in cluster.vms:
        (twice if vm.uuid in seen else seen).add(vm.uuid)
    return frozenset(uuid for uuid in twice if means.jobs.unfinished_of(uuid) is not None)


def _shortages(means: Means, cluster: Cluster) -> tuple[str, ...]:
    """Return who would find no room after which failure, where room is to be kept."""
    rules = means.inventory.rules()
    if not (rules.survive_hosts or rules.survive_zones):
        return ()
    from mudanza.planning.board import Board
    from mudanza.planning.building import build
    from mudanza.planning.reserve import reserve_in_words, reserve_of

    reserve = reserve_of(Board(build(cluster, rules)))
    return tuple(reserve_in_words(reserve)) if reserve is not None else ()
