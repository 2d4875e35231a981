"""Plans carried out on real hosts: a host emptied and filled again, a controller killed, a world that has changed."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from mudanza.lab.guest import Guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.test_migrate import MakeGuest, expire_leases, make_guest, slow
from tests.lab.tiny import tiny

__all__ = ["make_guest"]

pytestmark = pytest.mark.lab


def places(guests: Sequence[Guest]) -> list[dict[str, str]]:
    return [guest.states() for guest in guests]


def assert_unbroken(guests: Sequence[Guest]) -> None:
    """See that no guest has lost a heartbeat it wrote, nor a page of its memory."""
    for guest in guests:
        guest.verify()


def test_a_host_is_emptied_closed_and_filled_again(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guests = [make_guest(f"home{n}") for n in range(3)]
    entered = mudanza("maintenance", "enter", "h1", "-o", "json")
    assert next(event for event in entered.events if event["event"] == "plan ended")["exit_code"] == 0
    assert all(list(each) != ["h1"] and list(each.values()) == ["running"] for each in places(guests))
    assert_unbroken(guests)
    refused = mudanza("migrate", "home0", "--to", "h1", expect=3)
    assert "in maintenance" in refused.err
    assert "mudanza maintenance leave h1" in refused.err
    mudanza("migrate", "home0")
    assert list(guests[0].states()) != ["h1"], "a host in maintenance takes nobody"
    mudanza("maintenance", "leave", "h1")
    assert places(guests) == [{"h1": "running"}] * 3
    assert_unbroken(guests)
    assert "nothing is to be moved" in mudanza("maintenance", "leave", "h1").err


def test_blockers_are_told_before_anything_begins(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("mover")
    device = "<filesystem type='mount'><source dir='/tmp'/><target dir='x'/></filesystem>"
    with tiny(lab, "tied", run=True, extra=device):
        refused = mudanza("maintenance", "enter", "h1", expect=3)
        assert "tied" in refused.err
        assert "cannot leave h1 while they run" in refused.err
        assert guest.states() == {"h1": "running"}
        hosts = {each["entry"]["name"]: each["entry"] for each in mudanza("hosts", "-o", "json").data}
        assert not hosts["h1"]["maintenance"], "nothing was begun, so it is open as before"
        mudanza("maintenance", "enter", "h1", "--cannot-go-live", "stay", expect=7)
        assert list(guest.states()) != ["h1"]
    mudanza("maintenance", "leave", "h1")
    assert guest.states() == {"h1": "running"}


@pytest.mark.soak
@pytest.mark.parametrize("policy", ["cold", "shutdown"])
def test_who_cannot_go_live_goes_cold_or_is_shut_down_and_is_back_in_the_end(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest, policy: str
) -> None:
    made = [
        make_guest("free"),
        make_guest("tied", devices="<filesystem type='mount'><source dir='/tmp'/><target dir='x'/></filesystem>"),
    ]
    entered = mudanza("maintenance", "enter", "h1", "--cannot-go-live", policy)
    assert "tied" in entered.err, "who cannot go live is told"
    free, tied = places(made)
    assert list(free.values()) == ["running"]
    assert list(free) != ["h1"]
    assert (list(tied) != ["h1"], list(tied.values())) == (
        (True, ["running"]) if policy == "cold" else (False, ["shut off"])
    )
    if policy == "cold":  # live it could not come, either: it stays, and is told; then it comes as it went
        assert "tied" in mudanza("maintenance", "leave", "h1", expect=7).err
        assert list(places(made)[1]) != ["h1"]
        mudanza("maintenance", "leave", "h1", "--cannot-go-live", "cold")
    else:
        mudanza("maintenance", "leave", "h1")
    assert places(made) == [{"h1": "running"}] * 2
    for each in made:
        each.await_answer()
    assert_unbroken(made)


@pytest.mark.soak
def test_who_does_not_shut_down_for_maintenance_counts_as_not_done(lab: Lab, mudanza: Mudanza, tmp_path: Path) -> None:
    config = tmp_path / "impatient.toml"
    config.write_text(f"{mudanza.config.read_text()}[limits]\nshutdown = 2\n")
    device = "<filesystem type='mount'><source dir='/tmp'/><target dir='x'/></filesystem>"
    with tiny(lab, "deaf", run=True, extra=device):
        impatient = Mudanza(lab, config)
        ended = impatient("maintenance", "enter", "h1", "--cannot-go-live", "shutdown", expect=7)
        assert "deaf" in ended.err
        assert "deaf" in virsh(lab.cell("h1"), "list", "--name"), "nobody is cut off"
        mudanza("maintenance", "leave", "h1")


@pytest.mark.soak
def test_a_plan_goes_on_when_its_controller_was_killed(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guests = [make_guest(f"left{n}", memory=256 * MIB, working_set=64 * MIB) for n in range(3)]
    plan = tmp_path / "plan.json"
    mudanza("plan", "drain", "h1", "--save", str(plan))
    with slow(lab, "h1", 8 * MIB):
        running = mudanza.start("apply", str(plan), "--out", "1", "-o", "json")
        number = running.until_event(lambda event: event["event"] == "plan begun")["plan"]
        running.until("copying memory")
        running.send(signal.SIGKILL)
        running.end(-signal.SIGKILL)
    expire_leases(mudanza)
    expire_plans(mudanza)
    assert "abandoned" in mudanza("runs").out
    mudanza("work", "--once")
    shown = mudanza("run", "show", str(number), "-o", "json").data
    assert (shown["state"], shown["exit_code"]) == ("done", 0), shown
    assert len({move["job"] for move in shown["moves"]}) == len(shown["moves"]) == 3
    assert all(list(each) != ["h1"] for each in places(guests))
    assert_unbroken(guests)


def expire_plans(mudanza: Mudanza) -> None:
    """Let the leases of plans be over, as they would be half a minute later."""
    with closing(sqlite3.connect(mudanza.lab.directory / "mudanza.db")) as database, database:
        database.execute("UPDATE plan SET lease_until = 0")


def test_a_world_that_has_changed_is_told_and_nothing_is_touched(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest, tmp_path: Path
) -> None:
    guest = make_guest("planned")
    plan = tmp_path / "plan.json"
    mudanza("plan", "drain", "h1", "--save", str(plan))
    target = json.loads(plan.read_text())["moves"][0]["target"]
    with tiny(lab, "newcomer", on=target, run=True):
        refused = mudanza("apply", str(plan), expect=3)
        assert f"running on {target} besides" in refused.err
        assert "newcomer" in refused.err
    assert guest.states() == {"h1": "running"}
    mudanza("apply", str(plan))
    assert guest.states() == {target: "running"}


@pytest.mark.soak
def test_what_hosts_and_guests_use_is_measured(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    make_guest("calm")
    make_guest("busy", burn=1)
    mudanza("load", "sample", "--every", "2s", "--for", "12s")
    found = mudanza("load", "-o", "json").data
    vms = {each["name"]: each["load"] for each in found["vms"]}
    assert vms["busy"]["samples"] >= 3
    assert vms["busy"]["cpus"]["median"] > 2 * vms["calm"]["cpus"]["median"] > 0
    assert vms["busy"]["memory"]["median"] > 64 * MIB
    hosts = {each["host"]: each for each in found["hosts"]}
    assert hosts["h1"]["cpus"]["median"] >= vms["busy"]["cpus"]["median"]
