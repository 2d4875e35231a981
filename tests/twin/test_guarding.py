"""Hosts are watched on a simulated machine by the product's own loop, and VMs of one that dies are started elsewhere by
its own conductor and restarts: once, and only after a proof, whichever controller dies in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import libvirt
import pytest
from sqlalchemy import select

from mudanza import clock
from mudanza.availability.fence_agents import Agents
from mudanza.availability.fencer import Fencer
from mudanza.availability.observing import Observer
from mudanza.availability.watching import Signs
from mudanza.cli.availability_settings import Availability
from mudanza.cli.context import App
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.twin.host import TwinHost
from mudanza.hypervisor.twin.threads import Controller
from mudanza.journal.fences import Fences
from mudanza.journal.kept import KeptUps
from mudanza.journal.schema import happening
from mudanza.journal.sightings import Sightings
from mudanza.model.fencing import Device, Order, Reply
from mudanza.model.kept import Care, OnHang
from mudanza.model.rules import Rules
from mudanza.operations import cleaning
from mudanza.operations.cleaning import stale
from mudanza.operations.fencing import answers
from mudanza.operations.guarding import Guard
from tests.twin.fleet import Fleet
from tests.twin.scene import new_journal, scene_on
from tests.twin.test_plans import HOSTS, Crew

LIMIT = 600.0
"""Simulated seconds within which something must have come of it."""


class TwinAgents(Agents):
    """Fence agents that switch simulated hosts."""

    def __init__(self, hosts: dict[str, TwinHost]) -> None:
        self.hosts = hosts
        self.mood = "honest"

    def check(self, device: Device) -> None:
        """All of them are as they should be."""

    def tell(self, device: Device, order: Order, turn: Callable[[], None] = lambda: None) -> Reply:
        clock.sleep(2.0)
        host = self.hosts[device.options["plug"]]
        if self.mood == "hanging":
            return Reply(device.name, order, None)
        if order is Order.OFF:
            if self.mood == "honest":
                host.power_off()
            return Reply(device.name, order, 0)
        return Reply(device.name, order, 0 if host.powered else 2)


class World:
    """VMs on h1 that are kept up, and controllers."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.the = crew.fleet.the
        self.twin = self.the.twin
        self.agents = TwinAgents(self.twin.hosts)
        self.fences = Fences(self.the.engine)
        self.vms = {name: self.the.make_vm(name, "h1", shared=True) for name in ("db", "web", "batch")}
        self.the.do(self._prepare)
        self.guards: dict[Controller, clock.Event] = {}

    def _prepare(self) -> None:
        self.the.inventory.put_rules(Rules(shared_pools=("shared",)))
        for host in self.twin.hosts:
            self.fences.put(host, [Device("power", "fence_twin", options={"plug": host})])
        for priority, name in enumerate(("db", "web"), 1):
            KeptUps(self.the.engine).put(self.vms[name], name, priority, 3, "ana", autostart=False)

    def guard(self, name: str) -> Controller:
        """Start a controller that watches."""
        settings = self.crew.fleet.folder / f"{name}.toml"
        settings.write_text(f"database = {self.the.database!r}\n")
        controller, stop = Controller(name), clock.new_event()
        self.guards[controller] = stop
        twin, agents, said = self.twin, self.agents, self.crew.fleet.said

        class Eyes(Observer):
            """What the simulation shows of a host whose libvirt does not answer: others reach it, or not."""

            def _look_for(self, name: str, here: Sequence[str]) -> Signs:
                host = twin.hosts[name]
                lives = host.powered and not host.isolated
                return Signs(False, ping=lives, witnesses={each: lives for each in here if each != name})

        def eyes(connections: Connections, anchors: Sequence[str]) -> Observer:
            return Eyes(connections, anchors)

        def work() -> None:
            app = App(settings, debug=False)
            fencer = Fencer(app.database, agents, lambda host: answers(app, host), said.append)
            try:
                Guard(app, Availability(), fencer, name, said.append, eyes).run(stop)
            finally:
                app.database.dispose()

        self.twin.scheduler.start(work, name, controller)
        return controller

    def end(self, controller: Controller) -> None:
        self.guards[controller].set()
        self.crew.fleet.advance_until(lambda: not controller.threads, f"{controller.name} ends")

    def running(self, name: str) -> list[str]:
        found: list[str] = self.twin.oracle.runs_on(self.vms[name])
        return found

    def until_elsewhere(self, *names: str) -> None:
        def elsewhere() -> bool:
            self.twin.catch_up()
            return all(self.running(name) and self.running(name) != ["h1"] for name in names)

        self.crew.fleet.advance_until(elsewhere, f"{names} run elsewhere: {self.crew.fleet.said}", limit=LIMIT)

    def told(self) -> list[str]:
        """Return what kinds of things webhooks would be told."""
        with self.the.engine.begin() as connection:
            return list(connection.execute(select(happening.c.kind).order_by(happening.c.id)).scalars())

    def remembered(self) -> bool:
        return "h1" in Sightings(self.the.engine).last()

    def assert_sound(self) -> None:
        self.twin.catch_up()
        assert [str(each) for each in self.twin.oracle.violations] == []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    journal = tmp_path / "mudanza.db"
    journal.write_bytes(new_journal())
    with scene_on(str(journal), Random(5).randrange, HOSTS) as the:
        the.twin.strangers.add("stranger")
        yield World(Crew(Fleet(the, tmp_path)))


