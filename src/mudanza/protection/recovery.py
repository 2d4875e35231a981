"""Carrying out a plan for recovery: one job for all of it, which can be resumed at the step it has come to.

Groups come one after the other, and the VMs of one side by side. A VM that does not come up keeps the others of its
group from nothing, and groups that do not come after it neither; those that do are not begun. Nothing is replayed: a
VM that is up is passed over, and what was waited for is waited for again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.journal.database import Database
from mudanza.journal.jobs import Job, JobHandle, Jobs, NewJob
from mudanza.journal.protections import Protections
from mudanza.migration.claim import keeping, left_open
from mudanza.migration.wanted import CancelledError, Wanted
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
)
from mudanza.model.hook import Hook
from mudanza.model.migration import Side, Sighting
from mudanza.model.protection import Protection, Readdressed, Standing
from mudanza.model.recovery import Group, RecoveryPlan, Room, Turn
from mudanza.protection import failover
from mudanza.protection.addressing import cards_of, macs_of, readdress
from mudanza.protection.between import ANSWER_TIMEOUT, Between
from mudanza.protection.choosing import given_addresses, given_elsewhere, place_of, planned_for
from mudanza.protection.failover import Outcome
from mudanza.protection.own_addresses import OwnAddresses
from mudanza.protection.side_by_side import take_turns

KIND = "recovery"
"""What such jobs are called in the journal that bring VMs up where their replicas are."""
THROUGH = "through"
"""The step in the journal that says when a group was through, with all that it waits for."""
BRING_UP = "bring up"
START = "start"
READDRESS = "readdress"
OWN_ADDRESSES = "own addresses"

BringUp = Callable[[Protection, Mapping[str, str]], Outcome]
"""Brings one VM up from this replica, with these networks there. Raises what that raises."""
StartAgain = Callable[[JobHandle, Protection, str], None]
"""Has a VM of that group run that has come up from this replica before, unless it does: in a step of this job. Raises
BlockedError where it is not clear that it may be started, and what libvirt raises."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recovered:
    """One VM that is up. Seconds."""

    vm: str
    host: str
    group: str
    lost: float | None
    """How old the restore point was: what is lost at the most; None: it was up already, or nothing is lost."""
    up_after: float
    """Its RTO: from when the plan was begun until its group was through, with all that was waited for."""
    ran_after: float | None = None
    """From when the plan was begun until it ran itself, and had its addresses; None: it ran before."""


class Way(Protocol):
    """How one kind of run brings VMs up."""

    @property
    def kind(self) -> str:
        """What its jobs are called in the journal."""

    def make_ready(self, handle: JobHandle, plan: RecoveryPlan, /) -> None:
        """Do what is to be done before the first group."""

    def turns(self, plan: RecoveryPlan, group: Group, /) -> tuple[Turn, ...]:
        """Return a group's VMs, each with where it comes up."""

    def bring_up(self, handle: JobHandle, plan: RecoveryPlan, group: Group, vm: str, /) -> Recovered:
        """Have one VM be up, unless it is; when its group is through is still to be told. Others may be brought up
        beside it."""

    def agent_answers(self, vm: str) -> bool:
        """Whether the guest agent of one of the plan's VMs answers now."""


def busy_of(plan: str) -> str:
    """Return what a plan's jobs have in place of a VM's UUID: one run of a plan at a time, of whatever kind."""
    return f"recovery plan {plan}"


@dataclass(slots=True)
class _Course:
    """What has become of a plan so far."""

    wanted: Wanted
    up: list[Recovered] = field(default_factory=list)
    failed: dict[str, MudanzaError] = field(default_factory=dict)
    """VMs that did not come up."""
    not_through: dict[str, bool] = field(default_factory=dict)
    """Groups in which that was so, and those that come after them: whether they were begun."""

    def stop(self, plan: RecoveryPlan, error: MudanzaError | None = None) -> NeedsPersonError:
        """Return what is to be told where not all came up. ``error``: what has kept the others from it."""
        reasons = (*self.failed.values(), *((error,) if error is not None else ()))
        told = f"plan {plan.name!r} has come to a stop: " + "; ".join(map(str, reasons))
        if left := [group for group, begun in self.not_through.items() if not begun]:
            told += f"; not begun, for they come after that: {', '.join(left)}"
        remedies = dict.fromkeys(each.remedy for each in reasons if each.remedy)
        return NeedsPersonError(told, remedy="; ".join(remedies))


