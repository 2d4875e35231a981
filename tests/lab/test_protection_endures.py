"""What a replica and its guest go through: afterwards the chain is the same as the source, byte for byte, at the
checkpoint, and the guest has written all the time. That one changed byte would be seen is shown beside the rounds."""

from __future__ import annotations

import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from mudanza.journal.database import open_database
from mudanza.journal.protections import Protections
from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.lab.watch import Watch
from mudanza.model.units import KIB, MIB
from tests.lab import dying
from tests.lab.command import Mudanza, Running
from tests.lab.conftest import await_true
from tests.lab.test_migrate import expire_leases
from tests.lab.test_protection import IMAGES, by_ssh, images, state

__all__ = ["by_ssh"]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture
def protected(lab: Lab, by_ssh: Mudanza) -> Iterator[Guest]:
    """A guest that goes over its disk again and again."""
    guest = create_guest(lab, GuestSpec("endures", memory=128 * MIB, disk=32 * MIB, disk_write_rate=MIB))
    try:
        by_ssh("protect", guest.uuid, "--to", "h2", "--keep", "2", "--every", "1s")
        yield guest
        by_ssh("unprotect", guest.uuid)
    finally:
        guest.remove()


@contextmanager
def writing_on(lab: Lab, guest: Guest, what: str) -> Iterator[None]:
    """Have the guest go on writing, every write of it well, while the block runs; print how long one took."""
    before = guest.stats()
    with Watch(lab, guest.address) as usual:
        usual.until(lambda seen: len(seen.beats) > 100, limit=60)
    with Watch(lab, guest.address) as watch:
        yield
        written = before["disk_written"]
        await_true(lambda: guest.stats()["disk_written"] > written + MIB, "it writes on")
    after = guest.stats()
    assert after["disk_errors"] == 0
    assert after["boot"] == before["boot"]
    slowest, as_usual = watch.series.longest_beat_stall, usual.series.longest_beat_stall
    print(f"{what}: the slowest turn with a write took {slowest * 1000:.0f} ms, and {as_usual * 1000:.0f} ms before")


def in_a_round(lab: Lab, guest: Guest) -> Callable[[], bool]:
    """Return whether a round is being made of a guest: QEMU keeps an instant."""
    return lambda: "Backup" in virsh(lab.cell("h1"), "domjobinfo", guest.uuid, check=False)


