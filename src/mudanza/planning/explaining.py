"""Why a VM goes there, why not elsewhere, why not at all: host by host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mudanza.model.plan import Goal
from mudanza.model.rules import RuleKind
from mudanza.planning.board import Board
from mudanza.planning.compatibility import standing_against
from mudanza.planning.planner import Outcome, disks_left_behind
from mudanza.planning.problem import NOWHERE, Problem
from mudanza.planning.wording import lack_of_room, reason


@dataclass(frozen=True, slots=True)
class Verdict:
    """What speaks for or against one host."""

    host: str
    here: bool
    """It is there now."""
    chosen: bool
    """It is there after the plan."""
    fits: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All hosts, and what becomes of the VM in a sentence."""

    vm: str
    verdict: str
    hosts: tuple[Verdict, ...]


def explain(outcome: Outcome, wanted: str) -> Explanation:
    """Explain what the plan does with one VM. Raises UsageError for one that is not known."""
    problem, board = outcome.problem, outcome.board
    vm = problem.cluster.find(wanted)
    try:
        unit = problem.unit_of(vm.uuid)
    except KeyError:
        return Explanation(vm.name, "it is off, and this plan is about VMs that run", ())
    target = int(board.where[unit])
    if outcome.request.goal is Goal.EVACUATE and target == NOWHERE:
        verdict = f"it finds no place: {why_not_moved(outcome, unit)}"
    elif target == NOWHERE or vm.host == problem.names[target]:
        verdict = f"it stays on {vm.host}: {_why_it_stays(outcome, unit)}"
    else:
        verdict = f"it goes from {vm.host} to {problem.names[target]}: {reason(outcome, unit, target)}"
    return Explanation(vm.name, verdict, tuple(_verdicts(outcome, unit, vm.host)))


def _why_it_stays(outcome: Outcome, unit: int) -> str:
    problem = outcome.problem
    if unit in outcome.left:
        return why_not_moved(outcome, unit)
    if unit in problem.stuck:
        return problem.stuck[unit]
    if unit in problem.ignored:
        return problem.ignored[unit]
    if not outcome.terms.movable[unit]:
        return "it, or its host, was moved a short while ago"
    hosts = np.flatnonzero(outcome.board.open)
    may = outcome.board.may(np.array([unit]), hosts)[0]
    if not may.any():
        return "no other host can take it"
    gains = outcome.score.gains(np.array([unit]), hosts[may])[0] / outcome.score.hosts
    best = int(gains.argmax())
    name, change = problem.names[int(hosts[may][best])], float(gains[best])
    if change <= 0:
        return f"anywhere else the imbalance would be greater, on {name} by {-change:.4f}"
    return f"on {name}, the best other place, the imbalance would fall by {change:.4f} only"


def _verdicts(outcome: Outcome, unit: int, here: str) -> Iterator[Verdict]:
    problem, board = outcome.problem, outcome.board
    chosen = int(board.where[unit])
    for number, host in enumerate(problem.hosts):
        if number == chosen:
            yield Verdict(host.name, host.name == here, True, True, "it is there after the plan")
            continue
        against = _against(problem, board, unit, number)
        against = against or _reserve_against(board, unit, number)
        if against:
            yield Verdict(host.name, host.name == here, False, False, "; ".join(against))
        else:
            gain = float(outcome.score.gains(np.array([unit]), np.array([number]))[0, 0]) / outcome.score.hosts
            then, now = outcome.score.value - gain, outcome.score.value
            word = f"the imbalance would be {then:.4f}, with the plan it is {now:.4f}"
            yield Verdict(host.name, host.name == here, False, True, f"fits; {word}")


def _against(problem: Problem, board: Board, unit: int, host: int) -> list[str]:
    entry = problem.hosts[host]
    if not entry.seen:
        return [f"not seen: {entry.error}"]
    if entry.entry.maintenance:
        return ["in maintenance"]
    against = [] if board.open[host] else ["it takes no newcomers now"]
    against += _rules_against(problem, board, unit, host)
    against += lack_of_room(problem, board, unit, host)
    for vm in (problem.vms[each] for each in problem.units[unit]):
        if vm.host != entry.name:
            source = problem.cluster.host(vm.host)
            against += [f"{each.subject}: {each.message}" for each in standing_against(vm, source, entry)]
    return against


def _reserve_against(board: Board, unit: int, host: int) -> list[str]:
    """That with it there a failure would find no room for all, if that is so."""
    if board.where[unit] == host or board.may_be_made(unit, host):
        return []
    return ["with it there not all VMs would find room if a host failed (the reserve that the rules want)"]


def _rules_against(problem: Problem, board: Board, unit: int, host: int) -> list[str]:
    against = []
    names = {each for vm in problem.units[unit] for each in _called(problem, vm)}
    if not problem.ruled[problem.kind[unit], host]:
        rules = [
            rule.name
            for rule in problem.rules.rules
            if rule.kind in (RuleKind.MUST, RuleKind.MUST_NOT) and names & set(rule.vms)
        ]
        against.append(f"rule {' or '.join(rules)} keeps it away")
    others: dict[str, list[str]] = {}
    for column, row in enumerate(problem.blocked_by[unit].tolist()):
        if row == len(problem.rows):
            continue
        trial = board.where[unit]
        if trial == host or board.allowed_by_row(unit, column, host):
            continue
        there = [problem.name_of(other) for other in sorted(board.on[host]) if row in problem.adds[other]]
        others.setdefault(problem.rows[row].name, []).extend(there)
    against += [f"{name!r} keeps it apart from {', '.join(who) or 'who is there'}" for name, who in others.items()]
    return against


def _called(problem: Problem, vm: int) -> set[str]:
    found = problem.vms[vm]
    return {found.name, found.uuid, *(f"tag:{tag}" for tag in found.tags)}


def why_not_moved(outcome: Outcome, unit: int) -> str:
    """Return why a unit finds no place, the hosts with the same reason together."""
    problem, board = outcome.problem, outcome.board
    if unit in problem.stuck:
        return problem.stuck[unit]
    if unit in problem.ignored and unit not in outcome.must_move:
        return problem.ignored[unit]
    if outcome.request.goal is Goal.EVACUATE and (lost := disks_left_behind(problem, unit)):
        return f"{', '.join(lost)} is on {outcome.request.subject} itself, and lost with it"
    reasons: dict[str, list[str]] = {}
    for number, host in enumerate(problem.hosts):
        if number != problem.start[unit]:
            against = _against(problem, board, unit, number) or _reserve_against(board, unit, number)
            against = against or ["it would fit, and others would not any more"]
            reasons.setdefault(against[0], []).append(host.name)
    told = [f"{_listed(hosts)}: {why}" for why, hosts in reasons.items()]
    return (
        "; ".join(told[:6]) + (f"; and {len(told) - 6} more reasons" if len(told) > 6 else "")
        or "there is no other host"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
