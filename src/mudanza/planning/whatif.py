"""What if? A host dies, more VMs come, a rule is added, hosts are given up: the cluster as it would be then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import NAMESPACE_OID, uuid5

from mudanza.model.cluster import Cluster
from mudanza.model.errors import UsageError
from mudanza.model.load import Loads, Spread, VmLoad
from mudanza.model.plan import Goal
from mudanza.model.rules import Rule, RuleKind, Rules
from mudanza.model.units import format_size, parse_size
from mudanza.model.vm import Vm, VmState
from mudanza.planning.applied import applied
from mudanza.planning.explaining import why_not_moved
from mudanza.planning.planner import Outcome, Request, think
from mudanza.planning.problem import NOWHERE

FORMS = "dies:HOST, more:COUNT:MEMORY:VCPUS, rule:KIND:VM,VM[:HOST,HOST or VM,VM], fewer:COUNT"


@dataclass(frozen=True, slots=True)
class World:
    """A cluster that might be, and in words how it came to that."""

    cluster: Cluster
    rules: Rules
    loads: Loads | None = None
    notes: tuple[str, ...] = ()

    def noting(self, note: str) -> World:
        """The same with one sentence more."""
        return replace(self, notes=(*self.notes, note))


def suppose(world: World, suppositions: Iterable[str]) -> World:
    """Return the world as it would be if all of that happened, one after the other. Raises UsageError."""
    for text in suppositions:
        what, _, rest = text.partition(":")
        happen = {"dies": _dies, "more": _more, "rule": _rule, "fewer": _fewer}.get(what)
        if happen is None or not rest:
            raise UsageError(f"what if {text!r}? nobody knows what that is", remedy=f"write one of: {FORMS}")
        world = happen(world, rest)
    return world


def _dies(world: World, host: str) -> World:
    world.cluster.host(host)
    outcome = think(Request(Goal.EVACUATE, host), world.cluster, world.rules, world.loads)
    lost = {outcome.problem.vms[vm].uuid for unit in outcome.left for vm in outcome.problem.units[unit]}
    told = f"if {host} died, {_where(outcome)}" if outcome.must_move else f"if {host} died, no VM would be concerned"
    for unit in outcome.left:
        told += f"; {outcome.problem.name_of(unit)} would find no place: {why_not_moved(outcome, unit)}"
    if outcome.giving_way:
        told += f"; there is room for that only if others give way: {_named(outcome, outcome.giving_way)}"
    moved = _moved(world.cluster, outcome, lost)
    hosts = tuple(each for each in moved.hosts if each.name != host)
    vms = tuple(vm for vm in moved.vms if vm.host != host)
    return replace(world, cluster=Cluster(hosts, vms), rules=_without(world.rules, {host})).noting(told)


def _more(world: World, rest: str) -> World:
    parts = rest.split(":")
    if len(parts) != 3 or not (parts[0].isdigit() and parts[2].isdigit()):
        raise UsageError(f"more:{rest} is not of the form more:COUNT:MEMORY:VCPUS", remedy="write: more:5:4GiB:2")
    count, memory, vcpus = int(parts[0]), parse_size(parts[1]), int(parts[2])
    new = [_new(world.cluster, number, memory, vcpus) for number in range(1, count + 1)]
    world = replace(world, loads=_as_busy_as_others(world, new))
    outcome = think(Request(Goal.PLACE), world.cluster, world.rules, world.loads, new=new)
    told = f"{count} more VMs of {format_size(memory)} and {vcpus} vCPUs: "
    told += _where(outcome) if len(outcome.left) < count else "none would find a place"
    if outcome.left:
        told += f"; {len(outcome.left)} would find no place: {why_not_moved(outcome, outcome.left[0])}"
    problem = outcome.problem
    where = {vm.uuid: int(outcome.board.where[problem.unit_of(vm.uuid)]) for vm in new}
    placed = [replace(vm, host=problem.names[where[vm.uuid]]) for vm in new if where[vm.uuid] != NOWHERE]
    taken = Counter({host.name: 0 for host in world.cluster.hosts})
    for vm in placed:
        taken[vm.host] += vm.memory
    hosts = tuple(replace(host, memory_free=host.memory_free - taken[host.name]) for host in world.cluster.hosts)
    return replace(world, cluster=Cluster(hosts, (*world.cluster.vms, *placed))).noting(told)


def _as_busy_as_others(world: World, new: Iterable[Vm]) -> Loads | None:
    """Loads in which new VMs use of what they were promised what the others use of it, if that is known."""
    loads = world.loads
    known = [] if loads is None else [vm for vm in world.cluster.vms if vm.state.active and vm.uuid in loads.vms]
    if loads is None or not known:
        return loads
    found = [loads.vms[vm.uuid] for vm in known]
    cpus = sum(load.cpus.p95 for load in found) / max(1, sum(vm.vcpus for vm in known))
    memory = sum(load.memory.p95 for load in found) / max(1, sum(vm.memory for vm in known))
    like = found[0]
    vms = dict(loads.vms)
    for vm in new:
        busy, taken = cpus * vm.vcpus, memory * vm.memory
        spreads = Spread(busy, busy, busy), Spread(taken, taken, taken), Spread(), Spread()
        vms[vm.uuid] = VmLoad(vm.uuid, *spreads, like.samples, like.span)
    return replace(loads, vms=vms)


def _new(cluster: Cluster, number: int, memory: int, vcpus: int) -> Vm:
    """A VM like those there are, with no disk and no card of its own: where those go is decided when it is made."""
    like = next((vm for vm in cluster.vms if vm.state.active and not vm.host_devices), None)
    source = next((host for host in cluster.hosts if host.seen), None)
    if source is None:
        raise UsageError("no host was seen, so nothing can be said of new VMs")
    name = f"new-{number}"
    return Vm(
        uuid=str(uuid5(NAMESPACE_OID, name)),
        name=name,
        host=like.host if like else source.name,
        state=VmState.RUNNING,
        reason="booted",
        persistent=True,
        autostart=False,
        memory=memory,
        vcpus=vcpus,
        arch=like.arch if like else source.arch,
        machine=like.machine if like else min(source.machines, default=""),
        domain_type=like.domain_type if like else "kvm",
        xml="",
    )


def _rule(world: World, rest: str) -> World:
    kind, _, members = rest.partition(":")
    one, _, two = members.partition(":")
    try:
        found = RuleKind(kind)
    except ValueError as error:
        raise UsageError(f"there is no rule of kind {kind!r}", remedy=f"kinds: {', '.join(RuleKind)}") from error
    vms, second = tuple(filter(None, one.split(","))), tuple(filter(None, two.split(",")))
    rule = Rule(
        name=f"what if {kind}",
        kind=found,
        vms=vms,
        others=() if found.is_of_hosts else second,
        hosts=second if found.is_of_hosts else (),
    )
    rules = replace(world.rules, rules=(*world.rules.rules, rule))
    return replace(world, rules=rules).noting(f"supposed: a rule, {kind} {one}{' ' + two if two else ''}")


def _fewer(world: World, rest: str) -> World:
    if not rest.isdigit():
        raise UsageError(f"fewer:{rest} is not of the form fewer:COUNT", remedy="write: fewer:2")
    for _ in range(int(rest)):
        world = _one_fewer(world)
    return world


def _one_fewer(world: World) -> World:
    """Give up the host whose VMs cost least to move, of those that can be emptied."""
    hosts = [host for host in world.cluster.hosts if host.seen and not host.entry.maintenance]
    order = sorted(
        hosts, key=lambda host: (sum(vm.memory for vm in world.cluster.vms_on(host.name) if vm.state.active), host.name)
    )
    told = "there is no host that could be given up"
    for host in order if len(order) > 1 else ():
        outcome = think(Request(Goal.DRAIN, host.name), world.cluster, world.rules, world.loads)
        if outcome.left or outcome.problem.stuck:
            told = f"no host can be given up; of {host.name} because of {_names(outcome)}"
            continue
        moved = _moved(world.cluster, outcome, set())
        cluster = Cluster(tuple(each for each in moved.hosts if each.name != host.name), moved.vms)
        told = f"without {host.name}: {_where(outcome)}" if outcome.must_move else f"without {host.name}: nothing moves"
        return replace(world, cluster=cluster, rules=_without(world.rules, {host.name})).noting(told)
    return world.noting(told)


def _names(outcome: Outcome) -> str:
    return _named(outcome, outcome.left or list(outcome.problem.stuck))


def _named(outcome: Outcome, units: Sequence[int]) -> str:
    names = [outcome.problem.name_of(unit) for unit in units]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _moved(cluster: Cluster, outcome: Outcome, lost: set[str]) -> Cluster:
    problem, where = outcome.problem, outcome.board.where
    new_host = {
        problem.vms[vm].uuid: problem.names[int(where[unit])]
        for unit, members in enumerate(problem.units)
        for vm in members
        if where[unit] != NOWHERE
    }
    left = Cluster(cluster.hosts, tuple(vm for vm in cluster.vms if vm.uuid not in lost))
    return applied(left, new_host)


def _without(rules: Rules, hosts: set[str]) -> Rules:
    zones = {zone: tuple(name for name in members if name not in hosts) for zone, members in rules.zones.items()}
    return replace(rules, zones=zones)


def _where(outcome: Outcome) -> str:
    problem, where = outcome.problem, outcome.board.where
    counts = Counter(problem.names[int(where[unit])] for unit in sorted(outcome.must_move) if unit not in outcome.left)
    told = ", ".join(f"{host} takes {count}" for host, count in sorted(counts.items())[:12])
    return told + (f" and {len(counts) - 12} more hosts take the others" if len(counts) > 12 else "")