def assert_same_and_not_brought_whole(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    by_ssh("protection", "verify", guest.uuid)
    assert [image for image in images(lab, guest) if "whole" in image] == ["vda.1.whole.qcow2"]


def test_libvirtd_goes_and_its_controller_dies_in_the_middle(lab: Lab, by_ssh: Mudanza, protected: Guest) -> None:
    faults.kill_daemon(lab, "h1")
    faults.start_daemon(lab, "h1")
    assert_same_and_not_brought_whole(lab, by_ssh, protected)

    steps = [sys.executable, dying.__file__, "KILL", "before", "carry point"]
    killed = by_ssh.start_argv([*steps, "protection", "sync", protected.uuid])
    assert killed.end(None).code == -9
    assert in_a_round(lab, protected)(), "nobody has ended it"
    expire_leases(by_ssh)
    assert_same_and_not_brought_whole(lab, by_ssh, protected)
    assert not in_a_round(lab, protected)()


def test_a_full_replica_disk_only_delays_and_is_told(lab: Lab, by_ssh: Mudanza, protected: Guest) -> None:
    points = state(by_ssh, protected)["points"]
    with writing_on(lab, protected, "the replica's disk is full"):
        faults.fill(lab, "h2", "default")
        try:
            told = by_ssh("protection", "sync", protected.uuid, expect=4)
            assert "No space left" in told.err
            late = state(by_ssh, protected)
        finally:
            faults.unfill(lab, "h2", "default")
    assert (late["state"], late["points"]) == ("late", points)
    assert "No space left" in late["said"]
    assert_same_and_not_brought_whole(lab, by_ssh, protected)


@pytest.mark.soak
def test_a_round_gives_way_before_its_scratch_is_full(lab: Lab, by_ssh: Mudanza) -> None:
    """In the middle of it, for the guest overwrites more than may be kept for it."""
    guest = create_guest(lab, GuestSpec("overwrites", memory=128 * MIB, disk=32 * MIB))
    try:
        by_ssh("protect", guest.uuid, "--to", "h2", "--scratch", "4MiB", "--every", "1s")
        guest.command(f"disk {8 * MIB}")
        await_true(lambda: guest.stats()["disk_written"] > 32 * MIB, "it has been over its disk")
        with writing_on(lab, guest, "the scratch is full"), slow(lab, "h2", MIB):
            told = by_ssh("protection", "sync", guest.uuid, expect=4)
            assert "may take 4 MiB" in told.err
        late = state(by_ssh, guest)
        assert (late["state"], late["points"]) == ("late", [1])
        assert "scratch" not in lab.cell("h1").run(["ls", IMAGES]).stdout
    finally:
        by_ssh("unprotect", guest.uuid, expect=None)
        guest.remove()


@contextmanager
def slow(lab: Lab, host: str, rate: int) -> Iterator[None]:
    faults.slow(lab, host, rate)
    try:
        yield
    finally:
        faults.slow(lab, host, None)


@pytest.mark.soak
@pytest.mark.parametrize("cut", ["h2", "h1", "controller"])
def test_a_link_is_cut_in_the_middle(lab: Lab, by_ssh: Mudanza, protected: Guest, cut: str) -> None:
    points = state(by_ssh, protected)["points"]
    # The guest's client is cut off from h1, too.
    watched = writing_on(lab, protected, f"{cut} is cut off") if cut != "h1" else nothing()
    with watched, slow(lab, "h2", 256 * KIB):
        running = by_ssh.start("protection", "sync", protected.uuid)
        with given_up(running):
            await_true(in_a_round(lab, protected), "the round has begun", limit=60)
            faults.cut(lab, cut)
            try:
                assert running.end(None).code in (4, 5)
            finally:
                faults.heal(lab, cut)
    assert state(by_ssh, protected)["points"] == points
    expire_leases(by_ssh)
    assert_same_and_not_brought_whole(lab, by_ssh, protected)


@contextmanager
def given_up(running: Running) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(subprocess.SubprocessError):
            running.abandon()


@contextmanager
def nothing() -> Iterator[None]:
    yield


def start_anew(lab: Lab, host: str, guest: Guest) -> None:
    """Kill its QEMU, and start it again."""
    faults.kill_qemu(lab, host, guest.name)
    await_true(lambda: guest.states()[host] == "shut off", "libvirt has seen it")
    virsh(lab.cell(host), "start", guest.uuid)
    guest.await_answer()


@pytest.mark.soak
def test_fifty_rounds_and_all_that_comes_in_between(lab: Lab, by_ssh: Mudanza) -> None:
    guest = create_guest(lab, GuestSpec("fifty", memory=128 * MIB, disk=32 * MIB, disk_write_rate=MIB))
    store = Protections(open_database(tomllib.loads(by_ssh.config.read_text())["database"]))
    every = ("--every", "1s", "--verify-every", "20s")
    by_ssh("protect", guest.uuid, "--to", "h2", "--keep", "2", *every)

    def await_point(number: int) -> None:
        await_true(lambda: store.of(guest.uuid).points[-1].number >= number, f"point {number} is there", limit=400)

    def until_point(number: int, in_between: Callable[[], None] = lambda: None) -> None:
        """Have rounds made until there is that point; while they are, something happens."""
        running = by_ssh.start("protection", "run")
        with given_up(running):
            await_point(number - 5)
            in_between()
            await_point(number)
            running.send(signal.SIGTERM)
            assert "differs" not in running.end(None).err

    def restart_libvirtd() -> None:
        faults.kill_daemon(lab, "h3")
        faults.start_daemon(lab, "h3")

    until_point(15)
    by_ssh("migrate", guest.uuid, "--to", "h3")
    until_point(30, restart_libvirtd)
    until_point(50, lambda: start_anew(lab, "h3", guest))
    assert store.of(guest.uuid).verified_at is not None
    assert_same_and_not_brought_whole(lab, by_ssh, guest)
    guest.verify()
    by_ssh("unprotect", guest.uuid)
    guest.remove()
