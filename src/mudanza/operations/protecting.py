"""Protecting VMs: what there is, beginning with it, one round that is asked for, and an end to it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mudanza.journal.protections import Protections
from mudanza.model.errors import BlockedError, MudanzaError, UsageError
from mudanza.model.protection import MANY_OF_JOURNAL, Compress, Protection, RestorePoint, Standing
from mudanza.model.units import format_size
from mudanza.operations import replicating
from mudanza.operations.grouping import refuse_odd, sync_together
from mudanza.protection.copies import copy_of
from mudanza.protection.own_addresses import BY_HAND
from mudanza.protection.rounds import Rounds
from mudanza.protection.telling import how_consistent

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.model.cluster import Cluster
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say

REPLICAS = "mudanza-replicas"
"""The directory in a pool in which replicas are."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """What replica is wanted."""

    to: str
    """The host."""
    pool: str
    """The pool there in whose directory it is."""
    every: float
    """Seconds between two rounds."""
    keep: int
    """How many restore points there are at the most."""
    scratch: int
    """Bytes that a round may take up at the source."""
    group: str = ""
    """The VMs with which it shares its rounds, all at one instant; empty: it has rounds of its own."""
    bandwidth: int | None = None
    """Bytes per second that a round may send at the most."""
    verify_every: float | None = None
    """Seconds after which a round compares all of the replica with the source."""
    test_every: float | None = None
    """Seconds after which it is tried whether a double boots from it."""
    test_limit: float = 300.0
    """Seconds within which that has to answer."""
    freeze_every: int | None = None
    """Every how many rounds the guest's file systems are frozen for the instant."""
    compress: Compress = Compress.AUTO
    """Whether what a round sends is compressed on its way."""


def refuse_too_little(wanted: Keeping) -> None:
    """Raise UsageError where something is wanted that is less than makes sense, as the API does by itself: pure."""
    least: Mapping[str, tuple[float | None, float, str]] = {
        "--every": (wanted.every, 1.0, "1s"),
        "--scratch": (wanted.scratch, 1.0, "1B"),
        "--bandwidth": (wanted.bandwidth, 1.0, "1B/s"),
        "--verify-every": (wanted.verify_every, 1.0, "1s"),
        "--test-every": (wanted.test_every, 60.0, "1m"),
        "--test-limit": (wanted.test_limit, 1.0, "1s"),
    }
    for option, (value, at_least, told) in least.items():
        if value is not None and value < at_least:
            raise UsageError(f"{option} is {told} at the least", remedy="leave it out for what is usual")


@dataclass(frozen=True, slots=True)
class Protected:
    """A replica of a protected VM."""

    protection: Protection
    behind: int | None
    """Bytes that have changed since the newest restore point; None: not known."""


def listed(means: Means) -> tuple[Protected, ...]:
    """Return every replica, by the VMs' names, and look how far behind it is."""
    found = Protections(means.database).all()
    if not found:
        return ()
    with means.connections() as connections:
        cluster = means.read_cluster(connections)
        return tuple(Protected(each, _behind(connections, cluster, each)) for each in found)


def _behind(connections: Connections, cluster: Cluster, protection: Protection) -> int | None:
    vm = copy_of(cluster, protection)
    from mudanza.protection.drives import as_what_it_is
    from mudanza.protection.serving import is_counted

    if vm is None or not protection.checkpoint:
        return None
    disks = [disk for disk in vm.disks if protection.newest is not None and disk.target in protection.newest.disks]
    if not all(is_counted(as_what_it_is(disk)) for disk in disks):
        return None
    backups, targets = connections.backups(vm.host), [disk.target for disk in disks]
    return backups.changed_since(vm.uuid, protection.checkpoint, targets)


