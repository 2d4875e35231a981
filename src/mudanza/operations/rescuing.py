"""A protected VM comes up where its replica is, is protected the other way from there, and comes home."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mudanza.journal.protections import Protections
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.migration import Mode
from mudanza.model.protection import Protection, Standing
from mudanza.operations.coming_home import GoingHome, send_home, settle
from mudanza.operations.handing_over import hand_over
from mudanza.operations.own_addresses import see_to_addresses
from mudanza.operations.protecting import replica_directory
from mudanza.protection.choosing import home_of, meant, unseen
from mudanza.protection.copies import copy_of
from mudanza.protection.failover import KIND, Failover, reconnected
from mudanza.protection.rounds import Rounds
from mudanza.protection.turning import Turning, copies_of, to_be_turned

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.operations.means import Means, Say
    from mudanza.protection.failover import Outcome


@dataclass(frozen=True, slots=True)
class Rescue:
    """How a VM is to be brought up where its replica is."""

    source_is_dead: bool = False
    """Somebody's word that its host is dead, or cut off for good."""
    planned: bool = False
    """Its host lives: it shuts down, and the rest comes over."""
    point: int | None = None
    """The restore point; None: the newest one."""
    networks: Mapping[str, str] = field(default_factory=dict)
    """A network or bridge → what it is called there."""
    on: str | None = None
    """The host whose replica it is to come up from; None: the freshest one."""

    def refuse_contradictory(self) -> None:
        """Raise UsageError where it is not said, or said twice, how."""
        if self.planned and (self.source_is_dead or self.point is not None):
            raise UsageError("--planned goes by what the VM is now: without --source-is-dead and --point")
        if not (self.source_is_dead or self.planned):
            raise UsageError(
                "failover starts a second copy, if the first one lives",
                remedy="if its host lives: --planned; if it is dead (power off, or cut off for good): --source-is-dead",
            )


@dataclass(frozen=True, slots=True)
class Reprotected:
    """A VM that is protected the other way."""

    vm: str
    host: str
    """Where its replica is."""
    point: int
    carried: int
    """Bytes that the first round brought over."""
    size: int
    """Bytes of all its disks."""


def fail_over(means: Means, vm: str, how: Rescue, asked_by: str, say: Say) -> Outcome:
    """Start a protected VM at its replica's host: of several the freshest one's, unless it is said which; where it has
    been before, its guest has its own addresses again.

    Raises UsageError; BlockedError where that host was not seen; and as ``hand_over`` and ``Failover.from_point``.
    """
    how.refuse_contradictory()
    store = Protections(means.database)
    replicas = store.all_of(vm) if how.on is None else (store.of(vm, how.on, "--from"),)
    refuse_unfinished(means, replicas[0])
    with means.connections() as connections:
        cluster = means.read_cluster(connections)
        protection = meant(replicas, unseen(cluster))
        nics = reconnected(protection, how.networks)
        if how.planned:
            done = hand_over(means, connections, protection, nics, asked_by, say)
        else:
            failover = Failover(connections, means.jobs, store)
            done = failover.from_point(protection, cluster, how.point, nics, asked_by)
        see_to_addresses(means, connections, protection.vm_uuid, say)
        return done


def refuse_unfinished(means: Means, protection: Protection) -> None:
    """Raise BlockedError where a failover of a VM was begun and has not ended: where it is follows from that alone."""
    job = means.jobs.unfinished_of(protection.vm_uuid)
    if job is not None and job.kind == KIND:
        raise BlockedError(
            f"VM {protection.vm_name!r} has an unfinished failover to {job.target}: job {job.id}", remedy=job.way_out
        )


