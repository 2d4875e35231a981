"""Replicas of running VMs: rounds, restore points, and what becomes of them when something breaks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.guest_disk import read_ring
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true, replica_of
from tests.lab.domains import disk
from tests.lab.kinds import block, loop_device
from tests.lab.test_serve import serving
from tests.lab.tiny import volume

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

IMAGES = "/var/lib/libvirt/images"

UNTOUCHED = 63 * MIB
"""Where on its disk the guest writes nothing."""


@pytest.fixture(scope="module")
def by_ssh(patient: Mudanza) -> Mudanza:
    return patient


@pytest.fixture
def guest(lab: Lab) -> Iterator[Guest]:
    spec = GuestSpec("kept", memory=128 * MIB, beat=0.05, disk=64 * MIB, disk_write_rate=MIB)
    made = create_guest(lab, spec)
    yield made
    made.remove()
    # A disk that it ran on before it changed places stays where it is.
    virsh(lab.cell("h1"), "vol-delete", "--pool", "default", spec.volume, check=False)


@pytest.fixture
def protected(lab: Lab, by_ssh: Mudanza, guest: Guest) -> Iterator[Guest]:
    virsh(lab.cell("h1"), "autostart", guest.uuid)
    by_ssh("protect", guest.uuid, "--to", "h2", "--keep", "2")
    yield guest
    if [state for state in states(by_ssh, guest) if state["state"] != "failed over"]:
        by_ssh("unprotect", guest.uuid)


def states(by_ssh: Mudanza, guest: Guest) -> list[dict[str, Any]]:
    return [row for row in by_ssh("protections", "-o", "json").data if row["uuid"] == guest.uuid]


def state(by_ssh: Mudanza, guest: Guest) -> dict[str, Any]:
    [found] = states(by_ssh, guest)
    return found


def images(lab: Lab, guest: Guest) -> list[str]:
    return lab.cell("h2").run(["ls", directory(guest)]).stdout.split()


def directory(guest: Guest) -> str:
    """Return where a guest's replica is at h2: the journal that keeps it is a part of the name."""
    return replica_of(guest.lab, guest.uuid)


def wish(lab: Lab, guest: Guest) -> str:
    return virsh(lab.cell("h1"), "metadata", guest.uuid, "https://mudanza.dev/xmlns/activation/1", check=False)


def test_rounds_bring_what_has_changed_and_old_points_go(lab: Lab, by_ssh: Mudanza, protected: Guest) -> None:
    assert protected.uuid not in virsh(lab.cell("h1"), "list", "--all", "--autostart", "--uuid")
    assert wish(lab, protected).count("autostart='yes'") + wish(lab, protected).count('autostart="yes"') == 1
    for _ in range(2):
        by_ssh("protection", "sync", protected.uuid)
    by_ssh("protection", "verify", protected.uuid)
    assert state(by_ssh, protected)["points"] == [3, 4]
    assert images(lab, protected) == ["vda.1.whole.qcow2", "vda.4.qcow2"]
    checkpoints = virsh(lab.cell("h1"), "checkpoint-list", protected.uuid, "--name").split()
    assert [name.rpartition("-")[2] for name in checkpoints] == ["4"]

    by_ssh("unprotect", protected.uuid)
    assert protected.uuid in virsh(lab.cell("h1"), "list", "--all", "--autostart", "--uuid")
    assert "autostart" not in wish(lab, protected)
    assert not virsh(lab.cell("h1"), "checkpoint-list", protected.uuid, "--name").split()
    assert "mudanza-replicas" not in lab.cell("h2").run(["ls", IMAGES]).stdout


def test_a_daemon_protects_tries_and_hands_over_what_it_is_asked_to(
    lab: Lab, by_ssh: Mudanza, guest: Guest, tmp_path: Path
) -> None:
    with served(by_ssh, guest, tmp_path) as server:
        made = by_ssh(*server, "protect", guest.uuid, "--to", "h2", "--every", "1h")
        assert made.err.endswith("restore point 1; the daemon keeps it up to date\n")
        by_ssh(*server, "protection", "sync", guest.uuid)
        assert by_ssh(*server, "protections", "-o", "json").data[0]["points"] == [1, 2]
        up = by_ssh(*server, "test-failover", guest.uuid, "-o", "json").data
        assert (up["up"], up["double"]) == (True, "kept-test-2")
        ended = by_ssh(*server, "test-failover", "end", guest.uuid, "-o", "json").data
        assert (ended["up"], ended["different"]) == (False, [])
        told = by_ssh(*server, "failover", guest.uuid, "--planned").err.splitlines()
        assert told[0].startswith("kept: restore point 3 while it runs; it is asked to shut down")
        assert "kept runs on h2 from restore point 4, as it was when it went off" in told[-1]
    assert guest.states() == {"h1": "shut off", "h2": "running"}


