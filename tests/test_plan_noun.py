"""A plan as a noun: it survives the way to a file and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mudanza.model.errors import UsageError
from mudanza.model.load import Spread, VmLoad
from mudanza.model.plan import Goal, HostFigures, HostOutlook, MoveMode, Plan, PlannedMove, Unmoved, plan_from_json

MOVE = PlannedMove(
    number=1,
    vm="web",
    uuid="u1",
    source="h1",
    target="h2",
    reason="h1 is at 90 % of its CPUs",
    mode=MoveMode.LIVE,
    memory=1 << 30,
    disks={"images": 5},
    freed={"images": 5},
    bytes=(1 << 30) + 5,
    seconds=8.5,
    start=0.0,
    finish=8.5,
)
PLAN = Plan(
    goal=Goal.BALANCE,
    summary="two moves",
    moves=(MOVE, replace(MOVE, number=2, vm="db", uuid="u2", blackout_ms=120.0, after=(1,))),
    outlooks=(HostOutlook("h1", 8, 1 << 34, HostFigures(2, 7.5, 1e9), HostFigures(1, 3.5, 5e8, promised_memory=3)),),
    unmoved=(Unmoved("x", "u3", "h1", "it is pinned"),),
    notes=("measured over 10 min",),
    measure="imbalance",
    score_before=0.4,
    score_after=0.1,
    bound=0.05,
    seed=7,
    fingerprint={"VM web is on": "h1"},
    options={"level": 3, "rules": [{"kind": "apart"}]},
)


def test_to_json_and_back() -> None:
    assert plan_from_json(PLAN.as_json()) == replace(PLAN, options=PLAN.as_data()["options"])
    assert plan_from_json(replace(PLAN, summary="other").as_json()) != PLAN


def test_the_gap_is_never_negative_and_unknown_without_a_bound() -> None:
    assert PLAN.gap == pytest.approx(0.05)
    assert replace(PLAN, bound=None).gap is None
    assert replace(PLAN, bound=0.2).gap == 0


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"goal": "dance"},
        {"moves": [{"vm": "web"}]},
        {"moves": [json.loads(PLAN.as_json())["moves"][1]]},
        {"surprise": 1},
    ],
)
def test_what_is_no_plan_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="no plan"):
        plan_from_json(json.dumps({**PLAN.as_data(), **change}))
    with pytest.raises(UsageError, match="no plan"):
        plan_from_json("[]")


def test_a_single_reading_means_nothing_nor_does_a_vm_without_memory() -> None:
    some = Spread(1, 1, 1)
    load = VmLoad("u", some, some, some, some, samples=30, span=600)
    assert load.means_something
    assert not replace(load, samples=1, span=0).means_something
    assert not replace(load, memory=Spread()).means_something