class Recovery:
    """Carries out plans, by one way."""

    def __init__(
        self, engine: Database, jobs: Jobs, way: Way, hooks: Mapping[str, Hook], say: Say, room: Room | None = None
    ) -> None:
        """``hooks``, ``room``: those of this controller's settings."""
        self._jobs = jobs
        self._way = way
        self._room = room or Room()
        self._say = say
        self._between = Between(engine, jobs, hooks, way.agent_answers, way.kind, say)

    def run(self, plan: RecoveryPlan, asked: Mapping[str, object], asked_by: str) -> tuple[Recovered, ...]:
        """Bring up all of a plan's VMs; return them in their order.

        Raises NeedsPersonError where one does not come up (once all are up that do not come after it), or what is
        waited for does not come: its job goes on from there once it is resumed. Raises BlockedError where the plan is
        being carried out already; MigrationFailedError where it is cancelled: nothing more is begun then, and what is
        being brought up comes up. So it is with Ctrl-C, and its job can be resumed.
        """
        handle = self._jobs.begin(NewJob(self._way.kind, busy_of(plan.name), plan.name, "", "", asked, asked_by))
        return self.carry_out(handle, plan)

    def carry_out(self, handle: JobHandle, plan: RecoveryPlan) -> tuple[Recovered, ...]:
        """Do what is left of a plan; see ``run``."""
        course = _Course(Wanted(handle, clock.new_event()))
        with keeping(handle):
            try:
                self._way.make_ready(handle, plan)
                for group in plan.groups:
                    course.wanted.look()
                    self._group(handle, plan, group, course)
            except CancelledError as error:
                raise given_up(handle, plan.name, str(error)) from None
            except KeyboardInterrupt:
                raise left_open(handle, interrupted(handle, plan.name)) from None
            except MudanzaError as error:
                raise left_open(handle, course.stop(plan, error)) from error
            if course.failed:
                raise left_open(handle, course.stop(plan)) from next(iter(course.failed.values()))
            whole = self._since_begun(handle)
            report = {"seconds": whole, "vms": {each.vm: each.up_after for each in course.up}}
            handle.finish("done", f"{len(course.up)} VMs are up", 0, report)
        return tuple(course.up)

    def _group(self, handle: JobHandle, plan: RecoveryPlan, group: Group, course: _Course) -> None:
        if any(other in course.not_through for other in group.after):
            course.not_through[group.name] = False
            return
        wanted = course.wanted
        self._between.be_through(handle, plan, group, "before", wanted.turn)
        turns = self._way.turns(plan, group)

        def bring_up(turn: Turn) -> Recovered:
            wanted.look()
            return self._bring_up(handle, plan, group, turn.vm)

        outcomes = take_turns(turns, plan.room_of(group, self._room), bring_up, self._say)
        wanted.look()
        failed = {turn.vm: each for turn, each in zip(turns, outcomes, strict=True) if isinstance(each, MudanzaError)}
        if failed:
            course.failed |= failed
            course.not_through[group.name] = True
            return
        self._between.be_through(handle, plan, group, "after", wanted.turn)
        after = self._through(handle, group)
        course.up += [replace(each, up_after=after) for each in outcomes if isinstance(each, Recovered)]

    def _bring_up(self, handle: JobHandle, plan: RecoveryPlan, group: Group, vm: str) -> Recovered:
        try:
            return self._way.bring_up(handle, plan, group, vm)
        except MudanzaError as error:
            self._say(f"! {vm} is not up: {error}")
            raise

    def _through(self, handle: JobHandle, group: Group) -> float:
        """Return when a group was through for the first time, in seconds since the plan was begun."""
        about = {"group": group.name}
        before = [step for step in self._jobs.get(handle.id).steps_named(THROUGH) if step.intent == about]
        if before and before[0].outcome:
            return float(before[0].outcome["seconds"])
        after = self._since_begun(handle)
        handle.note(THROUGH, about, {"seconds": after})
        return after

    def _since_begun(self, handle: JobHandle) -> float:
        return since_begun(self._jobs.get(handle.id))


