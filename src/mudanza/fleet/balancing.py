"""One round of balance that goes on: what is to be moved, and whether it is done, proposed or only said: pure.

Snapshot and journal in, decision out. Plans are made by ``Propose``, which is pure as well and may take its time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mudanza.model.automation import Automation
from mudanza.model.balance import BALANCING, Round
from mudanza.model.carrying import MoveState, Run, RunPolicy, RunState
from mudanza.model.cluster import Cluster
from mudanza.model.plan import Goal, Plan
from mudanza.model.rules import Rules
from mudanza.model.times import is_within
from mudanza.planning.automation import at_rest, level_of
from mudanza.planning.eagerness import held
from mudanza.planning.fingerprint import differences, fingerprint

Propose = Callable[[Goal, Mapping[str, str]], Plan]
"""(goal, UUID → why it is left alone) → the plan."""


class Act(StrEnum):
    """What becomes of what a round has found."""

    NOTHING = "nothing"
    BEGIN = "begin"
    PROPOSE = "propose"


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a round judges by."""

    cluster: Cluster
    rules: Rules
    unfinished: tuple[Run, ...]
    """Plans that have not ended, the oldest first."""
    rounds: tuple[Round, ...]
    """Those before this one that count still, the oldest first."""
    undone: Mapping[str, str]
    """UUID → why a VM is left alone: what became of the move that balance wanted of it a short while ago."""
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comes of a round."""

    round: Round
    act: Act = Act.NOTHING
    plan: Plan | None = None
    """What is to be begun or proposed."""
    policy: RunPolicy = field(default_factory=RunPolicy)
    withdrawn: Mapping[int, str] = field(default_factory=dict)
    """Plans that wait for a yes and are not wanted any more → why."""


def judge(situation: Situation, propose: Propose) -> Verdict:
    """Return what is to be done now: nothing while another plan is under way (VMs of one that waits for its time are
    left to it); what was asked for in several rounds in a
    row, broken rules at once; as far by itself as the cluster and each VM allow."""
    carried = [run for run in situation.unfinished if run.state is not RunState.ASKED]
    busy = next((run for run in carried if not _rests(run, situation.at)), None)
    if busy is not None:
        said = f"nothing new is planned, for {_called(busy)} is being carried out"
        return Verdict(Round(said, plan=busy.id))
    theirs = {
        move.about.uuid: f"{_called(run)} is to move it" for run in carried for move in run.moves if not move.state.over
    }
    situation = replace(situation, undone={**situation.undone, **theirs})
    still = at_rest(situation.cluster, situation.rules, Automation.ADVISE, None) | dict(situation.undone)
    goal, plan = _wanted(propose, still)
    found = Round(plan.summary, bool(plan.moves), plan.score_before if goal is Goal.BALANCE else None)
    waiting = next((run for run in situation.unfinished if run.kind == BALANCING), None)
    if waiting is not None and (gone := _why_gone(situation, waiting, found)):
        withdrawn, waiting = {waiting.id: gone}, None
    else:
        withdrawn = {}
    verdict = _done_with(situation, propose, goal, plan, found, waiting)
    return replace(verdict, withdrawn=withdrawn)


def _rests(run: Run, at: float) -> bool:
    """Whether a plan waits for somebody or for its time, and nothing of it is under way."""
    return not run.count(MoveState.BEGUN) and (run.state is RunState.PAUSED or not run.policy.allows(at))


def _called(run: Run) -> str:
    return f"plan {run.id} ({f'{run.kind} {run.subject}'.strip()})"


def _wanted(propose: Propose, still: Mapping[str, str]) -> tuple[Goal, Plan]:
    """Broken rules first: they are facts and no readings, and wait for nobody."""
    mending = propose(Goal.REPAIR, still)
    if mending.moves and mending.score_after < mending.score_before:
        return Goal.REPAIR, mending
    return Goal.BALANCE, propose(Goal.BALANCE, still)


def _why_gone(situation: Situation, waiting: Run, found: Round) -> str:
    """Return why a plan that waits for a yes is withdrawn; empty: it may stay as it was shown."""
    now = fingerprint(situation.cluster, situation.rules, waiting.plan.moves)
    if changed := differences(waiting.plan.fingerprint, now):
        return f"the world is not as it was: {changed[0]}"
    last = (*situation.rounds, found)[-max(situation.rules.hold, 1) :]
    if not any(each.asked for each in last):
        return f"it is not needed any more: {found.said}"
    return ""


def _done_with(
    situation: Situation, propose: Propose, goal: Goal, plan: Plan, found: Round, waiting: Run | None
) -> Verdict:
    rules = situation.rules
    asked = (*(each.asked for each in situation.rounds), found.asked)
    ripe = found.asked and (goal is Goal.REPAIR or held(asked, rules))
    if ripe and _is_open(rules, situation.at):
        part = _part(situation, propose, goal, Automation.AUTO, situation.at)
        if part is not None:
            # What nobody has approved does not wait for another day: by then it is another cluster.
            policy = replace(_policy(situation, part), ends_with_window=True)
            return Verdict(replace(found, said=part.summary), Act.BEGIN, part, policy)
    if waiting is not None:
        said = f"plan {waiting.id} waits for a yes ({waiting.plan.summary}): mudanza run approve {waiting.id}"
        return Verdict(replace(found, said=said, plan=waiting.id))
    if not ripe:
        times = f"; asked for in {_in_a_row(asked)} of {rules.hold} rounds in a row" if found.asked else ""
        return Verdict(replace(found, said=_with_undone(situation, found.said + times)))
    part = _part(situation, propose, goal, Automation.MANUAL, None)
    if part is not None and _needs_a_yes(situation, part):
        return Verdict(replace(found, said=part.summary), Act.PROPOSE, part, _policy(situation, part))
    return Verdict(replace(found, said=_with_undone(situation, f"{found.said}; {_why_not_done(situation, plan)}")))


def _part(situation: Situation, propose: Propose, goal: Goal, upto: Automation, at: float | None) -> Plan | None:
    """Return what there is to do with VMs alone with which balance goes so far; None: nothing."""
    still = at_rest(situation.cluster, situation.rules, upto, at) | dict(situation.undone)
    if all(vm.uuid in still for vm in situation.cluster.vms):
        return None
    part = propose(goal, still)
    return part if part.moves else None


def _needs_a_yes(situation: Situation, plan: Plan) -> bool:
    """Whether a plan moves somebody of whom one has to be asked: else it only waits for its time."""
    levels = {vm.uuid: level_of(vm, situation.rules) for vm in situation.cluster.vms}
    return any(levels[move.uuid] is Automation.MANUAL for move in plan.moves)


def _why_not_done(situation: Situation, plan: Plan) -> str:
    """Return why nothing of a plan is done or proposed though it has been asked for long enough."""
    alone = at_rest(situation.cluster, situation.rules, Automation.AUTO, situation.at)
    told = list(dict.fromkeys(f"{move.vm}: {alone[move.uuid]}" for move in plan.moves if move.uuid in alone))
    if told:
        return "only said, for " + "; ".join([*told[:3], *([f"and {len(told) - 3} more"] if len(told) > 3 else [])])
    if not _is_open(situation.rules, situation.at):
        return f"moves are begun between {' and '.join(situation.rules.windows)} only"
    return "it cannot be done without VMs with which balance is more careful"


def _with_undone(situation: Situation, said: str) -> str:
    if not situation.undone:
        return said
    names = {vm.uuid: vm.name for vm in situation.cluster.vms}
    told = [f"{names.get(uuid, uuid)}: {why}" for uuid, why in situation.undone.items()]
    more = f"; and {len(told) - 2} more" if len(told) > 2 else ""
    return f"{said}; left alone for now: {'; '.join(told[:2])}{more}"


def _in_a_row(asked: tuple[bool, ...]) -> int:
    times = 0
    for each in reversed(asked):
        if not each:
            break
        times += 1
    return times


def _is_open(rules: Rules, at: float) -> bool:
    return not rules.windows or any(is_within(window, at) for window in rules.windows)


def _policy(situation: Situation, plan: Plan) -> RunPolicy:
    """Return how it is carried out: within the cluster's windows and those of each VM."""
    moved = {move.uuid for move in plan.moves}
    own = {
        vm.uuid: vm.wishes.balance_window
        for vm in situation.cluster.vms
        if vm.uuid in moved and vm.wishes is not None and vm.wishes.balance_window
    }
    return RunPolicy(windows=situation.rules.windows, vm_windows=own)