def watched(world: World) -> tuple[Controller, Controller]:
    """Start a controller that watches and one that works, and let them see where everybody is."""
    guard, worker = world.guard("guard"), world.crew.start("worker")
    world.crew.fleet.advance_until(world.remembered, "h1 was seen", limit=LIMIT)
    return guard, worker


def test_who_is_kept_up_runs_elsewhere_and_nobody_else(world: World) -> None:
    guard, worker = watched(world)
    world.twin.hosts["h1"].power_off()
    world.until_elsewhere("db", "web")
    assert world.running("batch") == []
    world.twin.hosts["h1"].power_on()
    world.crew.scheduler.advance(seconds=300.0)
    world.assert_sound()
    assert world.fences.proof_of("h1") is None, "it was seen alive"
    world.end(guard)
    world.crew.end(worker)
    [run] = world.crew.plans.latest(9)
    assert [(move.about.vm, move.waits_for) for move in run.moves] == [("db", ()), ("web", (1,))]
    told = r".*; silent for (.+) s until it was taken for dead, proven off (.+) s later"
    silent = re.fullmatch(told, run.plan.summary)
    assert silent is not None, run.plan.summary
    assert float(silent[1]) >= Availability().confirm
    assert float(silent[2]) >= 2 * 2.0, "each order takes an agent two seconds"


def test_one_that_was_shut_down_stays_down(world: World) -> None:
    def shut_down() -> None:
        line = world.twin.open("qemu+tls://h1/system")
        line.lookupByUUIDString(world.vms["db"]).destroy()
        line.close()

    world.the.do(shut_down)
    watched(world)
    world.twin.hosts["h1"].power_off()
    world.until_elsewhere("web")
    world.crew.scheduler.advance(seconds=200.0)
    assert world.running("db") == []
    world.assert_sound()


def test_a_dead_libvirtd_is_no_dead_host(world: World) -> None:
    watched(world)
    world.twin.hosts["h1"].stop_libvirtd()
    world.crew.scheduler.advance(seconds=300.0)
    assert world.twin.hosts["h1"].powered
    assert world.fences.last() == {}
    assert world.running("db") == ["h1"]
    world.assert_sound()


def test_no_proof_no_restart(world: World) -> None:
    world.agents.mood = "hanging"
    watched(world)
    world.twin.hosts["h1"].power_off()
    world.crew.scheduler.advance(seconds=300.0)
    assert world.running("db") == []
    assert not world.fences.last()["h1"].proven
    assert world.told() == ["host.not-fenced"], "tried more than once, told once"
    world.agents.mood = "honest"
    world.until_elsewhere("db", "web")
    assert "host.fenced" in world.told()
    world.assert_sound()


def test_of_those_that_vanish_together_none_is_fenced(world: World) -> None:
    watched(world)
    for name in ("h1", "h2"):
        world.twin.hosts[name].isolated = True
        world.twin.world_changed(world.twin.hosts[name])
    world.crew.scheduler.advance(seconds=300.0)
    assert world.fences.last() == {}
    assert all(host.powered for host in world.twin.hosts.values())
    assert world.told() == ["hosts.silent"]
    world.assert_sound()


