"""Where should VMs be? Plans for what may be asked, with why; and plans that somebody wants carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mudanza import clock
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.plan import Goal, MoveMode, Plan

if TYPE_CHECKING:
    from mudanza.journal.requests import Request as Once
    from mudanza.model.carrying import RunPolicy
    from mudanza.model.cluster import Cluster
    from mudanza.operations.means import Means
    from mudanza.planning.explaining import Explanation
    from mudanza.planning.planner import Request

LIMIT = 60.0
"""Seconds that looking for something better may take, where nothing else is said."""


NO_DEFINITION = "nobody remembers their definitions, so that a person must define them"
REPLICATED = "they have replicas: mudanza failover VM --source-is-dead"
"""Why VMs of a lost host are left out."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a plan is to be made for."""

    goal: Goal
    subject: str = ""
    """A host, or a VM, as the goal has it."""
    level: int | None = None
    """How eager balance is, from 1 to 5; None: as the rules have it."""
    what_if: tuple[str, ...] = ()
    """What is supposed, in words; see ``planning.whatif``."""
    explain: tuple[str, ...] = ()
    """VMs of which is to be said why there, and why not elsewhere."""
    limit: float = LIMIT
    """Seconds."""
    power: bool = False
    """Whether a consolidation also says what it saves."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan, and what was to be explained."""

    plan: Plan
    explanations: tuple[Explanation, ...]

    def as_data(self) -> Mapping[str, Any]:
        """Return it as JSON values."""
        data = self.plan.as_data() | {"gap": self.plan.gap}
        return data | ({"explanations": [asdict(each) for each in self.explanations]} if self.explanations else {})


def propose(means: Means, wanted: Wanted) -> Proposal:
    """Make a plan. Nothing is touched. Raises UsageError and BlockedError."""
    from mudanza.fleet.experience import moved_of_late
    from mudanza.operations.checking import arrivals_of
    from mudanza.planning.explaining import explain
    from mudanza.planning.planner import think
    from mudanza.planning.result import as_plan
    from mudanza.planning.whatif import World, suppose

    rules = means.inventory.rules()
    rules = rules if wanted.level is None else replace(rules, level=wanted.level)
    until = clock.monotonic() + wanted.limit
    with means.connections() as connections:
        cluster, recalled = _remembering(means, wanted, means.read_cluster(connections))
    world = suppose(World(cluster, rules, means.loads(cluster)), wanted.what_if)
    outcome = think(
        request_of(means, wanted.goal, wanted.subject),
        world.cluster,
        world.rules,
        world.loads,
        arrivals=tuple(arrivals_of(means).expected().values()),
        recent=moved_of_late(means.database),
        stop=lambda: clock.monotonic() > until,
    )
    plan = as_plan(outcome, created=datetime.fromtimestamp(clock.time(), UTC).isoformat(timespec="seconds"))
    plan = replace(plan, notes=(*recalled, *world.notes, *plan.notes))
    if wanted.power:
        from mudanza.operations.host_power import with_savings

        plan = with_savings(means, plan, world.cluster, means.saving)
    return Proposal(plan, tuple(explain(outcome, name) for name in wanted.explain))


def _remembering(means: Means, wanted: Wanted, cluster: Cluster) -> tuple[Cluster, tuple[str, ...]]:
    """Write down what was seen; for a host that is lost, return what was on it, and what there is to say about that."""
    from mudanza.journal.sightings import Sightings

    Sightings(means.database).keep(cluster)
    return _recalled(means, cluster, wanted.subject) if wanted.goal is Goal.EVACUATE else (cluster, ())


def as_planned(means: Means, plan: Plan, cluster: Cluster) -> Cluster:
    """Return the cluster as a plan of that kind sees it: with what was on a host that is lost."""
    return _recalled(means, cluster, plan.subject)[0] if plan.goal is Goal.EVACUATE else cluster


