"""A host that lives and whose guests have lost their network, on a simulated machine, by the product's own loop."""

from __future__ import annotations

from collections.abc import Callable

import libvirt
import pytest

from mudanza.cli.availability_settings import Availability
from mudanza.hypervisor.twin.threads import Controller
from mudanza.journal.kept import KeptUps
from mudanza.journal.uplinks import UplinkLosses
from mudanza.model.kept import Care, OnHang
from tests.twin import test_guarding
from tests.twin.test_guarding import LIMIT, World, settled, stopped, watched, world

__all__ = ["world"]


@pytest.fixture(autouse=True)
def drains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_guarding, "Availability", lambda: Availability(uplink="drain"))


def until(world: World, is_so: Callable[[], bool], what: str) -> None:
    def looked() -> bool:
        world.twin.catch_up()
        return is_so()

    world.crew.fleet.advance_until(looked, f"{what}: {world.crew.fleet.said}", limit=LIMIT)


def closed(world: World) -> list[str]:
    return [entry.name for entry in world.the.inventory.hosts() if entry.maintenance]


def wired(world: World) -> None:
    """Put one more VM on h1, which has a card on the bridge; the others have none."""
    world.vms["wired"] = world.the.make_vm("wired", "h1", shared=True, wired=True)


def has_left(world: World) -> bool:
    return world.running("wired") not in ([], ["h1"])


def test_guests_leave_a_host_whose_uplink_is_dead_and_it_is_open_again_once_it_is_well(world: World) -> None:
    wired(world)
    watched(world)
    world.twin.dark.add("h1")
    until(world, lambda: has_left(world), "it has left h1")
    assert world.running("db") == ["h1"], "it has no card there, and stays"
    assert closed(world) == ["h1"]
    assert world.told() == ["uplink.lost"]
    world.twin.dark.clear()
    until(world, lambda: not closed(world), "it is open again")
    assert world.told() == ["uplink.lost", "uplink.back"]
    settled(world, 120.0)
    assert has_left(world), "nobody is brought back"
    [run] = world.crew.plans.latest(9)
    assert (run.kind, run.subject) == ("uplink", "h1")
    world.assert_sound()


def test_where_the_switch_has_died_nobody_moves(world: World) -> None:
    wired(world)
    watched(world)
    world.twin.dark |= {"h1", "h2"}
    settled(world, 300.0)
    assert world.running("wired") == ["h1"]
    assert closed(world) == []
    assert world.told() == ["uplink.lost", "uplink.lost"]
    world.twin.dark.discard("h2")
    until(world, lambda: has_left(world), "h2 has it again")
    world.assert_sound()


def test_a_short_loss_is_none(world: World) -> None:
    wired(world)
    watched(world)
    world.twin.dark.add("h1")
    settled(world, 20.0)
    world.twin.dark.clear()
    settled(world, 200.0)
    assert world.running("wired") == ["h1"]
    assert world.told() == []
    world.assert_sound()


def test_another_controller_opens_the_host_again(world: World) -> None:
    wired(world)
    guard, _ = watched(world)
    world.twin.dark.add("h1")
    until(world, lambda: closed(world) == ["h1"], "it is closed")
    world.twin.kill(guard)
    settled(world, 30.0)
    world.twin.dark.clear()
    world.guard("heir")
    until(world, lambda: not closed(world), "it is open again")
    assert UplinkLosses(world.the.engine).all() == {}
    world.assert_sound()


def test_a_host_that_dies_after_its_uplink_is_fenced_like_any_other(world: World) -> None:
    wired(world)
    watched(world)
    world.twin.dark.add("h1")
    until(world, lambda: closed(world) == ["h1"], "it is closed")
    world.twin.hosts["h1"].power_off()
    world.until_elsewhere("db", "web")
    settled(world, 120.0)
    world.assert_sound()


# A watchdog that does nothing but say so.


def bark(world: World, name: str) -> None:
    world.twin.ears.bark(world.twin.hosts["h1"].domains[world.vms[name]])


def listening(world: World) -> Controller:
    care = Care(on_hang=OnHang.RESTART)
    world.the.do(
        lambda: KeptUps(world.the.engine).put(
            world.vms["db"], "db", 1, 5, "ana", autostart=False, ran_on="h1", care=care
        )
    )
    guard, _ = watched(world)
    until(world, lambda: bool(world.twin.ears.known), "it is listened to")
    return guard


def test_a_watchdog_without_an_action_is_heard(world: World) -> None:
    listening(world)
    there = world.twin.hosts["h1"].domains
    for name in ("db", "web"):
        bark(world, name)
    settled(world, 90.0)
    assert (there[world.vms["db"]].resets, there[world.vms["web"]].resets) == (1, 0)
    assert there[world.vms["db"]].state == libvirt.VIR_DOMAIN_RUNNING
    assert world.told() == ["vm.restarted"]
    settled(world, 300.0)
    assert there[world.vms["db"]].resets == 1, "it has barked once"
    bark(world, "db")
    settled(world, 90.0)
    assert there[world.vms["db"]].resets == 2
    world.assert_sound()


def test_what_was_heard_of_one_that_is_off_by_now_is_forgotten(world: World) -> None:
    listening(world)
    there = world.twin.hosts["h1"].domains
    bark(world, "db")
    stopped(world, "db", "destroy")
    settled(world, 30.0)
    stopped(world, "db", "create")
    settled(world, 120.0)
    assert there[world.vms["db"]].resets == 0
    world.assert_sound()