def begin(means: Means, connections: Connections, vm: str, wanted: Keeping, asked_by: str) -> tuple[Protection, Vm]:
    """Write down that a VM is to have a replica at a host; return that, and the VM. Its first round, which brings
    everything, is still to be made. Raises UsageError, and BlockedError where no replica can be made."""
    from mudanza.hypervisor.xml.activation import wishes_autostart

    refuse_too_little(wanted)
    cluster = means.read_cluster(connections)
    found = cluster.find(vm)
    means.inventory.host(wanted.to)
    store = Protections(means.database)
    before = store.replicas(found.uuid)
    if at := [each for each in before if each.target == wanted.to]:
        raise BlockedError(
            f"VM {found.name!r} is protected already, to {wanted.to}: that replica is {at[0].standing}",
            remedy="see it: mudanza protections; for other settings: mudanza unprotect, and protect it anew",
        )
    _refuse(connections, found, wanted.to)
    if wanted.group:
        refuse_odd(store, wanted.group, found, wanted.every, wanted.keep)
    values = {
        "vm_uuid": found.uuid,
        "vm_name": found.name,
        "target": wanted.to,
        "directory": replica_directory(means, cluster, wanted.to, wanted.pool, found.uuid),
        "every": wanted.every,
        "keep": wanted.keep,
        "scratch": wanted.scratch,
        "bandwidth": wanted.bandwidth,
        "verify_every": wanted.verify_every,
        "test_every": wanted.test_every,
        "test_limit": wanted.test_limit,
        "freeze_every": wanted.freeze_every,
        "compress": wanted.compress,
        "autostart": before[0].autostart
        if before
        else found.autostart or wishes_autostart(found.inactive_xml or found.xml),
        "made_by": asked_by,
        "group": wanted.group,
    }
    return store.make(values), found


def replica_directory(means: Means, cluster: Cluster, to: str, pool: str, uuid: str) -> str:
    """Return where a VM's replica is to be at a host. Raises UsageError and BlockedError where there is no place."""
    from mudanza.hypervisor.shell import HostShell
    from mudanza.protection.serving import unused_directory

    entry = means.inventory.host(to)
    host = next(host for host in cluster.hosts if host.name == to)
    if not host.seen:
        raise BlockedError(f"host {to} was not seen: {host.error}")
    found = host.pool(pool)
    if found is None or not found.active or not found.path or found.kind not in ("dir", "fs", "netfs"):
        raise UsageError(f"host {to} has no active pool {pool!r} of files", remedy="name another one with --pool")
    # Another journal may keep a replica of this VM at the same host.
    own = f"{uuid}-{means.jobs.journal[:MANY_OF_JOURNAL]}"
    with HostShell(entry) as there:
        return unused_directory(there, f"{found.path.rstrip('/')}/{REPLICAS}/{own}")


def _refuse(connections: Connections, vm: Vm, to: str) -> None:
    """Raise BlockedError where no replica can be made."""
    from mudanza.hypervisor.shell import login
    from mudanza.protection.serving import protected_disks

    if vm.host == to:
        raise BlockedError(f"VM {vm.name!r} is on {to}: a replica there would be lost with it")
    protected_disks(vm)
    for entry in connections.entries:
        if entry.name in (vm.host, to):
            login(entry)


def to_each(wanted: Keeping, hosts: Sequence[str]) -> tuple[Keeping, ...]:
    """Return which replicas are wanted at several hosts. Raises UsageError where that cannot be: pure."""
    found = tuple(dict.fromkeys(hosts))
    if wanted.group and len(found) > 1:
        raise UsageError(
            f"group {wanted.group!r} has each of its VMs once, and so one host for it",
            remedy="give the replicas at each host a group of their own: --group NAME --to HOST, host by host",
        )
    return tuple(replace(wanted, to=host) for host in found)