def _recalled(means: Means, cluster: Cluster, host: str) -> tuple[Cluster, tuple[str, ...]]:
    from mudanza.journal.fences import Fences
    from mudanza.journal.protections import Protections
    from mudanza.journal.remembered import Definitions
    from mudanza.journal.sightings import Sightings
    from mudanza.model.protection import Standing
    from mudanza.planning.recalling import recall

    sightings = Sightings(means.database).last()
    running = [vm for vm in sightings[host].vms if vm.state.active] if host in sightings else []
    replicated = {each.vm_uuid for each in Protections(means.database).all() if each.standing is Standing.ON}
    known = Definitions(means.database).of([vm.uuid for vm in running])
    apart = {vm.uuid: NO_DEFINITION for vm in running if vm.uuid not in known}
    apart |= {vm.uuid: REPLICATED for vm in running if vm.uuid in replicated}
    return recall(cluster, host, sightings, apart, Fences(means.database).proof_of(host))


def request_of(means: Means, goal: Goal, subject: str) -> Request:
    """Return what is asked, with what earlier moves have taught of links."""
    from mudanza.fleet.experience import links
    from mudanza.planning.planner import Request

    known, usual = links(means.database, means.forecasting.link)
    return Request(goal, subject, link=known, usual_link=usual)


def put_down(means: Means, plan: Plan, policy: RunPolicy, asked_by: str, request: Once | None = None) -> int:
    """Have exactly a plan carried out that was shown, by whoever takes it; return its number. ``request``: see
    ``Plans.put_down``.

    Raises BlockedError where the world is not as it was then, or an unfinished plan has one of its VMs.
    """
    from mudanza.journal.plans import Plans

    plans = Plans(means.database)
    if request is not None and (earlier := plans.earlier(request)) is not None:
        return earlier  # by now the world is as that one has made it
    if not plan.moves:
        raise UsageError(f"nothing is to be done: {plan.summary}")
    with means.connections() as connections:
        cluster = as_planned(means, plan, means.read_cluster(connections))
    refuse_unproven(means, plan)
    refuse_changed(means, plan, cluster)
    plan = in_order(plan, cluster)
    return plans.put_down(plan, policy, asked_by, kind="apply", subject=plan.subject, request=request)


def approve(means: Means, number: int, policy: RunPolicy, asked_by: str) -> None:
    """Let a plan that waits for somebody's yes be carried out, if the world still is as it was when it was proposed.

    Raises UsageError for one that does not wait for it, BlockedError.
    """
    from mudanza.journal.plans import Plans

    plans = Plans(means.database)
    run = plans.get(number)
    with means.connections() as connections:
        refuse_changed(means, run.plan, as_planned(means, run.plan, means.read_cluster(connections)))
    refuse_unproven(means, run.plan)
    policy = replace(policy, windows=policy.windows or run.policy.windows, vm_windows=run.policy.vm_windows)
    plans.approve(number, policy, asked_by)


def refuse_unproven(means: Means, plan: Plan) -> None:
    """Raise BlockedError for a plan that starts VMs elsewhere whose host nobody has shown to be off."""
    lost = sorted({move.source for move in plan.moves if move.mode is MoveMode.RESTART})
    if lost:
        from mudanza.availability.restarting import unproven
        from mudanza.journal.fences import Fences

        proven = Fences(means.database).proofs()
        for host in lost:
            if host not in proven:
                raise unproven(host)


def refuse_changed(means: Means, plan: Plan, cluster: Cluster) -> None:
    """Raise BlockedError where something is not as the plan found it."""
    from mudanza.planning.fingerprint import differences, fingerprint

    changed = differences(plan.fingerprint, fingerprint(cluster, means.inventory.rules(), plan.moves))
    if changed:
        listed = "\n".join(f"  {each}" for each in changed)
        raise BlockedError(
            f"the world is not as the plan found it; nothing was touched:\n{listed}",
            remedy="make the plan anew: mudanza plan … --save FILE",
        )


def in_order(plan: Plan, cluster: Cluster) -> Plan:
    """Return the plan with its moves in order, if nobody has ordered them yet."""
    from mudanza.fleet.draining import without

    return without(plan, (), cluster)
