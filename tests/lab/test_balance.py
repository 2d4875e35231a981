"""A cluster of real hosts is brought into balance: one is hot, the fitting guest moves, and then all is well."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.checking import exported
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true
from tests.lab.test_fleet import assert_unbroken
from tests.lab.test_migrate import MakeGuest, make_guest, slow

__all__ = ["make_guest"]

pytestmark = pytest.mark.lab

CROWD = {"hot": "h1", "web": "h1", "app": "h1", "mail": "h2", "wiki": "h3"}
"""Guests, by name, and where they begin."""
MEASURED = "68s"
"""For how long it is measured: no plan goes by less than a minute."""
RULES = {"level": 5, "memory_weight": 0.0, "disk_weight": 0.0, "network_weight": 0.0, "vm_rest": 0.0, "host_rest": 0.0}
"""As eager as can be and without a rest, so that finding nothing to do says something."""


@pytest.fixture
def own(lab: Lab, mudanza: Mudanza, tmp_path: Path) -> Mudanza:
    """The command with a database of its own: rules and readings of these tests are nobody else's."""
    config = tmp_path / "own.toml"
    config.write_text(f'database = "{tmp_path / "own.db"}"\n[balance]\nevery = 3\n')
    hosts = tmp_path / "hosts.toml"
    hosts.write_text(tomli_w.dumps({"hosts": exported(mudanza)}))
    found = Mudanza(lab, config)
    found("import", str(hosts))
    return found


def rule(mudanza: Mudanza, folder: Path, rules: Mapping[str, object], apart: tuple[str, ...] = ()) -> None:
    """Set the rules of the cluster."""
    lines = ["[planning]", *(f"{name} = {json.dumps(value)}" for name, value in rules.items())]
    if apart:
        lines += ["[[planning.rules]]", 'name = "replicas"', 'kind = "apart"', f"vms = {json.dumps(apart)}"]
    file = folder / "rules.toml"
    file.write_text("\n".join(lines) + "\n")
    mudanza("import", str(file))


@contextmanager
def nobody_else_works(lab: Lab) -> Iterator[None]:
    """Have the hosts' own counters stand still: they are those of the one machine that all of them are on, whose other
    work would be on each of them. What guests use is told by their QEMUs."""
    for host in lab.hosts:
        lab.cell(host).run(["sh", "-ec", "cp /proc/stat /run/stat.still && mount --bind /run/stat.still /proc/stat"])
    try:
        yield
    finally:
        for host in lab.hosts:
            lab.cell(host).run(["umount", "/proc/stat"])


@contextmanager
def crowd(lab: Lab) -> Iterator[dict[str, Guest]]:
    """Have small guests; one burns whatever CPU it gets."""
    made: dict[str, Guest] = {}

    def make(name: str) -> None:
        spec = GuestSpec(name, memory=112 * MIB, disk=32 * MIB, beat=0.2, pool="shared")
        made[name] = create_guest(lab, spec, on=CROWD[name])

    with ThreadPoolExecutor(4) as pool:
        begun = [pool.submit(make, name) for name in CROWD]
    try:
        for each in begun:
            each.result()
        made["hot"].command("burn 1")
        yield made
    finally:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(Guest.remove, made.values()))


@pytest.mark.timeout(600)
def test_a_hot_host_is_relieved_and_then_there_is_nothing_to_do(lab: Lab, own: Mudanza, tmp_path: Path) -> None:
    rule(own, tmp_path, RULES)
    file = tmp_path / "plan.json"
    with nobody_else_works(lab), crowd(lab) as guests:
        own("load", "sample", "--every", "4s", "--for", MEASURED)
        plan = own("plan", "balance", "--save", str(file), "-o", "json").data
        loads = {each["name"]: each["load"]["cpus"]["p95"] for each in own("load", "-o", "json").data["vms"]}
        assert max(loads, key=loads.__getitem__) == "hot"
        assert plan["moves"], plan["summary"]
        assert "h1" in {move["source"] for move in plan["moves"]}
        assert plan["score_after"] < plan["score_before"]
        for move in plan["moves"]:
            assert_true_reason(move, plan["outlooks"])
        own("apply", str(file))
        assert_unbroken(list(guests.values()))
        for move in plan["moves"]:
            assert guests[move["vm"]].states() == {move["target"]: "running"}
        again = own("plan", "balance", "--exit-code", "-o", "json").data
        assert again["moves"] == []
        assert again["summary"].startswith("nothing to do"), again["summary"]


