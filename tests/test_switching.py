"""Hosts that are switched off to save power: seen off, woken, found well, and not taken for dead meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mudanza.availability.switching import seen_off, unfit
from mudanza.availability.watching import Round, Signs, Standing, Terms, decide
from mudanza.cli.context import App
from mudanza.journal.database import open_database
from mudanza.journal.host_power import HostPowers, power_of_one
from mudanza.journal.inventory import Inventory
from mudanza.model.cluster import Cluster
from mudanza.model.fencing import Device, Order, Reply
from mudanza.model.finding import Finding, Level
from mudanza.model.host import HostEntry, Pool
from mudanza.model.host_power import Standing as Power
from mudanza.model.host_power import Wish, away
from mudanza.model.vm import VmState
from mudanza.operations.waking import magic_packet, wake
from tests import factories as make
from tests.fence_agent import AGENT, FakeAgent
from tests.program import Program

BMC, PDU_1, PDU_2 = Device("bmc", "fence_x"), Device("a", "fence_y", 2), Device("b", "fence_y", 2)


def status(device: Device, code: int | None) -> Reply:
    return Reply(device.name, Order.STATUS, code)


def test_a_host_is_seen_off_where_all_devices_of_a_level_say_so() -> None:
    both = (BMC, PDU_1, PDU_2)
    outlets_on = [status(BMC, 2), status(PDU_1, 0), status(PDU_2, 0)]
    assert seen_off(both, outlets_on) == "shut down, and then found off: bmc (fence_x)"
    assert "a (fence_y), b (fence_y)" in seen_off(both, [status(BMC, None), status(PDU_1, 2), status(PDU_2, 2)])
    assert seen_off(both, [status(BMC, 0), status(PDU_1, 2), status(PDU_2, 0)]) == ""
    assert seen_off(both, []) == ""


def test_a_woken_host_is_well_once_what_was_active_before_is_so_again() -> None:
    pool = Pool("vms", "dir", "/vms", active=True, capacity=1, available=1)
    host = replace(make.host("h1"), pools=(pool,))
    assert unfit(host, host, ()) == ()
    [why] = unfit(replace(host, pools=(replace(pool, active=False),)), host, ())
    assert why == "its pools vms are not active, and were before"
    assert unfit(replace(host, pools=None), None, ()) == ("its storage cannot be asked",)
    assert unfit(replace(host, error="no route"), host, ()) == ("it was not seen: no route",)
    doctor = [Finding(level, "x", "h1", f"a {level}", "") for level in Level]
    assert unfit(host, host, doctor) == ("a blocker",)


def test_a_host_that_sleeps_is_not_taken_for_dead_and_does_not_count_for_the_brake() -> None:
    def signs(*, asleep: bool) -> Round:
        dead = Signs(False, ping=False, ssh=False, witnesses={"h1": False}, asleep=asleep)
        return Round(100.0, {"h1": Signs(True), "h2": dead, "h3": replace(dead, asleep=False)})

    quiet, alarmed = (decide({}, signs(asleep=asleep), Terms()) for asleep in (True, False))
    assert quiet.hosts["h2"].standing is Standing.ASLEEP
    assert "h2 is off on purpose" in quiet.said
    assert quiet.hosts["h3"].standing is Standing.SUSPECT
    assert "we may be cut off" in alarmed.said
    assert "we may be cut off" not in quiet.said
    woken = decide(quiet.hosts, Round(101.0, {"h2": Signs(True, asleep=True)}), Terms())
    assert woken.hosts["h2"].standing is Standing.WELL


def test_the_word_that_wakes_a_network_card() -> None:
    packet = magic_packet("52:54:00:12:34:56")
    assert len(packet) == 6 + 16 * 6
    assert packet[:12].hex() == "ffffffffffff525400123456"


def test_it_is_said_where_nobody_could_send_that_word(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "no-such-card")])
    assert not wake("52:54:00:12:34:56", [HostEntry("h2", "qemu+tls://h2/system")], said.append)
    assert "cannot be told to wake from here" in said[0]
    assert "cannot be told to wake from h2: host h2 is not reached by ssh" in said[1]


HOSTS = """
[hosts.h1]
uri = "qemu+tls://h1/system"
[hosts.h2]
uri = "qemu+tls://h2/system"
"""


@pytest.fixture
def agent(mudanza: Program, tmp_path: Path) -> FakeAgent:
    """An agent that switches h1 and h2."""
    made = FakeAgent.at(tmp_path / "agents")
    mudanza.config.write_text(f'{mudanza.config.read_text()}[fencing]\nagents = ["{made.place}"]\n[power]\noff = 0.1\n')
    mudanza("import", "-", stdin=HOSTS)
    return made


@pytest.fixture
def awake(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Which hosts answer; their VMs are none."""
    alive = {"h1", "h2"}
    monkeypatch.setattr("mudanza.operations.switching.answers", lambda _means, host: host in alive)
    hosts = tuple(make.host(name) for name in ("h1", "h2"))
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: Cluster(hosts, ()))
    return alive


def powers(mudanza: Program) -> HostPowers:
    return HostPowers(open_database(str(mudanza.config.parent / "state" / "mudanza.db")))


def closed(mudanza: Program) -> dict[str, bool]:
    engine = open_database(str(mudanza.config.parent / "state" / "mudanza.db"))
    return {entry.name: entry.maintenance for entry in Inventory(engine).hosts()}


