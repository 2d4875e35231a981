"""A whole site started and shut down by a plan, on simulated hosts: in order, by the newest copies, whoever dies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mudanza import clock
from mudanza.cli.context import App
from mudanza.hypervisor.twin.threads import Controller
from mudanza.journal.fences import Fences
from mudanza.journal.protections import Protections
from mudanza.journal.recovery_plans import RecoveryPlans
from mudanza.model.errors import MigrationFailedError, NeedsPersonError
from mudanza.model.fencing import By
from mudanza.model.protection import Standing
from mudanza.operations.recovering import Recovering
from tests.program import Program
from tests.test_protection import VALUES
from tests.twin.conftest import Ask
from tests.twin.fleet import Fleet
from tests.twin.scene import Scene

PLAN = """
[[group]]
name = "apps"
after = ["databases"]
vms = ["web"]

[[group]]
name = "databases"
vms = ["db"]
wait = [{ time = "10ms" }]
"""


@pytest.fixture
def site(the: Scene) -> Scene:
    """A plan is kept of the scene's two VMs that run, both on h1."""
    RecoveryPlans(the.engine).keep("site", PLAN, "ana")
    return the


def states(the: Scene) -> dict[str, bool]:
    """Whether each VM of the plan runs, by name."""
    return {name: bool(runs_on(the, name)) for name in ("db", "web")}


def runs_on(the: Scene, name: str) -> list[str]:
    return [
        host.name
        for host in the.twin.hosts.values()
        for each in host.domains.values()
        if each.name == name and each.qemu is not None
    ]


def all_off(the: Scene) -> None:
    """The power is cut, and comes back: hosts start, and no guest does."""
    for host in the.twin.hosts.values():
        host.power_off()
    for host in the.twin.hosts.values():
        host.power_on()
    the.twin.scheduler.advance(seconds=120.0)


def test_it_shuts_down_in_the_opposite_order_and_starts_in_its_own(site: Scene, program: Program) -> None:
    down = site.do(partial(program, "recovery", "stop", "site"))
    assert down.returncode == 0, down.stderr
    assert states(site) == {"db": False, "web": False}
    assert down.stderr.index("group apps") < down.stderr.index("group databases")
    again = site.do(partial(program, "recovery", "stop", "site", "--within", "1m"))
    assert again.returncode == 0, "what is off is off"
    all_off(site)
    up = site.do(partial(program, "recovery", "start", "site", "-o", "json"))
    assert up.returncode == 0, up.stderr
    assert states(site) == {"db": True, "web": True}
    assert up.stderr.index("db started on h1") < up.stderr.index("web started on h1")
    assert [str(each) for each in site.twin.oracle.violations] == []


def test_through_a_daemon_it_is_the_same(site: Scene, asked: Ask) -> None:
    down = asked("recovery", "stop", "site", "--within", "5m")
    assert (down.returncode, states(site)) == (0, {"db": False, "web": False}), down.stderr
    up = asked("recovery", "start", "site")
    assert (up.returncode, states(site)) == (0, {"db": True, "web": True}), up.stderr
    assert "plan site: 2 VMs are up" in up.stderr
    nothing = asked("recovery", "answer", "site", "yes")
    assert (nothing.returncode, "is not under way" in nothing.stderr) == (2, True)
    assert asked("recovery", "start", "site", "--resume").returncode == 2


def test_a_host_that_may_run_it_stops_the_start_until_it_answers_or_is_proven_off(
    site: Scene, program: Program, tmp_path: Path
) -> None:
    all_off(site)
    site.twin.hosts["h3"].power_off()
    program.config.write_text(program.config.read_text() + "[power]\nboot = 1\n[limits]\nconnect = 1\n")
    stopped = site.do(partial(program, "recovery", "start", "site"))
    assert stopped.returncode == 5, stopped.stderr
    assert "h3 could not be asked, and may run it" in stopped.stderr
    assert states(site) == {"db": False, "web": False}
    fences = Fences(site.engine)
    site.do(lambda: fences.ended(fences.begin("h3", By.PERSON, "ana"), "ana has said so", proven=True))
    up = site.do(partial(program, "recovery", "start", "site", "--resume"))
    assert (up.returncode, states(site)) == (0, {"db": True, "web": True}), up.stderr


