"""VMs that are started elsewhere when their host dies, as it is asked for; and who watches the hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mudanza.availability.deciding import leads_back
from mudanza.availability.watching import Standing
from mudanza.journal.fences import Fences
from mudanza.journal.kept import KeptUps
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.kept import KeptUp
from mudanza.operations.cleaning import stale
from mudanza.operations.fencing import agents_of, fencer_of
from mudanza.operations.guarding import Guard

if TYPE_CHECKING:
    from mudanza.model.cluster import Cluster
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say


@dataclass(frozen=True, slots=True)
class OldDefinition:
    """What a host has kept of a VM that was started elsewhere."""

    vm: str
    host: str
    runs_on: str


@dataclass(frozen=True, slots=True)
class Availability:
    """One look at all hosts, and the VMs that are kept up."""

    said: str
    hosts: Mapping[str, Standing]
    kept_up: tuple[KeptUp, ...]
    stale: tuple[OldDefinition, ...] = ()


def keep_up(
    means: Means, vm: str, priority: int, most: int, asked_by: str, say: Say, *, after: Sequence[str] = ()
) -> None:
    """Have a VM started elsewhere when its host dies, or change how; tell what is to be known of it.

    ``after``: VMs that are started before it, by their names or UUIDs. Raises UsageError, and BlockedError for one that
    is transient.
    """
    with means.connections() as connections:
        cluster = means.read_cluster(connections)
        found = cluster.find(vm)
        if not found.persistent:
            raise BlockedError(f"VM {found.name!r} is transient: nobody could define it elsewhere")
        kept = KeptUps(means.database)
        ran_on = found.host if found.state.active else ""
        before = _started_before(kept.all(), found, after)
        kept.put(
            found.uuid, found.name, priority, most, asked_by, autostart=found.autostart, ran_on=ran_on, after=before
        )
        if found.autostart:
            connections.domains(found.host).set_autostart(found.uuid, False)
        _warn_of_own_disks(means, cluster, found, say)
    if not Fences(means.database).of(found.host):
        say(f"! {found.host} has no fence device: without proof that it is off nothing is started (mudanza fence set)")
    say(f"{found.name} is started elsewhere when its host dies (mudanza serve watches, and so does mudanza ha run)")


def _started_before(kept: Mapping[str, KeptUp], vm: Vm, names: Sequence[str]) -> tuple[str, ...]:
    """Return the UUIDs of those that a VM is started after. Raises UsageError where that cannot be."""
    found = []
    for name in names:
        known = [uuid for uuid, each in kept.items() if name in (uuid, each.name)]
        if len(known) != 1:
            raise UsageError(
                f"VM {name!r} is not kept up, or several of that name are: nothing can be started after it",
                remedy=f"keep it up first: mudanza ha enable {name}",
            )
        found += known
    if leads_back(vm.uuid, found, kept):
        raise UsageError(f"VM {vm.name!r} would be started after itself: {', '.join(names)} are started after it")
    return tuple(found)


def _warn_of_own_disks(means: Means, cluster: Cluster, vm: Vm, say: Say) -> None:
    """Say which of a VM's disks would be lost with its host."""
    from mudanza.planning.needs import copied_disks
    from mudanza.planning.sharing import declared

    host = declared(cluster, means.inventory.rules()).host(vm.host)
    own = [disk.target for disk, *_ in copied_disks(vm, host)]
    if own:
        say(
            f"! {', '.join(own)} of {vm.name} are taken to lie on {vm.host} itself, and lost with it then: protect it, "
            "or say which pools are shared (shared_pools, docs/planning.md)"
        )


def kept_up(means: Means, vm: str) -> KeptUp:
    """Return a VM that is kept up, by name or UUID. Raises UsageError where not exactly one is meant."""
    known = [each for each in KeptUps(means.database).all().values() if vm in (each.uuid, each.name)]
    if len(known) != 1:
        raise UsageError(f"VM {vm!r} is not kept up, or several of that name are", remedy="see: mudanza ha status")
    return known[0]


def let_down(means: Means, vm: str) -> str:
    """Keep a VM up no more, and have its autostart be as before; return what is to be told. Raises UsageError."""
    kept = kept_up(means, vm)
    if kept.autostart:
        with means.connections() as connections:
            found = means.read_cluster(connections).find(kept.uuid)
            connections.domains(found.host).set_autostart(found.uuid, True)
    KeptUps(means.database).remove(kept.uuid)
    return f"{kept.name} is started elsewhere no more when its host dies"


def look(means: Means, asked_by: str, say: Say) -> Availability:
    """Take one look at all hosts as the watch does; nothing is done."""
    decision = guard_of(means, asked_by, say).look()
    hosts = {name: taken.standing for name, taken in decision.hosts.items()}
    with means.connections() as connections:
        copies = stale(means, means.read_cluster(connections))
    old = tuple(OldDefinition(each.vm.name, each.vm.host, each.runs_on) for each in copies)
    return Availability(decision.said, hosts, tuple(KeptUps(means.database).all().values()), old)


def guard_of(means: Means, asked_by: str, say: Say) -> Guard:
    """Return who watches the hosts."""
    fencer = fencer_of(means, agents_of(means.fencing), say)
    return Guard(means, means.availability, fencer, asked_by, say, test_every=means.fencing.test_every)
