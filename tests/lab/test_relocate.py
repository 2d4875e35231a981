"""Disks that move from one pool of a host to another: while their guest writes to them, and while it is off."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mudanza.lab.guest import Guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza, Running
from tests.lab.conftest import await_true
from tests.lab.handover import BLOCK, differences
from tests.lab.test_migrate import IMAGES, MakeGuest, content, expire_leases, make_guest, volumes
from tests.lab.tiny import tiny

__all__ = ["make_guest"]

pytestmark = pytest.mark.lab

FAST = "/var/lib/libvirt/fast"
TO_FAST = ("--to", "h1", "--map-storage", "default=fast", "-o", "json")
BACK = ("--to", "h1", "--map-storage", "fast=default", "-o", "json")
SLOWLY = ("--bandwidth", "8MiB/s")


def disks(lab: Lab, guest: str) -> list[str]:
    """Return where a VM's disks lie: as it runs, and as it would start next."""
    cell = lab.cell("h1")
    tables = (virsh(cell, "domblklist", guest), virsh(cell, "domblklist", guest, "--inactive"))
    return [line.split()[1] for table in tables for line in table.splitlines() if line.strip()]


def is_copied(lab: Lab, guest: str) -> bool:
    return "<mirror" in virsh(lab.cell("h1"), "dumpxml", guest)


def begun(mudanza: Mudanza, guest: str) -> tuple[Running, str]:
    """Begin to move a guest's disk slowly, and return while it is copied, with the number of the job."""
    running = mudanza.start("migrate", guest, *TO_FAST, *SLOWLY)
    running.until("copying disks")
    return running, str(mudanza("jobs", "-o", "json").data[0]["id"])


def assert_whole(lab: Lab, guest: Guest, place: str) -> None:
    """The guest runs from that place, starts from there again, and has lost nothing."""
    assert guest.states() == {"h1": "running"}
    assert disks(lab, guest.name) == [place] * 2
    guest.verify()


