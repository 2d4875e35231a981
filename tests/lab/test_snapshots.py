"""Snapshots and checkpoints are the same after a move, wherever it ended, and are of use there."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.snapshots import SavedSnapshot, Snapshots
from mudanza.lab.cell import Cell
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.errors import HypervisorError
from mudanza.model.host import HostEntry
from mudanza.model.units import MIB
from tests.lab.command import Mudanza, Running
from tests.lab.conftest import await_true
from tests.lab.test_migrate import SMALL, MakeGuest, content, expire_leases, make_guest, slow
from tests.lab.tiny import file, tiny, volume

__all__ = ["make_guest"]

pytestmark = pytest.mark.lab

SHARED = "/srv/shared"
RECORDS = "/var/lib/libvirt/qemu/snapshot"
"""Where libvirt keeps what it knows of snapshots."""


@pytest.fixture(scope="module")
def connections(lab: Lab) -> Iterator[Connections]:
    with Connections([HostEntry(name, lab.uri(name)) for name in lab.hosts]) as opened:
        yield opened


def names(found: tuple[SavedSnapshot, ...]) -> list[str]:
    return [snapshot.name + "*" * snapshot.current for snapshot in found]


def take(cell: Cell, uuid: str, *snapshots: str) -> None:
    for name in snapshots:
        virsh(cell, "snapshot-create-as", uuid, name)


class TestRecords:
    """What libvirt knows of snapshots and checkpoints, without any move."""

    @pytest.fixture
    def h1(self, connections: Connections) -> Snapshots:
        return connections.snapshots("h1")

    def test_snapshots_go_and_come_back_as_they_were(self, lab: Lab, h1: Snapshots) -> None:
        cell = lab.cell("h1")
        with volume(lab, "tree.qcow2") as path, tiny(lab, "tree", disk=(path, "qcow2")) as uuid:
            take(cell, uuid, "a", "b", "c")
            virsh(cell, "snapshot-revert", uuid, "a")
            take(cell, uuid, "z")
            virsh(cell, "snapshot-revert", uuid, "b")
            before = h1.snapshots(uuid)
            order = names(before)
            assert sorted(order) == ["a", "b*", "c", "z"]
            assert order.index("a") < order.index("b*") < order.index("c")
            for _ in range(2):
                h1.forget(uuid, ["a", "b", "c", "z"])
                assert h1.snapshots(uuid) == ()
            for _ in range(2):
                assert h1.restore(uuid, before, ()) == {}
                assert set(h1.snapshots(uuid)) == set(before)
            virsh(cell, "snapshot-revert", uuid, "z")
            h1.forget(uuid, ["z"])
            assert names(h1.snapshots(uuid)) == ["a*", "b", "c"]

    def test_a_child_is_not_taken_before_its_parent(self, lab: Lab, h1: Snapshots) -> None:
        cell = lab.cell("h1")
        with volume(lab, "child.qcow2") as path, tiny(lab, "child", disk=(path, "qcow2")) as uuid:
            take(cell, uuid, "a", "b")
            before = h1.snapshots(uuid)
            h1.forget(uuid, ["a", "b"])
            with pytest.raises(HypervisorError, match="parent"):
                h1.restore(uuid, before[::-1], ())
            h1.restore(uuid, before, ())

    def test_a_checkpoint_without_its_bitmap_is_told_of(self, lab: Lab, h1: Snapshots) -> None:
        cell = lab.cell("h1")
        with volume(lab, "bits.qcow2") as path, tiny(lab, "bits", run=True, disk=(path, "qcow2")) as uuid:
            virsh(cell, "resume", uuid)
            for name in ("mon", "tue"):
                virsh(cell, "checkpoint-create-as", uuid, name)
            before = h1.checkpoints(uuid)
            assert [checkpoint.name for checkpoint in before] == ["mon", "tue"]
            assert h1.restore(uuid, (), before) == {}
            virsh(cell, "checkpoint-delete", uuid, "mon", "--children", "--metadata")
            bitmap = json.dumps({"node": "libvirt-1-format", "name": "mon"})
            command = f'{{"execute": "block-dirty-bitmap-remove", "arguments": {bitmap}}}'
            virsh(cell, "qemu-monitor-command", uuid, command)
            lost = h1.restore(uuid, (), before)
            assert list(lost) == ["mon", "tue"]
            assert "bitmap 'mon'" in lost["mon"]
            assert h1.checkpoints(uuid) == ()
            virsh(cell, "destroy", uuid)
            assert h1.restore(uuid, (), before) == {}, "nobody can tell while it is off"
            assert h1.checkpoints(uuid) == before


@pytest.fixture(scope="module")
def historic(lab: Lab) -> Iterator[Guest]:
    """A guest at h1, its disk on shared storage with two snapshots in it."""
    spec = GuestSpec("historic", pool="shared", **SMALL)  # type: ignore[arg-type]  # by field
    guest = create_guest(lab, spec)
    take(lab.cell("h1"), guest.uuid, "first", "second")
    yield guest
    guest.remove()


def test_snapshots_travel_there_and_back_and_can_be_reverted_to(
    lab: Lab, mudanza: Mudanza, connections: Connections, historic: Guest
) -> None:
    uuid, h1, h2 = historic.uuid, connections.snapshots("h1"), connections.snapshots("h2")
    before = h1.snapshots(uuid)
    assert names(before) == ["first", "second*"]
    mudanza("migrate", "historic", "--to", "h2")
    assert historic.states() == {"h2": "running"}
    assert set(h2.snapshots(uuid)) == set(before)
    take(lab.cell("h2"), uuid, "there")
    overlay = f"{SHARED}/historic.over.qcow2"
    external = ["--disk-only", "--diskspec", f"vda,file={overlay}"]
    virsh(lab.cell("h2"), "snapshot-create-as", uuid, "over", *external)
    since = historic.verify()[1]
    mudanza("migrate", "historic", "--to", "h1")
    assert names(h1.snapshots(uuid)) == ["first", "second", "there", "over*"]
    virsh(lab.cell("h1"), "snapshot-revert", uuid, "first", "--running")
    historic.await_answer()
    assert historic.verify()[1] < since, "it is as it was before it moved"
    h1.forget(uuid, ["over"])
    lab.cell("h1").run(["rm", "--", overlay])
    virsh(lab.cell("h1"), "snapshot-delete", uuid, "there")


def started(lab: Lab, mudanza: Mudanza, guest: Guest) -> tuple[Running, str]:
    """Begin to move a guest to h2 and return while its memory is copied, with the number of the job."""
    running = mudanza.start("migrate", guest.name, "--to", "h2", "-o", "json")
    running.until("copying memory")
    assert virsh(lab.cell("h1"), "snapshot-list", guest.uuid).strip() == "", "libvirt would not migrate it else"
    return running, str(mudanza("jobs", "-o", "json").data[0]["id"])


def test_a_cancelled_move_leaves_the_snapshots_at_the_source(
    lab: Lab, mudanza: Mudanza, connections: Connections, historic: Guest
) -> None:
    before = connections.snapshots("h1").snapshots(historic.uuid)
    with slow(lab, "h1", MIB):
        running, _ = started(lab, mudanza, historic)
        running.send(signal.SIGTERM)
        running.end(4)
    assert historic.states() == {"h1": "running"}
    assert set(connections.snapshots("h1").snapshots(historic.uuid)) == set(before)


def test_a_killed_controllers_job_gives_the_snapshots_back(
    lab: Lab, mudanza: Mudanza, connections: Connections, historic: Guest
) -> None:
    before = connections.snapshots("h1").snapshots(historic.uuid)
    with slow(lab, "h1", MIB):
        running, job = started(lab, mudanza, historic)
        running.send(signal.SIGKILL)
        running.end(-signal.SIGKILL)
        expire_leases(mudanza)
        virsh(lab.cell("h1"), "domjobabort", historic.uuid)
    mudanza("job", "resume", job, expect=4)
    assert historic.states() == {"h1": "running"}
    assert set(connections.snapshots("h1").snapshots(historic.uuid)) == set(before)


def test_what_libvirt_does_not_take_back_stays_in_the_journal_until_it_does(
    lab: Lab, mudanza: Mudanza, connections: Connections, historic: Guest
) -> None:
    before = connections.snapshots("h1").snapshots(historic.uuid)
    with file(lab.cell("h2"), f"{RECORDS}/historic"):  # where libvirt wants to make a directory
        refused = mudanza("migrate", "historic", "--to", "h2", "-o", "json", expect=5)
    error = next(event for event in refused.events if event["event"] == "error")
    job = str(mudanza("jobs", "-o", "json").data[0]["id"])
    assert f"mudanza job resume {job}" in error["remedy"]
    assert historic.states() == {"h2": "running"}
    mudanza("job", "resume", job)
    assert set(connections.snapshots("h2").snapshots(historic.uuid)) == set(before)


def back_up(cell: Cell, uuid: str, image: str, *, since: str = "", checkpoint: str = "") -> str:
    """Have libvirt write a backup into a file, and return its path. ``checkpoint``: one to make at that instant."""
    path = f"{SHARED}/{image}"
    incremental = f"<incremental>{since}</incremental>" if since else ""
    xml = f"""<domainbackup mode='push'>{incremental}<disks><disk name='vda' type='file'><driver type='qcow2'/>
      <target file='{path}'/></disk></disks></domainbackup>"""
    cell.run(["tee", "/run/backup.xml"], stdin=xml)
    cell.run(["tee", "/run/checkpoint.xml"], stdin=f"<domaincheckpoint><name>{checkpoint}</name></domaincheckpoint>")
    with_checkpoint = ["/run/checkpoint.xml"] if checkpoint else []
    virsh(cell, "backup-begin", uuid, "/run/backup.xml", *with_checkpoint)
    await_true(lambda: "None" in virsh(cell, "domjobinfo", uuid), f"{image} is written")
    return path


def changed_bytes(cell: Cell, path: str) -> int:
    areas = json.loads(cell.run(["qemu-img", "map", "--output=json", "-f", "qcow2", "--", path]).stdout)
    return sum(area["length"] for area in areas if area["depth"] == 0 and area["data"])


def test_incremental_backups_go_on_after_a_live_move(
    lab: Lab, mudanza: Mudanza, connections: Connections, make_guest: MakeGuest
) -> None:
    guest, h1, h2 = make_guest("backed-up"), lab.cell("h1"), lab.cell("h2")
    full = back_up(h1, guest.uuid, "full.qcow2", checkpoint="monday")
    virsh(h1, "checkpoint-create-as", guest.uuid, "tuesday")
    guest.command(f"disk {MIB}")
    mudanza("migrate", "backed-up", "--to", "h2", "--map-storage", "default=fast")
    assert [each.name for each in connections.snapshots("h2").checkpoints(guest.uuid)] == ["monday", "tuesday"]
    assert "/var/lib/libvirt/fast/" in virsh(h2, "checkpoint-dumpxml", guest.uuid, "monday")

    virsh(h2, "suspend", guest.uuid)
    since = back_up(h2, guest.uuid, "since.qcow2", since="monday")
    disk = content(lab, "h2", "/var/lib/libvirt/fast/backed-up.qcow2")
    h2.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", full, "--", since])
    assert 0 < changed_bytes(h2, since) < len(disk) / 2, "it holds what was written since, and no more"
    assert content(lab, "h2", full) != disk, "without it the backup is old"
    assert content(lab, "h2", since) == disk

    virsh(h2, "checkpoint-delete", guest.uuid, "monday", "--metadata")
    refused = h2.run(["virsh", "backup-begin", guest.uuid, "/run/backup.xml"], check=False)
    assert "monday" in refused.stderr, "a checkpoint that libvirt was not told of is none"
    h2.run(["rm", "--", full, since])
