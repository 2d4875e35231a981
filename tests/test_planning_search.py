"""The search: it may be stopped at any time, goes through large clusters by parts, and undoes what no longer earns."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.clusters import uneven
from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.plan import Goal
from mudanza.model.rules import Rule, RuleKind, Rules, rules_as_data, rules_from_data
from mudanza.model.units import GIB
from mudanza.model.vm import Vm
from mudanza.planning import search
from mudanza.planning.board import Board
from mudanza.planning.building import build
from mudanza.planning.compatibility import classify
from mudanza.planning.consolidating import bring_back, in_use
from mudanza.planning.eagerness import THRESHOLDS
from mudanza.planning.imbalance import Imbalance, weights_of
from mudanza.planning.planner import Request, think
from mudanza.planning.repair import breaches
from mudanza.planning.result import as_plan
from mudanza.planning.search import Terms, never, shift, take_back
from mudanza.preflight.arrivals import Arrival
from tests import factories as make

BALANCE = Request(Goal.BALANCE)
CLUSTER = uneven(20, 200, seed=3)


def test_stopped_early_it_has_done_the_best_first_and_broken_nothing() -> None:
    looks = iter(range(100))
    few = think(BALANCE, CLUSTER, Rules(), stop=lambda: next(looks) >= 3)
    all_of_it = think(BALANCE, CLUSTER, Rules())
    moved = [int((each.board.where != each.problem.start).sum()) for each in (few, all_of_it)]
    assert moved[0] == 3 < moved[1]
    assert all_of_it.score.value < few.score.value < few.before
    assert not breaches(few.board)


@pytest.mark.parametrize("seed", range(4))
def test_by_parts_it_ends_as_even_as_the_level_wants_it(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    cluster = uneven(30, 300, seed=seed)
    monkeypatch.setattr(search, "WHOLE", 0)
    monkeypatch.setattr(search, "SOURCES", 5)
    monkeypatch.setattr(search, "TARGETS", 8)
    parts = think(BALANCE, cluster, Rules())
    assert parts.score.value < THRESHOLDS[3] < parts.before
    assert not breaches(parts.board)


def test_a_move_that_no_longer_earns_what_it_must_is_undone() -> None:
    problem = build(CLUSTER, Rules())
    board = Board(problem)
    score = Imbalance(board, weights_of(problem))
    terms = Terms(problem.movable, 0 * problem.travel, 0.05)
    lightest = int(np.argmin(problem.use[:, 1]))
    target = (int(board.where[lightest]) + 1) % len(problem.hosts)
    shift(board, score, lightest, target)
    take_back(board, score, terms, kept=frozenset({lightest}))
    assert board.where[lightest] == target
    take_back(board, score, terms)
    assert board.where[lightest] == problem.start[lightest]


def test_equal_hosts_and_vms_are_one_class_however_many() -> None:
    classes = classify(CLUSTER.hosts, CLUSTER.vms)
    assert set(classes.hosts) == {0}
    assert set(classes.vms) == {0}
    assert classes.fits == ((True,),)


def test_the_bound_is_no_figure_that_can_be_gone_below() -> None:
    for level in (1, 3, 5):
        plan = as_plan(think(BALANCE, CLUSTER, Rules(level=level)))
        assert plan.bound is not None
        assert plan.bound <= plan.score_after <= plan.score_before
    fewest = as_plan(think(Request(Goal.CONSOLIDATE), CLUSTER, Rules()))
    assert fewest.bound is not None
    assert fewest.bound <= fewest.score_after < fewest.score_before


def test_a_plan_for_twenty_hosts_looks_at_no_more_than_it_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is measured in benchmarks; here it is that preflight is asked for classes, not for pairs."""
    from mudanza.planning import compatibility

    asked: list[str] = []
    real = compatibility.standing_against

    def counting(vm: Vm, source: Host, target: Host) -> tuple[Finding, ...]:
        asked.append(target.name)
        return real(vm, source, target)

    monkeypatch.setattr(compatibility, "standing_against", counting)
    think(BALANCE, CLUSTER, Rules())
    assert len(asked) == 1


def test_a_vm_in_other_hands_or_on_its_way_is_left_alone_and_what_it_will_take_is_taken() -> None:
    h1, h2, h3 = (make.host(name, memory_total=16 * GIB, memory_free=16 * GIB) for name in ("h1", "h2", "h3"))
    claimed = make.vm(uuid="c", name="claimed", memory=4 * GIB, claims=(make.CLAIM,), disks=(), nics=())
    coming = make.vm(uuid="w", name="coming", memory=8 * GIB, disks=(), nics=())
    big = make.vm(uuid="b", name="big", memory=8 * GIB, disks=(), nics=())
    cluster = make.cluster((h1, h2, h3), (claimed, coming, big))
    on_its_way = Arrival("w", "coming", "h2")
    drained = as_plan(think(Request(Goal.DRAIN, "h1"), cluster, Rules(), arrivals=[on_its_way]))
    assert {move.vm: move.target for move in drained.moves} == {"big": "h3"}
    assert {each.vm for each in drained.unmoved} == {"claimed", "coming"}
    assert "on its way to h2" in next(each.why for each in drained.unmoved if each.vm == "coming")
    placed = as_plan(think(Request(Goal.PLACE, "claimed"), cluster, Rules()))
    assert placed.moves == ()
    assert "is claimed" in placed.unmoved[0].why


def test_every_setting_goes_to_json_and_back() -> None:
    rules = Rules(
        rules=(
            Rule("a", RuleKind.APART, ("x", "tag:y"), across="zone"),
            Rule("b", RuleKind.GROUPS_APART, ("x",), others=("y",)),
            Rule("c", RuleKind.SHOULD, ("x",), hosts=("zone:a", "tag:t", "h1")),
        ),
        zones={"a": ("h1", "h2")},
        ignored=("z",),
        level=5,
        vcpus_per_cpu=3.5,
        survive_hosts=1,
    )
    assert rules_from_data(json.loads(json.dumps(rules_as_data(rules)))) == rules
    assert rules_as_data(Rules()) == {}


def test_it_ends_where_every_gain_is_welcome() -> None:
    """Two equal VMs could change places for ever, for the grain of floating-point sums."""
    outcome = think(BALANCE, CLUSTER, Rules(level=5, minimum_gain=0))
    assert outcome.score.value < outcome.before


def test_who_left_a_host_that_stays_in_use_comes_back_where_a_newcomer_does_as_well_elsewhere() -> None:
    vms = {"a": ("h1", 8), "large": ("h1", 12), "b": ("h2", 8), "c": ("h3", 8)}
    hosts = [make.host(name, memory_total=32 * GIB, memory_free=32 * GIB) for name in ("h1", "h2", "h3")]
    made = [
        make.vm(uuid=name, name=name, host=host, memory=size * GIB, disks=(), nics=())
        for name, (host, size) in vms.items()
    ]
    problem = build(make.cluster(hosts, made), Rules(memory_ratio=0.75))
    board = Board(problem)
    score = Imbalance(board, weights_of(problem))
    a, c = problem.unit_of("a"), problem.unit_of("c")
    board.move(a, problem.host_number("h2"))
    board.move(c, problem.host_number("h1"))
    terms = Terms(problem.movable, 0 * problem.travel, 0.0)
    bring_back(board, score, terms, None, never)
    assert board.where[a] == problem.start[a]
    assert board.where[c] == problem.host_number("h2")
    assert in_use(board).tolist() == [0, 1]