def test_a_controller_that_dies_between_proof_and_restart_is_followed_by_another(world: World) -> None:
    guard, _ = watched(world)
    world.twin.hosts["h1"].power_off()
    world.crew.fleet.advance_until(lambda: bool(world.fences.last()), "it is being fenced", limit=LIMIT)
    world.twin.kill(guard)
    world.guard("heir")
    world.until_elsewhere("db", "web")
    world.crew.scheduler.advance(seconds=200.0)
    world.assert_sound()


def test_a_persons_word_is_a_proof(world: World) -> None:
    world.agents.mood = "hanging"
    watched(world)
    world.twin.hosts["h1"].power_off()
    world.crew.scheduler.advance(seconds=60.0)
    app_says = Fencer(world.the.engine, world.agents, lambda _host: False, lambda _: None)
    world.the.do(lambda: app_says.confirm("h1", "ana"))
    world.until_elsewhere("db", "web")
    world.assert_sound()


def test_old_definitions_are_taken_away_of_what_runs_elsewhere_and_of_nothing_else(world: World) -> None:
    guard, worker = watched(world)
    world.twin.hosts["h1"].power_off()
    world.until_elsewhere("db", "web")
    world.twin.hosts["h1"].power_on()
    world.crew.scheduler.advance(seconds=120.0)
    world.end(guard)
    world.crew.end(worker)
    [place] = world.running("web")

    def end_web() -> None:
        line = world.twin.open(f"qemu+tls://{place}/system")
        line.lookupByUUIDString(world.vms["web"]).destroy()
        line.close()

    def clean() -> list[str]:
        app = App(world.crew.fleet.folder / "guard.toml", debug=False)
        said: list[str] = []
        with app.connections() as connections:
            for each in stale(app, app.read_cluster(connections)):
                cleaning.clean(app, connections, each, said.append)
        app.database.dispose()
        return said

    world.the.do(end_web)
    said = world.the.do(clean)
    assert len(said) == 1, "web runs nowhere: which copy is the right one only a person can tell"
    assert "h1 has no definition of db any more" in said[0]
    there = world.twin.hosts["h1"].domains
    assert [world.vms[name] in there for name in ("db", "web", "batch")] == [False, True, True]
    assert world.the.do(clean) == []
    world.assert_sound()


# VMs that stop by themselves on a host that lives.


def crash(world: World, name: str) -> None:
    """Kill a VM's QEMU."""
    [host] = world.running(name)
    there = world.twin.hosts[host]
    there.qemu_died(there.domains[world.vms[name]])


def settled(world: World, seconds: float = 60.0) -> None:
    world.crew.scheduler.advance(seconds=seconds)
    world.twin.catch_up()


def stopped(world: World, name: str, act: str) -> None:
    def by_hand() -> None:
        line = world.twin.open("qemu+tls://h1/system")
        getattr(line.lookupByUUIDString(world.vms[name]), act)()
        line.close()

    world.the.do(by_hand)


def test_one_whose_qemu_crashed_is_started_again_where_it_was(world: World) -> None:
    watched(world)
    for name in ("db", "batch"):
        crash(world, name)
    stopped(world, "web", "destroy")
    settled(world)
    assert world.running("db") == ["h1"]
    assert world.running("web") == [], "somebody has shut it down"
    assert world.running("batch") == [], "nobody wants it kept up"
    [job] = world.the.jobs.latest(9)
    assert (job.kind, job.exit_code) == ("restart", 0)
    assert job.outcome == "runs on h1, started anew there: its QEMU has crashed"
    world.assert_sound()


def test_one_that_crashes_again_and_again_is_left_alone(world: World) -> None:
    watched(world)
    for _ in range(3):
        crash(world, "db")
        settled(world)
        assert world.running("db") == ["h1"]
    crash(world, "db")
    settled(world, 300.0)
    assert world.running("db") == []
    assert "! db was started anew 3 times within a day: not again" in world.crew.fleet.said
    world.assert_sound()


