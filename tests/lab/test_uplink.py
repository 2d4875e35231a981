"""A host lives, and its guests have lost their network: they are moved, live, to hosts that have it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import create_guest
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true, know_by_ssh

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def in_maintenance(mudanza: Mudanza) -> list[str]:
    return [row["entry"]["name"] for row in mudanza("hosts", "-o", "json").data if row["entry"]["maintenance"]]


def test_a_dead_uplink_drains_its_host(lab: Lab, tmp_path: Path) -> None:
    mudanza = know_by_ssh(lab, tmp_path)
    with mudanza.config.open("a") as config:
        config.write(
            '[availability]\nuplink = "drain"\nuplink_confirm = 5\nuplinks = ["uplink", "patch1"]\n'
            "[service]\nrefresh = 5\n"
        )
    cluster = tmp_path / "rules.toml"
    cluster.write_text('[planning]\nshared_pools = ["shared"]\n')
    mudanza("import", str(cluster))
    spec = GuestSpec("dark", memory=128 * MIB, beat=0.05, disk=32 * MIB, pool="shared", network="lan2")
    guest = create_guest(lab, spec, "h1")
    beside = create_guest(lab, GuestSpec("lit", memory=128 * MIB, beat=0.05, disk=32 * MIB, pool="shared"), "h1")
    daemon = mudanza.start("serve", "--no-balance", "--socket", str(tmp_path / "socket"))
    try:
        faults.lose_uplink(lab, "h1")
        await_true(lambda: guest.states().get("h1") != "running", "it leaves h1", limit=180)
        guest.await_answer()
        assert "running" in guest.states().values()
        assert beside.states()["h1"] == "running", "it has its network, and stays"
        assert in_maintenance(mudanza) == ["h1"]
        faults.regain_uplink(lab, "h1")
        await_true(lambda: not in_maintenance(mudanza), "h1 is open again", limit=120)
    finally:
        faults.regain_uplink(lab, "h1")
        daemon.send(signal.SIGTERM)
        told = daemon.end(expect=None)
        print(told.err)
        guest.remove()
        beside.remove()
    assert "h1 lives, and its guests on br1 have lost their network" in told.err
    assert "the uplinks of h1 are well; it is open again" in told.err
