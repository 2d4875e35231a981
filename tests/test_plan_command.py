"""``mudanza plan``: what it prints, keeps and ends with. The snapshot is given; reading hosts is shown elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mudanza.cli.context import App
from mudanza.model.cluster import Cluster
from mudanza.model.plan import plan_from_json
from tests.program import Program
from tests.scenario import scenario

HOSTS = """
[hosts.h1]
uri = "qemu+tls://h1/system"
[hosts.h2]
uri = "qemu+tls://h2/system"
"""
RULES = """
[planning]
level = 4
[planning.zones]
a = ["h1"]
[[planning.rules]]
name = "replicas"
kind = "apart"
vms = ["db-1", "db-2"]
"""
UNEVEN = """
about: Six VMs on one of two hosts.
hosts: {h1: , h2: }
vms:
  db: {host: h1, count: 2, memory: 4GiB, vcpus: 2}
  web: {host: h1, count: 4, memory: 4GiB}
ask: balance
expect: {}
"""


@pytest.fixture
def planning(mudanza: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program, with a cluster of two hosts to plan for."""
    uneven = scenario("uneven", yaml.safe_load(UNEVEN)).cluster
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: uneven)
    mudanza("import", "-", stdin=HOSTS)
    return mudanza


def test_a_plan_for_people(planning: Program) -> None:
    done = planning("plan", "balance", "--explain", "web-1")
    assert done.returncode == 0
    assert "moves: imbalance" in done.stdout
    assert "h1 has " in done.stdout
    assert "WHY" in done.stdout
    assert "no load has been measured" in done.stdout
    assert "web-1: it " in done.stdout


def test_exit_code_10_says_that_moves_are_proposed_and_only_where_asked(planning: Program) -> None:
    assert planning("plan", "balance", "--exit-code").returncode == 10
    assert planning("plan", "balance").returncode == 0
    assert planning("plan", "drain", "h2", "--exit-code").returncode == 0


def test_what_is_kept_is_what_was_shown(planning: Program, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    shown = json.loads(planning("plan", "drain", "h1", "--save", str(file), "-o", "json").stdout)
    kept = plan_from_json(file.read_text())
    assert [move["vm"] for move in shown["moves"]] == [move.vm for move in kept.moves]
    assert len(kept.moves) == 6
    assert kept.created
    assert kept.fingerprint["host h2"] == "up, 8 CPUs, 32 GiB"
    assert yaml.safe_load(planning("plan", "drain", "h1", "-o", "yaml").stdout)["goal"] == "drain"
    assert planning("plan", "drain", "h1", "-o", "name").stdout.splitlines() == [move.vm for move in kept.moves]


def test_rules_come_from_the_database_and_go_round_by_export(planning: Program) -> None:
    assert "no rule is broken" in planning("plan", "repair").stdout
    assert planning("import", "-", stdin=HOSTS + RULES).stderr == "rules changed\n"
    exported = planning("export").stdout
    assert planning("import", "-", stdin=exported).stderr == "nothing to change\n"
    assert planning("import", "-", stdin=HOSTS).stderr == "nothing to change\n"
    assert "rule 'replicas' is broken on h1 by db-1, db-2" in planning("plan", "repair").stdout
    assert planning("import", "-", stdin="[planning]\n").stderr == "rules changed\n"
    assert "planning" not in planning("export").stdout


def test_other_commands_do_not_wait_for_numpy() -> None:
    load = "import sys; from mudanza.cli.verbs import ROOMS, verbs_of; [verbs_of(room) for room in ROOMS]"
    look = f"{load}; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("[planning]\nlevel = 9\n", "level 9 is not one of 1 to 5"),
        ("[planning]\nspeed = 9\n", "there is no setting 'speed'"),
        ("[[planning.rules]]\nkind = 'near'\nvms = ['a']\n", "rule 1: kind is one of together, apart"),
        ("[[planning.rules]]\nkind = 'must'\nvms = ['a']\n", "names no host"),
        ("[[planning.rules]]\nkind = 'must'\nvms = ['a']\nhosts = ['zone:x']\n", "there is no such zone"),
        ("[planning.zones]\na = ['h1']\nb = ['h1']\n", "host h1 is in two zones"),
    ],
)
def test_rules_that_cannot_be_are_refused(planning: Program, rules: str, told: str) -> None:
    done = planning("import", "-", stdin=rules)
    assert done.returncode == 2
    assert told in done.stderr


def test_what_might_be_is_not_kept(planning: Program, tmp_path: Path) -> None:
    done = planning("plan", "balance", "--what-if", "dies:h2", "--save", str(tmp_path / "x"))
    assert done.returncode == 2
    assert "if h2 died, no VM would be concerned" in planning("plan", "balance", "--what-if", "dies:h2").stdout
    assert planning("plan", "balance", "--what-if", "rain").returncode == 2


def test_unknown_hosts_and_vms(planning: Program) -> None:
    assert planning("plan", "drain", "h9").returncode == 2
    assert planning("plan", "place", "nobody").returncode == 2
    assert planning("plan", "balance", "--explain", "nobody").returncode == 2


def test_a_host_that_was_not_seen_cannot_be_drained(planning: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    unseen: Cluster = scenario("x", yaml.safe_load(UNEVEN.replace("h2: }", "h2: {unseen: timed out}}"))).cluster
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: unseen)
    done = planning("plan", "evacuate", "h2")
    assert done.returncode == 3
    assert "nobody knows what is on it" in done.stderr