def reprotect(means: Means, vm: str, to: str | None, pool: str, asked_by: str, say: Say) -> Reprotected:
    """Protect a VM the other way after a failover, and make the first round. ``to``: the host; None: where its old copy
    is. Raises UsageError, BlockedError, and as ``Turning.turn`` and ``Rounds.sync``."""
    store = Protections(means.database)
    with means.connections() as connections:
        settle(means, connections, store, vm, say)
        see_to_addresses(means, connections, vm, say)
        cluster = means.read_cluster(connections)
        replicas = store.all_of(vm)
        protection = to_be_turned(replicas, to)
        copies = copies_of(protection, cluster, to)
        host = to or (copies.stale.host if copies.stale else None)
        protection = to_be_turned(replicas, host)
        if host is None:
            raise UsageError(
                f"no host that answers has an old copy of VM {protection.vm_name!r}",
                remedy="say where its replica is to be: --to HOST; everything is brought there",
            )
        if any(each.target == host and each.id != protection.id for each in replicas):
            raise BlockedError(
                f"VM {protection.vm_name!r} has a replica at {host} already, of which rounds go on",
                remedy="say another host: --to HOST; the old copy there, which is off, goes by virsh undefine",
            )
        place = replica_directory(means, cluster, host, pool, protection.vm_uuid)
        turned = Turning(connections, means.jobs, store).turn(protection, copies, host, place, asked_by)
        if copies.stale is not None and copies.stale.host == host:
            disks = ", ".join(turned.seed.values()) or "none of them of use"
            say(f"{turned.vm_name}: its old copy at {host} is undefined; its disks stay: {disks}")
        point = Rounds(connections, means.jobs, store).sync(turned, copies.running, asked_by)
    size = sum(disk.size for disk in point.disks.values())
    return Reprotected(turned.vm_name, host, point.number, point.carried, size)


def fail_back(
    means: Means, vm: str, networks: Mapping[str, str], asked_by: str, say: Say, to: str | None = None
) -> Outcome:
    """Bring a VM home that is protected the other way: it shuts down here and starts there. Raises UsageError,
    BlockedError, and as ``hand_over``."""
    with means.connections() as connections:
        protection = turned_of(means, connections, vm, to)
        nics = reconnected(protection, networks)
        done = hand_over(means, connections, protection, nics, asked_by, say)
        see_to_addresses(means, connections, protection.vm_uuid, say, home=True)
        return done


def come_home(
    means: Means, vm: str, mode: Mode, networks: Mapping[str, str], asked_by: str, say: Say, to: str | None = None
) -> Outcome | GoingHome:
    """Bring a VM home, or, while it runs, have whoever works on the queue do so. Raises as ``fail_back`` and
    ``send_home``."""
    if mode is Mode.AUTO:
        with means.connections() as connections:
            mode = Mode.LIVE if lives(means, connections, vm, to) else Mode.COLD
    if mode is Mode.COLD:
        return fail_back(means, vm, networks, asked_by, say, to)
    with means.connections() as connections:
        protection = turned_of(means, connections, vm, to)
    return send_home(means, protection, networks, asked_by, say)


def lives(means: Means, connections: Connections, vm: str, to: str | None = None) -> bool:
    """Whether a VM that is to go home runs, or may. Raises as ``turned_of``."""
    protection = turned_of(means, connections, vm, to)
    found = copy_of(means.read_cluster(connections), protection)
    return found is None or found.state.active


def turned_of(means: Means, connections: Connections, vm: str, to: str | None = None) -> Protection:
    """Return the protection of a VM by which it may go home, to that host if one is said. Raises UsageError, and
    BlockedError where it has none that goes the other way."""
    store = Protections(means.database)
    settle(means, connections, store, vm)
    protection = home_of(store.all_of(vm), to)
    if protection.standing is not Standing.ON or not protection.epoch:
        raise BlockedError(
            f"VM {protection.vm_name!r} is not protected the other way after a failover",
            remedy=f"first: mudanza reprotect {protection.vm_name}"
            if protection.epoch
            else f"it was never brought elsewhere; to {protection.target}: mudanza failover --planned",
        )
    return protection
