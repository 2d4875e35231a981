"""The plan that an outcome is: its moves with their costs, hosts before and after, the bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from mudanza.model.host import Host
from mudanza.model.plan import Goal, HostFigures, HostOutlook, MoveMode, Plan, PlannedMove, Unmoved
from mudanza.model.rules import Rules, rules_as_data
from mudanza.model.vm import Vm
from mudanza.planning.board import Board
from mudanza.planning.compatibility import place_for
from mudanza.planning.consolidating import in_use, least_hosts
from mudanza.planning.explaining import why_not_moved
from mudanza.planning.fingerprint import fingerprint
from mudanza.planning.needs import MEMORY, VCPUS, copied_disks, promised
from mudanza.planning.planner import Outcome
from mudanza.planning.problem import NOWHERE
from mudanza.planning.reserve import reserve_in_words, reserve_of
from mudanza.planning.stages import in_stages, reserve_after
from mudanza.planning.wording import reason, summary

SET_UP = 2.0
"""Seconds that a live move takes beside its data; what the lab and the forecasts take as usual."""
SET_UP_COLD = 4.0
DIRTIED = 1.15
"""How many times a running guest's memory crosses the network, as a rule: pages it writes to are sent again."""


def as_plan(outcome: Outcome, *, created: str = "") -> Plan:
    """Return the plan in words and figures."""
    request, problem = outcome.request, outcome.problem
    moves, seconds = in_stages(outcome, lambda latest: tuple(_moves(latest)))
    measure, before, after, bound = _measured(outcome, len(moves))
    return Plan(
        goal=request.goal,
        summary=summary(outcome, len(moves)),
        moves=moves,
        outlooks=tuple(_outlooks(outcome)),
        subject=request.subject,
        unmoved=tuple(_unmoved(outcome)),
        notes=tuple(_notes(outcome)),
        measure=measure,
        score_before=before,
        score_after=after,
        bound=bound,
        seconds=seconds,
        seed=request.seed,
        created=created,
        fingerprint=fingerprint(problem.cluster, problem.rules, moves),
        options={"rules": rules_as_data(problem.rules), "measured": problem.measured},
    )


def _moves(outcome: Outcome) -> Iterator[PlannedMove]:
    problem, board = outcome.problem, outcome.board
    number = 0
    for unit in np.flatnonzero((board.where != problem.start) & (board.where != NOWHERE)).tolist():
        target = int(board.where[unit])
        why = reason(outcome, unit, target)
        for vm in (problem.vms[each] for each in problem.units[unit]):
            if vm.host != problem.names[target]:
                number += 1
                yield _move(outcome, number, vm, problem.hosts[target], why)


def _move(outcome: Outcome, number: int, vm: Vm, target: Host, why: str) -> PlannedMove:
    source = outcome.problem.hosts[outcome.problem.host_number(vm.host)]
    into: Counter[str] = Counter()
    freed: Counter[str] = Counter()
    for disk, _, size in copied_disks(vm, source):
        pool = place_for(disk, source, target)
        if pool is not None:
            into[pool.name] += size
        if disk.pool is not None:
            freed[disk.pool] += size
    mode = MoveMode.LIVE if vm.state.active else MoveMode.COLD
    if outcome.request.goal is Goal.EVACUATE:
        return PlannedMove(
            number, vm.name, vm.uuid, source.name, target.name, why, MoveMode.RESTART, promised(vm), start=0.0
        )
    memory = (vm.memory_used or vm.memory) * DIRTIED if vm.state.active else 0
    sent = round(memory + sum(into.values()))
    rate = outcome.request.link.get((source.name, target.name), outcome.request.usual_link)
    seconds = (SET_UP if vm.state.active else SET_UP_COLD) + sent / rate
    return PlannedMove(
        number,
        vm.name,
        vm.uuid,
        source.name,
        target.name,
        why,
        mode,
        promised(vm),
        dict(into),
        dict(freed),
        sent,
        round(seconds, 1),
    )


def _outlooks(outcome: Outcome) -> Iterator[HostOutlook]:
    problem = outcome.problem
    for number, host in enumerate(problem.hosts):
        if host.seen:
            before, after = _figures(outcome.started, number), _figures(outcome.board, number)
            yield HostOutlook(host.name, host.cpus, host.memory_total, before, after)