def test_a_guest_that_writes_notices_nothing(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("settler", disk_write_rate=4 * MIB)
    old, new = f"{IMAGES}/settler.qcow2", f"{FAST}/settler.qcow2"
    mudanza("wish", "settler", "--deadline", "10m", "--policy", "gentle")
    report = mudanza("migrate", "settler", *TO_FAST, "--keep-source").report
    assert report["own_wishes"] == ["deadline 10 min 0 s"], "what matters within one host"
    assert report["kept"] == [f"h1:{old}"]
    assert_whole(lab, guest, new)
    before, after = content(lab, "h1", old), content(lab, "h1", new)
    assert before != after, "the guest writes on, so that the copies part"
    assert differences(before, after) == []
    # The comparison sees a lost write: one old block in the new copy is enough.
    at = next(at for at in range(len(before) - BLOCK, 0, -BLOCK) if before[at : at + 8] == b"MUDDATA1")
    assert len(differences(before, after[:at] + bytes(BLOCK) + after[at + BLOCK :])) == 1

    taken = mudanza("migrate", "settler", *BACK, expect=3).events[-1]
    assert {finding["code"] for finding in taken["findings"]} == {"volume-occupied"}
    virsh(lab.cell("h1"), "vol-delete", "--pool", "default", "settler.qcow2")
    back = mudanza("migrate", "settler", *BACK).report
    assert back["removed"] == [f"h1:{new}"]
    assert "settler.qcow2" not in volumes(lab, "h1", "fast")
    assert_whole(lab, guest, old)
    assert [event["event"] for event in mudanza("migrate", "settler", *BACK).events] == ["unchanged", "end"]


@pytest.mark.soak
def test_cancelled_it_leaves_nothing_and_killed_it_is_finished(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("undecided", disk_write_rate=MIB)
    old, new = f"{IMAGES}/undecided.qcow2", f"{FAST}/undecided.qcow2"
    running, _ = begun(mudanza, "undecided")
    running.send(signal.SIGINT)
    assert "cancelled on request" in running.end(4).err
    assert "undecided.qcow2" not in volumes(lab, "h1", "fast")
    assert not is_copied(lab, "undecided")
    assert_whole(lab, guest, old)

    running, job = begun(mudanza, "undecided")
    running.send(signal.SIGKILL)
    running.end(-signal.SIGKILL)
    expire_leases(mudanza)
    assert is_copied(lab, "undecided"), "QEMU goes on without us"
    mudanza("job", "resume", job)
    assert "undecided.qcow2" not in volumes(lab, "h1")
    assert_whole(lab, guest, new)


def test_it_says_so_when_only_one_of_two_disks_has_moved(lab: Lab, mudanza: Mudanza) -> None:
    cell = lab.cell("h1")
    with two_disks(lab, "torn"):
        virsh(cell, "start", "--paused", "torn")
        running, job = begun(mudanza, "torn")
        await_true(lambda: virsh(cell, "dumpxml", "torn").count("<mirror") == 2, "both disks are being copied")
        running.send(signal.SIGKILL)
        running.end(-signal.SIGKILL)
        # What a storage that fails between the two would leave.
        virsh(cell, "blockjob", "torn", "vda", "--abort")
        await_true(lambda: "ready='yes'" in virsh(cell, "dumpxml", "torn"), "the other one is ready")
        virsh(cell, "blockjob", "torn", "vdb", "--pivot")
        expire_leases(mudanza)
        said = mudanza("job", "resume", job, expect=4).err
        assert "vdb moved and vda did not" in said
        assert disks(lab, "torn") == [f"{IMAGES}/torn.qcow2", f"{FAST}/torn.raw"] * 2
        assert [name for name in volumes(lab, "h1") if "torn" in name] == ["torn.qcow2"]
        assert [name for name in volumes(lab, "h1", "fast") if "torn" in name] == ["torn.raw"]
        mudanza("migrate", "torn", *TO_FAST)
        assert disks(lab, "torn") == [f"{FAST}/torn.qcow2", f"{FAST}/torn.raw"] * 2


@contextmanager
def two_disks(lab: Lab, name: str) -> Iterator[str]:
    """A VM that is off, with an image and a snapshot in it, and a raw disk of an odd length."""
    cell, image, raw = lab.cell("h1"), f"{IMAGES}/{name}.qcow2", f"{IMAGES}/{name}.raw"
    cell.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"])
    cell.run(["qemu-io", "-c", "write -P 5 0 8M", image])
    cell.run(["truncate", "-s", str(3 * MIB + 1), raw])
    cell.run(["qemu-io", "-f", "raw", "-c", "write -P 7 1M 1M", raw])
    extra = f"""<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{raw}'/>
      <target dev='vdb' bus='virtio'/></disk>"""
    try:
        virsh(cell, "pool-refresh", "default")
        with tiny(lab, name, disk=(image, "qcow2"), extra=extra):
            yield name
    finally:
        cell.run(["rm", "-f", "--", *(f"{where}/{name}.{end}" for where in (IMAGES, FAST) for end in ("qcow2", "raw"))])


def digests(lab: Lab, directory: str, name: str) -> list[str]:
    paths = [f"{directory}/{name}.{end}" for end in ("qcow2", "raw")]
    return [line.split()[0] for line in lab.cell("h1").run(["sha256sum", "--", *paths]).stdout.splitlines()]


def test_switched_off_it_keeps_its_snapshots(lab: Lab, mudanza: Mudanza) -> None:
    cell = lab.cell("h1")
    with two_disks(lab, "sleeper"):
        # libvirt makes internal snapshots only where all disks can hold them.
        cell.run(["qemu-img", "snapshot", "-c", "before", f"{IMAGES}/sleeper.qcow2"])
        cell.run(["qemu-io", "-c", "write -P 6 2M 4M", f"{IMAGES}/sleeper.qcow2"])
        before = digests(lab, IMAGES, "sleeper")
        report = mudanza("migrate", "sleeper", *TO_FAST).report
        assert report["verified"].startswith("2 files compared in full")
        assert sorted(report["removed"]) == [f"h1:{IMAGES}/sleeper.qcow2", f"h1:{IMAGES}/sleeper.raw"]
        assert digests(lab, FAST, "sleeper") == before
        assert "before" in cell.run(["qemu-img", "snapshot", "-l", f"{FAST}/sleeper.qcow2"]).stdout
        assert disks(lab, "sleeper") == [f"{FAST}/sleeper.qcow2", f"{FAST}/sleeper.raw"] * 2
        virsh(cell, "start", "--paused", "sleeper")
        virsh(cell, "destroy", "sleeper")


def test_libvirts_snapshots_follow_the_disk(lab: Lab, mudanza: Mudanza) -> None:
    cell = lab.cell("h1")
    path = f"{IMAGES}/rememberer.qcow2"
    cell.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"])
    virsh(cell, "pool-refresh", "default")
    with tiny(lab, "rememberer", disk=(path, "qcow2")):
        virsh(cell, "snapshot-create-as", "rememberer", "before")
        virsh(cell, "start", "--paused", "rememberer")
        refused = mudanza("migrate", "rememberer", *TO_FAST, expect=3).events[-1]
        assert {finding["code"] for finding in refused["findings"]} == {"snapshots"}
        assert "--mode cold" in refused["findings"][0]["remedy"]
        virsh(cell, "destroy", "rememberer")
        mudanza("migrate", "rememberer", *TO_FAST)
        assert f"{FAST}/rememberer.qcow2" in virsh(cell, "snapshot-dumpxml", "rememberer", "before")
        virsh(cell, "snapshot-revert", "rememberer", "before")
        assert disks(lab, "rememberer") == [f"{FAST}/rememberer.qcow2"] * 2
        virsh(cell, "vol-delete", "--pool", "fast", "rememberer.qcow2")
