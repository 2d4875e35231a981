"""Before a host is drained: who would not get off it as planned, by the exact check of each move."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mudanza.hypervisor.bounded import for_each
from mudanza.migration.prepare import PROBING_LIMIT, Judge
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.finding import Finding, blockers
from mudanza.model.migration import MigrationOptions, Mode
from mudanza.model.plan import MoveMode, Plan, PlannedMove
from mudanza.model.rules import rules_from_data
from mudanza.model.vm import Vm
from mudanza.planning.homecoming import move_of
from mudanza.planning.pacing import paced
from mudanza.planning.placement import best_target

CHECKS = 8
"""Moves that are checked at once."""


@dataclass(frozen=True, slots=True)
class InTheWay:
    """A VM that does not get off its host as planned, and why."""

    vm: Vm
    why: str
    findings: tuple[Finding, ...] = ()


def in_the_way(plan: Plan, cluster: Cluster, judge: Judge) -> tuple[InTheWay, ...]:
    """Return who could not be moved as planned: whom the plan has no place for, and whose check says no."""
    found = [
        InTheWay(vm, each.why)
        for each in plan.unmoved
        for vm in cluster.vms_on(each.host)
        if vm.uuid == each.uuid and vm.state.active
    ]
    firsts = [move for move in plan.moves if move.source == cluster.find(move.uuid, bound_for=move.target).host]
    verdicts = for_each(lambda move: _check(move, cluster, judge), firsts, workers=CHECKS, timeout=PROBING_LIMIT)
    for move, verdict in zip(firsts, verdicts, strict=True):
        vm = cluster.find(move.uuid, bound_for=move.target)
        if isinstance(verdict, BaseException):
            why = str(verdict) if isinstance(verdict, MudanzaError) else repr(verdict)
            found.append(InTheWay(vm, f"its move to {move.target} could not be checked: {why}"))
        elif verdict:
            why = "; ".join(f"{each.subject}: {each.message}" for each in verdict)
            found.append(InTheWay(vm, f"to {move.target}: {why}", verdict))
    return tuple(found)


def _check(move: PlannedMove, cluster: Cluster, judge: Judge) -> tuple[Finding, ...]:
    mode = Mode.LIVE if move.mode is MoveMode.LIVE else Mode.AUTO
    vm = cluster.find(move.uuid, bound_for=move.target)
    candidate = judge.judge(vm, cluster.host(move.target), MigrationOptions(mode=mode))
    # Whoever leaves before it makes room: that is what the order is for.
    return tuple(each for each in blockers(candidate.findings) if not (move.after and each.code in FOR_WANT_OF_ROOM))


FOR_WANT_OF_ROOM = frozenset({"memory", "pool-space", "huge-pages"})
"""Findings that may be gone by the time a move begins."""


def without(plan: Plan, uuids: Iterable[str], cluster: Cluster, more: Sequence[PlannedMove] = ()) -> Plan:
    """Return the plan without the moves of some VMs, with others, in order again."""
    left_out = set(uuids)
    timed = any(move.start is not None for move in plan.moves)
    if timed and not more and not any(move.uuid in left_out for move in plan.moves):
        return plan
    moves: dict[str, PlannedMove] = {}
    for move in plan.moves:
        if move.uuid not in left_out:
            first = moves.get(move.uuid)
            # Where a VM is parked on its way is for the order to say.
            moves[move.uuid] = move if first is None else replace(first, target=move.target, reason=move.reason)
    moves |= {move.uuid: move for move in more}
    behind = _behind(plan)
    for uuid in list(moves):
        if _waits_for_one_who_stays(uuid, behind, moves):
            del moves[uuid]
    rules = rules_from_data(plan.options.get("rules") or {})
    ordered, stuck = paced(list(moves.values()), cluster, rules, behind=behind)
    rest = [move for move in moves.values() if move.uuid in {each.key for each in stuck}]
    numbers = {move.uuid: n for n, move in enumerate((*ordered, *rest), start=1)}
    numbered = []
    for move in rest:
        before = tuple(sorted(numbers[uuid] for uuid in behind.get(move.uuid, ())))
        numbered.append(replace(move, number=numbers[move.uuid], after=before, behind=before))
    return replace(plan, moves=(*ordered, *numbered))


def _behind(plan: Plan) -> dict[str, frozenset[str]]:
    """By UUID, who must have left before one may come."""
    uuids = {move.number: move.uuid for move in plan.moves}
    found: dict[str, set[str]] = {}
    for move in plan.moves:
        found.setdefault(move.uuid, set()).update({uuids[number] for number in move.behind} - {move.uuid})
    return {uuid: frozenset(others) for uuid, others in found.items() if others}


def _waits_for_one_who_stays(uuid: str, behind: Mapping[str, frozenset[str]], moves: Collection[str]) -> bool:
    """Whether one that it must not meet does not leave, or waits for such a one itself."""
    seen, edge = {uuid}, [uuid]
    while edge:
        for other in behind.get(edge.pop(), ()):
            if other not in moves:
                return True
            if other not in seen:
                seen.add(other)
                edge.append(other)
    return False


def cold_ways(vms: Sequence[Vm], cluster: Cluster, judge: Judge) -> tuple[list[PlannedMove], dict[str, str]]:
    """Return how VMs would move switched off, and, by name, why those that could not."""
    ways: list[PlannedMove] = []
    blocked: dict[str, str] = {}
    for vm in vms:
        reports: Mapping[str, tuple[Finding, ...]] = {
            each.target.name: each.findings for each in judge.judge_all(vm, MigrationOptions(mode=Mode.COLD))
        }
        try:
            choice = best_target(vm, cluster, reports)
        except BlockedError as error:
            blocked[vm.name] = str(error)
            continue
        ways.append(move_of(vm, cluster, choice.host, f"cold: {choice.reason}", mode=MoveMode.COLD))
    return ways, blocked


def cold_instead(plan: Plan, uuids: Collection[str], cluster: Cluster) -> Plan:
    """Return the plan with some VMs moved switched off to where they were to go."""
    goals = {move.uuid: move for move in plan.moves if move.uuid in uuids}
    ways = [
        move_of(cluster.find(uuid, bound_for=move.target), cluster, move.target, move.reason, mode=MoveMode.COLD)
        for uuid, move in goals.items()
    ]
    return without(plan, uuids, cluster, ways) if ways else plan
