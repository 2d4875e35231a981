"""What hosts draw and how they are woken: said, kept, carried round, and what a plan saves by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mudanza.cli.context import App
from mudanza.journal.backup import back_up, restore
from mudanza.journal.database import open_database
from mudanza.journal.fences import Fences
from mudanza.journal.host_power import HostPowers, power_of_one
from mudanza.journal.inventory import Inventory
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.fencing import Device
from mudanza.model.host import HostEntry
from mudanza.model.host_power import HostPower, Standing, Wish, away
from mudanza.model.plan import HostFigures, HostOutlook
from mudanza.model.rules import Rule, RuleKind, Rules
from mudanza.model.watts import straight
from mudanza.planning.saving.estimate import estimate, in_words
from mudanza.planning.saving.needed import needed
from tests.program import Program
from tests.scenario import scenario

HOSTS = """
[hosts.h1]
uri = "qemu+tls://h1/system"
[hosts.h2]
uri = "qemu+tls://h2/system"
[hosts.h3]
uri = "qemu+tls://h3/system"
"""
SPREAD = """
about: A few VMs that would all fit onto one host.
hosts: {h1: , h2: , h3: }
vms:
  db: {host: h1, count: 2, memory: 2GiB, vcpus: 1}
  web: {host: h2, count: 1, memory: 2GiB, vcpus: 1}
ask: consolidate
expect: {}
"""


@pytest.fixture
def planning(mudanza: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program, with three hosts of which one is empty."""
    spread = scenario("spread", yaml.safe_load(SPREAD)).cluster
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: spread)
    mudanza("import", "-", stdin=HOSTS)
    return mudanza


def test_a_plan_says_what_it_saves_done_and_not_done(planning: Program) -> None:
    planning.config.write_text(planning.config.read_text() + "[power]\nprice = 0.25\n")
    for host in ("h1", "h2"):
        planning("power", "set", host, "--watts", "100,200")
    told = planning("plan", "consolidate", "--power").stdout
    assert "of h3 nobody has said what they draw" in told
    planning("power", "set", "h3", "--watts", "100,200")
    told = planning("plan", "consolidate", "--power").stdout
    assert "without the plan h3 could be off: 100 W less, 2.40 kWh a day (0.60 EUR, 219 EUR in a year)" in told
    assert "after the plan h2, h3 can be off" in told
    assert "power:" not in planning("plan", "consolidate").stdout
    planning("power", "set", "h2", "--keep-on")
    told = planning("plan", "consolidate", "--power").stdout
    assert "h2 is empty then and stays on: it is to be kept on" in told


def test_what_was_said_of_power_goes_round_by_export_and_import(mudanza: Program) -> None:
    mudanza("import", "-", stdin=HOSTS)
    assert (
        "never switched off"
        in mudanza(
            "power", "set", "h1", "--watts", "95,150,190", "--mac", "52:54:00:AA:00:01", "--keep-on", "--unmatched"
        ).stderr
    )
    assert "nothing to change" in mudanza("power", "set", "h1", "--keep-on").stderr
    exported = mudanza("export").stdout
    assert "[hosts.h1.power]" in exported
    assert "h2.power" not in exported
    assert "nothing to change" in mudanza("import", "-", stdin=exported).stderr
    mudanza("power", "set", "h1", "--watts", "", "--mac", "", "--may-be-off")
    assert "power" not in mudanza("export").stdout
    assert "power changed: h1" in mudanza("import", "-", stdin=exported).stderr
    assert mudanza("export").stdout == exported
    mudanza("import", "-", stdin=HOSTS)  # which says nothing of it
    assert mudanza("export").stdout == exported
    assert "95.0" in mudanza("power", "show", "-o", "json").stdout
    assert mudanza("host", "remove", "h1").returncode == 0
    assert "power" not in mudanza("export").stdout


@pytest.mark.parametrize("wrong", [("--watts", "90"), ("--watts", "a,b"), ("--watts", "90,80"), ("--mac", "52:54")])
def test_what_cannot_be_is_refused(mudanza: Program, wrong: tuple[str, str]) -> None:
    mudanza("import", "-", stdin=HOSTS)
    assert mudanza("power", "set", "h1", *wrong).returncode == 2
    assert mudanza("power", "set", "h9", "--watts", "1,2").returncode == 2


def outlook(host: str, before: int, after: int, cpus: float = 0.0) -> HostOutlook:
    return HostOutlook(host, 4, 1, HostFigures(before, cpus), HostFigures(after, cpus if after else 0.0))