@pytest.mark.parametrize("how", ["--source-is-dead", "--planned"])
def test_a_plan_for_failover_starts_what_has_come_up_before_and_went_off(
    site: Scene, program: Program, how: str
) -> None:
    """Where the word is that others are dead, a silent one keeps nobody waiting; the one it is at has to answer."""
    store, h1 = Protections(site.engine), site.twin.hosts["h1"]
    for name in ("db", "web"):
        about = {"vm_uuid": uuid_of(site, name), "vm_name": name, "target": "h1"}
        store.change(store.make({**VALUES, **about}).id, standing=Standing.FAILED_OVER)
    carry_out = partial(program, "failover", "plan", "site", how)
    assert "nothing" in site.do(carry_out).stdout, "they are up"
    assert "start" not in {step.name for step in site.jobs.latest(1)[0].steps}
    h1.qemu_died(h1.domains[uuid_of(site, "db")])
    site.twin.hosts["h3"].power_off()
    program.config.write_text(program.config.read_text() + "[limits]\nconnect = 1\n")
    again = site.do(carry_out)
    if how == "--planned":
        assert (again.returncode, "h3 could not be asked, and may run it" in again.stderr) == (5, True), again.stderr
        assert states(site) == {"db": False, "web": True}
        return
    assert (again.returncode, states(site)) == (0, {"db": True, "web": True}), again.stderr
    assert "it has come up at h1 before, and does not run: it is started where it is" in again.stderr
    assert "db started on h1" in again.stderr
    assert [str(each) for each in site.twin.oracle.violations] == []


def uuid_of(the: Scene, name: str) -> str:
    [found] = [each.uuid for each in the.twin.hosts["h1"].domains.values() if each.name == name]
    return found


def test_one_that_does_not_go_off_stops_it_and_what_it_stands_on_stays(site: Scene, program: Program) -> None:
    h1 = site.twin.hosts["h1"]
    h1.stubborn.add(uuid_of(site, "web"))
    program.config.write_text(program.config.read_text() + "[limits]\nshutdown = 15\n")
    stopped = site.do(partial(program, "recovery", "stop", "site"))
    assert (stopped.returncode, "not off: web" in stopped.stderr) == (5, True), stopped.stderr
    assert states(site) == {"db": True, "web": True}
    h1.stubborn.clear()
    anew = site.do(partial(program, "recovery", "start", "site"))
    assert anew.returncode == 3
    assert "plan 'site' has come to a stop: job 1, site stop" in anew.stderr
    assert "go on: mudanza job resume 1; or give it up: mudanza job cancel 1" in anew.stderr
    again = site.do(partial(program, "recovery", "stop", "site", "--resume"))
    assert (again.returncode, states(site)) == (0, {"db": False, "web": False}), again.stderr


def test_within_a_bound_the_next_ones_turn_comes_and_what_is_on_is_named(site: Scene, program: Program) -> None:
    site.twin.hosts["h1"].stubborn.add(uuid_of(site, "web"))
    begun = site.twin.scheduler.now
    late = site.do(partial(program, "recovery", "stop", "site", "--within", "60s"))
    assert site.twin.scheduler.now - begun < 70, "the first group had its share of it, and no more"
    assert (late.returncode, "not off within 1 min 0 s: web" in late.stderr) == (4, True), late.stderr
    assert states(site) == {"db": False, "web": True}, "nobody was cut off"
    [job] = site.jobs.latest(1)
    assert (job.exit_code, job.report["on"]) == (4, ["web"])


def begin(the: Scene, folder: Path, name: str, work: Callable[[Recovering], Any]) -> Controller:
    """Start a controller that carries something out."""
    settings, controller = folder / f"{name}.toml", Controller(name)
    settings.write_text(f"database = {the.database!r}\n")

    def working() -> None:
        app = App(settings, debug=False)
        with app.connections() as connections:
            work(Recovering(app, connections, lambda _: None, "ana"))

    the.twin.scheduler.start(working, name, controller)
    return controller


def cancelled_at(site: Scene, folder: Path, instant: str, work: Callable[[Recovering], Any]) -> None:
    """Have somebody cancel a plan at an instant, and see it given up."""

    def cancelled(recovering: Recovering) -> None:
        with pytest.raises(MigrationFailedError, match="was given up: cancelled on request of bea"):
            work(recovering)

    running = begin(site, folder, "running", cancelled)
    Fleet(site, folder).advance_to(running, instant)
    [job] = site.jobs.unfinished()
    site.do(lambda: site.jobs.ask_to_cancel(job.id, "bea"))
    site.twin.scheduler.advance(seconds=300.0)
    assert not running.threads
    ended = site.jobs.get(job.id)
    assert (ended.state, ended.exit_code) == ("failed", 4)
    assert ended.outcome == "plan 'site' was given up: cancelled on request of bea"


def test_a_start_that_is_cancelled_begins_nothing_more(site: Scene, tmp_path: Path) -> None:
    all_off(site)
    cancelled_at(site, tmp_path, "after intend start", lambda recovering: recovering.start("site", PLAN))
    assert states(site) == {"db": True, "web": False}


