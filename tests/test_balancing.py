"""Rounds of a balance that goes on: what is done, proposed, only said; that nothing flaps, whatever the noise."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from mudanza.fleet.balancing import Act, Situation, Verdict, judge
from mudanza.journal.balance import KEPT
from mudanza.model.balance import BALANCING, Round
from mudanza.model.carrying import MoveState, Run, RunMove, RunPolicy, RunState
from mudanza.model.load import Spread, VmLoad
from mudanza.model.plan import Goal, MoveMode, Plan, PlannedMove
from mudanza.planning.applied import applied
from mudanza.planning.planner import Request, think
from mudanza.planning.recent import Recent
from mudanza.planning.result import as_plan
from tests.scenario import Scenario, host_loads, scenario

NOON = datetime(2026, 11, 26, 12, 0).timestamp()
EVERY = 300.0
HOT = {
    "about": "One host is hot.",
    "hosts": {"h1": None, "h2": None, "h3": None},
    "vms": {
        "hot": {"host": "h1", "count": 3, "vcpus": 2, "memory": "2GiB", "busy": {"cpus": 2.0}},
        "calm": {"host": "h2", "count": 2, "memory": "2GiB", "busy": {"cpus": 0.2}},
    },
    "rules": {"automation": "auto", "hold": 3},
    "ask": "balance",
    "expect": {},
}


def changed(**changes: Any) -> Scenario:
    """The hot cluster, with other rules and with other wishes of some VMs."""
    vms = {name: dict(given) for name, given in HOT["vms"].items()}  # type: ignore[attr-defined]
    for name, wishes in changes.pop("wishes", {}).items():
        vms[name]["wishes"] = wishes
    return scenario("test", {**HOT, "vms": vms, "rules": {**HOT["rules"], **changes}})  # type: ignore[dict-item]


def asked(times: int) -> tuple[Round, ...]:
    return (Round("", asked=True),) * times


def look(world: Scenario, rounds: tuple[Round, ...] = (), **more: Any) -> Verdict:
    given = {"unfinished": (), "undone": {}, "at": NOON, **more}

    def propose(goal: Goal, still: Mapping[str, str]) -> Plan:
        return as_plan(think(Request(goal), world.cluster, world.rules, world.loads, still=still))

    return judge(
        Situation(world.cluster, world.rules, given["unfinished"], rounds, given["undone"], given["at"]), propose
    )


def run_of(plan: Plan, state: RunState, kind: str = BALANCING) -> Run:
    """One that is carried out, or waits."""
    moves = tuple(RunMove(move.number, move, move.after, MoveState.WAITING) for move in plan.moves)
    what = {
        "id": 7,
        "kind": kind,
        "subject": "",
        "plan": plan,
        "policy": RunPolicy(),
        "asked_by": "ana",
        "state": state,
    }
    when = {"started_at": 0.0, "ended_at": None, "read_at": NOON, "abandoned": False}
    rest = {"epoch": 1, "owner": "", "outcome": "", "exit_code": None, "wish": None, "wish_by": None, "moves": moves}
    return Run(**what, **when, **rest)  # type: ignore[arg-type]


def test_nothing_is_done_before_it_was_asked_for_often_enough() -> None:
    world = changed()
    for before in (0, 1):
        found = look(world, asked(before))
        assert (found.act, found.round.asked) == (Act.NOTHING, True)
        assert f"asked for in {before + 1} of 3 rounds in a row" in found.round.said
    assert look(world, (*asked(1), Round(""), *asked(1))).act is Act.NOTHING
    found = look(world, asked(2))
    assert found.act is Act.BEGIN
    assert found.plan is not None
    assert {move.source for move in found.plan.moves} == {"h1"}
    assert found.round.imbalance is not None
    assert found.round.imbalance > 0.06


def test_a_satisfied_cluster_is_left_alone_and_said_to_be() -> None:
    world = changed(level=1)
    found = look(replace(world, rules=replace(world.rules, minimum_gain=9.0)), asked(2))
    assert (found.act, found.round.asked) == (Act.NOTHING, False)
    assert found.round.said.startswith("nothing to do")


@pytest.mark.parametrize(
    ("rules", "act", "said"),
    [
        ({"automation": "manual"}, Act.PROPOSE, "imbalance"),
        ({"automation": "advise"}, Act.NOTHING, "balance is set to advise for it"),
        ({"windows": ["22:00-06:00"]}, Act.NOTHING, "moves are begun between 22:00-06:00 only"),
        ({"windows": ["22:00-06:00"], "automation": "manual"}, Act.PROPOSE, "imbalance"),
        ({"automation": "advise", "wishes": {"hot": {"balance": "auto"}}}, Act.BEGIN, "imbalance"),
        ({"wishes": {"hot": {"balance": "manual"}}}, Act.PROPOSE, "imbalance"),
        ({"wishes": {"hot": {"balance-window": "22:00-06:00"}}}, Act.NOTHING, "for balance between 22:00-06:00 only"),
    ],
)
def test_it_goes_as_far_as_the_cluster_and_the_vms_allow(rules: dict[str, Any], act: Act, said: str) -> None:
    found = look(changed(**rules), asked(2))
    assert (found.act, found.round.asked) == (act, True), found.round.said
    assert said in found.round.said
    if act is not Act.NOTHING:
        assert found.plan is not None
        assert found.plan.moves


def test_what_may_be_done_is_done_and_the_rest_is_asked_for_later() -> None:
    world = changed(wishes={"hot": {"balance": "manual"}})
    [first, *_] = [vm for vm in world.cluster.vms if vm.name == "hot-1"]
    vms = tuple(replace(vm, wishes=None) if vm is first else vm for vm in world.cluster.vms)
    world = replace(world, cluster=replace(world.cluster, vms=vms))
    found = look(world, asked(2))
    assert found.act is Act.BEGIN
    assert found.plan is not None
    assert [move.vm for move in found.plan.moves] == ["hot-1"]


def test_a_vms_windows_go_with_the_plan() -> None:
    found = look(changed(windows=["10:00-14:00"], wishes={"hot": {"balance-window": "11:00-13:00"}}), asked(2))
    assert found.plan is not None
    assert found.policy.windows == ("10:00-14:00",)
    assert found.policy.vm_windows == {move.uuid: ("11:00-13:00",) for move in found.plan.moves}
    assert found.policy.ends_with_window
    assert RunPolicy.from_data(found.policy.as_data()) == found.policy


def test_a_broken_rule_waits_for_no_further_round() -> None:
    apart = {"name": "replicas", "kind": "apart", "vms": ["calm-1", "calm-2"]}
    found = look(changed(rules=[apart]))
    assert found.act is Act.BEGIN
    assert found.plan is not None
    assert [move.vm in ("calm-1", "calm-2") for move in found.plan.moves] == [True]
    assert "replicas" in found.plan.moves[0].reason


def drain_of(world: Scenario, vm: str, **changes: Any) -> Run:
    """A plan that empties a host, of which one VM has still to move."""
    uuid = world.cluster.find(vm).uuid
    move = PlannedMove(1, vm, uuid, "h1", "h3", "h1 is to be empty", MoveMode.LIVE, 0)
    return replace(run_of(Plan(Goal.DRAIN, "x", (move,)), RunState.RUNNING, "drain"), **changes)


def test_while_a_plan_is_under_way_nothing_new_is_begun() -> None:
    world = changed()
    found = look(world, asked(5), unfinished=(drain_of(world, "hot-1"),))
    assert (found.act, found.round.asked, found.round.plan) == (Act.NOTHING, False, 7)
    assert "plan 7 (drain) is being carried out" in found.round.said


@pytest.mark.parametrize("changes", [{"policy": RunPolicy(not_before=NOON + 60)}, {"state": RunState.PAUSED}])
def test_the_vms_of_a_plan_that_waits_are_left_to_it_and_others_are_balanced(changes: dict[str, Any]) -> None:
    world = changed()
    waiting = drain_of(world, "hot-1", **changes)
    found = look(world, asked(5), unfinished=(waiting,))
    assert found.act is Act.BEGIN
    assert found.plan is not None
    assert "hot-1" not in [move.vm for move in found.plan.moves]
    begun = replace(waiting, moves=(replace(waiting.moves[0], state=MoveState.BEGUN),))
    assert look(world, asked(5), unfinished=(begun,)).act is Act.NOTHING


def test_a_proposal_stays_as_it_was_shown_until_the_world_has_changed() -> None:
    world = changed(automation="manual")
    first = look(world, asked(2))
    assert first.plan is not None
    waiting = run_of(first.plan, RunState.ASKED)
    again = look(world, asked(3), unfinished=(waiting,))
    assert (again.act, again.withdrawn, again.round.plan) == (Act.NOTHING, {}, 7)
    assert "mudanza run approve 7" in again.round.said
    moved = replace(world, cluster=applied(world.cluster, {first.plan.moves[0].uuid: "h3"}))
    other = look(moved, asked(3), unfinished=(waiting,))
    assert "the world is not as it was" in other.withdrawn[7]


def test_a_proposal_that_is_not_needed_any_more_is_withdrawn() -> None:
    world = changed(automation="manual")
    first = look(world, asked(2))
    assert first.plan is not None
    calm = replace(world, rules=replace(world.rules, minimum_gain=9.0, level=1))
    waiting = run_of(first.plan, RunState.ASKED)
    assert look(calm, (*asked(1), Round("")), unfinished=(waiting,)).withdrawn == {}, "one calm round says nothing"
    assert "not needed any more" in look(calm, (Round(""),) * 2, unfinished=(waiting,)).withdrawn[7]


def test_what_waits_for_a_person_holds_up_nobody_else() -> None:
    world = changed(wishes={"hot": {"balance": "manual"}})
    first = look(world, asked(2))
    assert first.plan is not None
    waiting = run_of(first.plan, RunState.ASKED)
    apart = {"name": "replicas", "kind": "apart", "vms": ["calm-1", "calm-2"]}
    broken = changed(wishes={"hot": {"balance": "manual"}}, rules=[apart])
    found = look(broken, asked(2), unfinished=(waiting,))
    assert found.act is Act.BEGIN


def test_who_did_not_get_there_is_left_alone_for_a_while() -> None:
    world = changed()
    hot = {vm.uuid: "it did not get to h2 with plan 3: refused" for vm in world.cluster.vms if vm.name == "hot-1"}
    found = look(world, asked(2), undone=hot)
    assert found.plan is not None
    assert "hot-1" not in [move.vm for move in found.plan.moves]
    every = dict.fromkeys((vm.uuid for vm in world.cluster.vms), "it did not get to h2 with plan 3: refused")
    nobody = look(world, asked(2), undone=every)
    assert nobody.act is Act.NOTHING
    assert "left alone for now: hot-1: it did not get to h2 with plan 3: refused" in nobody.round.said


# Noise.


@dataclass
class Noisy:
    """A cluster whose VMs are as busy as they are, give or take a lot, and everything that was ever moved in it."""

    world: Scenario
    dice: Random
    at: float = NOON
    rounds: list[Round] = field(default_factory=list)
    moved: list[tuple[float, str, str]] = field(default_factory=list)
    host_moves: dict[str, float] = field(default_factory=dict)

    def play(self, rounds: int) -> None:
        for _ in range(rounds):
            self.at += EVERY
            self._round()

    def _round(self) -> None:
        assert self.world.loads is not None
        vms = {uuid: self._shaken(load) for uuid, load in self.world.loads.vms.items()}
        hosts = host_loads(self.world.cluster.vms, vms, self.world.cluster.hosts)
        loads = replace(self.world.loads, vms=vms, hosts=hosts)
        since = {uuid: self.at - at for at, uuid, _ in self.moved}
        recent = Recent(since, {host: self.at - at for host, at in self.host_moves.items()})

        def propose(goal: Goal, still: Mapping[str, str]) -> Plan:
            return as_plan(
                think(Request(goal), self.world.cluster, self.world.rules, loads, recent=recent, still=still)
            )

        hold = self.world.rules.hold
        situation = Situation(self.world.cluster, self.world.rules, (), tuple(self.rounds[-hold:]), {}, self.at)
        verdict = judge(situation, propose)
        self.rounds.append(verdict.round)
        if verdict.act is Act.BEGIN and verdict.plan is not None:
            for move in verdict.plan.moves:
                self.moved.append((self.at, move.uuid, move.target))
                self.host_moves |= {move.source: self.at, move.target: self.at}
            there = {move.uuid: move.target for move in verdict.plan.moves}
            self.world = replace(self.world, cluster=applied(self.world.cluster, there))

    def _shaken(self, load: VmLoad) -> VmLoad:
        cpus = load.cpus.p95 * self.dice.uniform(0.6, 1.4)
        return replace(load, cpus=Spread(cpus, cpus, cpus))


def crowded(**rules: object) -> Scenario:
    """Twelve VMs that are alike, half of them on one host, balanced as eagerly as can be."""
    one = {"vcpus": 2, "memory": "2GiB", "busy": {"cpus": 1.0}}
    vms = {
        name: {"host": host, "count": count, **one}
        for name, host, count in (("a", "h1", 6), ("b", "h2", 3), ("c", "h3", 3))
    }
    return scenario("noise", {**HOT, "vms": vms, "rules": {"automation": "auto", "level": 5, **rules}})


def most_moved(noisy: Noisy) -> int:
    return max(Counter(uuid for _, uuid, _ in noisy.moved).values())


@pytest.mark.parametrize("seed", [1, 2])
def test_under_noise_a_hot_host_is_relieved_and_then_left_alone(seed: int) -> None:
    """Loads that vary by 40 % each way from one round to the next, for hours: no VM is sent to and fro."""
    noisy = Noisy(crowded(), Random(seed))
    noisy.play(40)
    assert 1 <= len(noisy.moved) <= 4, noisy.moved
    assert most_moved(noisy) == 1, noisy.moved


def test_without_hold_and_rests_that_noise_would_send_vms_to_and_fro() -> None:
    noisy = Noisy(crowded(hold=0, vm_rest=0.0, host_rest=0.0), Random(1))
    noisy.play(40)
    assert most_moved(noisy) >= 2


def test_a_vm_rests_between_two_moves_whatever_is_asked_for() -> None:
    noisy = Noisy(crowded(hold=0, host_rest=0.0), Random(1))
    noisy.play(40)
    of: dict[str, list[float]] = defaultdict(list)
    for at, uuid, _ in noisy.moved:
        of[uuid].append(at)
    rest = noisy.world.rules.vm_rest
    assert all(later - earlier >= rest for times in of.values() for earlier, later in pairwise(times))


def test_rounds_are_kept_for_longer_than_any_hold_looks_back() -> None:
    assert KEPT > 24 * 3600