@pytest.mark.soak
def test_a_daemon_brings_it_home(lab: Lab, by_ssh: Mudanza, protected: Guest, tmp_path: Path) -> None:
    by_ssh("failover", protected.uuid, "--planned")
    with served(by_ssh, protected, tmp_path) as server:
        turned = by_ssh(*server, "reprotect", protected.uuid).err
        assert "its old copy at h1 is undefined" in turned
        assert "its replica is at h1" in turned
        assert "kept runs on h1 again" in by_ssh(*server, "failback", protected.uuid).err
        assert protected.states() == {"h1": "running", "h2": "shut off"}
        by_ssh(*server, "reprotect", protected.uuid)
        by_ssh(*server, "unprotect", protected.uuid)
    assert states(by_ssh, protected) == []


@contextmanager
def served(by_ssh: Mudanza, guest: Guest, folder: Path) -> Iterator[tuple[str, str]]:
    """Have a daemon that has seen a guest, and what a command is told so that it asks that."""
    place = folder / "mudanza.sock"
    with serving(by_ssh, place) as (running, client):
        await_true(lambda: client.get(f"/vms/{guest.uuid}").status_code == 200, "the VM is seen")
        yield "--server", str(place)
        running.send(signal.SIGTERM)
        running.end(0)


def test_one_changed_byte_is_seen_and_mended(lab: Lab, by_ssh: Mudanza, protected: Guest) -> None:
    protected.command("quiet")  # on a busy machine it would get as far as there before the replica is compared
    write = f"write -q -P 0x5a {UNTOUCHED} 1"
    lab.cell("h2").run(["qemu-io", "-f", "qcow2", "-c", write, f"{directory(protected)}/vda.1.whole.qcow2"])
    seen = by_ssh("protection", "verify", protected.uuid, expect=4)
    assert str(UNTOUCHED) in seen.err
    by_ssh("protection", "verify", protected.uuid)
    assert images(lab, protected) == ["vda.1.whole.qcow2", f"vda.{state(by_ssh, protected)['points'][-1]}.qcow2"]


