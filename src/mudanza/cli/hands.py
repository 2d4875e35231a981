"""What the daemon's pages have done by the same functions as the commands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mudanza import clock
from mudanza.cli.output import say
from mudanza.fleet.draining import without
from mudanza.hypervisor.console import Console
from mudanza.hypervisor.displays import Viewer, open_display
from mudanza.hypervisor.pictures import Pictures
from mudanza.journal.plans import Plans
from mudanza.journal.protections import Protections
from mudanza.model.carrying import RunPolicy
from mudanza.model.errors import MudanzaError
from mudanza.model.host import HostEntry
from mudanza.model.migration import MigrationOptions, Progress
from mudanza.model.plan import Goal, Plan
from mudanza.model.protection import Protection
from mudanza.model.vm import Vm
from mudanza.operations import checking, foreseeing, hosts, planning, power, protecting, replicating, rescuing
from mudanza.operations.checking import Check
from mudanza.operations.foreseeing import Outlook
from mudanza.operations.means import Means
from mudanza.operations.rescuing import Rescue
from mudanza.service.desk import Desk
from mudanza.service.watcher import Watcher


class OwnHands:
    """Does what the pages ask for; see ``mudanza.service.pages.hands.Hands``."""

    def __init__(self, desk: Desk, watcher: Watcher) -> None:
        self._desk = desk
        self._watcher = watcher

    def add_host(self, name: str, uri: str, *, force: bool) -> None:
        """Add a host as ``mudanza host add`` does. Raises UsageError."""
        with self._desk.at_work() as means:
            say(hosts.add(means, HostEntry(name, uri), force=force))

    def start(self, uuid: str) -> None:
        """Start a VM as ``mudanza start`` does."""
        with self._desk.at_work() as means, means.connections() as connections:
            power.start_one(means, connections, means.read_cluster(connections).find(uuid), say)

    def shut_down(self, uuid: str) -> None:
        """Ask a VM to shut down, and see to it meanwhile, as ``mudanza shutdown`` does, that it is asked again."""
        with self._desk.at_work() as means, means.connections() as connections:
            vm = means.read_cluster(connections).find(uuid)
            for error in power.shut_down(means, connections, [vm], say, wait=False):
                raise error
        if vm.state.active:
            clock.start_thread(lambda: _see_off(means, vm), f"shutdown of {vm.name}")

    def console(self, uuid: str, host: str) -> Console:
        """Open a guest's console as ``mudanza console`` does."""
        with self._desk.at_work() as means, means.connections() as connections:
            return connections.domains(host).console(uuid)

    def display(self, uuid: str, host: str) -> Viewer | Pictures:
        """Open a guest's graphical display. Other viewers stay."""
        with self._desk.at_work() as means, means.connections() as connections:
            return open_display(connections.get(host), uuid)

    def ways(self, uuid: str) -> tuple[Check, Outlook]:
        """Return what ``mudanza check`` and ``mudanza forecast`` find of every other host."""
        options = MigrationOptions()
        with self._desk.at_work() as means:
            check = checking.check(means, uuid, None, options)
            return check, foreseeing.foresee(means, uuid, None, options, warn=say)

    def plan(self, goal: Goal, subject: str) -> Plan:
        """Make a plan as ``mudanza plan`` does."""
        with self._desk.at_work() as means:
            return planning.propose(means, planning.Wanted(goal, subject)).plan

    def apply(self, plan: Plan, left_out: Collection[str], asked_by: str) -> int:
        """Have a plan carried out that was shown, without the moves of some VMs."""
        with self._desk.at_work() as means:
            with means.connections() as connections:
                cluster = planning.as_planned(means, plan, means.read_cluster(connections))
            planning.refuse_unproven(means, plan)
            planning.refuse_changed(means, plan, cluster)
            chosen, policy = without(plan, left_out, cluster), RunPolicy()
            plans = Plans(means.database)
            return plans.put_down(chosen, policy, asked_by, kind="apply", subject=plan.subject, request=None)

    def approve(self, number: int, asked_by: str) -> None:
        """Say yes to a plan as ``mudanza run approve`` does, at its own pace."""
        with self._desk.at_work() as means:
            planning.approve(means, number, Plans(means.database).get(number).policy, asked_by)

    def protections(self) -> Sequence[Protection]:
        """Return all replicas of protected VMs."""
        means = self._desk.means
        return Protections(means.database).all() if means is not None else ()

    def sync(self, uuid: str, asked_by: str, on: str, *, verify: bool) -> None:
        """Make a round as ``mudanza protection sync`` and ``verify`` do."""
        with self._desk.at_work() as means, means.connections() as connections:
            replicating.sync(means, connections, Protections(means.database).of(uuid, on), asked_by, verify=verify)

    def pause(self, uuid: str, asked_by: str, on: str, *, paused: bool) -> None:
        """Pause a replica's rounds, or resume them, as ``mudanza protection pause`` and ``resume`` do."""
        with self._desk.at_work() as means:
            protecting.pause(means, uuid, on, asked_by, paused=paused)

    def fail_over(self, uuid: str, asked_by: str, on: str, *, planned: bool) -> None:
        """Bring it up at its replica's host as ``mudanza failover`` does."""
        with self._desk.at_work() as means:
            how = Rescue(source_is_dead=not planned, planned=planned, on=on)
            rescuing.fail_over(means, uuid, how, asked_by, say)

    def shares(self) -> Mapping[int, float]:
        """Return how much is done of each move under way."""
        return self._watcher.shares()

    def course(self, number: int) -> Sequence[Progress]:
        """Return how a job's move went so far."""
        return self._watcher.course(number).samples


def _see_off(means: Means, vm: Vm) -> None:
    try:
        with means.connections() as connections:
            for error in power.wait_until_off(means, connections, [vm], say):
                say(f"! {error}")
    except MudanzaError as error:
        say(f"! {error}")
