"""VMs that are protected together: rounds of all of them at one instant, and bringing all up as they were at one."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.hypervisor.bounded import for_each
from mudanza.journal.protections import Protections
from mudanza.model.errors import BlockedError, MigrationFailedError, UsageError
from mudanza.model.protection import Protection, RestorePoint, Standing
from mudanza.model.units import format_duration
from mudanza.operations.own_addresses import see_to_addresses
from mudanza.protection.copies import copy_of
from mudanza.protection.rounds import Rounds
from mudanza.protection.together import CARRYING, FellOutError, Together, common_points

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mudanza.hypervisor.connections import Connections
    from mudanza.model.cluster import Cluster
    from mudanza.model.vm import Vm
    from mudanza.operations.handed_on import Halt
    from mudanza.operations.means import Means, Say
    from mudanza.protection.failover import Failover, Outcome


def members_of(store: Protections, name: str) -> tuple[Protection, ...]:
    """Return the VMs of a group that are protected now. Raises UsageError where there are none."""
    found = tuple(each for each in store.group(name) if each.standing is Standing.ON)
    if not found:
        raise UsageError(f"no VM is protected in a group {name!r}", remedy="see them: mudanza protections")
    return found


def sync_together(
    means: Means, connections: Connections, name: str, asked_by: str, *, verify: bool = False
) -> Mapping[str, RestorePoint]:
    """Make one round of all members of a group at one instant; return their restore points by the VMs' UUIDs.

    Raises what the first member's round raised that failed: then none of them has a new point.
    """
    store = Protections(means.database)
    members = members_of(store, name)
    vms = _running(means.read_cluster(connections), members)
    together = Together(connections, members, secrets.token_hex(8))

    def one(member: Protection) -> RestorePoint:
        rounds = Rounds(connections, means.jobs, store, together)
        vm = vms[member.vm_uuid]
        return together.make(vm.name, lambda: rounds.sync(member, vm, asked_by, verify=verify))

    outcomes = for_each(one, members, workers=len(members), timeout=CARRYING)
    failures = [each for each in outcomes if isinstance(each, BaseException)]
    if failures:
        raise _first(failures, name)
    return {
        member.vm_uuid: each
        for member, each in zip(members, outcomes, strict=True)
        if not isinstance(each, BaseException)
    }


def _running(cluster: Cluster, members: Sequence[Protection]) -> Mapping[str, Vm]:
    found = {member.vm_uuid: copy_of(cluster, member) for member in members}
    missing = [member.vm_name for member in members if found[member.vm_uuid] is None]
    if missing:
        raise BlockedError(f"no host that answers has {', '.join(missing)}: a round is made of a whole group")
    return {uuid: vm for uuid, vm in found.items() if vm is not None}


def _first(failures: Sequence[BaseException], name: str) -> BaseException:
    """Return what went wrong at first: the others only fell out over it."""
    own = [each for each in failures if not isinstance(each.__cause__, FellOutError)]
    first = (own or failures)[0]
    if isinstance(first, TimeoutError):
        return MigrationFailedError(f"the round of group {name!r} did not end", vm_state="its VMs run as before")
    return first


def refuse_unsaid(*, source_is_dead: bool) -> None:
    """Raise UsageError where nobody gives their word that the VMs' own hosts are dead."""
    if not source_is_dead:
        raise UsageError(
            "failover starts second copies, if the first ones live",
            remedy="if they are dead: --source-is-dead; if their hosts live: mudanza failover VM --planned, one by one",
        )