def given_up(handle: JobHandle, plan: str, why: str) -> MigrationFailedError:
    """End the job of a plan that is to be cancelled; return what is told of it."""
    error = MigrationFailedError(
        f"plan {plan!r} was given up: {why}",
        vm_state="those of its VMs that it has brought up, or shut down, are as it left them",
        remedy="see which: mudanza vms, and mudanza jobs",
    )
    handle.finish("failed", str(error), error.exit_code, error=error)
    return error


def interrupted(handle: JobHandle, plan: str) -> NeedsPersonError:
    """Return what is told of a plan that Ctrl-C has interrupted."""
    return NeedsPersonError(f"plan {plan!r} was interrupted; nothing more is begun", remedy=ways_on(handle.id))


def ways_on(job_id: int) -> str:
    """Return what can be done about the job of a plan that has come to a stop: pure."""
    return f"go on: mudanza job resume {job_id}; or give it up: mudanza job cancel {job_id}"


def since_begun(job: Job) -> float:
    """Return for how many seconds a job has been carried out, as of when it was read."""
    return job.read_at - job.started_at


def brought_up(job: Job, step: str, vm: str) -> Mapping[str, Any]:
    """Return what a plan's job, maybe before it came to a stop, has written down when it brought a VM up by that step;
    nothing, where the VM was up already."""
    done = [each.outcome for each in job.steps_named(step) if each.intent["vm"] == vm and each.outcome]
    return next((each for each in reversed(done) if "seconds" in each), {})