def begun(mudanza: Program, host: str, wish: Wish, *, done: bool | None) -> None:
    """Have it written down as a controller would have done that got so far."""
    known = powers(mudanza)
    engine = open_database(str(mudanza.config.parent / "state" / "mudanza.db"))
    right = power_of_one(engine, host).take()
    number = known.begin(host, wish, "ana", right, closed=False)
    if done is not None:
        known.ended(number, "so it was", done=done)
    Inventory(engine).set_maintenance(host, on=True)
    right.let_go()


def device(mudanza: Program, host: str) -> None:
    words = ("--agent", AGENT, "--option", f"plug={host}", "--unmatched")
    assert mudanza("fence", "set", host, "bmc", *words).returncode == 0


def test_a_host_that_nothing_sees_off_is_not_switched_off(mudanza: Program, agent: FakeAgent, awake: set[str]) -> None:
    done = mudanza("power", "off", "h1")
    assert (done.returncode, "no fence device" in done.stderr) == (2, True)
    assert closed(mudanza) == {"h1": False, "h2": False}


def test_a_host_that_has_to_stay_on_does(mudanza: Program, agent: FakeAgent, awake: set[str]) -> None:
    device(mudanza, "h1")
    mudanza("power", "set", "h1", "--keep-on")
    done = mudanza("power", "off", "h1")
    assert (done.returncode, "stays on: it is to be kept on" in done.stderr) == (3, True)
    assert powers(mudanza).last() == {}


def test_a_host_with_vms_is_not_shut_down(
    mudanza: Program, agent: FakeAgent, awake: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device(mudanza, "h1")
    hosts = tuple(make.host(name) for name in ("h1", "h2"))
    busy = Cluster(hosts, (make.vm(name="web", host="h1", state=VmState.RUNNING),))
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: busy)
    monkeypatch.setattr("mudanza.operations.host_off._emptied", lambda *_: True)
    monkeypatch.setattr("mudanza.operations.switching.off", lambda *_words, **_more: (_Nothing(), None))
    done = mudanza("power", "off", "h1", "--force")
    assert (done.returncode, "not empty: web" in done.stderr) == (3, True)


class _Nothing:
    moves = unmoved = ()


def test_one_that_was_told_to_shut_down_is_seen_off_by_the_next_try(
    mudanza: Program, agent: FakeAgent, awake: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device(mudanza, "h1")
    begun(mudanza, "h1", Wish.OFF, done=None)
    awake.remove("h1")
    monkeypatch.setattr("mudanza.operations.switching.off", lambda *_words, **_more: (_Nothing(), None))
    agent.will("h1", status=0)
    done = mudanza("power", "off", "h1", "--force")
    assert (done.returncode, "no device has seen it off" in done.stderr) == (5, True)
    begun(mudanza, "h1", Wish.OFF, done=None)
    agent.will("h1", status=2)
    assert mudanza("power", "off", "h1", "--force").returncode == 0
    assert away(powers(mudanza).last()) == {"h1": Power.ASLEEP}
    assert closed(mudanza)["h1"]
    assert "off" not in [action for action, _ in agent.actions], "it is never cut off"


def test_a_silent_host_that_nobody_switched_off_is_not_taken_for_asleep(
    mudanza: Program, agent: FakeAgent, awake: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device(mudanza, "h1")
    awake.remove("h1")
    monkeypatch.setattr("mudanza.operations.switching.off", lambda *_words, **_more: (_Nothing(), None))
    done = mudanza("power", "off", "h1", "--force")
    assert (done.returncode, "it may be dead" in done.stderr) == (3, True)
    assert away(powers(mudanza).last()) == {}


def test_a_host_is_woken_and_opened_once_it_is_well(
    mudanza: Program, agent: FakeAgent, awake: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device(mudanza, "h1")
    begun(mudanza, "h1", Wish.OFF, done=True)
    awake.remove("h1")
    (agent.place / "h1.on").write_text("0")
    faults = [("its pools are not there",), ()]
    monkeypatch.setattr("mudanza.operations.switching.Switcher._unfit", lambda _self, _host: faults.pop(0))
    monkeypatch.setattr("mudanza.operations.switching.LOOK_AGAIN", 0.01)
    assert mudanza("power", "on", "h1").returncode == 0
    assert agent.actions == [("on", "h1")]
    assert away(powers(mudanza).last()) == {}
    assert not closed(mudanza)["h1"]


def test_a_host_that_is_off_on_purpose_is_shown_so(
    mudanza: Program, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = (make.host("h1"), make.host("h2", error="no route"))
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: Cluster(hosts, ()))
    assert "not seen" in mudanza("hosts").stdout
    begun(mudanza, "h2", Wish.OFF, done=True)
    shown = mudanza("hosts").stdout
    assert "asleep" in shown
    assert "not seen" not in shown


def test_a_woken_host_that_is_not_well_stays_closed(
    mudanza: Program, agent: FakeAgent, awake: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mudanza.config.write_text(mudanza.config.read_text() + "boot = 0.05\n")
    device(mudanza, "h1")
    begun(mudanza, "h1", Wish.OFF, done=True)
    monkeypatch.setattr("mudanza.operations.switching.Switcher._unfit", lambda _self, _host: ("no pools",))
    monkeypatch.setattr("mudanza.operations.switching.LOOK_AGAIN", 0.01)
    done = mudanza("power", "on", "h1")
    assert (done.returncode, "is not well" in done.stderr) == (5, True)
    assert away(powers(mudanza).last()) == {"h1": Power.WAKING}
    assert closed(mudanza)["h1"]


def test_a_host_that_nothing_wakes_is_said_to_be_so(mudanza: Program, agent: FakeAgent, awake: set[str]) -> None:
    done = mudanza("power", "on", "h2")
    assert (done.returncode, "nothing can switch host h2 on" in done.stderr) == (2, True)