def test_a_stop_that_is_cancelled_asks_nobody_more_to_go_off(site: Scene, tmp_path: Path) -> None:
    instant = "after intend shut group down"
    cancelled_at(site, tmp_path, instant, lambda recovering: recovering.stop("site", PLAN, None))
    assert states(site) == {"db": True, "web": False}, "the first group to go off is that of web"


def test_a_stop_that_is_interrupted_is_left_to_be_gone_on_with(
    site: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def interrupted(recovering: Recovering) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("mudanza.operations.power.shut_down", interrupt)
            with pytest.raises(NeedsPersonError, match="'site' was interrupted"):
                recovering.stop("site", PLAN, None)

    first = begin(site, tmp_path, "first", interrupted)
    site.twin.scheduler.advance(seconds=300.0)
    assert not first.threads
    [job] = site.jobs.unfinished()
    assert job.left_to_person
    heir = begin(site, tmp_path, "heir", lambda recovering: recovering.resume(job.id, clock.new_event()))
    site.twin.scheduler.advance(seconds=300.0)
    assert not heir.threads
    assert (site.jobs.get(job.id).exit_code, states(site)) == (0, {"db": False, "web": False})


MANY = """
at_once = 3
[[group]]
name = "last"
after = ["many"]
vms = ["web"]

[[group]]
name = "many"
vms = ["db", "one", "two", "three", "four"]
"""


@pytest.mark.parametrize(("instant", "times"), [("after intend start", 3), ("before done", 2), ("after done", 4)])
def test_a_start_of_several_at_once_whose_controller_dies_goes_on(
    site: Scene, tmp_path: Path, instant: str, times: int
) -> None:
    for number, name in enumerate(("one", "two", "three", "four")):
        site.make_vm(name, f"h{number % 2 + 1}")
    all_off(site)
    first = begin(site, tmp_path, "first", lambda recovering: recovering.start("site", MANY))
    Fleet(site, tmp_path).advance_to(first, instant, times=times)
    site.twin.kill(first)
    site.twin.scheduler.advance(seconds=300.0)
    [job] = site.jobs.unfinished()
    steps = site.jobs.get(job.id).steps_named("start")
    open_ones = [step for step in steps if step.outcome is None]
    assert len(open_ones) <= 3, "so many at once, and no more"
    assert len(steps) > 1, "it was killed in the middle of several"
    assert not runs_on(site, "web"), "its turn has not come"
    heir = begin(site, tmp_path, "heir", lambda recovering: recovering.resume(job.id, clock.new_event()))
    site.twin.scheduler.advance(seconds=300.0)
    assert not heir.threads
    names = ("db", "one", "two", "three", "four", "web")
    assert {name: len(runs_on(site, name)) for name in names} == dict.fromkeys(names, 1)
    done = site.jobs.get(job.id)
    assert (done.exit_code, len(done.report["vms"])) == (0, 6)
    site.twin.catch_up()
    assert [str(each) for each in site.twin.oracle.violations] == []


INSTANTS = ["before intend", "after intend", "before done", "after done"]


@pytest.mark.parametrize("instant", [f"{each} start" for each in INSTANTS[:2]] + INSTANTS[2:] + ["before finish"])
def test_a_start_whose_controller_dies_goes_on(site: Scene, tmp_path: Path, instant: str) -> None:
    all_off(site)
    first = begin(site, tmp_path, "first", lambda recovering: recovering.start("site", PLAN))
    Fleet(site, tmp_path).advance_to(first, instant)
    site.twin.kill(first)
    site.twin.scheduler.advance(seconds=300.0)
    [job] = site.jobs.unfinished()
    heir = begin(site, tmp_path, "heir", lambda recovering: recovering.resume(job.id, clock.new_event()))
    site.twin.scheduler.advance(seconds=300.0)
    assert not heir.threads
    assert states(site) == {"db": True, "web": True}
    assert site.jobs.get(job.id).exit_code == 0
    site.twin.catch_up()
    assert [str(each) for each in site.twin.oracle.violations] == []


@pytest.mark.parametrize(
    "instant", [f"{each} shut group down" for each in INSTANTS[:2]] + INSTANTS[2:] + ["before finish"]
)
def test_a_shutdown_whose_controller_dies_goes_on(site: Scene, tmp_path: Path, instant: str) -> None:
    first = begin(site, tmp_path, "first", lambda recovering: recovering.stop("site", PLAN, None))
    Fleet(site, tmp_path).advance_to(first, instant)
    site.twin.kill(first)
    site.twin.scheduler.advance(seconds=300.0)
    [job] = site.jobs.unfinished()
    heir = begin(site, tmp_path, "heir", lambda recovering: recovering.resume(job.id, clock.new_event()))
    site.twin.scheduler.advance(seconds=600.0)
    assert not heir.threads
    assert states(site) == {"db": False, "web": False}
    assert site.jobs.get(job.id).exit_code == 0
