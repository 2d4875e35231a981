"""Every scenario comes out as it says."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from mudanza.model.plan import Plan, plan_from_json
from mudanza.planning.applied import applied
from mudanza.planning.board import Board
from mudanza.planning.explaining import explain
from mudanza.planning.planner import Outcome, think
from mudanza.planning.repair import breaches
from mudanza.planning.result import as_plan
from mudanza.planning.whatif import World, suppose
from tests.scenario import Scenario, host_loads, read_scenarios

SCENARIOS = read_scenarios()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_scenario(scenario: Scenario) -> None:
    world = suppose(World(scenario.cluster, scenario.rules, scenario.loads), scenario.what_if)
    outcome = think(scenario.request, world.cluster, world.rules, world.loads, recent=scenario.recent)
    plan = as_plan(outcome)
    assert plan == as_plan(think(scenario.request, world.cluster, world.rules, world.loads, recent=scenario.recent))
    for word, expected in scenario.expect.items():
        _EXPECTATIONS[word](expected, plan, outcome, world)
    _holds_whatever_is_expected(plan, outcome)


def _holds_whatever_is_expected(plan: Plan, outcome: Outcome) -> None:
    """No plan breaks what was whole, each move has a reason, an empty one says why, and the same comes out twice."""
    assert len(plan.summary) > 10
    assert all(len(move.reason) > 20 for move in plan.moves)
    before = {breach.text.split(" by ")[0] for breach in breaches(Board(outcome.problem))}
    new = [breach.text for breach in breaches(outcome.board) if breach.text.split(" by ")[0] not in before]
    assert not new, "a rule is broken that was not"
    assert plan_from_json(plan.as_json()).moves == plan.moves


def _moves(expected: Mapping[str, Any], plan: Plan, _outcome: Outcome, _world: World) -> None:
    found = {move.vm: move.target for move in plan.moves}
    assert set(found) == set(expected)
    for vm, target in expected.items():
        assert found[vm] in (target if isinstance(target, list) else [target])


def _order(expected: list[str], plan: Plan, _outcome: Outcome, _world: World) -> None:
    """Each of them waits for the one before it to have ended."""
    moves = {move.vm: move for move in plan.moves}
    for earlier, later in itertools.pairwise(expected):
        assert moves[earlier].number in moves[later].after, [(m.vm, m.number, m.after) for m in plan.moves]


def _count(expected: int | str, plan: Plan, _outcome: Outcome, _world: World) -> None:
    least, _, most = str(expected).partition("-")
    assert int(least) <= len(plan.moves) <= int(most or least), [f"{m.vm} → {m.target}" for m in plan.moves]


def _says(expected: str | list[str], plan: Plan, _outcome: Outcome, world: World) -> None:
    told = "\n".join((plan.summary, *plan.notes, *world.notes, *(f"{each.vm}: {each.why}" for each in plan.unmoved)))
    for text in [expected] if isinstance(expected, str) else expected:
        assert text in told


def _reasons(expected: Mapping[str, str], plan: Plan, _outcome: Outcome, _world: World) -> None:
    for vm, text in expected.items():
        assert any(text in move.reason for move in plan.moves if move.vm == vm), [m.reason for m in plan.moves]


def _stay(expected: list[str], plan: Plan, _outcome: Outcome, _world: World) -> None:
    assert not {move.vm for move in plan.moves} & set(expected)


def _moved_by(expected: list[str], plan: Plan, _outcome: Outcome, _world: World) -> None:
    """Only VMs whose names begin like one of these move."""
    assert all(move.vm.startswith(tuple(expected)) for move in plan.moves)


def _unmoved(expected: Mapping[str, str], plan: Plan, _outcome: Outcome, _world: World) -> None:
    assert {each.vm for each in plan.unmoved} == set(expected)
    for each in plan.unmoved:
        assert expected[each.vm] in each.why


def _targets(expected: Mapping[str, int | str], plan: Plan, _outcome: Outcome, _world: World) -> None:
    """How many VMs each host takes: a number, or least-most."""
    taken = Counter(move.target for move in plan.moves)
    for host, count in expected.items():
        least, _, most = str(count).partition("-")
        assert int(least) <= taken[host] <= int(most or least), taken


def _hosts_used(expected: int, plan: Plan, _outcome: Outcome, _world: World) -> None:
    assert plan.score_after == expected


def _imbalance_below(expected: float, _plan: Plan, outcome: Outcome, _world: World) -> None:
    assert outcome.score.value < expected


def _explain(expected: Mapping[str, Mapping[str, str]], _plan: Plan, outcome: Outcome, _world: World) -> None:
    for vm, hosts in expected.items():
        found = explain(outcome, vm)
        told = {"": found.verdict} | {verdict.host: verdict.why for verdict in found.hosts}
        for host, text in hosts.items():
            assert re.search(text, told[host]), told


def _settled(_expected: bool, plan: Plan, outcome: Outcome, world: World) -> None:
    """Once it is done, the same question finds nothing to do."""
    then = applied(world.cluster, {move.uuid: move.target for move in plan.moves})
    loads = world.loads and replace(world.loads, hosts=host_loads(then.vms, world.loads.vms, then.hosts))
    second = as_plan(think(outcome.request, then, world.rules, loads))
    assert second.moves == (), second.summary


_EXPECTATIONS: Mapping[str, Callable[[Any, Plan, Outcome, World], None]] = {
    "moves": _moves,
    "order": _order,
    "count": _count,
    "says": _says,
    "reasons": _reasons,
    "stay": _stay,
    "only": _moved_by,
    "unmoved": _unmoved,
    "targets": _targets,
    "hosts_used": _hosts_used,
    "imbalance_below": _imbalance_below,
    "explain": _explain,
    "settled": _settled,
}
