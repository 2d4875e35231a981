"""Making a plan: pure. One snapshot, rules and loads in; moves with their reasons out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.load import Loads
from mudanza.model.plan import Goal
from mudanza.model.rules import Rules
from mudanza.model.units import MIB
from mudanza.model.vm import Vm
from mudanza.planning.board import Board
from mudanza.planning.building import NOBODY_STAYS, build
from mudanza.planning.consolidating import consolidate
from mudanza.planning.eagerness import THRESHOLDS, resting, terms_of
from mudanza.planning.imbalance import Imbalance, weights_of
from mudanza.planning.lasting import go_on
from mudanza.planning.needs import copied_disks
from mudanza.planning.order import Limits
from mudanza.planning.packing import pack
from mudanza.planning.placing import place
from mudanza.planning.problem import NOWHERE, Bools, Floats, Numbers, Problem
from mudanza.planning.recent import Recent
from mudanza.planning.repair import Breach, breaches, repair
from mudanza.planning.reserve import reserve_of
from mudanza.planning.search import WHOLE, Stop, Terms, descend, exchange, never, take_back
from mudanza.planning.sharing import declared
from mudanza.preflight.arrivals import Arrival

LASTING = (Goal.BALANCE, Goal.CONSOLIDATE, Goal.REPAIR)
"""After which the same question finds nothing to do."""
ROUNDS = 10
"""So often at the most it is gone over again what taking back and exchanging have opened: then nothing is left to find,
and the next plan finds nothing either."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    goal: Goal
    subject: str = ""
    """The host to be drained or evacuated, the VM to be placed."""
    seed: int = 0
    link: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Bytes per second between two hosts, where that is known."""
    usual_link: float = 112.0 * MIB
    """The same where it is not: 1 Gbit/s, less its overhead, unless one knows better."""
    limits: Limits = field(default_factory=Limits)
    """How many moves may be under way at once."""


@dataclass(slots=True)
class Outcome:
    """What thinking has come to, before it is put in words."""

    request: Request
    problem: Problem
    board: Board
    score: Imbalance
    terms: Terms
    before: float
    """The imbalance at the start."""
    broken_before: list[Breach]
    broken_after: list[Breach]
    must_move: frozenset[int]
    """Units that have to leave where they are."""
    left: list[int]
    """Those of them that have no other place."""
    started: Board
    """Everybody where they are now."""
    enough: bool = False
    """Balance only: imbalance was small enough from the start."""
    ask: Callable[[Cluster], Outcome] | None = None
    """What would be planned next, of a goal after which nothing is to be left."""
    first: Numbers | None = None
    """Where this plan alone leads, if it was made one with those that would follow it."""
    staged: bool = False
    """Whether that was given up for want of a safe order."""
    gathered: bool = True
    """Whether VMs that are to be together are moved as one."""
    tired: list[str] = field(default_factory=list)

    @property
    def giving_way(self) -> list[int]:
        """Units that nobody has asked to move, and that have moved to make room for those who had to."""
        moved = np.flatnonzero((self.board.where != self.problem.start) & (self.problem.start != NOWHERE))
        return [unit for unit in moved.tolist() if unit not in self.must_move]


def think(
    request: Request,
    cluster: Cluster,
    rules: Rules,
    loads: Loads | None = None,
    *,
    arrivals: Sequence[Arrival] = (),
    recent: Recent | None = None,
    new: Sequence[Vm] = (),
    still: Mapping[str, str] = NOBODY_STAYS,
    stop: Stop = never,
) -> Outcome:
    """Find places for the goal. Raises UsageError for a host or VM that is not known, BlockedError where nothing can
    be said, as of a host that was not seen.

    ``new``: VMs that are nowhere yet, which goal ``place`` finds hosts for. ``still``: VMs (by UUID) that plans of
    the operator's wish leave alone this time, and why. Any-time: when ``stop`` says so, the best
    found so far is taken. The same input gives the same output.
    """

    def ask(world: Cluster, base: Floats | None = None) -> Outcome:
        return _think_once(request, world, rules, loads, arrivals, recent, new, still, stop, base)

    outcome = ask(cluster)
    if request.goal in (*LASTING, Goal.DRAIN):
        outcome.ask = lambda world: ask(world, outcome.problem.base)
        if _may_open_more(outcome):
            go_on(outcome, outcome.ask, stop)
            outcome.broken_after = breaches(outcome.board)
    return outcome


def _may_open_more(outcome: Outcome) -> bool:
    """Whether the next plan might find something to do. Where no rule was broken it is asked in smaller clusters that
    have rules (wishes may be granted one after the other); it takes as long as the first one."""
    problem = outcome.problem
    small = len(problem.units) * len(problem.hosts) <= WHOLE
    if outcome.request.goal is Goal.DRAIN:
        return bool(outcome.left)
    return bool((small and problem.rules.rules) or outcome.broken_before or not outcome.gathered)


def _think_once(
    request: Request,
    cluster: Cluster,
    rules: Rules,
    loads: Loads | None,
    arrivals: Sequence[Arrival],
    recent: Recent | None,
    new: Sequence[Vm],
    still: Mapping[str, str],
    stop: Stop,
    base: Floats | None,
) -> Outcome:
    """``base``: what others than our VMs use, where ``loads`` tell of VMs in other places."""
    problem = _problem(request, cluster, rules, loads, arrivals, recent, new=new, still=still)
    gathered = True
    if request.goal in LASTING and _cannot_gather(problem, recent):
        problem = _problem(request, cluster, rules, loads, arrivals, recent, keep_together=False, still=still)
        problem.notes.append(
            "not all VMs that are to be together can be brought together now; they go each their own way"
        )
        gathered = False
    if base is not None:
        problem.base = base
    board = Board(problem)
    leaving = _leaving(request, problem)
    for host in resting(problem, recent) if request.goal is Goal.BALANCE else ():
        board.open[problem.host_number(host)] = False
    score = Imbalance(
        board, weights_of(problem), [*leaving, *(unit for unit in _nowhere(problem) if unit not in leaving)]
    )
    terms = terms_of(problem, recent if request.goal is Goal.BALANCE else None)
    board.guard = reserve_of(board)
    outcome = Outcome(
        request, problem, board, score, terms, score.value, breaches(board), [], frozenset(leaving), [], Board(problem)
    )
    outcome.gathered = gathered
    outcome.tired = resting(problem, recent) if request.goal is Goal.BALANCE else []
    _GOALS[request.goal](outcome, stop)
    score.refresh()
    outcome.broken_after = breaches(board)
    return outcome


def _problem(
    request: Request,
    cluster: Cluster,
    rules: Rules,
    loads: Loads | None,
    arrivals: Sequence[Arrival],
    recent: Recent | None,
    *,
    keep_together: bool = True,
    new: Sequence[Vm] = (),
    still: Mapping[str, str] = NOBODY_STAYS,
) -> Problem:
    goal, subject = request.goal, request.subject
    cluster = declared(cluster, rules)
    closed = frozenset[str]()
    at_rest = frozenset[str]()
    if goal in (Goal.DRAIN, Goal.EVACUATE):
        host = cluster.host(subject)
        if not host.seen:
            raise BlockedError(
                f"host {subject} was not seen, so nobody knows what is on it: {host.error}",
                remedy="mend what keeps it from answering, and try again",
            )
        closed = frozenset({subject})
        at_rest = frozenset(vm.uuid for vm in cluster.vms_on(subject) if not vm.state.active and goal is Goal.DRAIN)
        keep_together = False
    if goal is Goal.PLACE:
        keep_together = False
    if goal is Goal.PLACE and not new:
        at_rest = frozenset({cluster.find(subject).uuid})
    return build(
        cluster,
        rules,
        loads,
        arrivals,
        recent,
        keep_together=keep_together,
        at_rest=at_rest,
        closed=closed,
        new=new,
        still=still,
    )


def _cannot_gather(problem: Problem, recent: Recent | None) -> bool:
    """Whether VMs that are to be together, and are not, have no place for all of them: then each is by itself."""
    apart = _nowhere(problem)
    if not apart:
        return False
    terms = terms_of(problem, recent)
    trial = Board(problem)
    return bool(place(trial, Imbalance(trial, weights_of(problem), apart), apart, terms))


def _nowhere(problem: Problem) -> list[int]:
    return [int(unit) for unit in np.flatnonzero(problem.start == NOWHERE)]


def _leaving(request: Request, problem: Problem) -> list[int]:
    if request.goal in (Goal.DRAIN, Goal.EVACUATE):
        host = problem.host_number(request.subject)
        return [unit for unit in np.flatnonzero(problem.start == host).tolist() if unit not in problem.stuck]
    if request.goal is Goal.PLACE and not request.subject:
        return _nowhere(problem)
    if request.goal is Goal.PLACE:
        return [problem.unit_of(problem.cluster.find(request.subject).uuid)]
    return []


def _balance(outcome: Outcome, stop: Stop) -> None:
    board, score, terms = outcome.board, outcome.score, outcome.terms
    repair(board, score, terms)
    score.refresh()
    mended = frozenset(np.flatnonzero(board.where != outcome.problem.start).tolist())
    outcome.enough = score.value <= THRESHOLDS[outcome.problem.rules.level]
    if outcome.enough:
        _grant_wishes(outcome)
        return
    for _ in range(ROUNDS):
        descend(board, score, terms, stop)
        found = board.where.copy()
        exchange(board, score, terms, stop)
        take_back(board, score, terms, mended)
        if (board.where == found).all() or stop():
            break


def _repair(outcome: Outcome, _stop: Stop) -> None:
    repair(outcome.board, outcome.score, outcome.terms)
    _grant_wishes(outcome)


def _grant_wishes(outcome: Outcome) -> None:
    """Move those whose wishes are not granted where they are, where that costs no balance to speak of."""
    problem, terms = outcome.problem, outcome.terms
    where = outcome.board.where
    wishes = problem.wish[problem.wish_of, np.maximum(where, 0)]
    wishing: Bools = (wishes > 0) & terms.movable & (where != NOWHERE)
    if wishing.any():
        free = np.zeros(len(problem.units))
        descend(outcome.board, outcome.score, Terms(wishing, free, terms.minimum / 10, terms.wish))


def _clear(outcome: Outcome, stop: Stop) -> None:
    """Everybody off: placed one by one, then shifted among the targets until no one gains."""
    board, score, problem = outcome.board, outcome.score, outcome.problem
    leaving = sorted(outcome.must_move)
    terms = outcome.terms
    if outcome.request.goal is Goal.EVACUATE:
        for unit in leaving:
            board.take(unit)
        board.leaving[:] = 0
        score.refresh()
        lost = [unit for unit in leaving if disks_left_behind(problem, unit)]
        leaving = [unit for unit in leaving if unit not in lost]
        outcome.left = lost
    left = place(board, score, leaving, terms)
    if left and board.guard is not None:  # that a host is given up, or lost, is what the reserve is for
        board.guard = None if outcome.request.goal is Goal.EVACUATE else reserve_of(board, spent=1)
        left = place(board, score, left, terms)
    if outcome.request.goal is Goal.EVACUATE and (left or outcome.giving_way):
        left = _packed(outcome, leaving)
    outcome.left += left
    still: Bools = np.zeros(len(problem.units), dtype=np.bool_)
    still[[unit for unit in leaving if unit not in outcome.left]] = True
    descend(board, score, Terms(still, np.zeros(len(still)), 1e-6, terms.wish), stop)


def _packed(outcome: Outcome, leaving: list[int]) -> list[int]:
    """Find places for all of them, the others staying where they are; return who has none. If more are left than if
    others give way, all is as it was."""
    board, before = outcome.board, outcome.board.where.copy()
    now = [unit for unit in leaving if board.where[unit] == NOWHERE]
    gave_way = bool(outcome.giving_way)
    board.go_back(np.where(np.isin(np.arange(len(before)), leaving), NOWHERE, outcome.problem.start))
    found = pack(board, leaving, np.flatnonzero(board.open))
    left = [unit for unit in leaving if unit not in found.places]
    if len(left) < len(now) + gave_way:
        for unit, host in found.places.items():
            board.put(unit, host)
    else:
        left = now
        board.go_back(before)
    outcome.score.refresh()
    return left


def disks_left_behind(problem: Problem, unit: int) -> list[str]:
    """Return the images of a unit that lie on its host itself, and are lost with it."""
    vms = [problem.vms[vm] for vm in problem.units[unit]]
    return [
        disk.source or disk.target
        for vm in vms
        for disk, *_ in copied_disks(vm, problem.hosts[problem.host_number(vm.host)])
    ]


def _place(outcome: Outcome, _stop: Stop) -> None:
    free = [unit for unit in sorted(outcome.must_move) if unit not in outcome.problem.stuck]
    left = place(outcome.board, outcome.score, free, outcome.terms)
    outcome.left = left + [unit for unit in sorted(outcome.must_move) if unit in outcome.problem.stuck]


def _consolidate(outcome: Outcome, stop: Stop) -> None:
    repair(outcome.board, outcome.score, outcome.terms)
    consolidate(outcome.board, outcome.score, outcome.terms, stop)


_GOALS: Mapping[Goal, Callable[[Outcome, Stop], None]] = {
    Goal.BALANCE: _balance,
    Goal.CONSOLIDATE: _consolidate,
    Goal.DRAIN: _clear,
    Goal.EVACUATE: _clear,
    Goal.PLACE: _place,
    Goal.REPAIR: _repair,
}
