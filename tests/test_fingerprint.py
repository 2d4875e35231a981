"""What a plan relied on: the same world has the same print, and each change is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mudanza.model.cluster import Cluster
from mudanza.model.plan import Goal
from mudanza.model.rules import Rule, RuleKind, Rules
from mudanza.model.units import GIB
from mudanza.planning.fingerprint import differences, fingerprint
from mudanza.planning.planner import Request, think
from mudanza.planning.result import as_plan
from tests import factories as make

H1, H2 = make.host("h1"), make.host("h2")
WEB = make.vm()
OTHER = make.vm(uuid=make.OTHER_UUID, name="db", host="h2", disks=(), nics=())
CLUSTER = Cluster((H1, H2), (WEB, OTHER))
PLAN = as_plan(think(Request(Goal.DRAIN, "h1"), CLUSTER, Rules()))


def changes(cluster: Cluster, rules: Rules = Rules()) -> tuple[str, ...]:  # noqa: B008 - it is frozen
    return differences(PLAN.fingerprint, fingerprint(cluster, rules, PLAN.moves))


def test_the_same_world_and_how_eager_one_is() -> None:
    assert len(PLAN.moves) == 1
    assert changes(CLUSTER) == ()
    assert changes(CLUSTER, Rules(level=5, minimum_gain=0.5)) == ()
    busy = replace(WEB, cpu_seconds=99.0, memory_used=GIB // 2)
    assert changes(replace(CLUSTER, vms=(busy, OTHER))) == ()


@pytest.mark.parametrize(
    ("cluster", "told"),
    [
        (replace(CLUSTER, vms=(replace(WEB, host="h2"), OTHER)), "on h1: it is not there any more"),
        (replace(CLUSTER, vms=(replace(WEB, memory=2 * GIB), OTHER)), "it was runs, 1 GiB, 2 vCPUs, 1 disks, and is"),
        (replace(CLUSTER, vms=(WEB,)), "running on h2 besides: it was db, and is nobody"),
        (replace(CLUSTER, hosts=(H1, replace(H2, error="timed out"))), "host h2: it was up"),
        (replace(CLUSTER, hosts=(H1, replace(H2, entry=make.entry("h2", maintenance=True)))), "in maintenance"),
    ],
)
def test_each_change_is_told(cluster: Cluster, told: str) -> None:
    assert any(told in each for each in changes(cluster))


def test_a_new_rule_is_a_change() -> None:
    assert changes(CLUSTER, Rules((Rule("x", RuleKind.MUST, ("web",), hosts=("h1",)),)))
