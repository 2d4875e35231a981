"""VMs that are started elsewhere when their host dies, as it is asked for; and who watches the hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mudanza.availability.deciding import leads_back
from mudanza.availability.watching import Standing
from mudanza.journal.fences import Fences
from mudanza.journal.kept import KeptUps
from mudanza.journal.protections import Protections
from mudanza.journal.restarts import Restarts
from mudanza.model.disk_locks import DiskLocks
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.kept import AS_USUAL, Care, KeptUp, OnHang
from mudanza.operations.cleaning import OldDefinition, as_old, stale
from mudanza.operations.examining import locks_of
from mudanza.operations.fencing import agents_of, fencer_of
from mudanza.operations.guarding import Guard

if TYPE_CHECKING:
    from mudanza.model.cluster import Cluster
    from mudanza.model.protection import Protection
    from mudanza.model.restarts import Restarted
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say


@dataclass(frozen=True, slots=True)
class Availability:
    """One look at all hosts, and the VMs that are kept up."""

    said: str
    hosts: Mapping[str, Standing]
    kept_up: tuple[KeptUp, ...]
    stale: tuple[OldDefinition, ...] = ()
    locks: Mapping[str, DiskLocks] = field(default_factory=dict)
    """By host, how it locks disks, of those that answer."""


def keep_up(
    means: Means,
    vm: str,
    priority: int,
    most: int,
    asked_by: str,
    say: Say,
    *,
    after: Sequence[str] = (),
    care: Care = AS_USUAL,
) -> None:
    """Have a VM started elsewhere when its host dies, or change how; tell what is to be known of it.

    ``after``: VMs that are started before it, by their names or UUIDs. Raises UsageError, and BlockedError for one that
    is transient, or is to come up from a replica that it does not have.
    """
    care.refuse_wrong()
    with means.connections() as connections:
        cluster = means.read_cluster(connections)
        try:
            found = cluster.find(vm)
        except BlockedError:  # those who may list it do not answer
            if not _change_unseen(means, vm, (priority, most), asked_by, after, care):
                raise
            say(f"{vm} is seen nowhere now; how it is kept up is changed")
            return
        if not found.persistent:
            raise BlockedError(f"VM {found.name!r} is transient: nobody could define it elsewhere")
        replicas = Protections(means.database).replicas(found.uuid)
        if care.from_replica and not replicas:
            raise BlockedError(
                f"VM {found.name!r} has no replica that it could be started from",
                remedy=f"first: mudanza protect {found.name} --to HOST",
            )
        kept = KeptUps(means.database)
        ran_on = found.host if found.state.active else ""
        before = _started_before(kept.all(), found.uuid, found.name, after)
        kept.put(
            found.uuid, found.name, priority, most, asked_by, autostart=found.autostart, ran_on=ran_on, after=before,
            care=care,
        )  # fmt: skip
        if found.autostart:
            connections.domains(found.host).set_autostart(found.uuid, False)
        if not replicas:
            _warn_of_own_disks(means, cluster, found, say)
        else:
            _tell_of_replicas(replicas, care, say)
        if care.on_hang is OnHang.RESTART and not found.guest_agent:
            say(f"! {found.name} has no channel for a guest agent: only its watchdog device tells that it hangs")
    if not Fences(means.database).of(found.host):
        say(f"! {found.host} has no fence device: without proof that it is off nothing is started (mudanza fence set)")
    say(f"{found.name} is started elsewhere when its host dies (mudanza serve watches, and so does mudanza ha run)")


def _change_unseen(
    means: Means, vm: str, numbers: tuple[int, int], asked_by: str, after: Sequence[str], care: Care
) -> bool:
    """Change how a VM is kept up that no host lists, for its own is lost; return whether it is kept up."""
    store = KeptUps(means.database)
    kept = store.all()
    known = [each for each in kept.values() if vm in (each.uuid, each.name)]
    if len(known) != 1:
        return False
    [one] = known
    before = _started_before(kept, one.uuid, one.name, after)
    store.put(
        one.uuid, one.name, *numbers, asked_by, autostart=one.autostart, ran_on=one.ran_on, after=before, care=care
    )
    return True


def _started_before(kept: Mapping[str, KeptUp], uuid: str, vm: str, names: Sequence[str]) -> tuple[str, ...]:
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
    if leads_back(uuid, found, kept):
        raise UsageError(f"VM {vm!r} would be started after itself: {', '.join(names)} are started after it")
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


def _tell_of_replicas(replicas: Sequence[Protection], care: Care, say: Say) -> None:
    """Say what becomes of a VM that has a replica, or several."""
    protection = min(replicas, key=lambda each: (each.lag is None, each.every))
    name, lag = protection.vm_name, protection.lag
    if not care.from_replica:
        at = " and at ".join(each.target for each in replicas)
        say(f"! {name} has a replica at {at}, and is not started elsewhere by itself without --from-replica")
    elif lag is None:
        say(f"! {name} has no restore point yet")
    elif care.max_loss is not None and care.max_loss < protection.every:
        say(
            f"! {name} may lose {care.max_loss:g} s, and its replica is brought up to date every {protection.every:g} s"
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
    locks = locks_of(means, [name for name, standing in hosts.items() if standing is Standing.WELL])
    kept = tuple(KeptUps(means.database).all().values())
    return Availability(decision.said, hosts, kept, tuple(map(as_old, copies)), locks)


def restarts(means: Means, limit: int) -> tuple[Restarted, ...]:
    """Return the newest restarts that were made by themselves, the newest first, and what they took."""
    return Restarts(means.database).latest(limit)


def guard_of(means: Means, asked_by: str, say: Say) -> Guard:
    """Return who watches the hosts."""
    fencer = fencer_of(means, agents_of(means.fencing), say)
    return Guard(means, means.availability, fencer, asked_by, say, test_every=means.fencing.test_every)
