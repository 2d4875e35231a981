"""How far balance goes with each VM."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from mudanza.model.automation import Automation
from mudanza.model.cluster import Cluster
from mudanza.model.errors import UsageError
from mudanza.model.rules import Rules, rules_as_data, rules_from_data
from mudanza.model.vm import Vm
from mudanza.model.wishes import wishes_of
from mudanza.planning.automation import at_rest, level_of
from tests import factories as make

NOON = datetime(2026, 11, 26, 12, 0).timestamp()
MIDNIGHT = datetime(2026, 11, 26, 0, 0).timestamp()


def vm(**said: str) -> Vm:
    return make.vm(wishes=wishes_of({name.replace("_", "-"): text for name, text in said.items()}))


@pytest.mark.parametrize(
    ("said", "cluster", "level"),
    [
        ({}, Automation.MANUAL, Automation.MANUAL),
        ({"balance": "auto"}, Automation.ADVISE, Automation.AUTO),
        ({"balance": "never"}, Automation.AUTO, Automation.NEVER),
        ({"balance": "nevr"}, Automation.AUTO, Automation.NEVER),
        ({"policy": "gentle"}, Automation.AUTO, Automation.AUTO),
    ],
)
def test_a_vms_own_wish_counts_for_more_than_the_clusters(
    said: dict[str, str], cluster: Automation, level: Automation
) -> None:
    assert level_of(vm(**said), Rules(automation=cluster)) is level


@pytest.mark.parametrize(
    ("said", "upto", "at", "why"),
    [
        ({"balance": "manual"}, Automation.AUTO, NOON, "balance is set to manual for it"),
        ({"balance": "manual"}, Automation.MANUAL, NOON, ""),
        ({"balance": "auto"}, Automation.ADVISE, NOON, ""),
        ({"balance": "auto", "balance_window": "22:00-06:00"}, Automation.AUTO, NOON, "between 22:00-06:00 only"),
        ({"balance": "auto", "balance_window": "22:00-06:00"}, Automation.AUTO, MIDNIGHT, ""),
        ({"balance": "auto", "balance_window": "22-6"}, Automation.AUTO, MIDNIGHT, "nobody understands its window"),
    ],
)
def test_who_is_left_alone_is_told_why(said: dict[str, str], upto: Automation, at: float, why: str) -> None:
    one = vm(**said)
    found = at_rest(Cluster((make.host("h1"),), (one,)), Rules(automation=Automation.AUTO), upto, at)
    assert (why in found[one.uuid]) if why else not found


def test_automation_and_windows_go_round_as_data() -> None:
    rules = Rules(automation=Automation.MANUAL, windows=("22:00-06:00",))
    assert rules_from_data(rules_as_data(rules)) == rules
    assert rules_as_data(replace(rules, automation=Automation.ADVISE, windows=())) == {}
    for wrong in ({"automation": "never"}, {"automation": "perhaps"}, {"windows": ["22-6"]}):
        with pytest.raises(UsageError):
            rules_from_data(wrong)
