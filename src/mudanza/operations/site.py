"""A whole site that starts anew after a power cut, and that shuts down before one: by a plan, in its order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.migration.claim import keeping, left_open
from mudanza.migration.vm_claim import in_the_way
from mudanza.migration.wanted import CancelledError, Wanted
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
    UsageError,
)
from mudanza.model.migration import Side
from mudanza.model.recovery import Group, RecoveryPlan, Turn
from mudanza.model.units import format_duration
from mudanza.operations import power
from mudanza.operations.fencing import answers
from mudanza.protection.between import ANSWER_TIMEOUT
from mudanza.protection.recovery import Recovered, brought_up, given_up, interrupted, since_begun
from mudanza.protection.site import copy_to_start

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.jobs import JobHandle
    from mudanza.model.cluster import Cluster
    from mudanza.model.protection import Protection
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say
    from mudanza.operations.switching import Switcher

START, STOP = "cold start", "site stop"
"""What such jobs are called in the journal."""
LOOK_AGAIN = 2.0
"""Seconds between two looks whether a host answers."""
_WAITING = 30.0
"""Seconds beyond a host's time to start that whoever waits for it allows."""


class Starting:
    """Starts VMs where they are, once their hosts answer."""

    def __init__(self, means: Means, connections: Connections, switcher: Switcher, say: Say) -> None:
        self._means = means
        self._connections = connections
        self._switcher = switcher
        self._say = say

    @property
    def kind(self) -> str:
        """What its jobs are called in the journal."""
        return START

    def make_ready(self, handle: JobHandle, plan: RecoveryPlan) -> None:
        """Have the hosts answer that the plan needs; one that is proven off is left off."""
        from mudanza.journal.fences import Fences

        proven = Fences(self._means.database).proofs()
        named = plan.hosts or [each.name for each in self._means.inventory.hosts() if not each.maintenance]
        looks = {host: Task(partial(answers, self._means, host)) for host in named if host not in proven}
        away = [host for host, look in looks.items() if not look.wait(self._means.saving.boot)]
        if away:
            self._say(f"waiting for {', '.join(away)}, {format_duration(self._means.saving.boot)} at the most")
            handle.perform("wake hosts", {"hosts": away}, lambda: self._wake(away), lambda why: {"not": dict(why)})

    def _wake(self, hosts: Sequence[str]) -> Mapping[str, str]:
        """Wake hosts side by side, and wait until they answer; return why which ones do not."""
        tasks = {host: Task(partial(self._wake_one, host)) for host in hosts}
        found = {host: task.wait(self._means.saving.boot + _WAITING) for host, task in tasks.items()}
        for host, why in found.items():
            self._say(f"! {host} does not answer: {why}" if why else f"{host} answers")
        return {host: why for host, why in found.items() if why}

    def _wake_one(self, host: str) -> str:
        until, told = clock.monotonic() + self._means.saving.boot, ""
        try:
            self._switcher.wake(host)
        except UsageError as error:  # nothing can wake it: it may start by itself
            told = str(error)
        except MudanzaError as error:
            return str(error)
        while not answers(self._means, host):
            if clock.monotonic() >= until:
                return told or f"it was woken, and does not answer after {format_duration(self._means.saving.boot)}"
            clock.sleep(LOOK_AGAIN)
        return ""

    def turns(self, _plan: RecoveryPlan, group: Group) -> tuple[Turn, ...]:
        """Return a group's VMs, each with the host that it is defined on, where that is one."""
        cluster = self._means.read_cluster(self._connections, resources=False)
        places = {name: [each.host for each in cluster.vms if name in (each.name, each.uuid)] for name in group.vms}
        return tuple(Turn(vm, hosts[0] if len(hosts) == 1 else "") for vm, hosts in places.items())

    def bring_up(self, handle: JobHandle, _plan: RecoveryPlan, group: Group, vm: str) -> Recovered:
        """Start one VM, unless it runs. Raises BlockedError where it is not clear that it may be."""
        found = self._copy(vm)
        self._have_it_run(handle, found, group.name)
        then = brought_up(self._means.jobs.get(handle.id), "start", found.uuid)
        return Recovered(found.name, found.host, group.name, None, 0.0, then.get("seconds"))

    def start_again(self, handle: JobHandle, protection: Protection, group: str, *, host_is_dead: bool) -> None:
        """Start a VM that has come up from this replica before, where it is by now, unless it runs.

        ``host_is_dead``: that whatever host does not answer runs it no more is the word of the person who asks, but for
        the one that it has come up at. Raises BlockedError as ``bring_up``, and what libvirt raises.
        """
        found = self._copy(protection.vm_uuid, protection.target if host_is_dead else "")
        self._have_it_run(handle, found, group)

    def _have_it_run(self, handle: JobHandle, vm: Vm, group: str) -> None:
        if vm.state.active:
            return
        self._refuse(vm)
        about = {"vm": vm.uuid, "group": group, "host": vm.host}
        domains = self._connections.domains(vm.host)
        handle.perform("start", about, lambda: domains.start(vm.uuid), lambda _: self._started(handle))
        self._say(f"{vm.name} started on {vm.host}")

    def _started(self, handle: JobHandle) -> Mapping[str, object]:
        return {"done": True, "seconds": since_begun(self._means.jobs.get(handle.id))}

    def _copy(self, vm: str, only_asks: str = "") -> Vm:
        """Return the copy that is the VM. ``only_asks``: the one host that has to be asked; empty: each has."""
        from mudanza.journal.fences import Fences
        from mudanza.journal.kept import KeptUps
        from mudanza.journal.protections import Protections

        database = self._means.database
        protections = {each.vm_uuid: each for each in Protections(database).all()}
        left, proven = KeptUps(database).started_elsewhere(), Fences(database).proofs()
        cluster = self._means.read_cluster(self._connections, resources=False)
        dead = [host.name for host in cluster.hosts if only_asks and not host.seen and host.name != only_asks]
        return copy_to_start(vm, cluster, protections, left, {*proven, *dead})

    def _refuse(self, vm: Vm) -> None:
        """Raise BlockedError where somebody works on it."""
        job = self._means.jobs.unfinished_of(vm.uuid)
        if job is not None:
            raise BlockedError(
                f"VM {vm.name!r} has an unfinished job, number {job.id}: it may be running elsewhere",
                remedy=job.way_out,
            )
        if (claim := in_the_way(self._means.jobs, vm.claims)) is not None:
            raise BlockedError(
                f"VM {vm.name!r} was not started: {claim.in_words}",
                remedy="wait until that job has ended; if its controller is gone for good: mudanza rebuild",
            )

    def agent_answers(self, vm: str) -> bool:
        """Whether the guest agent of a VM answers where it runs."""
        cluster = self._means.read_cluster(self._connections, resources=False)
        for each in cluster.vms:
            if vm in (each.name, each.uuid) and each.state.active:
                try:
                    self._connections.domains(each.host).guest_time(each.uuid, timeout=ANSWER_TIMEOUT)
                except (HypervisorError, HostUnreachableError):
                    return False
                return True
        return False