class FailingOver:
    """Brings VMs up where their replicas are."""

    def __init__(
        self,
        connections: Connections,
        jobs: Jobs,
        protections: Protections,
        bring_up: BringUp,
        say: Say,
        *,
        start_again: StartAgain | None = None,
        planned: bool = False,
        finish: Callable[[RecoveryPlan], None] = lambda _: None,
    ) -> None:
        """``start_again``: None: one that has gone off since is none that is up; ``planned``: the VMs' own hosts live,
        and nothing is lost; ``finish``: finishes what a controller has left behind of a plan's failovers."""
        self._start_again = start_again
        self._planned = planned
        self._finish = finish
        self._connections = connections
        self._jobs = jobs
        self._protections = protections
        self._bring_up = bring_up
        self._say = say

    @property
    def kind(self) -> str:
        """What its jobs are called in the journal."""
        return KIND

    def make_ready(self, _handle: JobHandle, plan: RecoveryPlan) -> None:
        """Finish what is half done."""
        self._finish(plan)

    def turns(self, plan: RecoveryPlan, group: Group) -> tuple[Turn, ...]:
        """Return a group's VMs, each with where its replica is, or one of several."""
        known = {name: each.target for each in self._protections.all() for name in (each.vm_uuid, each.vm_name)}
        return tuple(Turn(vm, plan.host_of(vm) or known.get(vm, "")) for vm in group.vms)

    def bring_up(self, handle: JobHandle, plan: RecoveryPlan, group: Group, vm: str) -> Recovered:
        """Bring one VM up, unless it is, and have its guest get the plan's addresses."""
        protection = self._chosen(handle, plan, vm)
        job = self._jobs.unfinished_of(protection.vm_uuid)
        if job is not None and job.kind == failover.KIND:
            raise BlockedError(
                f"VM {protection.vm_name!r} has an unfinished failover, job {job.id}", remedy=job.way_out
            )
        about = {"vm": protection.vm_uuid, "group": group.name, "host": protection.target}
        if protection.standing is not Standing.FAILED_OVER:
            done = handle.perform(
                BRING_UP,
                about,
                lambda: self._bring_up(protection, plan.networks_of(vm, group)),
                lambda outcome: {
                    "point": outcome.point,
                    "age": None if self._planned else outcome.age,
                    "seconds": since_begun(self._jobs.get(handle.id)),
                },
            )
            self._say(f"{done.vm} runs on {done.host} from restore point {done.point}")
            if done.drives:
                self._say(f"! {done.vm}: {done.drives}")
        elif not self._is_up(handle, protection):
            self._have_it_run(handle, protection, group.name)
        self._readdress(handle, plan, vm, self._protections.get(protection.id))
        now = self._jobs.get(handle.id)
        then = brought_up(now, BRING_UP, protection.vm_uuid) or brought_up(now, START, protection.vm_uuid)
        age, ran = then.get("age"), then.get("seconds")
        return Recovered(protection.vm_name, protection.target, group.name, age, 0.0, ran)

    def _chosen(self, handle: JobHandle, plan: RecoveryPlan, vm: str) -> Protection:
        """Return the replica from which a VM comes up. One that this very job has brought up is where it is, whether
        its host answers just now or not."""
        replicas = self._protections.all_of(vm)
        mine = self._is_mine(handle, replicas[0])
        away = dict.fromkeys(self._silent(replicas), "it does not answer")
        return planned_for(replicas, plan.host_of(vm), away, lambda each: mine or self._runs(each))

    def _is_mine(self, handle: JobHandle, protection: Protection) -> bool:
        """Whether this very job has brought a VM up."""
        steps = self._jobs.get(handle.id).steps_named(BRING_UP)
        return any(step.intent["vm"] == protection.vm_uuid and "point" in (step.outcome or {}) for step in steps)

    def _is_up(self, handle: JobHandle, protection: Protection) -> bool:
        """Whether a VM runs where it has come up; one that this very job has brought up does so, too, while its host
        does not answer."""
        seen = self._seen(protection)
        if seen.side is Side.UNSEEN:
            return self._is_mine(handle, protection)
        return seen.side is Side.PRESENT and seen.state.active

    def _have_it_run(self, handle: JobHandle, protection: Protection, group: str) -> None:
        if self._start_again is None:
            raise BlockedError(f"VM {protection.vm_name!r} has come up at {protection.target}, and does not run there")
        self._start_again(handle, protection, group)

    def _silent(self, replicas: Sequence[Protection]) -> Sequence[str]:
        """Return the hosts of several replicas that do not answer."""
        if len(replicas) == 1:
            return ()
        return [each.target for each in replicas if self._seen(each).side is Side.UNSEEN]

    def _runs(self, protection: Protection) -> bool:
        seen = self._seen(protection)
        return seen.side is Side.PRESENT and seen.state.active

    def _seen(self, protection: Protection) -> Sighting:
        """Return what a replica's host says of the VM; one that is not reached says nothing."""
        try:
            return self._connections.domains(protection.target).sighting(protection.vm_uuid)
        except HostUnreachableError as error:
            return Sighting(Side.UNSEEN, reason=str(error))

    def _readdress(self, handle: JobHandle, plan: RecoveryPlan, vm: str, protection: Protection) -> None:
        machine, point = plan.machines.get(vm), protection.newest
        if machine is None or not machine.addresses or point is None:
            self._take_back(handle, protection)
            return
        cards = cards_of(machine, point.definition)
        about = {"vm": protection.vm_uuid, "addresses": [each.address for each in cards], "dns": list(machine.dns)}
        steps = [step for step in self._jobs.get(handle.id).steps_named(READDRESS) if step.intent == about]
        if any((step.outcome or {}).get("done") for step in steps):
            return
        domains = self._connections.domains(protection.target)
        # Before it is done: what is written in the guest is to be found again, however far it comes.
        before = given_addresses(self._protections.all_of(protection.vm_uuid))
        macs = dict.fromkeys((*(before.macs if before is not None else ()), *macs_of(cards)))
        self._protections.readdressed(protection.id, Readdressed(protection.target, tuple(macs), machine.limit))
        given = handle.perform(
            READDRESS,
            about,
            lambda: readdress(domains, protection.vm_uuid, machine, cards),
            lambda given: {"done": True, "ways": [each.way for each in given]},
        )
        self._say(f"{protection.vm_name} has {', '.join(map(str, given))}")

    def _take_back(self, handle: JobHandle, protection: Protection) -> None:
        """Have a guest have its own addresses that was given others for elsewhere, and none for here. Where it does
        not, that is told, and no others are kept from coming up."""
        given = given_elsewhere(self._protections.all_of(protection.vm_uuid))
        if given is None:
            return
        own = OwnAddresses(self._connections, self._protections, self._say)
        about = {"vm": protection.vm_uuid, "macs": list(given.macs)}
        see_to = partial(own.see_to, protection.vm_uuid, home=True)
        handle.perform(OWN_ADDRESSES, about, see_to, lambda done: {"done": done})

    def agent_answers(self, vm: str) -> bool:
        """Whether the guest agent of a VM answers where its replica is."""
        protection = place_of(self._protections.all_of(vm))
        try:
            self._connections.domains(protection.target).guest_time(protection.vm_uuid, timeout=ANSWER_TIMEOUT)
        except (HypervisorError, HostUnreachableError):
            return False
        return True
