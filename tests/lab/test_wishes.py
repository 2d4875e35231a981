"""What a VM wishes of its moves is set by a command or by virsh, heeded, told, and travels with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mudanza.hypervisor.xml.wishes import WISHES_NAMESPACE
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wisher(lab: Lab) -> Iterator[Guest]:
    made = create_guest(lab, GuestSpec("wisher", memory=128 * MIB, disk=0), on="h1")
    yield made
    made.remove()


def wished(mudanza: Mudanza) -> dict[str, str]:
    said: dict[str, str] = mudanza("wish", "wisher", "-o", "json").data[0]["wishes"]["said"]
    return said


def test_wishes_are_set_heeded_and_travel_along(lab: Lab, mudanza: Mudanza, wisher: Guest) -> None:
    mudanza("wish", "wisher", "--policy", "gentle", "--max-downtime", "700ms", "--deadline", "5m")
    mudanza("wish", "wisher", "--deadline", "")
    assert wished(mudanza) == {"policy": "gentle", "max-downtime": "700ms"}
    assert "policy gentle" in mudanza("show", "wisher").out
    foreseen = mudanza("forecast", "wisher", "--to", "h2", "-o", "json").data
    assert foreseen["own_wishes"] == ["policy gentle", "downtime up to 700 ms"]
    report = mudanza("migrate", "wisher", "--to", "h2", "--max-downtime", "400ms", "-o", "json").report
    assert report["own_wishes"] == ["policy gentle"]
    asked = mudanza("jobs", "-o", "json").data[0]["asked"]
    assert (asked["policy"], asked["max_downtime"]) == ("gentle", 0.4)
    assert wished(mudanza) == {"policy": "gentle", "max-downtime": "700ms"}
    for definition in ("--inactive", "--security-info"):
        assert "max-downtime" in virsh(lab.cell("h2"), "dumpxml", wisher.uuid, definition)
    wished_for = [row for row in mudanza("audit", "-o", "json").data if row["command"][:2] == ["wish", "wisher"]]
    assert len(wished_for) == 2, wished_for  # a look is not to change anything


def test_a_wish_nobody_understands_blocks_until_it_is_mended(lab: Lab, mudanza: Mudanza, wisher: Guest) -> None:
    host = next(iter(wisher.states()))
    there = "h1" if host != "h1" else "h2"
    element = ["--key", "w", "--set", "<wishes policy='gentel'/>", "--live", "--config"]
    virsh(lab.cell(host), "metadata", wisher.uuid, WISHES_NAMESPACE, *element)
    refused = mudanza("migrate", "wisher", "--to", there, expect=3)
    assert "wish-unreadable" in refused.err
    assert "gentel" in mudanza("show", "wisher").out
    mudanza("migrate", "wisher", "--to", there, "--policy", "auto")
    mudanza("wish", "wisher", "--policy", "fast", expect=2)
    mudanza("wish", "wisher", "--clear")
    assert mudanza("wish", "wisher", "-o", "json").data[0]["wishes"] is None
    assert "nothing to do" in mudanza("wish", "wisher", "--clear").err
