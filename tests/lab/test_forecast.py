"""What a busy guest dirties is measured well enough, without its noticing, and forecasts stand beside outcomes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.busyness import changed_within
from mudanza.journal.database import open_database
from mudanza.journal.inventory import Inventory
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.host import HostEntry
from mudanza.model.units import MIB
from tests.lab.command import Mudanza

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

LINK = 12 * MIB
PERIOD = 3
"""Seconds."""


@pytest.fixture
def steady(lab: Lab) -> Iterator[Guest]:
    """A guest that rewrites a working set of half its memory from one end to the other, faster than the link."""
    spec = GuestSpec("steady", memory=256 * MIB, disk=32 * MIB, working_set=128 * MIB, write_rate=24 * MIB)
    made = create_guest(lab, spec, on="h1")
    for host in ("h1", "h2"):
        lab.set_uplink(host, LINK)
    yield made
    for host in ("h1", "h2"):
        lab.set_uplink(host, None)
    made.remove()


def test_what_a_busy_guest_dirties_is_read_within_a_factor_of_two(lab: Lab, steady: Guest) -> None:
    with Connections([HostEntry("h1", lab.uri("h1"))]) as connections:
        before = steady.stats()
        read = changed_within(connections.get("h1"), steady.uuid, PERIOD) / PERIOD
        after = steady.stats()
    passed = (after["monotonic_ns"] - before["monotonic_ns"]) / 1e9
    really = (after["memory_written"] - before["memory_written"]) / passed
    assert 0 < really * PERIOD < 128 * MIB, "else it would write some pages twice within the period"
    assert read / 2 <= really <= read * 2
    steady.verify_memory()


@pytest.mark.soak
def test_a_forecast_is_stored_beside_its_outcome(newcomer: Mudanza, steady: Guest) -> None:
    mudanza = newcomer  # who has not learnt from other tests what the link carries
    asked = mudanza("forecast", "steady", "--to", "h2", "--bandwidth", "12MiB/s", "-o", "json").data["targets"][0]
    assert asked["forecast"]["dirty_rate"] > 0
    assert asked["forecast"]["strategy"] == "post-copy after one pass"
    ended = mudanza("migrate", "steady", "--to", "h2", "--bandwidth", "12MiB/s", "-o", "json")
    (start,) = [event for event in ended.events if event["event"] == "start"]
    assert start["forecast"]["link"]["rate"] == 12 * MIB
    assert ended.report["forecast"] == start["forecast"]
    (decide,) = [step for step in mudanza("jobs", "-o", "json").data[0]["steps"] if step["name"] == "decide"]
    assert decide["outcome"]["forecast"] == start["forecast"]
    (overall, *_) = mudanza("forecast", "--accuracy", "-o", "json").data
    assert overall["moves"] >= 1


@pytest.fixture
def newcomer(mudanza: Mudanza, tmp_path: Path) -> Mudanza:
    """The command of a controller that knows the hosts, and nothing of their links."""
    hosts = Inventory(open_database(tomllib.loads(mudanza.config.read_text())["database"])).hosts()
    database, config = str(tmp_path / "new.db"), tmp_path / "new.toml"
    Inventory(open_database(database)).put_hosts(hosts)
    config.write_text(f'database = "{database}"\n')
    return Mudanza(mudanza.lab, config)


def all_there_is(lab: Lab) -> set[str]:
    """Domains and volumes of both hosts."""
    found = set()
    for host in ("h1", "h2"):
        cell = lab.cell(host)
        found |= set(virsh(cell, "list", "--all", "--name").split())
        for pool in virsh(cell, "pool-list", "--name").split():
            virsh(cell, "pool-refresh", pool)
            found |= {f"{host} {line}" for line in virsh(cell, "vol-list", pool).splitlines()}
    return found


@pytest.mark.soak
def test_a_link_that_nothing_is_known_of_is_measured_if_asked(lab: Lab, newcomer: Mudanza, steady: Guest) -> None:
    def link(*options: str) -> dict[str, Any]:
        asked = newcomer("forecast", "steady", "--to", "h2", *options, "-o", "json").data["targets"][0]
        found: dict[str, Any] = asked["forecast"]["link"]
        return found

    before = all_there_is(lab)
    assert link()["why"].startswith("not known")
    measured = link("--probe-link")
    assert measured["why"] == "measured just now"
    assert LINK * 0.7 < measured["rate"] < LINK * 1.15, measured
    for host in ("h1", "h2"):
        lab.set_uplink(host, None)
    assert link("--probe-link")["rate"] > 3 * LINK
    assert all_there_is(lab) == before
    for host in ("h1", "h2"):
        lab.set_uplink(host, LINK)  # one connection fills it, so that none but what the settings say counts
    newcomer.config.write_text(newcomer.config.read_text() + '[forecast]\nlink = "1gbit"\n')
    assert link("--probe-link")["why"] == "as the settings say"
    assert all_there_is(lab) == before