def test_a_host_that_was_away_for_a_moment_gets_its_vms_back(world: World) -> None:
    watched(world)
    stopped(world, "web", "destroy")
    settled(world, 20.0)
    world.twin.hosts["h1"].power_off()
    world.crew.scheduler.advance(seconds=2.0)
    world.twin.hosts["h1"].power_on()
    settled(world, 120.0)
    assert world.running("db") == ["h1"], world.crew.fleet.said
    assert world.running("web") == []
    world.assert_sound()


def test_while_another_host_may_have_it_it_is_not_started(world: World) -> None:
    watched(world)
    world.twin.hosts["h3"].isolated = True
    world.twin.world_changed(world.twin.hosts["h3"])
    world.agents.mood = "hanging"
    crash(world, "db")
    settled(world)
    assert world.running("db") == []
    assert any("h3 could not be asked" in words for words in world.crew.fleet.said), world.crew.fleet.said
    world.twin.hosts["h3"].isolated = False
    world.twin.world_changed(world.twin.hosts["h3"])
    settled(world, 300.0)
    assert world.running("db") == ["h1"]
    world.assert_sound()


def test_one_that_stands_still_for_an_io_error_goes_on(world: World) -> None:
    watched(world)
    there = world.twin.hosts["h1"]
    for name, reason in (("db", libvirt.VIR_DOMAIN_PAUSED_IOERROR), ("web", libvirt.VIR_DOMAIN_PAUSED_USER)):
        stopped(world, name, "suspend")
        domain = there.domains[world.vms[name]]
        domain.enter(libvirt.VIR_DOMAIN_PAUSED, reason)
    settled(world)
    states = {name: there.domains[world.vms[name]].state for name in ("db", "web")}
    assert states == {"db": libvirt.VIR_DOMAIN_RUNNING, "web": libvirt.VIR_DOMAIN_PAUSED}
    world.assert_sound()


def hang(world: World, name: str) -> None:
    """Have a guest's watchdog let it stand still."""
    stopped(world, name, "suspend")
    world.twin.hosts["h1"].domains[world.vms[name]].enter(libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_WATCHDOG)


def test_one_that_hangs_is_reset_where_that_was_said(world: World) -> None:
    care = Care(on_hang=OnHang.RESTART)
    world.the.do(
        lambda: KeptUps(world.the.engine).put(
            world.vms["db"], "db", 1, 1, "ana", autostart=False, ran_on="h1", care=care
        )
    )
    watched(world)
    there = world.twin.hosts["h1"].domains
    for name in ("db", "web"):
        hang(world, name)
    settled(world)
    states = {name: (there[world.vms[name]].state, there[world.vms[name]].resets) for name in ("db", "web")}
    assert states == {"db": (libvirt.VIR_DOMAIN_RUNNING, 1), "web": (libvirt.VIR_DOMAIN_PAUSED, 0)}
    assert world.told() == ["vm.restarted"]
    [job] = world.the.jobs.latest(9)
    assert (job.kind, [step.name for step in job.steps]) == ("restart", ["reset", "go on"])
    hang(world, "db")
    settled(world, 200.0)
    assert there[world.vms["db"]].resets == 1, "once a day, and no more"
    assert any("not again" in words for words in world.crew.fleet.said)
    world.assert_sound()


def test_a_controller_that_dies_over_a_reset_is_followed_by_another(world: World) -> None:
    care = Care(on_hang=OnHang.RESTART)
    world.the.do(
        lambda: KeptUps(world.the.engine).put(
            world.vms["db"], "db", 1, 5, "ana", autostart=False, ran_on="h1", care=care
        )
    )
    guard, _ = watched(world)
    hang(world, "db")
    world.crew.fleet.advance_to(guard, "after intend go on")
    world.twin.kill(guard)
    assert world.twin.hosts["h1"].domains[world.vms["db"]].resets == 1
    world.guard("heir")
    settled(world, 400.0)
    assert world.twin.hosts["h1"].domains[world.vms["db"]].state == libvirt.VIR_DOMAIN_RUNNING
    world.assert_sound()


def test_a_controller_that_dies_over_it_is_followed_by_another(world: World) -> None:
    guard, _ = watched(world)
    crash(world, "db")
    world.crew.fleet.advance_to(guard, "after intend start")
    world.twin.kill(guard)
    world.guard("heir")
    settled(world, 400.0)
    assert world.running("db") == ["h1"], world.crew.fleet.said
    world.assert_sound()
