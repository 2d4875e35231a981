"""Several connections carry a guest's memory faster where each is limited by itself, and are left alone elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mudanza.lab import network
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import know_by_ssh

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

EACH, LINK = 5 * MIB, 12 * MIB


@pytest.fixture(scope="module")
def mudanza(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Mudanza:
    """The command with a journal of its own: what other tests' moves have taught of these links is no longer so."""
    return know_by_ssh(lab, tmp_path_factory.mktemp("streams"))


@pytest.fixture
def filled(lab: Lab) -> Iterator[Guest]:
    """A calm guest with 96 MiB that are not zero."""
    made = create_guest(lab, GuestSpec("filled", memory=192 * MIB, disk=0, working_set=96 * MIB, beat=0.1), on="h1")
    yield made
    for host in ("h1", "h2"):
        network.set_flow_rate(lab.cell(host), None)
        lab.set_uplink(host, None)
    made.remove()


def start_of(result: Any) -> dict[str, Any]:
    (start,) = [event for event in result.events if event["event"] == "start"]
    found: dict[str, Any] = start["forecast"]
    return found


@pytest.mark.soak
def test_where_each_connection_is_limited_several_win(lab: Lab, mudanza: Mudanza, filled: Guest) -> None:
    for host in ("h1", "h2"):
        network.set_flow_rate(lab.cell(host), EACH)
    probed = mudanza("forecast", "filled", "--to", "h2", "--probe-link", "-o", "json").data["targets"][0]["forecast"]
    assert "8 connections carry" in probed["streams_why"]
    rates = {}
    for streams, target in ((1, "h2"), (8, "h1")):
        report = mudanza("migrate", "filled", "--to", target, "--streams", str(streams), "-o", "json").report
        rates[streams] = report["memory_rate"]
        assert report["streams"] == streams
        filled.verify_memory()
    assert rates[1] < EACH * 1.1
    assert rates[8] > rates[1] * 2
    chosen = mudanza("migrate", "filled", "--to", "h2", "-o", "json")
    foreseen = start_of(chosen)
    # However busy the machine is: what eight connections of 5 MiB/s need is little.
    assert foreseen["streams"] == chosen.report["streams"] == 8, foreseen
    filled.verify_memory()


@pytest.mark.soak
def test_where_the_link_is_what_limits_one_is_enough(lab: Lab, mudanza: Mudanza, filled: Guest) -> None:
    for host in ("h1", "h2"):
        lab.set_uplink(host, LINK)
    probed = mudanza("forecast", "filled", "--to", "h2", "--probe-link", "-o", "json").data["targets"][0]["forecast"]
    assert probed["streams"] == 1
    assert probed["streams_why"].startswith("one connection: 4 connections carry"), probed
    moved = mudanza("migrate", "filled", "--to", "h2", "-o", "json")
    assert start_of(moved)["streams"] == moved.report["streams"] == 1


def test_postcopy_at_once_and_several_connections_are_not_both_to_be_had(mudanza: Mudanza, filled: Guest) -> None:
    refused = mudanza("migrate", "filled", "--to", "h2", "--streams", "4", "--policy", "now", "-o", "json", expect=3)
    codes = {finding["code"] for event in refused.events for finding in event.get("findings", ())}
    assert "streams-post-copy" in codes
    assert filled.states()["h1"] == "running"
