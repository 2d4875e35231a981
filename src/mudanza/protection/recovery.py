"""Carrying out a plan for recovery: one job for all of it, which can be resumed at the step it has come to.

Nothing is replayed: a VM that is up is passed over, and what was waited for is waited for again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from mudanza.hypervisor.connections import Connections
from mudanza.journal.database import Database
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.journal.protections import Protections
from mudanza.migration.claim import keeping, left_open
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MudanzaError,
    NeedsPersonError,
)
from mudanza.model.hook import Hook
from mudanza.model.protection import Protection, Standing
from mudanza.model.recovery import Group, RecoveryPlan
from mudanza.protection import failover
from mudanza.protection.addressing import cards_of, readdress
from mudanza.protection.between import ANSWER_TIMEOUT, Between
from mudanza.protection.failover import Outcome

KIND = "recovery"
"""What such jobs are called in the journal that bring VMs up where their replicas are."""
THROUGH = "through"
"""The step in the journal that says when a group was through, with all that it waits for."""
BRING_UP = "bring up"
READDRESS = "readdress"

BringUp = Callable[[str, Mapping[str, str]], Outcome]
"""Brings one VM up where its replica is, with these networks there. Raises what that raises."""
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


class Way(Protocol):
    """How one kind of run brings VMs up."""

    @property
    def kind(self) -> str:
        """What its jobs are called in the journal."""

    def make_ready(self, handle: JobHandle, plan: RecoveryPlan, /) -> None:
        """Do what is to be done before the first group."""

    def bring_up(self, handle: JobHandle, plan: RecoveryPlan, group: Group, vm: str, /) -> Recovered:
        """Have one VM be up, unless it is; when its group is through is still to be told."""

    def agent_answers(self, vm: str) -> bool:
        """Whether the guest agent of one of the plan's VMs answers now."""


def busy_of(plan: str) -> str:
    """Return what a plan's jobs have in place of a VM's UUID: one run of a plan at a time, of whatever kind."""
    return f"recovery plan {plan}"


class Recovery:
    """Carries out plans, by one way."""

    def __init__(self, engine: Database, jobs: Jobs, way: Way, hooks: Mapping[str, Hook], say: Say) -> None:
        """``hooks``: those of this controller's settings."""
        self._jobs = jobs
        self._way = way
        self._between = Between(engine, jobs, hooks, way.agent_answers, way.kind, say)

    def run(self, plan: RecoveryPlan, asked: Mapping[str, object], asked_by: str) -> tuple[Recovered, ...]:
        """Bring up all of a plan's VMs; return them in their order.

        Raises NeedsPersonError where one does not come up, or what is waited for does not come: its job goes on from
        there once it is resumed. Raises BlockedError where the plan is being carried out already.
        """
        handle = self._jobs.begin(NewJob(self._way.kind, busy_of(plan.name), plan.name, "", "", asked, asked_by))
        return self.carry_out(handle, plan)

    def carry_out(self, handle: JobHandle, plan: RecoveryPlan) -> tuple[Recovered, ...]:
        """Do what is left of a plan; see ``run``."""
        found: list[Recovered] = []
        with keeping(handle):
            try:
                self._way.make_ready(handle, plan)
                for group in plan.groups:
                    found += self._group(handle, plan, group)
            except MudanzaError as error:
                told = f"plan {plan.name!r} has come to a stop: {error}"
                raise left_open(handle, NeedsPersonError(told, remedy=error.remedy)) from error
            whole = self._since_begun(handle)
            report = {"seconds": whole, "vms": {each.vm: each.up_after for each in found}}
            handle.finish("done", f"{len(found)} VMs are up", 0, report)
        return tuple(found)

    def _group(self, handle: JobHandle, plan: RecoveryPlan, group: Group) -> list[Recovered]:
        self._between.be_through(handle, plan, group, "before")
        up = [self._way.bring_up(handle, plan, group, vm) for vm in group.vms]
        self._between.be_through(handle, plan, group, "after")
        after = self._through(handle, group)
        return [replace(each, up_after=after) for each in up]

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
        job = self._jobs.get(handle.id)
        return job.read_at - job.started_at


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
        planned: bool = False,
    ) -> None:
        """``planned``: the VMs' own hosts live, and nothing is lost."""
        self._planned = planned
        self._connections = connections
        self._jobs = jobs
        self._protections = protections
        self._bring_up = bring_up
        self._say = say

    @property
    def kind(self) -> str:
        """What its jobs are called in the journal."""
        return KIND

    def make_ready(self, _handle: JobHandle, _plan: RecoveryPlan) -> None:
        """Nothing is to be done before."""

    def bring_up(self, handle: JobHandle, plan: RecoveryPlan, group: Group, vm: str) -> Recovered:
        """Bring one VM up, unless it is, and have its guest get the plan's addresses."""
        protection = self._protections.of(vm)
        job = self._jobs.unfinished_of(protection.vm_uuid)
        if job is not None and job.kind == failover.KIND:
            raise BlockedError(
                f"VM {protection.vm_name!r} has an unfinished failover, job {job.id}", remedy=job.way_out
            )
        about = {"vm": protection.vm_uuid, "group": group.name, "host": protection.target}
        if protection.standing is Standing.FAILED_OVER:
            age = self._age_then(handle, protection)
        else:
            done = handle.perform(
                BRING_UP,
                about,
                lambda: self._bring_up(vm, plan.networks_of(vm, group)),
                lambda outcome: {"point": outcome.point, "age": None if self._planned else outcome.age},
            )
            age = None if self._planned else done.age
            self._say(f"{done.vm} runs on {done.host} from restore point {done.point}")
        self._readdress(handle, plan, vm, protection)
        return Recovered(protection.vm_name, protection.target, group.name, age, 0.0)

    def _age_then(self, handle: JobHandle, protection: Protection) -> float | None:
        """Return how old the point was of one that this very job has brought up before it came to a stop."""
        steps = self._jobs.get(handle.id).steps_named(BRING_UP)
        ages = [(step.outcome or {}).get("age") for step in steps if step.intent["vm"] == protection.vm_uuid]
        return next((float(age) for age in reversed(ages) if age is not None), None)

    def _readdress(self, handle: JobHandle, plan: RecoveryPlan, vm: str, protection: Protection) -> None:
        machine, point = plan.machines.get(vm), protection.newest
        if machine is None or not machine.addresses or point is None:
            return
        cards = cards_of(machine, point.definition)
        about = {"vm": protection.vm_uuid, "addresses": [each.address for each in cards], "dns": list(machine.dns)}
        steps = [step for step in self._jobs.get(handle.id).steps_named(READDRESS) if step.intent == about]
        if any((step.outcome or {}).get("done") for step in steps):
            return
        domains = self._connections.domains(protection.target)
        handle.perform(READDRESS, about, lambda: readdress(domains, protection.vm_uuid, machine, cards))
        self._say(f"{protection.vm_name} has {', '.join(each.address for each in cards)}")

    def agent_answers(self, vm: str) -> bool:
        """Whether the guest agent of a VM answers where its replica is."""
        protection = self._protections.of(vm)
        try:
            self._connections.domains(protection.target).guest_time(protection.vm_uuid, timeout=ANSWER_TIMEOUT)
        except (HypervisorError, HostUnreachableError):
            return False
        return True
