"""Carrying out a plan for recovery: one job for all of it, which can be resumed at the step it has come to.

Nothing is replayed: a VM that is up where its replica is is passed over, and what was waited for is waited for again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.journal.protections import Protections
from mudanza.migration.claim import keeping, left_open
from mudanza.model.errors import BlockedError, HostUnreachableError, HypervisorError, MudanzaError, NeedsPersonError
from mudanza.model.protection import Standing
from mudanza.model.recovery import Await, Group, RecoveryPlan, Wait
from mudanza.protection import failover
from mudanza.protection.failover import Outcome

KIND = "recovery"
"""What such jobs are called in the journal."""
LOOK_AGAIN = 0.5
"""Seconds between two looks whether what is waited for is so."""
ANSWER_TIMEOUT = 5.0
"""Seconds that an address or an agent may take to answer."""

BringUp = Callable[[str, Group], Outcome]
"""Brings one VM up where its replica is. Raises what that raises."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recovered:
    """One VM that is up. Seconds."""

    vm: str
    host: str
    group: str
    lost: float | None
    """How old the restore point was: what is lost at the most; None: it was up already."""
    up_after: float
    """Its RTO: from when the plan was begun until its group was through, with all that was waited for."""


class Recovery:
    """Carries out plans for recovery."""

    def __init__(
        self, connections: Connections, jobs: Jobs, protections: Protections, bring_up: BringUp, say: Say
    ) -> None:
        self._connections = connections
        self._jobs = jobs
        self._protections = protections
        self._bring_up = bring_up
        self._say = say

    def run(self, plan: RecoveryPlan, asked: Mapping[str, object], asked_by: str) -> tuple[Recovered, ...]:
        """Bring up all of a plan's VMs; return them in their order.

        Raises NeedsPersonError where one does not come up, or what is waited for does not come: its job goes on from
        there once it is resumed. Raises BlockedError where the plan is being carried out already.
        """
        handle = self._jobs.begin(NewJob(KIND, f"recovery plan {plan.name}", plan.name, "", "", asked, asked_by))
        return self.carry_out(handle, plan)

    def carry_out(self, handle: JobHandle, plan: RecoveryPlan) -> tuple[Recovered, ...]:
        """Do what is left of a plan; see ``run``."""
        begun_at = self._jobs.get(handle.id).started_at
        found: list[Recovered] = []
        with keeping(handle):
            try:
                for group in plan.groups:
                    found += self._group(handle, group, begun_at)
            except MudanzaError as error:
                told = f"plan {plan.name!r} has come to a stop: {error}"
                raise left_open(handle, NeedsPersonError(told, remedy=error.remedy)) from error
            whole = self._protections.instant() - begun_at
            report = {"seconds": whole, "vms": {each.vm: each.up_after for each in found}}
            handle.finish("done", f"{len(found)} VMs are up", 0, report)
        return tuple(found)

    def _group(self, handle: JobHandle, group: Group, begun_at: float) -> list[Recovered]:
        up = [self._vm(handle, vm, group) for vm in group.vms]
        for wait in group.waits:
            self._say(f"group {group.name}: waiting for {wait}")
            handle.perform("await", {"group": group.name, "what": str(wait)}, partial(self._await, wait))
        after = self._protections.instant() - begun_at
        return [replace(each, up_after=after) for each in up]

    def _vm(self, handle: JobHandle, vm: str, group: Group) -> Recovered:
        """Bring one up, unless it is; when its group was through is still to be told."""
        protection = self._protections.of(vm)
        job = self._jobs.unfinished_of(protection.vm_uuid)
        if job is not None and job.kind == failover.KIND:
            raise BlockedError(
                f"VM {protection.vm_name!r} has an unfinished failover, job {job.id}", remedy=job.way_out
            )
        if protection.standing is Standing.FAILED_OVER:
            return Recovered(protection.vm_name, protection.target, group.name, None, 0.0)
        about = {"vm": protection.vm_uuid, "group": group.name, "host": protection.target}
        done = handle.perform(
            "bring up", about, lambda: self._bring_up(vm, group), lambda outcome: {"point": outcome.point}
        )
        self._say(f"{done.vm} runs on {done.host} from restore point {done.point}")
        return Recovered(done.vm, done.host, group.name, done.age, 0.0)

    def _await(self, wait: Wait) -> None:
        until = clock.monotonic() + wait.limit
        while not self._is_so(wait):
            if clock.monotonic() >= until:
                if wait.kind is Await.TIME:
                    return
                raise NeedsPersonError(f"not so within {wait.limit:g} s: {wait.kind} {wait.what}")
            clock.sleep(min(LOOK_AGAIN, max(until - clock.monotonic(), 0.0)))

    def _is_so(self, wait: Wait) -> bool:
        match wait.kind:
            case Await.TCP:
                return answers_tcp(wait.what)
            case Await.AGENT:
                protection = self._protections.of(wait.what)
                try:
                    domains = self._connections.domains(protection.target)
                    domains.guest_time(protection.vm_uuid, timeout=ANSWER_TIMEOUT)
                except (HypervisorError, HostUnreachableError):
                    return False
                return True
            case Await.TIME:
                return False


def answers_tcp(address: str) -> bool:
    """Whether somebody takes connections at ``HOST:PORT``, or ``[ADDRESS]:PORT``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT):
            return True
    except OSError:
        return False