def _figures(board: Board, host: int) -> HostFigures:
    problem = board.problem
    cpus, memory, disk, network = (round(float(value), 3) for value in board.load[host])
    vms = sum(problem.vms[vm].state.active for unit in board.on[host] for vm in problem.units[unit])
    promise, vcpus = round(board.used[host, MEMORY]), round(board.used[host, VCPUS])
    return HostFigures(vms, cpus, memory, disk, network, promise, vcpus)


def _unmoved(outcome: Outcome) -> Iterator[Unmoved]:
    problem = outcome.problem
    left = dict.fromkeys(outcome.left, "")
    if outcome.request.goal in (Goal.DRAIN, Goal.EVACUATE):
        host = problem.host_number(outcome.request.subject)
        left |= {unit: why for unit, why in problem.stuck.items() if problem.start[unit] == host}
    for unit, why in left.items():
        for vm in (problem.vms[each] for each in problem.units[unit]):
            yield Unmoved(vm.name, vm.uuid, vm.host, why or why_not_moved(outcome, unit))


def _notes(outcome: Outcome) -> Iterator[str]:
    problem = outcome.problem
    yield from problem.notes
    unseen = [host.name for host in problem.hosts if not host.seen and not host.entry.maintenance]
    closed = [host.name for host in problem.hosts if not host.seen and host.entry.maintenance]
    if unseen:
        yield f"not seen, and left out of everything: {', '.join(unseen)}"
    if closed:
        yield f"closed, and not looked for (in maintenance, or off on purpose): {', '.join(closed)}"
    if outcome.tired:
        yield f"left alone for now, for they took or gave a VM a short while ago: {', '.join(outcome.tired)}"
    if problem.measured and (problem.rules.disk_weight or problem.rules.network_weight):
        yield "what a host's disks and network can carry is taken from the rules (disk_capacity, network_capacity)"
    if outcome.request.goal in (Goal.BALANCE, Goal.CONSOLIDATE, Goal.REPAIR):
        for breach in outcome.broken_after:
            yield f"stays broken: {breach.text}{_why_broken(outcome, breach.units)}"
    yield from _reserve(outcome)


def _reserve(outcome: Outcome) -> Iterator[str]:
    """Whether everybody would find room if hosts failed after the plan, and who would not."""
    reserve = reserve_after(outcome)
    if reserve is None:
        return
    told = list(reserve_in_words(reserve))
    whose = _whose_failure(outcome.problem.rules)
    if not told:
        yield f"reserve: after this plan, if {whose} failed, all VMs there would find room on the others, one by one"
        return
    now = reserve_of(outcome.started)
    already = set(reserve_in_words(now)) if now is not None else set()
    yield from (f"reserve: after this plan, {each}{' (and so it is now)' if each in already else ''}" for each in told)


def _whose_failure(rules: Rules) -> str:
    hosts, zones = rules.survive_hosts, rules.survive_zones
    told = [
        f"any {count} {one if count == 1 else one + 's'}" for count, one in ((hosts, "host"), (zones, "zone")) if count
    ]
    return " or ".join(told).replace("any 1 ", "any ")


def _why_broken(outcome: Outcome, units: tuple[int, ...]) -> str:
    if len(units) > 8:
        return ""
    return "".join(f"; {outcome.problem.name_of(unit)}: {why_not_moved(outcome, unit)}" for unit in units)


def _measured(outcome: Outcome, moves: int) -> tuple[str, float, float, float | None]:
    board, problem = outcome.board, outcome.problem
    if outcome.request.goal is Goal.BALANCE:
        fixed = problem.base.copy()
        tied = np.flatnonzero(~problem.movable & (problem.start != NOWHERE))
        np.add.at(fixed, problem.start[tied], problem.use[tied])
        after = outcome.score.value
        return "imbalance", round(outcome.before, 6), round(after, 6), round(min(outcome.score.bound(fixed), after), 6)
    if outcome.request.goal is Goal.CONSOLIDATE:
        return "hosts in use", len(in_use(outcome.started)), len(in_use(board)), least_hosts(outcome.started)
    if outcome.request.goal is Goal.REPAIR:
        return "broken rules", len(outcome.broken_before), len(outcome.broken_after), 0
    must = sum(len(problem.units[unit]) for unit in outcome.must_move if unit not in outcome.left)
    return "moves", 0, moves, must
