"""Emptying a host: who leaves it and where to, who cannot, and what becomes of those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.model.carrying import CannotGo, RunPolicy
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.plan import Goal, Plan, Unmoved
from mudanza.operations.checking import arrivals_of, judge_of
from mudanza.operations.planning import in_order, request_of

if TYPE_CHECKING:
    from mudanza.fleet.draining import InTheWay
    from mudanza.journal.requests import Request as Once
    from mudanza.migration.prepare import Judge
    from mudanza.model.cluster import Cluster
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say

IN_THE_WAY = "  ✗ "
"""What a line begins with that tells of a VM which cannot go."""
PLANNING = 30.0
"""Seconds that finding places for the VMs of one host may take."""

Choose = Callable[[int], CannotGo]
"""Asks somebody what is to become of so many VMs that cannot go."""


@dataclass(frozen=True, slots=True)
class Emptying:
    """What empties a host, or fills it again."""

    kind: str
    host: str
    plan: Plan
    policy: RunPolicy
    still_on: int = 0
    """How many were to be shut down and are not off."""

    @property
    def stay(self) -> int:
        """How many are not as they were to be, whatever comes of the plan."""
        return len(self.plan.unmoved) + self.still_on


@dataclass(frozen=True, slots=True)
class Emptied:
    """What somebody else has begun to do about it."""

    said: tuple[str, ...]
    """What was told on the way."""
    plan: int | None
    """The plan that is carried out; None: nothing is to be moved."""
    summary: str
    unmoved: tuple[Unmoved, ...]
    still_on: int


def drain(means: Means, host: str, cannot_go: CannotGo, policy: RunPolicy, say: Say, choose: Choose) -> Emptying:
    """Return what takes every VM off a host. ``say`` is told who cannot go; ``choose`` is asked then, if need be.

    Raises UsageError, and BlockedError with everybody who could not go, where nothing is to be begun then.
    """
    if cannot_go is CannotGo.SHUTDOWN:
        raise UsageError("--cannot-go-live shutdown is for maintenance: nobody would start them again after a drain")
    plan, policy = off(means, host, cannot_go, replace(policy, elsewhere=True), None, say, choose)
    return Emptying("drain", host, plan, policy)


def put_down(means: Means, emptying: Emptying, asked_by: str, request: Once | None) -> int | None:
    """Have it carried out by whoever takes it; return its plan's number, None where nothing is to be moved.
    ``request``: see ``Plans.put_down``."""
    from mudanza.journal.plans import Plans

    if not emptying.plan.moves:
        return None
    about = {"kind": emptying.kind, "subject": emptying.host}
    return Plans(means.database).put_down(emptying.plan, emptying.policy, asked_by, **about, request=request)


def off(
    means: Means,
    host: str,
    cannot_go: CannotGo,
    policy: RunPolicy,
    shut: list[Vm] | None,
    say: Say,
    choose: Choose,
    *,
    with_off: bool = True,
) -> tuple[Plan, RunPolicy]:
    """Return the plan that empties a host, checked move by move, and how it is carried out; ``shut`` gets whom to shut
    down; None: nobody is. Raises BlockedError with everybody who could not go, where nothing is to be begun then."""
    from mudanza.fleet.draining import in_the_way, without

    with means.connections() as connections:
        judge, cluster = judge_of(means, connections, arrivals_of(means))
        plan = plan_off(means, cluster, host)
        if not with_off:
            off = {vm.uuid for vm in cluster.vms_on(host) if not vm.state.active}
            plan = without(plan, off, cluster)
            plan = replace(plan, unmoved=tuple(each for each in plan.unmoved if each.uuid not in off))
        plan = in_order(plan, cluster)
        blocked = in_the_way(plan, cluster, judge)
        if not blocked:
            return plan, policy
        names = {each.vm.uuid for each in blocked}
        _tell(host, blocked, say)
        chosen = choose(len(blocked)) if cannot_go is CannotGo.ASK else cannot_go
        if chosen in (CannotGo.REFUSE, CannotGo.ASK):
            raise BlockedError(
                f"{len(blocked)} VMs could not leave {host} while they run; nothing was begun",
                findings=tuple(finding for each in blocked for finding in each.findings),
                remedy="mend what is listed, or say what becomes of them: --cannot-go-live cold|shutdown|stay",
            )
        if chosen is CannotGo.COLD:
            return _with_cold(blocked, plan, policy, cluster, judge)
        rest = without(plan, names, cluster)
        if chosen is CannotGo.SHUTDOWN and shut is not None:
            shut += [each.vm for each in blocked]
            return replace(rest, unmoved=tuple(each for each in rest.unmoved if each.uuid not in names)), policy
        known = {each.uuid for each in rest.unmoved}
        stay = [Unmoved(each.vm.name, each.vm.uuid, host, each.why) for each in blocked if each.vm.uuid not in known]
        return replace(rest, unmoved=(*rest.unmoved, *stay)), policy


def _with_cold(
    blocked: Sequence[InTheWay],
    plan: Plan,
    policy: RunPolicy,
    cluster: Cluster,
    judge: Judge,
) -> tuple[Plan, RunPolicy]:
    from mudanza.fleet.draining import cold_ways, without

    ways, why_not = cold_ways([each.vm for each in blocked], cluster, judge)
    if why_not:
        listed = "\n".join(f"  {name}: {why}" for name, why in why_not.items())
        raise BlockedError(
            f"{len(why_not)} VMs could not leave even switched off; nothing was begun:\n{listed}",
            remedy="mend what is listed, or let them stay: --cannot-go-live stay",
        )
    uuids = {each.vm.uuid for each in blocked}
    plan = replace(plan, unmoved=tuple(each for each in plan.unmoved if each.uuid not in uuids))
    return without(plan, uuids, cluster, ways), replace(policy, cold=tuple(sorted(uuids)))


def plan_off(means: Means, cluster: Cluster, host: str) -> Plan:
    """Return the plan that takes every VM off a host, as far as there is room; nothing is checked yet."""
    from mudanza.planning.planner import think
    from mudanza.planning.result import as_plan

    until = clock.monotonic() + PLANNING
    request = request_of(means, Goal.DRAIN, host)
    arrivals = tuple(arrivals_of(means).expected().values())

    def stop() -> bool:
        return clock.monotonic() > until

    rules = means.inventory.rules()
    return as_plan(think(request, cluster, rules, means.loads(cluster), arrivals=arrivals, stop=stop))


def _tell(host: str, blocked: Sequence[InTheWay], say: Say) -> None:
    say(f"{len(blocked)} VMs cannot leave {host} while they run:")
    for each in blocked:
        say(f"{IN_THE_WAY}{each.vm.name}: {each.why}")
        for finding in each.findings:
            say(f"      → {finding.remedy}")
