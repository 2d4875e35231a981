"""Maintenance rolls over simulated hosts by the product's own loop: faults, new starts, controllers that die."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from mudanza import clock
from mudanza.cli.carrying import CarriedHere
from mudanza.cli.context import App
from mudanza.cli.output import Format
from mudanza.hypervisor.host_command import HostCommand
from mudanza.hypervisor.twin.host import TwinHost
from mudanza.hypervisor.twin.threads import Controller
from mudanza.journal.rollings import Rollings
from mudanza.model.errors import BlockedError, HostUnreachableError, HypervisorError, MudanzaError
from mudanza.model.host import HostEntry
from mudanza.model.rolling import CommandState, Order, Rolling, RollingState, Seen, Stage
from mudanza.operations.outings import arranged, outings, refuse_stuck
from mudanza.operations.rolling import Roller
from mudanza.operations.rolling_kept import give_up
from tests.twin.fleet import Fleet
from tests.twin.scene import new_journal, scene_on

HOSTS = ("h1", "h2", "h3")
LASTS = 30.0
"""Simulated seconds that a command takes."""
ORDER = Order(HOSTS, "upgrade", "upgrade", limit=600.0)


@dataclass
class Process:
    """A command at a host, as the host's disk has it."""

    boot: str = ""
    """In which of its starts it was begun; empty: it was not."""
    begun: float = 0.0
    code: int | None = None


@dataclass
class Machines:
    """What goes on at the hosts besides libvirt."""

    hosts: dict[str, TwinHost]
    boots: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HOSTS, 1))
    processes: dict[str, Process] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    """Each host where one was begun, in order."""
    code: dict[str, int] = field(default_factory=dict)
    reboots: bool = False
    never_ends: bool = False
    volatile: bool = False
    """Nothing on their disks outlives a start."""
    here: str = ""
    at_begin: dict[str, Callable[[Process], None]] = field(default_factory=dict)
    """What happens at a host where a command is to begin, instead of that it does, and that it is told."""

    def boot(self, host: str) -> str:
        return f"{host}/{self.boots[host]}"

    def start_anew(self, host: str) -> None:
        self.boots[host] += 1
        self.hosts[host].power_off()
        self.hosts[host].power_on()
        if self.volatile:
            self.processes.clear()

    def run(self, host: str, process: Process) -> None:
        self.ran.append(host)
        process.boot, process.begun = self.boot(host), clock.monotonic()


class TwinCommand(HostCommand):
    """A command at a simulated host."""

    machines: Machines

    def is_here(self) -> bool:
        return self._entry.name == self.machines.here

    def prepare(self, text: str) -> str:
        boot = self.look(0).boot
        self.machines.processes[self._name] = Process()
        return boot

    def begin(self, interpreter: tuple[str, ...]) -> None:
        host = self._entry.name
        if self.look(0).state is not CommandState.READY:
            raise HypervisorError(host, "it is not ready, or there already")
        process = self.machines.processes[self._name]
        if (happens := self.machines.at_begin.pop(host, None)) is not None:
            happens(process)
            raise HostUnreachableError(host, "connection reset")
        self.machines.run(host, process)

    def look(self, after: int) -> Seen:
        the, host = self.machines, self._entry.name
        if not the.hosts[host].powered:
            raise HostUnreachableError(host, "no route")
        found, boot = the.processes.get(self._name), the.boot(host)
        if found is None:
            return Seen(boot, CommandState.ABSENT)
        if not found.boot:
            return Seen(boot, CommandState.READY)
        printed = b"it is being upgraded\n"[after:]
        if found.boot == boot and found.code is None:
            if the.never_ends or clock.monotonic() < found.begun + LASTS:
                return Seen(boot, CommandState.RUNS, output=printed)
            if the.reboots and the.code.get(host, 0) == 0:
                the.start_anew(host)
                return self.look(after)
            found.code = the.code.get(host, 0)
        state = CommandState.LOST if found.code is None else CommandState.ENDED
        return Seen(boot, state, found.code, printed)

    def stop(self) -> None:
        self.machines.never_ends = False

    def forget(self) -> None:
        self.machines.processes.pop(self._name, None)