def fail_over_together(
    means: Means,
    connections: Connections,
    name: str,
    networks: Mapping[str, str],
    asked_by: str,
    say: Say,
    halt: Halt | None = None,
) -> tuple[Outcome, ...]:
    """Start all members of a group, whose hosts are dead by the word of whoever asks, as they were at the newest
    instant that all have a restore point of; those that are up already are passed over. ``say`` is told of each.

    Raises UsageError; BlockedError where they have no instant in common, or one of them runs, nothing being touched
    that was not told of, or one that has come up before does not run; MigrationFailedError of the first one that could
    not be started. Asked for again, it goes on; what a controller that died has left of it is finished first.
    """
    from mudanza.protection.failover import Failover, reconnected

    store = Protections(means.database)
    failover = Failover(connections, means.jobs, store)
    for member in store.group(name):
        _finish_left(means, failover, member, say)
    members = store.group(name)
    if not members:
        raise UsageError(f"there is no group {name!r}", remedy="see them: mudanza protections")
    points = common_points(members)
    if old := [each for each in members if each.is_stale]:
        raise BlockedError(
            f"the replica of {old[0].vm_name} at {old[0].target} is of before it came up elsewhere, and has nothing of "
            "what was written since",
            remedy="if that is to be lost, one by one: mudanza failover VM --source-is-dead --from HOST",
        )
    if not points:
        names = ", ".join(member.vm_name for member in members)
        raise BlockedError(
            f"the VMs of group {name!r} ({names}) have no instant in common",
            remedy="bring up each by itself, from a point of your choice: mudanza failover VM --source-is-dead",
        )
    done, off = [], []
    for member in members:
        if member.standing is not Standing.ON:
            copies = [vm for vm in means.read_cluster(connections).vms if vm.uuid == member.vm_uuid]
            is_up = any(vm.state.active for vm in copies)
            off += [] if is_up else [member]
            say(f"{member.vm_name} is {member.standing} already" + ("" if is_up else ", and is not seen to run"))
            continue
        if halt is not None and halt.stop_by:
            raise MigrationFailedError(
                f"{halt.stop_by} wanted it stopped: {member.vm_name} and those after it were not started",
                vm_state="those that were started run where their replicas are",
                remedy=f"go on: mudanza failover group {name} --source-is-dead",
            )
        cluster = means.read_cluster(connections)
        nics = reconnected(member, networks)
        up = failover.from_point(member, cluster, points[member.vm_uuid], nics, asked_by)
        say(f"{up.vm} runs on {up.host} from restore point {up.point}, {format_duration(up.age)} old")
        if up.drives:
            say(f"! {up.vm}: {up.drives}")
        done.append(up)
    for member in members:  # not before all are up: their agents take their time
        see_to_addresses(means, connections, member.vm_uuid, say)
    if off:
        raise BlockedError(
            f"came up before, and not seen to run: {', '.join(f'{each.vm_name} at {each.target}' for each in off)}",
            remedy="see where they are: mudanza vms; what is off there: mudanza start VM",
        )
    return tuple(done)


def _finish_left(means: Means, failover: Failover, member: Protection, say: Say) -> None:
    """Finish a failover that a controller which died has left: its VM is up then, or taken back. Raises BlockedError
    while that controller may live; NeedsPersonError where its host does not say."""
    from mudanza.operations.rescuing import refuse_unfinished
    from mudanza.protection.failover import KIND

    job = means.jobs.unfinished_of(member.vm_uuid)
    if job is None or job.kind != KIND or not job.abandoned:
        refuse_unfinished(means, member)
        return
    try:
        say(f"{member.vm_name}: job {job.id} was left behind: {failover.resume(job.id, clock.new_event()).transport}")
    except MigrationFailedError as taken_back:  # it is brought up anew
        say(f"{member.vm_name}: job {job.id} was left behind: {taken_back}")


def refuse_odd(store: Protections, name: str, vm: Vm, every: float, keep: int) -> None:
    """Raise BlockedError where a group is to have members that are not brought up to date alike, or a VM twice: of one
    VM there is one instant at a time."""
    members = store.group(name)
    if twice := [each for each in members if each.vm_uuid == vm.uuid]:
        raise BlockedError(
            f"VM {vm.name!r} is in group {name!r} already, with its replica at {twice[0].target}",
            remedy="for replicas at another host: a group of their own, by another name",
        )
    odd = [each for each in members if (each.every, each.keep) != (every, keep)]
    if odd:
        raise BlockedError(
            f"group {name!r} has rounds every {odd[0].every:g} s and keeps {odd[0].keep} points: all its VMs do",
            remedy=f"--every {odd[0].every:g}s --keep {odd[0].keep}, or another group",
        )