def test_watts_are_those_of_hosts_as_busy_as_they_are() -> None:
    models = dict.fromkeys(("h1", "h2", "h3"), straight(100, 200))
    found = estimate([outlook("h1", 2, 3, 2.0), outlook("h2", 1, 0, 1.0), outlook("h3", 0, 0)], models, {})
    assert (found.now, found.idle_off, found.after) == (150 + 125 + 100, 150 + 125, 150)
    assert (found.empty_now, found.off) == (("h3",), ("h2", "h3"))
    kept = estimate([outlook("h1", 1, 1), outlook("h2", 0, 0)], models, {"h2": "it serves"})
    assert (kept.after, kept.off, kept.stay) == (200, (), {"h2": "it serves"})
    assert list(in_words(kept, 0, "EUR"))[1:] == [
        "power: after the plan no host can be off",
        "power: h2 is empty then and stays on: it serves",
    ]


def test_the_last_of_a_zone_and_what_a_rule_needs_stay_on() -> None:
    cluster = scenario("spread", yaml.safe_load(SPREAD)).cluster
    zones = {"a": ("h1", "h2"), "b": ("h3",)}
    rules = Rules(zones=zones, rules=(Rule("licence", RuleKind.MUST, ("web-1",), hosts=("h1", "h2")),))
    found = needed(cluster, rules, ["h1", "h2", "h3"], {"h9": "gone"})
    assert found == {"h3": "it is the last one of zone b that is on"}
    found = needed(cluster, Rules(rules=rules.rules), ["h2", "h3"], {})
    assert found == {"h2": "rule 'licence' leaves its VMs no other host that is on"}
    assert "the last one that is on" in needed(cluster, Rules(), ["h2"], {})["h2"]


def test_switching_is_written_down_by_one_at_a_time(database: str) -> None:
    engine = open_database(database)
    Inventory(engine).add_host(HostEntry("h1", "qemu+tls://h1/system"))
    powers = HostPowers(engine)
    assert powers.last() == {}
    right = power_of_one(engine, "h1").take()
    with pytest.raises(BlockedError, match="is being switched by another controller"):
        power_of_one(engine, "h1").take()
    number = powers.begin("h1", Wish.OFF, "ana", right, closed=True)
    assert away(powers.last()) == {"h1": Standing.GOING_OFF}
    powers.ended(number, "seen off", done=True)
    assert away(powers.last()) == {"h1": Standing.ASLEEP}
    number = powers.begin("h1", Wish.ON, "ana", right, closed=True)
    assert away(powers.last()) == {"h1": Standing.WAKING}
    powers.ended(number, "it does not answer", done=False)
    assert away(powers.last()) == {"h1": Standing.WAKING}
    number = powers.begin("h1", Wish.ON, "ana", right, closed=False)
    powers.ended(number, "it is well", done=True)
    assert away(powers.last()) == {}
    assert (powers.last()["h1"].said, powers.last()["h1"].closed) == ("it is well", False)
    Inventory(engine).remove_host("h1")
    assert powers.last() == {}


def test_a_backup_has_it(tmp_path: Path) -> None:
    engine = open_database(str(tmp_path / "m.db"))
    Inventory(engine).add_host(HostEntry("h1", "qemu+tls://h1/system"))
    HostPowers(engine).put("h1", HostPower(straight(90, 180), "52:54:00:00:00:01", True))
    right = power_of_one(engine, "h1").take()
    HostPowers(engine).ended(HostPowers(engine).begin("h1", Wish.OFF, "ana", right, closed=False), "off", done=True)
    back_up(engine, tmp_path / "backup.db")
    other = open_database(str(tmp_path / "other.db"))
    restore(other, tmp_path / "backup.db")
    assert HostPowers(other).of("h1") == HostPower(straight(90, 180), "52:54:00:00:00:01", True)
    assert away(HostPowers(other).last()) == {"h1": Standing.ASLEEP}
    with pytest.raises(UsageError):
        HostPower(mac="nonsense")


def test_what_is_measured_counts_in_place_of_what_was_said() -> None:
    models = dict.fromkeys(("h1", "h2"), straight(100, 200))
    looks = [outlook("h1", 2, 3, 2.0), outlook("h2", 1, 0, 0.0)]
    found = estimate(looks, models, {}, {"h1": 180.0})
    assert (found.now, found.after) == (180 + 100, 180.0), "h1 draws a fifth more than it was said to, now and then"
    assert list(in_words(found, 0, "EUR"))[1] == "power: measured of them: h1 180 W; by what was said it would be 150 W"
    flat = estimate(looks, {"h2": straight(90, 90)}, {}, {"h2": 90.0})
    assert (flat.now, flat.after, flat.unknown) == (90.0, 0, ("h1",))


def test_a_bmc_that_cannot_be_asked_is_told_of_and_the_estimate_is_made(planning: Program) -> None:
    fences = Fences(open_database(str(planning.config.parent / "state" / "mudanza.db")))
    fences.put("h1", [Device("bmc", "redfish", 1, {"ip": "127.0.0.1", "ipport": "1"}, {"password": "none"})])
    for host in ("h1", "h2", "h3"):
        planning("power", "set", host, "--watts", "100,200")
    told = planning("plan", "consolidate", "--power").stdout
    assert "power: bmc (redfish) of h1 does not say" in told
    assert "power: hosts draw" in told