class World:
    """Six VMs on three hosts, and controllers that have maintenance roll over these."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.the = fleet.the
        self.twin = self.the.twin
        self.machines = Machines(self.twin.hosts)
        self.rollings = Rollings(self.the.engine)
        self.command = type("Command", (TwinCommand,), {"machines": self.machines})
        self.vms = {f"vm{n}": self.the.make_vm(f"vm{n}", HOSTS[n % 3], shared=True) for n in range(6)}
        self.homes = {uuid: [HOSTS[n % 3]] for n, uuid in enumerate(self.vms.values())}
        self.ended: dict[str, Rolling | MudanzaError] = {}

    def start(self, name: str, act: Callable[[Roller, App], Rolling]) -> Controller:
        """Start a controller that does something about it."""
        settings = self.fleet.folder / f"{name}.toml"
        settings.write_text(f"database = {self.the.database!r}\n")
        controller = Controller(name)

        def work() -> None:
            app = App(settings, debug=False)
            said = self.fleet.said.append
            roller = Roller(app, CarriedHere(app, Format.TABLE), name, said, command=self.command)
            try:
                self.ended[name] = act(roller, app)
            except MudanzaError as error:
                self.ended[name] = error
            finally:
                app.database.dispose()

        self.twin.scheduler.start(work, name, controller)
        return controller

    def done(self, name: str, act: Callable[[Roller, App], Rolling]) -> Rolling:
        """Have it done, and return what came of it."""
        self.start(name, act)
        self.fleet.advance_until(lambda: name in self.ended, f"{name} ends: {self.fleet.said}")
        found = self.ended[name]
        if isinstance(found, MudanzaError):
            raise found
        return found

    def begin(self, order: Order = ORDER, name: str = "ana") -> Rolling:
        return self.done(name, lambda roller, app: roller.begin(order))

    def until(self, stage: Stage, host: str) -> None:
        def there() -> bool:
            found = self.rollings.latest(1)
            lap = found[0].current if found else None
            return lap is not None and (lap.host, lap.stage) == (host, stage)

        until = self.twin.scheduler.now + 4000.0
        while not there():  # in small steps, for some stages are over soon
            assert self.twin.scheduler.now < until, f"{host} {stage}: {self.fleet.said}"
            self.twin.scheduler.advance(seconds=0.1)

    def places(self) -> dict[str, list[str]]:
        self.twin.catch_up()
        return {uuid: self.twin.oracle.runs_on(uuid) for uuid in self.vms.values()}

    def closed(self) -> list[str]:
        return [entry.name for entry in self.the.inventory.hosts() if entry.maintenance]

    def assert_sound(self) -> None:
        """See that every VM runs, once, and none was ever in two places."""
        assert all(len(places) == 1 for places in self.places().values()), self.places()
        assert [str(each) for each in self.twin.oracle.violations] == []

    def assert_all_done(self, found: Rolling) -> None:
        assert (found.state, found.outcome) == (RollingState.DONE, f"{len(found.laps)} hosts are done")
        assert self.places() == self.homes
        assert self.closed() == []
        self.assert_sound()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    journal = tmp_path / "mudanza.db"
    journal.write_bytes(new_journal())
    with scene_on(str(journal), Random(5).randrange, 3) as the:
        the.twin.rate *= 8
        the.twin.strangers.add("stranger")
        yield World(Fleet(the, tmp_path))


def test_each_host_has_its_turn_and_its_vms_come_home(world: World) -> None:
    found = world.begin()
    world.assert_all_done(found)
    assert world.machines.ran == ["h1", "h2", "h3"]
    assert [(lap.exit_code, lap.output) for lap in found.laps] == [(0, "it is being upgraded\n")] * 3
    assert world.fleet.said.count("h2 | it is being upgraded") == 1
    assert world.machines.processes == {}


def test_hosts_start_anew_and_are_waited_for(world: World) -> None:
    world.machines.reboots = True
    found = world.begin(replace(ORDER, reboot=True))
    world.assert_all_done(found)
    assert world.machines.ran == ["h1", "h2", "h3"]
    assert world.machines.boots == dict.fromkeys(HOSTS, 2)


def test_a_start_that_nobody_foresaw_stops_it(world: World) -> None:
    world.machines.reboots = True
    found = world.begin()
    assert found.state is RollingState.STOPPED
    assert "h1: it has started anew while the command ran" in found.outcome
    assert world.closed() == ["h1"]
    world.assert_sound()


def unless_told(world: World, happens: Callable[[Process], None], order: Order = ORDER) -> Rolling:
    """Have something happen at h2 when its command is to begin, of which its controller is told nothing."""
    world.machines.at_begin["h2"] = happens
    return world.begin(order)


def test_a_host_that_dies_before_its_command_begins_has_it_begun_when_it_is_back(world: World) -> None:
    def die(_: Process) -> None:
        world.machines.start_anew("h2")

    world.assert_all_done(unless_told(world, die))
    assert world.machines.ran == ["h1", "h2", "h3"]
    assert world.machines.boots["h2"] == 2
    assert any("h2: it has started anew before its command began" in said for said in world.fleet.said)


def test_a_command_that_began_untold_is_waited_for_and_not_begun_again(world: World) -> None:
    world.assert_all_done(unless_told(world, lambda process: world.machines.run("h2", process)))
    assert world.machines.ran == ["h1", "h2", "h3"]


def test_a_command_that_was_done_before_the_host_died_is_done(world: World) -> None:
    def do_it_and_die(process: Process) -> None:
        world.machines.run("h2", process)
        process.code = 0
        world.machines.start_anew("h2")

    world.assert_all_done(unless_told(world, do_it_and_die))
    assert world.machines.ran == ["h1", "h2", "h3"]


def test_a_command_that_failed_before_the_host_died_has_failed(world: World) -> None:
    def fail_and_die(process: Process) -> None:
        world.machines.run("h2", process)
        process.code = 9
        world.machines.start_anew("h2")

    world.machines.reboots = True
    found = unless_told(world, fail_and_die, replace(ORDER, reboot=True))
    assert found.outcome == "h2: the command ended with exit code 9, and then the host has started anew"
    world.assert_sound()


@pytest.mark.parametrize("volatile", [False, True])
def test_where_nobody_can_know_how_far_it_got_a_person_is_asked(world: World, volatile: bool) -> None:
    def begin_and_die(process: Process) -> None:
        world.machines.run("h2", process)
        world.machines.start_anew("h2")

    world.machines.volatile = volatile
    found = unless_told(world, begin_and_die)
    assert found.state is RollingState.STOPPED
    assert "h2: it has started anew when its command was about to begin: nobody knows" in found.outcome
    assert world.machines.ran == ["h1", "h2"]
    world.assert_sound()
    world.twin.scheduler.advance(seconds=120.0)
    world.assert_all_done(world.done("bo", lambda roller, _: roller.resume(found.id)))
    assert world.machines.ran == ["h1", "h2", "h2", "h3"]


def test_a_host_that_stays_away_when_its_command_was_to_begin_keeps_nobody_waiting_for_ever(world: World) -> None:
    found = unless_told(world, lambda _: world.twin.hosts["h2"].power_off())
    assert "h2: it has not answered for 10 min" in found.outcome
    world.twin.hosts["h2"].power_on()
    world.machines.boots["h2"] += 1
    world.assert_all_done(world.done("bo", lambda roller, _: roller.resume(found.id)))
    assert world.machines.ran == ["h1", "h2", "h3"]


def test_what_was_given_up_is_cleared_away_at_its_host(world: World) -> None:
    world.machines.code["h2"] = 9
    found = world.begin()
    assert world.machines.processes

    def end_it(_: Roller, app: App) -> Rolling:
        return give_up(app, found.id, "bo", world.command)

    assert world.done("bo", end_it).state is RollingState.GIVEN_UP
    assert world.machines.processes == {}


def test_it_stops_at_the_first_fault_and_goes_on_once_that_is_mended(world: World) -> None:
    world.machines.code["h2"] = 9
    found = world.begin()
    assert (found.state, found.outcome) == (RollingState.STOPPED, "h2: the command ended with exit code 9")
    assert (found.done, world.machines.ran, world.closed()) == (1, ["h1", "h2"], ["h2"])
    world.assert_sound()
    world.machines.code.clear()
    world.assert_all_done(world.done("bo", lambda roller, _: roller.resume(found.id)))
    assert world.machines.ran == ["h1", "h2", "h2", "h3"]


def test_it_goes_on_without_the_command_where_somebody_says_so(world: World) -> None:
    world.machines.code["h2"] = 9
    found = world.begin()
    world.assert_all_done(world.done("bo", lambda roller, _: roller.resume(found.id, skip=True)))
    assert world.machines.ran == ["h1", "h2", "h3"]


def test_one_that_takes_too_long_is_ended(world: World) -> None:
    world.machines.never_ends = True
    found = world.begin()
    assert "h1: the command has not ended within 10 min" in found.outcome
    assert not world.machines.never_ends, "it was ended"
    world.assert_sound()


@pytest.mark.parametrize(
    ("stage", "host"),
    [(Stage.EMPTYING, "h1"), (Stage.COMMAND, "h1"), (Stage.HEALING, "h2"), (Stage.RETURNING, "h2")],
)
def test_another_controller_goes_on_when_one_has_died(world: World, stage: Stage, host: str) -> None:
    controller = world.start("ana", lambda roller, _: roller.begin(ORDER))
    world.until(stage, host)
    world.twin.kill(controller)
    world.twin.scheduler.advance(seconds=120.0)
    world.assert_sound()
    [found] = world.rollings.latest(9)
    world.assert_all_done(world.done("bo", lambda roller, _: roller.resume(found.id)))
    assert world.machines.ran == ["h1", "h2", "h3"], "no command is run a second time by itself"


def test_two_do_not_roll_at_once(world: World) -> None:
    world.start("ana", lambda roller, _: roller.begin(ORDER))
    world.until(Stage.COMMAND, "h1")
    with pytest.raises(BlockedError, match="by another controller"):
        world.begin(replace(ORDER, hosts=("h3",)), name="bo")


def test_it_stops_where_somebody_wants_that(world: World) -> None:
    world.start("ana", lambda roller, _: roller.begin(ORDER))
    world.until(Stage.COMMAND, "h1")
    world.the.do(lambda: world.rollings.wish_stopped(1, "bo"))
    world.fleet.advance_until(lambda: "ana" in world.ended, "it stops")
    found = world.rollings.get(1)
    assert (found.state, found.outcome) == (RollingState.STOPPED, "h1: bo wanted it stopped")
    world.assert_sound()
    world.assert_all_done(world.done("cy", lambda roller, _: roller.resume(1)))


def test_one_that_does_not_get_well_keeps_nobody_waiting_for_ever(world: World) -> None:
    world.start("ana", lambda roller, _: roller.begin(replace(ORDER, healthy=60.0)))
    world.until(Stage.COMMAND, "h1")
    world.twin.hosts["h1"].stop_libvirtd()
    world.fleet.advance_until(lambda: "ana" in world.ended, "it stops")
    found = world.rollings.get(1)
    assert "h1: it is not as it was before: its libvirt does not answer" in found.outcome
    assert world.closed() == ["h1"]
    world.assert_sound()


def test_a_host_that_was_closed_before_stays_so_and_gets_nobody(world: World) -> None:
    world.the.do(lambda: world.the.inventory.set_maintenance("h2", on=True))
    found = world.begin()
    assert found.state is RollingState.DONE
    assert world.machines.ran == ["h1", "h2", "h3"]
    assert world.closed() == ["h2"]
    assert all(places != ["h2"] for places in world.places().values())
    world.assert_sound()


# Before it begins.


def test_nothing_is_begun_where_a_host_could_not_be_emptied(world: World) -> None:
    def close() -> None:
        for host in ("h2", "h3"):
            world.the.inventory.set_maintenance(host, on=True)

    def try_it(roller: Roller, app: App) -> Rolling:
        refuse_stuck(outings(app, ORDER, lambda _: None))
        return roller.begin(ORDER)

    world.the.do(close)
    with pytest.raises(BlockedError, match="not begun: h1: "):
        world.done("ana", try_it)
    assert world.rollings.latest(9) == ()


def test_what_would_be_done_is_told_host_by_host(world: World) -> None:
    found: list[object] = []

    def look(_: Roller, app: App) -> Rolling:
        found.extend((each.host, len(each.plan.moves)) for each in outings(app, ORDER, lambda _: None) if each.plan)
        raise BlockedError("that was all")

    with pytest.raises(BlockedError, match="that was all"):
        world.done("ana", look)
    assert found == [("h1", 2), ("h2", 2), ("h3", 2)]
    assert world.places() == world.homes


def test_the_controllers_own_host_is_the_last_and_is_not_started_anew(world: World) -> None:
    world.machines.here = "h1"
    arrange = replace(ORDER, hosts=())

    def command(entry: HostEntry, name: str) -> HostCommand:
        made: HostCommand = world.command(entry, name)
        return made

    world.assert_all_done(world.done("ana", lambda roller, app: roller.begin(arranged(app, arrange, command))))
    assert world.machines.ran == ["h2", "h3", "h1"]
    with pytest.raises(BlockedError, match="this controller runs on h1"):
        world.done("bo", lambda roller, app: roller.begin(arranged(app, replace(arrange, reboot=True), command)))