def assert_true_reason(move: Mapping[str, str], outlooks: list[dict[str, Any]]) -> None:
    """See that a reason's figures are those of the hosts before and after: percentages, within what rounding does."""
    source, target = move["source"], move["target"]
    shares = {
        (each["host"], when): 100 * each[when]["cpus"] / each["cpus_total"]
        for each in outlooks
        for when in ("before", "after")
    }
    told = re.match(
        rf"{source} has (\d+)% of its CPU used, {target} (\d+)%, .* along: (\d+)% and (\d+)% after the plan",
        move["reason"],
    )
    assert told, move["reason"]
    expected = [shares[host, when] for when in ("before", "after") for host in (source, target)]
    assert [float(each) for each in told.groups()] == pytest.approx(expected, abs=0.6)


@pytest.mark.soak
def test_a_broken_rule_is_mended_by_itself_though_the_controller_is_killed(
    lab: Lab, own: Mudanza, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guests = {name: make_guest(name, memory=256 * MIB, working_set=64 * MIB, pool="shared") for name in ("one", "two")}
    rule(own, tmp_path, {"automation": "auto"}, apart=("one", "two"))
    with slow(lab, "h1", 8 * MIB):
        watching = own.start("balance", "watch", "--no-measure", "-o", "json")
        begun = watching.until_event(lambda event: event["event"] == "round" and event["act"] == "begin")
        assert "replicas" not in begun["said"] or begun["asked"]
        watching.until("copying memory")
        watching.send(signal.SIGKILL)
        watching.end(-signal.SIGKILL)
    standing_by = own("balance", "once", expect=None)
    assert standing_by.code in (0, 3), "the dead one's lease lasts for half a minute at most"
    again = own.start("balance", "watch", "--no-measure", "-o", "json")
    number = str(begun["plan"])
    await_true(
        lambda: own("run", "show", number, "-o", "json").data["state"] == "done", "it is brought to its end", 120
    )
    again.send(signal.SIGINT)
    again.end(0)
    run = own("run", "show", number, "-o", "json").data
    assert len(run["moves"]) == 1, "one move is enough"
    assert len({*guests["one"].states(), *guests["two"].states()}) == 2
    assert_unbroken(list(guests.values()))
    assert own("balance", "-o", "json").data["rounds"]


@pytest.mark.soak
def test_what_waits_for_a_yes_is_done_after_it_or_not_at_all(
    lab: Lab, own: Mudanza, make_guest: MakeGuest, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        make_guest(name, pool="shared")
    rule(own, tmp_path, {"automation": "advise"}, apart=("one", "two"))
    assert "balance is set to advise for it" in own("balance", "once").err
    own("wish", "one", "two", "--balance", "manual")
    assert "waits for a yes" in own("balance", "once").err
    [run] = own("runs", "-o", "json").data
    assert (run["state"], run["kind"]) == ("waits for a yes", "balance")
    assert "waits for a yes" in own("run", "resume", str(run["id"]), expect=2).err
    [move] = run["moves"]
    own("migrate", move["vm"], "--to", next(host for host in lab.hosts if host not in ("h1", move["target"])))
    changed = own("run", "approve", str(run["id"]), expect=3)
    assert "the world is not as the plan found it" in changed.err
    own("migrate", move["vm"], "--to", "h1")
    own("run", "approve", str(run["id"]))
    assert move["vm"] in virsh(lab.cell(move["target"]), "list", "--name")