def protect(means: Means, vms: Sequence[str], wanted: Keeping, asked_by: str, say: Say) -> tuple[str, ...]:
    """Protect VMs, and make their first round; return what is to be told. ``say`` is told what keeps a host that comes
    back from starting them. Raises as ``begin`` and ``replicating.sync``."""
    with means.connections() as connections:
        if not wanted.group:
            return tuple(_protect_one(means, connections, vm, wanted, asked_by, say) for vm in vms)
        made = [begin(means, connections, vm, wanted, asked_by) for vm in vms]
        for cost in [cost for _, found in made for cost in what_it_costs(looked_at(connections, found), wanted.to)]:
            say(cost)
        points = sync_together(means, connections, wanted.group, asked_by)
        for each, found in made:
            _tell_what_starts(connections, each, found, say)
    return tuple(in_words(each, points[each.vm_uuid]) for each, _ in made)


def _protect_one(means: Means, connections: Connections, vm: str, wanted: Keeping, asked_by: str, say: Say) -> str:
    made, found = begin(means, connections, vm, wanted, asked_by)
    for cost in what_it_costs(looked_at(connections, found), wanted.to):
        say(cost)
    point = Rounds(connections, means.jobs, Protections(means.database)).sync(made, found, asked_by)
    _tell_what_starts(connections, made, found, say)
    return in_words(made, point)


def looked_at(connections: Connections, vm: Vm) -> Vm:
    """Return a VM with what only its images tell of its disks. Raises HypervisorError, HostUnreachableError."""
    from mudanza.hypervisor.shell import HostShell
    from mudanza.protection.drives import as_what_it_is
    from mudanza.protection.serving import looked_into

    with HostShell(next(entry for entry in connections.entries if entry.name == vm.host)) as here:
        return replace(vm, disks=looked_into(here, [as_what_it_is(disk) for disk in vm.disks]))


def what_it_costs(vm: Vm, to: str) -> list[str]:
    """Return what each round costs besides what has changed, and what is not carried at all, in words."""
    from mudanza.protection.differences import digests_of
    from mudanza.protection.drives import left_out
    from mudanza.protection.serving import is_compared, protected_disks

    found = []
    for disk in filter(is_compared, protected_disks(vm)):
        size = disk.capacity or 0
        what, instead = disk.format, "a qcow2 image costs neither"
        if disk.old_qcow2:
            what = "qcow2 of version 2"
            instead = (
                f"neither after: qemu-img amend -f qcow2 -o compat=1.1 {shlex.quote(str(disk.source))}, while it is off"
            )
        found.append(
            f"! {vm.name}: {disk.target} is {what}, and nobody counts what changes on it: each round reads "
            f"all of its {format_size(size)} on {vm.host} and on {to}, and sends up to "
            f"{format_size(digests_of(size))} of digests besides what has changed; {instead}"
        )
    return [*found, *left_out(vm, to)]


def _tell_what_starts(connections: Connections, made: Protection, vm: Vm, say: Say) -> None:
    """Tell what keeps a host that comes back from starting the VM, which may run elsewhere by then."""
    from mudanza.hypervisor.shell import HostShell
    from mudanza.protection.serving import starts_what_ran

    if made.autostart:
        say(f"{vm.name}: {vm.host} does not start it any more when it boots, until: mudanza unprotect {vm.name}")
    entry = next(entry for entry in connections.entries if entry.name == vm.host)
    with HostShell(entry) as here:
        if starts_what_ran(here):
            say(f"! {vm.host} starts at boot whatever ran when it was shut down (libvirt-guests), protected or not:")
            say("!   set ON_BOOT=ignore in its /etc/default/libvirt-guests (or /etc/sysconfig)")


def in_words(protection: Protection, point: RestorePoint) -> str:
    """Return what is told of a protection once its first round is made."""
    where = f"its replica is at {protection.target}, restore point {point.number}"
    return f"{protection.vm_name} is protected: {where}{how_consistent(point)}"