@pytest.mark.soak
def test_a_round_that_is_interrupted_or_cancelled_leaves_nothing(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    here = lab.cell("h1")

    def begun() -> bool:
        return "Backup" in virsh(here, "domjobinfo", guest.uuid, check=False)

    running = by_ssh.start("protect", guest.uuid, "--to", "h2", "--bandwidth", "256KiB/s")
    await_true(begun, "the round is under way")
    running.send(signal.SIGINT)
    assert "interrupted" in running.end(4).err
    running = by_ssh.start("protection", "sync", guest.uuid)
    await_true(begun, "the next one is")
    job = by_ssh("jobs", "-o", "json").data[0]["id"]
    by_ssh("job", "cancel", str(job))
    assert "cancelled on request of" in running.end(4).err
    assert not begun()
    assert virsh(here, "checkpoint-list", guest.uuid, "--name").split() == []
    assert [row["state"] for row in by_ssh("jobs", "-o", "json").data[:2]] == ["failed", "failed"]
    by_ssh("unprotect", guest.uuid)


@pytest.mark.soak
def test_an_image_of_it_that_is_lost_costs_what_stands_on_it_and_no_more(
    lab: Lab, by_ssh: Mudanza, protected: Guest
) -> None:
    there, place = lab.cell("h2"), directory(protected)
    by_ssh("protection", "sync", protected.uuid)
    there.run(["sh", "-c", f"printf XXXX | dd of={place}/vda.2.qcow2 conv=notrunc"])
    assert "cannot be read" in by_ssh("protection", "sync", protected.uuid, expect=4).err
    assert state(by_ssh, protected)["points"] == [1, 2], "none is told of that nobody could come back to"

    there.run(["rm", f"{place}/vda.2.qcow2"])
    by_ssh("protection", "verify", protected.uuid)
    row = state(by_ssh, protected)
    assert (row["points"][0], len(row["points"])) == (1, 2)
    assert "points 2 are lost" in row["said"]

    there.run(["mv", place, f"{place}.away"])
    assert "mounted?" in by_ssh("protection", "sync", protected.uuid, expect=4).err
    there.run(["sh", "-c", f"rm -rf {place} && mv {place}.away {place}"])
    by_ssh("protection", "verify", protected.uuid)


@pytest.mark.soak
def test_qemu_killed_is_a_resync_of_what_differs(lab: Lab, by_ssh: Mudanza, protected: Guest) -> None:
    faults.kill_qemu(lab, "h1", protected.name)
    await_true(lambda: protected.states()["h1"] == "shut off", "libvirt has seen it")
    virsh(lab.cell("h1"), "start", protected.uuid)
    protected.await_answer()
    by_ssh("protection", "verify", protected.uuid)
    assert images(lab, protected) == ["vda.1.whole.qcow2", "vda.2.qcow2"]


def test_of_a_raw_disk_all_is_compared_each_time(lab: Lab, by_ssh: Mudanza) -> None:
    """Beside one whose changes are counted, at one instant."""
    with volume(lab, "counted.qcow2", size=16 * MIB) as counted:
        second = disk(counted, "vdb", "qcow2")
        guest = create_guest(
            lab, GuestSpec("raw", memory=128 * MIB, beat=0.05, disk=64 * MIB, disk_format="raw", devices=second)
        )
        try:
            told = by_ssh("protect", guest.uuid, "--to", "h2")
            assert "reads all of its 64 MiB on h1 and on h2" in told.err
            byte = f"write -q -P 0x5a {UNTOUCHED} 1"
            lab.cell("h2").run(["qemu-io", "-f", "qcow2", "-c", byte, f"{directory(guest)}/vda.1.whole.qcow2"])
            by_ssh("protection", "verify", guest.uuid)
            as_there = f"read -q -P 0 {UNTOUCHED} 1"
            said = lab.cell("h2").run(
                ["qemu-io", "-r", "-f", "qcow2", "-c", as_there, f"{directory(guest)}/vda.2.qcow2"]
            )
            assert "failed" not in said.stdout, "one byte was seen to differ, and was brought"
            assert images(lab, guest) == ["vda.1.whole.qcow2", "vda.2.qcow2", "vdb.1.whole.qcow2", "vdb.2.qcow2"]
            assert state(by_ssh, guest)["carried_bytes"] < 64 * MIB
            assert "scratch" not in lab.cell("h1").run(["ls", IMAGES]).stdout
        finally:
            by_ssh("unprotect", guest.uuid, expect=None)
            guest.remove()


@pytest.mark.soak
def test_a_device_is_compared_each_time(lab: Lab, by_ssh: Mudanza) -> None:
    """Nothing of the VM is in a checkpoint."""
    with loop_device(lab, 64 * MIB) as device:
        spec = GuestSpec("device", memory=128 * MIB, beat=0.05, disk=0, devices=block(device, "vda"))
        guest = create_guest(lab, spec)
        try:
            by_ssh("protect", guest.uuid, "--to", "h2")
            by_ssh("protection", "verify", guest.uuid)
            assert images(lab, guest) == ["vda.1.whole.qcow2", "vda.2.qcow2"]
            assert state(by_ssh, guest)["carried_bytes"] < 64 * MIB
            assert "scratch" not in lab.cell("h1").run(["ls", "/var/lib/libvirt/qemu"]).stdout
        finally:
            by_ssh("unprotect", guest.uuid, expect=None)
            guest.remove()


def test_a_round_that_needs_too_much_scratch_gives_way(lab: Lab, by_ssh: Mudanza, guest: Guest) -> None:
    # Slow enough that the guest writes, and that it is seen, before the round is over.
    options = ("--scratch", "1KiB", "--bandwidth", "256KiB/s")
    told = by_ssh("protect", guest.uuid, "--to", "h2", *options, expect=4)
    assert "may take 1 KiB" in told.err
    guest.await_answer()
    assert state(by_ssh, guest)["points"] == []
    assert "scratch" not in lab.cell("h1").run(["ls", IMAGES]).stdout
    assert virsh(lab.cell("h1"), "checkpoint-list", guest.uuid, "--name").split() == []
    by_ssh("unprotect", guest.uuid)


@pytest.mark.soak
def test_a_target_that_is_gone_only_delays(lab: Lab, by_ssh: Mudanza, protected: Guest) -> None:
    faults.cut(lab, "h2")
    try:
        by_ssh("protection", "sync", protected.uuid, expect=None)
        told = state(by_ssh, protected)
    finally:
        faults.heal(lab, "h2")
    assert told["points"] == [1]
    protected.await_answer()
    by_ssh("protection", "verify", protected.uuid)
    assert state(by_ssh, protected)["points"][-1] != 1


def test_the_chain_goes_on_where_the_vm_has_moved_to(lab: Lab, by_ssh: Mudanza, protected: Guest) -> None:
    by_ssh("migrate", protected.uuid, "--to", "h3")
    by_ssh("protection", "verify", protected.uuid)
    assert images(lab, protected) == ["vda.1.whole.qcow2", "vda.2.qcow2"]


@pytest.mark.soak
def test_the_daemon_makes_the_rounds(lab: Lab, by_ssh: Mudanza, guest: Guest, tmp_path: Path) -> None:
    by_ssh("protect", guest.uuid, "--to", "h2", "--every", "1s")
    daemon = by_ssh.start("serve", "--no-balance", "--socket", str(tmp_path / "socket"))
    try:
        await_true(lambda: len(state(by_ssh, guest)["points"]) >= 3, "two rounds more were made", limit=180)
    finally:
        daemon.send(signal.SIGTERM)
        told = daemon.end()
    assert "kept: restore point 2" in told.err
    by_ssh("protection", "verify", guest.uuid)
    by_ssh("unprotect", guest.uuid)


@pytest.mark.soak
def test_a_planned_failover_loses_nothing(lab: Lab, by_ssh: Mudanza, protected: Guest) -> None:
    by_ssh("failover", protected.uuid, "--planned", "--source-is-dead", expect=2)
    by_ssh("failover", protected.uuid, "--planned")
    protected.await_answer()
    before = read_ring(lab.cell("h1"), f"{IMAGES}/{protected.name}.qcow2", "qcow2")
    newest = state(by_ssh, protected)["points"][-1]
    point = read_ring(lab.cell("h2"), f"{directory(protected)}/vda.{newest}.qcow2", "qcow2")
    assert (point.first, point.last) == (before.first, before.last), "every record that was written when it went off"
    assert point.whole
    _, last = protected.verify()
    assert last > before.last, "it goes on from there"
    assert protected.states() == {"h1": "shut off", "h2": "running"}
    by_ssh("start", protected.uuid, expect=None)
    assert protected.states() == {"h1": "shut off", "h2": "running"}, "no second copy"


@pytest.mark.soak
def test_a_guest_that_cannot_come_up_there_runs_here_as_before(lab: Lab, by_ssh: Mudanza, protected: Guest) -> None:
    """Its name is somebody else's there."""
    other = f"<domain type='qemu'><name>{protected.name}</name><memory>1024</memory><os><type>hvm</type></os></domain>"
    lab.cell("h2").run(["sh", "-c", 'echo "$1" >/tmp/other.xml', "sh", other])
    virsh(lab.cell("h2"), "define", "/tmp/other.xml")
    try:
        told = by_ssh("failover", protected.uuid, "--planned", expect=4)
    finally:
        virsh(lab.cell("h2"), "undefine", protected.name)
    assert "could not be started at h2" in told.err
    protected.await_answer()
    assert protected.states() == {"h1": "running"}
    by_ssh("protection", "verify", protected.uuid)


@pytest.mark.soak
def test_its_host_is_killed_and_it_comes_up_elsewhere_with_every_record_of_the_point(
    lab: Lab, by_ssh: Mudanza, protected: Guest
) -> None:
    before = read_ring(lab.cell("h1"), f"{IMAGES}/{protected.name}.qcow2", "qcow2")
    by_ssh("protection", "sync", protected.uuid)
    refused = by_ssh("failover", protected.uuid, "--source-is-dead", expect=3)
    assert "is not dead: h1 answers" in refused.err
    faults.kill_host(lab, "h1")
    try:
        by_ssh("failover", protected.uuid, expect=2)
        by_ssh("failover", protected.uuid, "--source-is-dead")
        protected.await_answer()
        point = read_ring(lab.cell("h2"), f"{directory(protected)}/vda.2.qcow2", "qcow2")
    finally:
        faults.boot_host(lab, "h1")
    assert point.whole, "no record is torn or missing"
    assert point.last >= before.last, "what was on the disk before the round is in the point"
    first, last = protected.verify()
    assert first <= point.last < last, "it goes on from there"
    told = state(by_ssh, protected)
    assert (told["state"], told["epoch"]) == ("failed over", 1)
    await_true(lambda: protected.states() == {"h1": "shut off", "h2": "running"}, "it runs in one place")
    assert protected.uuid not in virsh(lab.cell("h1"), "list", "--all", "--autostart", "--uuid")
    by_ssh("protection", "sync", protected.uuid, expect=3)
    by_ssh("unprotect", protected.uuid, expect=3)
