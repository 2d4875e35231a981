"""The way home: a host is killed, its guest comes up elsewhere, and goes back onto what its old disks have become."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.guest_disk import SECTOR, read_ring
from mudanza.lab.lab import Lab
from mudanza.lab.watch import Watch
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true
from tests.lab.test_serve import serving

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

IMAGES = "/var/lib/libvirt/images"
MEMORY = 128 * MIB
LIMIT = 300.0
"""Seconds that a daemon started anew, and what it takes up, may take."""
FILLED = 24 * MIB
"""What the guest writes to its disk behind the ring, before it is protected."""


@pytest.fixture(scope="module")
def by_ssh(patient: Mudanza) -> Mudanza:
    return patient


@pytest.fixture
def guest(lab: Lab) -> Iterator[Guest]:
    made = create_guest(lab, GuestSpec("homely", memory=MEMORY, beat=0.05, disk=64 * MIB))
    made.command(f"disk {64 * MIB}")
    await_true(lambda: made.stats()["disk_written"] >= FILLED, "its disk is filled", limit=120)
    made.command("disk 0")
    yield made
    made.remove()
    lab.cell("h1").run(["rm", "-f", "--", f"{IMAGES}/homely.qcow2"])


def state(by_ssh: Mudanza, guest: Guest) -> dict[str, Any]:
    [found] = [row for row in by_ssh("protections", "-o", "json").data if row["uuid"] == guest.uuid]
    return dict(found)


def moves(by_ssh: Mudanza, how: str) -> list[int]:
    """The live moves in that state."""
    return [job["id"] for job in by_ssh("jobs", "-o", "json").data if (job["kind"], job["state"]) == ("live", how)]


def active(lab: Lab, host: str, guest: Guest) -> str:
    """The image that it runs on, or would."""
    return virsh(lab.cell(host), "domblklist", guest.uuid).split()[-1]


def test_killed_brought_up_by_a_plan_and_home_again_with_every_record(
    lab: Lab, by_ssh: Mudanza, guest: Guest, tmp_path: Path
) -> None:
    plan = tmp_path / "site.toml"
    plan.write_text(f'[[group]]\nname = "all"\nvms = ["{guest.name}"]\nwait = [{{ time = "10ms" }}]\n')
    by_ssh("recovery", "check", str(plan), expect=3)
    by_ssh("recovery", "import", str(plan))
    by_ssh("protect", guest.uuid, "--to", "h2", "--keep", "2")
    written = read_ring(lab.cell("h1"), f"{IMAGES}/homely.qcow2", "qcow2")
    by_ssh("protection", "sync", guest.uuid)
    by_ssh("reprotect", guest.uuid, expect=3)
    by_ssh("failover", "plan", "check", "site", "--planned")
    faults.kill_host(lab, "h1")
    try:
        [up] = by_ssh("failover", "plan", "site", "--source-is-dead", "-o", "json").data["vms"]
        assert (up["name"], up["host"], up["group"]) == (guest.name, "h2", "all")
        assert up["rto_seconds"] > 0
        assert up["lost_seconds"] > 0
        guest.await_answer()
    finally:
        faults.boot_host(lab, "h1")
    await_true(lambda: guest.states() == {"h1": "shut off", "h2": "running"}, "its old host is back", limit=120)
    by_ssh("failback", guest.uuid, expect=3)

    before = lab.switch_bytes()
    told = by_ssh("reprotect", guest.uuid)
    assert "its old copy at h1 is undefined" in told.err
    assert guest.states() == {"h2": "running"}
    ring = written.capacity * SECTOR
    differences = state(by_ssh, guest)["carried_bytes"]
    assert 0 < differences <= ring + MIB < FILLED, "only what differs came over"
    boot = guest.stats()["boot"]

    with Watch(lab, guest.address) as watch:
        home = by_ssh("failback", guest.uuid)
    wire = lab.switch_bytes()["h1"].sent - before["h1"].sent
    print(f"blackout {watch.series.longest_dark * 1000:.0f} ms, {wire / MIB:.1f} MiB came home", home.out, home.err)
    assert guest.states() == {"h1": "running", "h2": "shut off"}
    assert guest.stats()["boot"] == boot, "it ran all the while"
    there = read_ring(lab.cell("h2"), active(lab, "h2", guest), "qcow2")
    first, last = guest.verify()
    assert there.whole, "no record is torn or missing"
    assert written.last < there.last < last, "it goes on from there"
    assert first <= there.last, "every record that was written when it went over"
    assert state(by_ssh, guest)["epoch"] == 2
    assert wire <= 1.2 * (differences + MEMORY), "only what differs came over, and its memory"
    [move] = [job for job in by_ssh("jobs", "-o", "json").data if job["kind"] == "live"]
    moved = by_ssh("job", "show", str(move["id"]), "-o", "json").data["report"]["disk_bytes"]
    assert 0 < moved <= ring + MIB, "the move itself brought what was new since the last rounds"

    by_ssh("reprotect", guest.uuid)
    assert guest.states() == {"h1": "running"}
    by_ssh("protection", "verify", guest.uuid)
    by_ssh("unprotect", guest.uuid)


@pytest.mark.soak
def test_a_way_home_that_is_barred_one_whose_controller_dies_and_one_with_the_guest_off(
    lab: Lab, by_ssh: Mudanza, guest: Guest
) -> None:
    by_ssh("protect", guest.uuid, "--to", "h2", "--keep", "2")
    by_ssh("failover", guest.uuid, "--planned")
    by_ssh("reprotect", guest.uuid)
    guest.await_answer()
    boot, before = guest.stats()["boot"], active(lab, "h2", guest)
    [checkpoint] = virsh(lab.cell("h2"), "checkpoint-list", guest.uuid, "--name").split()
    name, _, last = checkpoint.rpartition("-")
    in_the_way = f"{IMAGES}/{name}-{int(last) + 1}-vda.qcow2"
    lab.cell("h1").run(["touch", "--", in_the_way])
    barred = by_ssh("failback", guest.uuid, expect=3)
    assert in_the_way in barred.err
    assert (guest.states(), guest.stats()["boot"]) == ({"h2": "running"}, boot)
    assert active(lab, "h2", guest) != before, "it goes on in new images"
    found = state(by_ssh, guest)
    assert (found["state"], found["epoch"]) == ("on", 1), "it is protected as before"
    lab.cell("h1").run(["rm", "--", in_the_way])
    by_ssh("protection", "verify", guest.uuid)

    lab.set_uplink("h1", 4 * MIB)  # there is time to look
    try:
        way_home = by_ssh.start("failback", guest.uuid)
        await_true(lambda: bool(moves(by_ssh, "transferring")), "it moves", limit=120)
        way_home.send(signal.SIGKILL)
        way_home.end(-signal.SIGKILL)
    finally:
        lab.set_uplink("h1", None)
    assert state(by_ssh, guest)["state"] == "going home"
    by_ssh("unprotect", guest.uuid, expect=3)
    resume = ("job", "resume", str(moves(by_ssh, "transferring")[0]))
    await_true(lambda: by_ssh(*resume, expect=None).code == 0, "its lease is over, and it is settled", limit=120)
    assert (guest.states(), guest.stats()["boot"]) == ({"h1": "running", "h2": "shut off"}, boot)
    by_ssh("reprotect", guest.uuid)
    assert state(by_ssh, guest)["epoch"] == 2

    by_ssh("failback", guest.uuid, "--mode", "cold")
    guest.await_answer()
    assert guest.states() == {"h2": "running", "h1": "shut off"}
    assert guest.stats()["boot"] == boot + 1
    guest.verify()
    assert state(by_ssh, guest)["epoch"] == 3


@pytest.mark.soak
def test_home_live_by_a_daemon_that_is_killed_over_it(lab: Lab, by_ssh: Mudanza, guest: Guest, tmp_path: Path) -> None:
    by_ssh("protect", guest.uuid, "--to", "h2", "--keep", "2")
    by_ssh("failover", guest.uuid, "--planned")
    by_ssh("reprotect", guest.uuid)
    guest.await_answer()
    boot, place = guest.stats()["boot"], tmp_path / "mudanza.sock"
    known = set(moves(by_ssh, "transferring")) | set(moves(by_ssh, "done"))
    lab.set_uplink("h1", 4 * MIB)  # there is time to look
    try:
        with serving(by_ssh, place) as (daemon, _):
            way_home = by_ssh.start("--server", str(place), "failback", guest.uuid)
            await_true(lambda: bool({*moves(by_ssh, "transferring")} - known), "it moves", limit=120)
            daemon.send(signal.SIGKILL)
            daemon.end(-signal.SIGKILL)
    finally:
        lab.set_uplink("h1", None)
    with serving(by_ssh, place) as (daemon, _):
        home = way_home.end(0, limit=LIMIT)  # it has waited for the next one
        assert "runs on h1 again, and did so all the while" in home.err
        assert guest.states() == {"h1": "running", "h2": "shut off"}
        assert guest.stats()["boot"] == boot
        settled = "where it went is written down unasked"
        await_true(lambda: state(by_ssh, guest)["state"] == "failed over", settled, limit=LIMIT)
        daemon.send(signal.SIGTERM)
        daemon.end(0)
    guest.verify()
    by_ssh("reprotect", guest.uuid)
    by_ssh("protection", "verify", guest.uuid)
    by_ssh("unprotect", guest.uuid)