def one_round(means: Means, vm: str, asked_by: str, *, verify: bool, on: str | None = None) -> str:
    """Bring a VM's replicas up to date, one after the other; return what is to be told, a line for each. ``on``: only
    the one at that host. Raises UsageError, and as ``replicating.sync`` what kept the first one from it: the others are
    brought up to date all the same."""
    said, failures = list[str](), list[MudanzaError]()
    found = meant_by(Protections(means.database), vm, on)
    with means.connections() as connections:
        for protection in found:
            try:
                point = replicating.sync(means, connections, protection, asked_by, verify=verify)
            except MudanzaError as error:
                failures.append(error)
                continue
            same = ", and the replica is the same as the source, byte for byte" if verify else ""
            where = f" at {protection.target}" if len(found) > 1 or on else ""
            brought = f"restore point {point.number}, {format_size(point.carried)} brought"
            said.append(f"{protection.vm_name}{where}: {brought}{how_consistent(point)}{same}")
    if failures:
        raise failures[0]
    return "\n".join(said)


def meant_by(store: Protections, vm: str, on: str | None) -> tuple[Protection, ...]:
    """Return the replicas of a VM that something is to be done with: that at a host, or all of which rounds are made,
    or the only one, whatever it is like. Raises UsageError."""
    if on is not None:
        return (store.of(vm, on),)
    found = store.all_of(vm)
    return tuple(each for each in found if each.standing is Standing.ON) or found[:1]


def pause(means: Means, vm: str, on: str | None, asked_by: str, *, paused: bool) -> str:
    """Have no rounds be made by themselves of a VM's replicas, or have them be made again; return what is to be told.
    ``on``: only of the one at that host. Raises UsageError, BlockedError where none are made anyhow."""
    store = Protections(means.database)
    found = meant_by(store, vm, on)
    for each in found:
        if each.standing is not Standing.ON:
            raise BlockedError(f"VM {each.vm_name!r} is {each.standing} at {each.target}: no rounds are made")
        store.change(each.id, paused_by=asked_by if paused else "")
    where, name = " and ".join(each.target for each in found), found[0].vm_name
    if not paused:
        return f"{name}: rounds are made again of its replica at {where}"
    group = f"; nor of any other of group {found[0].group}" if found[0].group else ""
    return f"{name}: no rounds are made by themselves of its replica at {where}{group}; it grows older"


def give_up(means: Means, vm: str, asked_by: str, say: Say, from_: str | None = None) -> None:
    """Give a VM's replica at a host up (None: its only one), and delete it; tell what is to be known of it. Raises
    UsageError, BlockedError."""
    store = Protections(means.database)
    found = store.of(vm, from_, "--from")
    if found.standing is Standing.LEFT:
        store.remove(found.id)
        say(f"{found.vm_name} has no replica at {found.target} any more; what it ran on there stays: {found.directory}")
        return
    if found.standing is not Standing.ON:
        raise BlockedError(
            f"VM {found.vm_name!r} is {found.standing}: it runs on its replica's images, which are not deleted"
        )
    with means.connections() as connections:
        cluster = means.read_cluster(connections)
        at = copy_of(cluster, found)
        if at is None:
            say("! no host that answers has it: its autostart, which protection has switched off, was not looked at")
        for warning in Rounds(connections, means.jobs, store).give_up(found, at, asked_by):
            say(f"! {warning}")
    left = store.replicas(found.vm_uuid)
    if all(each.standing is Standing.LEFT for each in left):  # of a VM that is protected no more nobody needs to know
        for each in left:
            store.remove(each.id)
            say(f"! what {found.vm_name} ran on at {each.target} before stays: {each.directory}")
    others = [each.target for each in left if each.standing is Standing.ON]
    still = f"; it has one at {' and at '.join(others)} still" if others else ""
    more = f"has no replica at {found.target} any more: it is deleted{still}"
    if not left and (given := found.readdressed) is not None:
        say(f"! its guest keeps the addresses that it was given at {given.at}. For its own ones, {BY_HAND}")
    alone = f"is protected no more; its replica at {found.target} is deleted"
    say(f"{found.vm_name} {more if others else alone}")
    for path in found.seed.values():
        say(f"! {found.target} has the disk still that it ran on there before: {path}")
