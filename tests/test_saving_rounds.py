"""Rounds of saving: which host is woken or switched off next, by what was used and what is expected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import insert, select

from mudanza.cli.context import App
from mudanza.journal.course import by_hour, by_vm
from mudanza.journal.database import now, open_database, transaction
from mudanza.journal.host_power import HostPowers, power_of_one
from mudanza.journal.plans import Plans
from mudanza.journal.schema import reading
from mudanza.model.cluster import Cluster
from mudanza.model.host_power import Standing, Wish, away
from mudanza.model.plan import Goal, Plan
from mudanza.model.watts import straight
from mudanza.planning.saving.advising import Advice, advise
from mudanza.planning.saving.forecast import expected
from mudanza.planning.saving.park import Park
from mudanza.planning.saving.terms import Terms
from tests import factories as make
from tests.fence_agent import AGENT, FakeAgent
from tests.program import Program

TERMS = Terms(ceiling=0.8, relief=0.95, relieved=0.95, unsure=0.0, move_price=1.0)
HOUR, WEEK = 3600.0, 7 * 86400.0


def asked(
    vms: list[tuple[int, float]],
    *,
    asleep: tuple[int, ...] = (),
    readings: int = 8,
    soon: float | None = None,
    rested: float = np.inf,
    terms: Terms = TERMS,
) -> Advice:
    """Ask about three hosts of 10 CPUs: where each VM is, and what it used all the time."""
    on = np.ones(3, dtype=np.bool_)
    on[list(asleep)] = False
    recent = np.array([[used] * readings for _, used in vms])
    park = Park(np.full(3, 10.0), [straight(100, 200)] * 3, on, np.array([at for at, _ in vms]), recent)
    return advise(park, {0: "h1", 1: "h2", 2: "h3"}, np.full(3, rested), terms, soon)


def test_one_host_at_a_time_is_switched_off_the_one_with_the_fewest_vms() -> None:
    found = asked([(0, 3.0), (1, 1.0), (1, 1.0), (2, 1.0)])
    assert (found.wake, found.off) == (None, 2)
    assert "h3 can be off" in found.said


def test_nothing_is_switched_off_before_forty_minutes_were_measured() -> None:
    found = asked([(0, 3.0), (2, 1.0)], readings=7)
    assert (found.off, found.said) == (None, "35 minutes were measured; nothing is switched off before 40")


def test_what_is_expected_keeps_hosts_on_and_wakes_them() -> None:
    quiet = [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert asked(quiet, soon=16.0).off == 2
    found = asked(quiet, soon=17.0)
    assert (found.off, found.said) == (None, "all stay on: 17.0 CPUs are expected to be wanted soon")
    found = asked(quiet[:2], asleep=(2,), soon=17.0)
    assert (found.wake, "17.0 CPUs are expected" in found.said) == (2, True)


def test_a_busy_host_wakes_one_at_once_and_one_that_is_only_expected_waits() -> None:
    busy = [(0, 9.8), (1, 6.0)]
    assert asked(busy, asleep=(2,), rested=0.0).wake == 2
    assert asked([(0, 6.0), (1, 6.0)], asleep=(2,), rested=0.0, soon=17.0).wake is None
    assert "no host can be woken" in asked([(0, 9.8), (1, 6.0), (2, 6.0)]).said
    assert asked([(0, 7.9), (1, 7.9)], asleep=(2,)).wake == 2, "no single one is, all together are"


def test_a_woken_host_is_not_switched_off_again_at_once() -> None:
    assert asked([(0, 3.0), (2, 1.0)], rested=TERMS.least_on - 1).off is None


def test_an_hour_is_expected_to_be_as_the_same_hour_of_the_weekday_was() -> None:
    at = 400 * WEEK
    seen = [(at - weeks * WEEK, float(10 * weeks)) for weeks in (1, 2, 3)]
    assert expected(seen, at, 0) == pytest.approx(28.0)  # 90 % of the time less
    assert expected(seen[:2], at, 0) is not None, "of any day, then"
    assert expected(seen[:1], at, 0) is None
    assert expected(seen, at - HOUR, HOUR) == pytest.approx(28.0), "the hours ahead count"
    assert expected(seen, at + HOUR, HOUR) is None
    assert expected([(at, 99.0)] * 3, at, 0) is None, "what is not over was not seen"


def test_what_vms_used_is_told_span_by_span(database: str) -> None:
    engine = open_database(database)
    with transaction(engine) as connection:
        instant = connection.scalar(select(now(connection))) or 0.0
        this = instant // 300 * 300
        for vm, ago, cpus in (("a", 600, 1.0), ("a", 599, 3.0), ("a", 100, 4.0), ("b", 550, 5.0), ("b", -10, 9.0)):
            values = {"kind": "vm", "subject": vm, "name": vm, "host": "h1", "span": 30.0, "cpus": cpus}
            rest = {"memory": 1.0, "disk": 0.0, "network": 0.0, "steal": 0.0, "at": this - ago}
            connection.execute(insert(reading).values(**values, **rest))
    assert by_vm(engine, 2, 300.0, instant) == {"a": (2.0, 4.0), "b": (5.0, None)}


def test_what_all_used_is_told_hour_by_hour(database: str) -> None:
    engine = open_database(database)
    seen = (("a", 60, 1.0), ("a", 120, 3.0), ("b", 60, 5.0), ("b", HOUR + 60, 7.0), ("b", 2 * HOUR, 99.0))
    with transaction(engine) as connection:
        instant = connection.scalar(select(now(connection))) or 0.0
        this = instant // HOUR * HOUR
        for vm, at, cpus in seen:
            values = {"kind": "vm", "subject": vm, "name": vm, "host": "h1", "span": 30.0, "cpus": cpus}
            rest = {"memory": 1.0, "disk": 0.0, "network": 0.0, "steal": 0.0, "at": this - 2 * HOUR + at}
            connection.execute(insert(reading).values(**values, **rest))
    assert by_hour(engine, 5, instant) == ((this - 2 * HOUR, 7.0), (this - HOUR, 7.0))


HOSTS = """
[planning]
shared_pools = ["default"]
[hosts.h1]
uri = "qemu+tls://h1/system"
[hosts.h2]
uri = "qemu+tls://h2/system"
[hosts.h3]
uri = "qemu+tls://h3/system"
"""
UUIDS = {name: f"00000000-0000-4000-8000-00000000000{number}" for number, name in enumerate(("db", "web"), 1)}


class Scene:
    """Three hosts, two VMs, and what they used for an hour."""

    def __init__(self, mudanza: Program, place: Path, patch: pytest.MonkeyPatch) -> None:
        agent = FakeAgent.at(place / "agents")
        self.mudanza = mudanza
        self.engine = open_database(str(mudanza.config.parent / "state" / "mudanza.db"))
        self.config = f'{mudanza.config.read_text()}[fencing]\nagents = ["{agent.place}"]\n[power]\nreserve = 0\n'
        self.saving("off")
        mudanza("import", "-", stdin=HOSTS)
        for host in ("h1", "h2", "h3"):
            mudanza("fence", "set", host, "bmc", "--agent", AGENT, "--option", f"plug={host}", "--unmatched")
        self.where: dict[str, str] = {"db": "h1", "web": "h2"}
        patch.setattr(App, "read_cluster", lambda _self, _connections: self.cluster())

    def saving(self, how: str) -> None:
        self.mudanza.config.write_text(f'{self.config}saving = "{how}"\n')

    def cluster(self) -> Cluster:
        hosts = tuple(make.host(name) for name in ("h1", "h2", "h3"))
        vms = tuple(make.vm(name=name, uuid=UUIDS[name], host=host, disks=()) for name, host in self.where.items())
        return Cluster(hosts, vms)

    def measured(self, used: Mapping[str, float]) -> None:
        with transaction(self.engine) as connection:
            instant = connection.scalar(select(now(connection))) or 0.0
            for vm, cpus in used.items():
                for span in range(1, 13):
                    values = {"kind": "vm", "subject": UUIDS[vm], "name": vm, "host": self.where[vm], "cpus": cpus}
                    rest = {"memory": 1.0, "disk": 0.0, "network": 0.0, "steal": 0.0, "span": 30.0}
                    connection.execute(insert(reading).values(**values, **rest, at=instant - span * 300.0))


@pytest.fixture
def scene(mudanza: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(mudanza, tmp_path, monkeypatch)


def test_where_saving_is_off_it_is_only_said(scene: Scene) -> None:
    scene.measured({"db": 1.0, "web": 0.5})
    told = scene.mudanza("power", "once").stderr
    assert "h3 can be off" in told
    assert "do it: mudanza power off h3" in told
    assert HostPowers(scene.engine).last() == {}


def test_without_readings_nothing_is_switched_off(scene: Scene) -> None:
    assert "nothing is switched off before 40" in scene.mudanza("power", "once").stderr


def test_an_empty_host_is_switched_off_by_itself(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.measured({"db": 1.0, "web": 0.5})
    scene.saving("auto")
    switched: list[str] = []
    monkeypatch.setattr("mudanza.operations.switching.Switcher.off", lambda _self, host, **_more: switched.append(host))
    monkeypatch.setattr("mudanza.operations.switching.off", lambda *words, **_more: (_no_moves(), words[3]))
    assert scene.mudanza("power", "once").returncode == 0
    assert switched == ["h3"]


def _no_moves() -> Plan:
    return Plan(Goal.DRAIN, "nobody is on it")


def test_what_was_begun_is_gone_on_with(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.saving("auto")
    powers = HostPowers(scene.engine)
    right = power_of_one(scene.engine, "h3").take()
    powers.begin("h3", Wish.OFF, "another controller", right, closed=False)
    right.let_go()
    done: list[str] = []
    monkeypatch.setattr("mudanza.operations.switching.Switcher.off", lambda _self, host, **_more: done.append(host))
    assert "h3 is off" in scene.mudanza("power", "once").stderr
    assert done == ["h3"]
    assert away(powers.last()) == {"h3": Standing.GOING_OFF}


def test_a_sleeping_host_is_woken_where_one_is_too_busy(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.mudanza("power", "once")  # which keeps what h3 has
    scene.measured({"db": 7.9, "web": 0.5})
    powers = HostPowers(scene.engine)
    right = power_of_one(scene.engine, "h3").take()
    powers.ended(powers.begin("h3", Wish.OFF, "ana", right, closed=False), "off", done=True)
    right.let_go()
    awake = scene.cluster()
    silent = Cluster((*awake.hosts[:2], make.host("h3", error="no route")), awake.vms)
    monkeypatch.setattr(App, "read_cluster", lambda _self, _connections: silent)
    told = scene.mudanza("power", "once").stderr
    assert "h3 is to be woken: h1 has 99% of its CPUs in use" in told
    scene.saving("manual")
    woken: list[str] = []
    monkeypatch.setattr("mudanza.operations.switching.Switcher.on", lambda _self, host: woken.append(host))
    scene.mudanza("power", "once")
    assert woken == ["h3"], "VMs wait for it: nobody is asked"


def test_the_rules_of_places_say_which_stay(scene: Scene) -> None:
    scene.measured({"db": 1.0, "web": 0.5})
    for host in ("h2", "h3"):
        scene.mudanza("power", "set", host, "--keep-on")
    assert "h1 can be off" in scene.mudanza("power", "once").stderr
    scene.mudanza("power", "set", "h1", "--keep-on")
    assert "all hosts that are on are needed" in scene.mudanza("power", "once").stderr
    assert Plans(scene.engine).unfinished() == ()