@dataclass(frozen=True, slots=True)
class Stopped:
    """One VM of a plan that was to shut down."""

    vm: str
    host: str
    """Empty: no host that answers lists it."""
    group: str
    off: bool
    after: float
    """Seconds from when the plan was begun until that was known."""


class Stopping:
    """Has the VMs of a plan shut down, those last upon which the others stand."""

    def __init__(self, means: Means, connections: Connections, say: Say) -> None:
        self._means = means
        self._connections = connections
        self._say = say

    def carry_out(self, handle: JobHandle, plan: RecoveryPlan, within: float | None) -> tuple[Stopped, ...]:
        """Shut them down, group by group; return all of them in that order.

        Without ``within`` (seconds from the job's beginning) it stops where one does not go off, for what it stands on
        is needed still: NeedsPersonError, to be resumed. With it each group gets its share of what is left of that
        time, and then the next one's turn comes all the same: better off than cut off. MigrationFailedError names those
        that are on in the end, or says that it was cancelled: no further group is asked to go off then. None is ever
        cut off.
        """
        with keeping(handle):
            try:
                found = self._groups(handle, plan, within)
            except CancelledError as cancelled:
                raise given_up(handle, plan.name, str(cancelled)) from None
            except KeyboardInterrupt:
                raise left_open(handle, interrupted(handle, plan.name)) from None
            on = [each.vm for each in found if not each.off]
            report = {"seconds": self._since_begun(handle), "on": on, "vms": {each.vm: each.after for each in found}}
            if not on:
                handle.finish("done", f"{len(found)} VMs are off", 0, report)
                return tuple(found)
            error = MigrationFailedError(
                f"plan {plan.name!r}: not off within {format_duration(within or 0.0)}: {', '.join(on)}",
                vm_state=f"the other {len(found) - len(on)} are off; nobody was cut off",
                remedy="what is on when the power goes is cut off: look at it, or switch it off by hand",
            )
            handle.finish("failed", str(error), error.exit_code, report, error)
            raise error

    def _groups(self, handle: JobHandle, plan: RecoveryPlan, within: float | None) -> Sequence[Stopped]:
        """Have the groups go off, the last one first; return how all of their VMs stand."""
        found: list[Stopped] = []
        wanted, groups = Wanted(handle, clock.new_event()), plan.groups[::-1]
        for number, group in enumerate(groups):
            wanted.look()
            found += self._group(handle, group, self._share(handle, within, len(groups) - number))
            on = [each.vm for each in found if not each.off]
            if on and within is None:
                told = f"plan {plan.name!r} has come to a stop: not off: {', '.join(on)}"
                raise left_open(handle, NeedsPersonError(told, remedy="see why: mudanza console VM"))
        return found

    def _share(self, handle: JobHandle, within: float | None, groups_left: int) -> float:
        """Return how long a group may take."""
        limit = self._means.limits.shutdown
        if within is None:
            return limit
        return min(limit, max(within - self._since_begun(handle), 0.0) / groups_left)

    def _group(self, handle: JobHandle, group: Group, limit: float) -> list[Stopped]:
        cluster = self._means.read_cluster(self._connections, resources=False)
        running = [vm for vm in cluster.vms if {vm.name, vm.uuid} & set(group.vms) and vm.state.active]
        if running:
            names = ", ".join(vm.name for vm in running)
            self._say(f"group {group.name}: {names} shut down, {format_duration(limit)} at the most")
            about = {"group": group.name, "vms": [vm.uuid for vm in running], "limit": limit}

            def act() -> list[MudanzaError]:
                return power.shut_down(self._means, self._connections, running, self._say, wait=True, limit=limit)

            handle.perform("shut group down", about, act, lambda errors: {"not": [str(each) for each in errors]})
        found = self._standings(group, cluster, running)
        return [replace(each, after=self._since_begun(handle)) for each in found]

    def _standings(self, group: Group, cluster: Cluster, running: Sequence[Vm]) -> list[Stopped]:
        """Return how each VM of a group stands; one that no host lists is off only if all hosts were seen."""
        from mudanza.journal.fences import Fences

        proven = Fences(self._means.database).proofs()
        all_seen = all(host.seen or host.name in proven for host in cluster.hosts)
        found = []
        for wanted in group.vms:
            copies = [vm for vm in cluster.vms if wanted in (vm.name, vm.uuid)]
            was_on = [vm for vm in running if vm in copies]
            still = [vm for vm in was_on if self._may_be_on(vm)]
            name = copies[0].name if copies else wanted
            host = (still or was_on or copies)[0].host if copies else ""
            found.append(Stopped(name, host, group.name, not still and (bool(was_on) or all_seen), 0.0))
        return found

    def _may_be_on(self, vm: Vm) -> bool:
        try:
            seen = self._connections.domains(vm.host).sighting(vm.uuid, timeout=self._means.limits.read)
        except HostUnreachableError:
            return True
        return seen.side is Side.UNSEEN or (seen.side is Side.PRESENT and seen.state.active)

    def _since_begun(self, handle: JobHandle) -> float:
        return since_begun(self._means.jobs.get(handle.id))
