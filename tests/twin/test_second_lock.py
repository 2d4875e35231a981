"""A restart meets a disk whose lock somebody holds: it waits, tries nowhere else, and a person looks in the end."""

from __future__ import annotations

import libvirt
from sqlalchemy import select

from mudanza import clock
from mudanza.cli.context import App
from mudanza.cli.finishers import restart_of
from mudanza.journal.job import NEEDS_PERSON
from mudanza.journal.schema import step
from tests.twin.scene import SHARED, vm_xml
from tests.twin.test_guarding import LIMIT, World, watched, world

__all__ = ["world"]

OTHER = "11111111-2222-3333-4444-555555555555"


def takes_the_disk(world: World, of: str, host: str) -> None:
    """Have another VM run with a VM's disk: what a copy of it would do that no libvirt lists under its UUID."""

    def start() -> None:
        line = world.twin.open(f"qemu+tls://{host}/system")
        line.createXML(vm_xml("other", OTHER, [f"{SHARED}/{of}-0.qcow2"]), 0)
        line.close()

    world.the.do(start)


def gives_it_up(world: World, host: str) -> None:
    def end() -> None:
        line = world.twin.open(f"qemu+tls://{host}/system")
        line.lookupByUUIDString(OTHER).destroy()
        line.close()

    world.the.do(end)


def lost(world: World) -> None:
    """Let h1 lose its power, and another VM have the disk of db before that is started elsewhere."""
    watched(world)
    world.twin.hosts["h1"].power_off()
    takes_the_disk(world, "db", "h3")


def tries(world: World) -> set[str]:
    """Return the hosts at which a start was tried."""
    with world.the.engine.begin() as connection:
        rows = connection.execute(select(step.c.intent, step.c.name).where(step.c.name == "start"))
        return {row.intent for row in rows}


def defined_on(world: World) -> list[str]:
    return [name for name, host in world.twin.hosts.items() if name != "h1" and world.vms["db"] in host.domains]


def test_it_waits_until_the_lock_is_given_up(world: World) -> None:
    lost(world)
    world.crew.fleet.advance_until(lambda: bool(tries(world)), "a start was tried", limit=LIMIT)
    world.crew.scheduler.advance(seconds=60.0)
    world.twin.catch_up()
    assert world.running("db") == []
    gives_it_up(world, "h3")
    world.until_elsewhere("db")
    job = next(each for each in world.the.jobs.latest(9) if each.vm_name == "db")
    world.crew.scheduler.advance(seconds=30.0)
    assert world.the.jobs.get(job.id).exit_code == 0
    world.assert_sound()


def test_who_goes_on_holding_it_is_never_worked_around(world: World) -> None:
    lost(world)

    def left() -> bool:
        return any(job.vm_name == "db" and job.state == NEEDS_PERSON for job in world.the.jobs.latest(9))

    world.crew.fleet.advance_until(left, "it is left to a person", limit=LIMIT)
    world.crew.scheduler.advance(seconds=600.0)
    world.twin.catch_up()
    assert world.running("db") == []
    assert len(tries(world)) == 1, "no other host was tried"
    [target] = defined_on(world)
    job = next(each for each in world.the.jobs.latest(9) if each.vm_name == "db")
    assert (job.target, job.state) == (target, NEEDS_PERSON)
    assert "migration.needs-person" in world.told()
    assert world.running("web"), "the others do not wait for it"
    gives_it_up(world, "h3")

    def resume() -> None:
        app = App(world.crew.fleet.folder / "worker.toml", debug=False)
        with app.connections() as connections:
            restart_of(app, connections).resume(job.id, clock.new_event())
        app.database.dispose()

    world.the.do(resume, beside=True)
    world.until_elsewhere("db")
    assert world.twin.hosts[target].domains[world.vms["db"]].state == libvirt.VIR_DOMAIN_RUNNING
    world.assert_sound()
