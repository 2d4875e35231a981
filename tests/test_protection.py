"""What protection decides without asking any host, and what it keeps in the database."""

from __future__ import annotations

import itertools
import random
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from mudanza.hypervisor.backups import aside_xml, backup_xml, checkpoint_xml
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.journal.backup import back_up, restore
from mudanza.journal.database import open_database
from mudanza.journal.protections import Protections
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.host import HostEntry
from mudanza.model.protection import Protection, ReplicaDisk, RestorePoint, Standing
from mudanza.model.units import GIB, KIB, MIB
from mudanza.model.vm import Disk, Vm, VmState
from mudanza.protection import scripts
from mudanza.protection.extents import MOST_AT_ONCE, joined, reads
from mudanza.protection.failover import running_on
from mudanza.protection.instants import checkpoint_of
from mudanza.protection.pacing import BUSY, SLOWEST, Pace
from mudanza.protection.replica import files_of, image_name, is_whole, merges, thinned
from mudanza.protection.serving import clear_if_reached, protected_disks, scratch_of

UUID = "6c1d0f1e-6a4b-4a8f-9c55-0a5cbb1a5e01"


def point(number: int, *, whole: bool = False, disks: tuple[str, ...] = ("vda",)) -> RestorePoint:
    images = {disk: ReplicaDisk(image_name(disk, number, whole=whole), GIB) for disk in disks}
    return RestorePoint(number, 1000.0 + number, images, "<domain/>", 5 * MIB)


def test_extents_are_joined_and_every_byte_is_read_once() -> None:
    chance = random.Random(1)
    extents = [(chance.randrange(200) * 65536, chance.randrange(80) * 65536) for _ in range(100)]
    wanted = {byte for start, length in extents for byte in range(start, start + length, 65536)}
    together = joined(extents)
    assert {byte for start, length in together for byte in range(start, start + length, 65536)} == wanted
    assert all(a[0] + a[1] < b[0] for a, b in itertools.pairwise(together))
    commands = [line.split() for line in reads(together).splitlines()]
    assert commands[-1] == ["aio_flush"]
    pieces = [(int(words[2]), int(words[3])) for words in commands if words[0] == "aio_read"]
    assert joined(pieces) == together
    assert sum(length for _, length in pieces) == sum(length for _, length in together)
    assert max(length for _, length in pieces) <= MOST_AT_ONCE


def test_nothing_changed_is_nothing_read() -> None:
    assert joined([(0, 0)]) == ()
    assert reads(()) == "aio_flush"
    assert reads((), MIB) == ""


@given(st.integers(1, 10 * GIB), st.lists(st.integers(0, 4 * MIB), max_size=4))
def test_what_is_held_to_a_rate_is_read_one_by_one_and_wholly(rate: int, lengths: list[int]) -> None:
    extents = joined((number * 8 * MIB, length) for number, length in enumerate(lengths))
    commands = [line.split() for line in reads(extents, rate).splitlines()]
    assert all(words[:2] == ["read", "-q"] for words in commands), "QEMU holds nothing to a rate while it flushes"
    pieces = [(int(words[2]), int(words[3])) for words in commands]
    assert joined(pieces) == extents
    assert max((length for _, length in pieces), default=0) <= max(min(rate // 8, MOST_AT_ONCE), 64 * KIB)


PACE = Pace(every=60.0, written=100.0 * MIB, room=16 * GIB, cap=None)


def test_a_guest_that_writes_much_has_its_round_take_its_time() -> None:
    assert PACE.rate(200 * MIB) == 10 * MIB, "a third of the time to the next one"
    assert PACE.rate(MIB) == SLOWEST
    assert replace(PACE, written=BUSY - 1).rate(200 * MIB) is None
    assert replace(PACE, every=86400.0).rate(6000 * MIB) == 100 * MIB, "a minute at the most"


def test_a_round_is_over_before_what_is_overwritten_fills_the_scratch() -> None:
    assert replace(PACE, room=200 * MIB).rate(200 * MIB) == 200 * MIB
    assert replace(PACE, room=0).rate(200 * MIB) is None


def test_what_the_guest_would_notice_is_set_aside_where_there_is_room() -> None:
    assert PACE.sets_aside(200 * MIB)
    assert PACE.sets_aside(8 * GIB)
    assert not PACE.sets_aside(8 * GIB + 1), "half of the room, for it may have become more by then"
    assert not PACE.sets_aside(None), "nobody knows how much"
    assert not PACE.sets_aside(0)
    quiet = replace(PACE, written=BUSY - 1)
    assert not quiet.sets_aside(200 * MIB)
    assert not replace(quiet, way=20.0 * MIB, cap=30 * MIB).sets_aside(200 * MIB)
    assert replace(quiet, way=20.0 * MIB, cap=30 * MIB).sets_aside(200 * MIB + 1), "it would take long"
    assert replace(quiet, way=30.0 * MIB, cap=20 * MIB).sets_aside(200 * MIB + 1)
    assert replace(quiet, cap=MIB).sets_aside(11 * MIB)


def test_nothing_is_read_faster_than_somebody_has_allowed() -> None:
    assert replace(PACE, cap=MIB).rate(200 * MIB) == MIB
    assert replace(PACE, cap=GIB).rate(200 * MIB) == 10 * MIB
    assert replace(PACE, cap=GIB, written=0.0).rate(200 * MIB) == GIB
    assert replace(PACE, cap=MIB, room=0).rate(200 * MIB) == MIB


@given(
    st.floats(0.1, 1e6), st.floats(0, 1e10), st.integers(0, 1 << 40), st.none() | st.integers(1, 1 << 35),
    st.integers(0, 1 << 45),
)  # fmt: skip
def test_a_pace_is_within_its_bounds(every: float, written: float, room: int, cap: int | None, changed: int) -> None:
    rate = Pace(every, written, room, cap).rate(changed)
    if rate is None:
        assert cap is None
        return
    assert rate > 0
    assert cap is None or rate <= cap
    if rate != cap and rate > SLOWEST:
        assert changed / rate <= min(every, 60.0) + 1
        assert written * changed / rate <= room + written


def test_points_beyond_those_to_keep_are_given_up_the_oldest_first() -> None:
    points = [point(number) for number in range(1, 6)]
    assert [[each.number for each in part] for part in thinned(points, 3)] == [[1, 2], [3, 4, 5]]
    assert thinned(points, 5) == ([], points)


def test_the_next_point_is_merged_into_the_base_and_the_one_after_stands_on_that() -> None:
    first, second, third = point(1, whole=True), point(2), point(3)
    [merge] = merges(first, second, third)
    assert (merge.older, merge.newer, merge.above) == ("vda.1.whole.qcow2", "vda.2.qcow2", "vda.3.qcow2")
    # The second point is in the first one's image then, and no whole disk of its own.
    merged = replace(second, disks={"vda": replace(second.disks["vda"], file=merge.older)})
    assert not is_whole(merged.disks["vda"], 2)
    [again] = merges(merged, third, None)
    assert (again.older, again.newer, again.above) == ("vda.1.whole.qcow2", "vda.3.qcow2", "")


def test_a_disk_that_was_brought_whole_is_merged_with_nothing() -> None:
    assert merges(point(1, whole=True), point(2, whole=True), point(3)) == ()
    [merge] = merges(point(1, whole=True), point(2), point(3, whole=True))
    assert merge.above == ""


def test_a_backup_names_what_changes_are_told_since() -> None:
    assert "<incremental>mudanza-1-4</incremental>" in backup_xml("/s", {"vda": "/a.scratch"}, "mudanza-1-4")
    assert "incremental" not in backup_xml("/s", {"vda": "/a.scratch"}, "")
    assert "<name>mudanza-1-5</name>" in checkpoint_xml("mudanza-1-5", ["vda"])


def disk_of(image_format: str, *, kind: str = "file", source: str = "", **about: Any) -> Disk:
    return Disk("vda", "disk", "virtio", kind, source or f"/images/db.{image_format}", image_format, **about)


def vm_with(*disks: Disk) -> Vm:
    definition = f"<domain type='kvm'><name>db</name><uuid>{UUID}</uuid><os><type>hvm</type></os></domain>"
    return replace(parse_vm(definition, host="h1", state=VmState.RUNNING), disks=disks)


def test_what_is_set_aside_is_copied_by_the_vms_own_qemu() -> None:
    told = etree.fromstring(aside_xml({"vda": "/a.scratch", "vdb": "/b.scratch"}, "mudanza-1-4"))
    assert (told.get("mode"), told.findtext("incremental")) == ("push", "mudanza-1-4")
    assert [each.get("name") for each in told.iterfind("disks/disk")] == ["vda", "vdb"]
    assert [each.get("file") for each in told.iterfind("disks/disk/target")] == ["/a.scratch", "/b.scratch"]
    assert {each.get("type") for each in told.iterfind("disks/disk/driver")} == {"qcow2"}


def test_a_raw_disk_is_in_no_checkpoint_and_is_served_as_a_whole() -> None:
    scratch = {"vda": "/a.scratch", "vdb": "/b.scratch"}
    told = etree.fromstring(backup_xml("/s", scratch, "mudanza-1-4", ["vdb"]))
    modes = {disk.get("name"): disk.get("backupmode") for disk in told.iterfind("disks/disk")}
    assert modes == {"vda": None, "vdb": "full"}
    raw, counted = disk_of("raw"), disk_of("qcow2")
    with_both = vm_with(raw, counted)
    assert protected_disks(with_both) == (raw, counted)
    protection = cast("Protection", SimpleNamespace(id=1, journal="", made_at=2.5))
    assert checkpoint_of(protection, [raw, counted], 5) == "mudanza-1-2-5"
    assert checkpoint_of(protection, [raw], 5) == ""


@pytest.mark.parametrize(
    "about", [{"kind": "network"}, {"image_format": "vmdk"}, {"shareable": True}, {"encryption": "luks"}]
)
def test_what_cannot_be_read_at_an_instant_is_not_protected(about: dict[str, Any]) -> None:
    with pytest.raises(BlockedError, match="vda"):
        protected_disks(vm_with(disk_of(**{"image_format": "raw", **about})))


def test_the_scratch_of_a_device_is_where_there_is_room_for_it() -> None:
    device = disk_of("raw", kind="block", source="/dev/vg/db")
    mine = cast("Protection", SimpleNamespace(id=1, journal="", made_at=9.0))
    assert scratch_of(mine, device, 3) == "/var/lib/libvirt/qemu/dev-vg-db.mudanza-scratch-1-9-3"
    assert scratch_of(mine, disk_of("raw"), 3) == "/images/db.raw.mudanza-scratch-1-9-3"


def test_a_host_that_is_not_reached_by_ssh_keeps_no_replica_from_being_given_up() -> None:
    """What rounds may have left there is told of, and the VM may be there by now."""
    mine = cast("Protection", SimpleNamespace(id=1, journal="", made_at=9.0))
    told = clear_if_reached(HostEntry("h3", "qemu+tls://h3/system"), mine, vm_with(disk_of("qcow2")))
    assert "on h3 was not deleted: host h3 is not reached by ssh" in told


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, bytes]]:
    """A disk of 4 MiB that QEMU serves at a socket, and what is on it."""
    content, socket = random.Random(5).randbytes(4 * MIB), tmp_path / "near.sock"
    disk = tmp_path / "disk.raw"
    disk.write_bytes(content)
    argv = ["qemu-nbd", "-r", "-t", "-e", "9", "-f", "raw", "-x", "vda", "-k", socket, "--", disk]
    with subprocess.Popen([str(word) for word in argv]) as serving:
        yield socket, content
        serving.terminate()


@pytest.mark.parametrize("rate", [None, 4 * MIB])
def test_what_is_brought_is_the_same_at_any_rate(served: tuple[Path, bytes], tmp_path: Path, rate: int | None) -> None:
    socket, content = served
    about: dict[str, object] = {"directory": tmp_path, "socket": socket, "disk": "vda", "size": len(content)}
    about |= {"rate": rate or "", "below": "whole.qcow2", "reads": reads([(MIB, 3 * MIB)], rate)}
    began = time.monotonic()
    [told] = brought(scripts.EVERYTHING, about, "whole.qcow2")
    took = time.monotonic() - began
    assert len(content) <= int(told.removeprefix("@ brought ")) <= len(content) + MIB
    assert brought(scripts.COMPARE, about, "whole.qcow2") == ["@ same"]
    byte = [f"write -q -P {content[MIB] ^ 1} {MIB} 1"]
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", *byte, tmp_path / "whole.qcow2"], check=True)
    assert brought(scripts.COMPARE, about, "whole.qcow2")[0].startswith("@ differs"), "one byte is seen"
    began = time.monotonic()
    brought(scripts.CHANGES, about, "changes.qcow2")
    changes_took = time.monotonic() - began
    assert brought(scripts.COMPARE, about, "changes.qcow2") == ["@ same"]
    if rate is not None:
        assert took > 0.7, "it cannot be quicker: a tenth of a second's worth may come at once"
        assert changes_took > 0.4


def brought(script: str, about: Mapping[str, object], file: str) -> list[str]:
    values = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in {**about, "file": file}.items())
    done = subprocess.run(["sh", "-c", values + script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("@ grown")]


def test_it_comes_up_on_images_upon_the_point(store: Protections) -> None:
    definition = (
        "<domain><name>db</name><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        "<source file='/old/db.qcow2'/><backingStore/><target dev='vda' bus='virtio'/></disk>"
        "<graphics type='vnc' passwd='*****'/>"
        "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='lan'/></interface>"
        "</devices></domain>"
    )
    found = running_on(
        store.make(VALUES),
        replace(point(4), definition=definition),
        {"vda": ReplicaDisk("vda.active-1.qcow2", GIB)},
        {"52:54:00:00:00:01": "dr"},
    )
    assert 'file="/images/mudanza-replicas/vda.active-1.qcow2"' in found
    assert "/old/" not in found
    assert "backingStore" not in found
    assert 'network="dr"' in found
    assert 'passwd="' in found
    assert "*****" not in found


@pytest.fixture
def store(tmp_path: Path) -> Protections:
    return Protections(open_database(str(tmp_path / "mudanza.db")))


VALUES = {
    "vm_uuid": UUID,
    "vm_name": "db",
    "target": "h2",
    "directory": "/images/mudanza-replicas",
    "every": 60.0,
    "keep": 3,
    "scratch": 10 * GIB,
    "autostart": True,
    "made_by": "ana",
}


def test_a_point_is_there_once_it_is_whole(store: Protections) -> None:
    made = store.make(VALUES)
    assert (made.standing, made.lag, made.points, made.checkpoint) == (Standing.ON, None, (), "")
    number = store.begin_round(made.id)
    assert number == 1
    assert store.of("db").tried_at is not None
    taken = replace(point(number, whole=True), taken_at=store.instant())
    store.add_point(made.id, taken, "mudanza-1-1")
    found = store.of(UUID)
    assert found.points == (taken,)
    assert found.checkpoint == "mudanza-1-1"
    assert found.lag is not None
    assert found.lag >= 0
    assert store.begin_round(made.id) == 2


def test_what_is_given_up_is_nowhere_to_come_back_to_and_its_images_stay_until_they_are_merged(
    store: Protections,
) -> None:
    made = store.make(VALUES)
    for number in (1, 2):
        store.add_point(made.id, point(number, whole=number == 1), f"mudanza-1-{number}")
    store.give_up(made.id, 1)
    found = store.of("db")
    assert [each.number for each in found.points] == [2]
    assert found.given_up == point(1, whole=True)
    store.merged(made.id, 1, 2, {"vda": ReplicaDisk("vda.1.whole.qcow2", GIB)})
    found = store.of("db")
    assert found.given_up is None
    assert files_of(found.points) == {"vda.1.whole.qcow2"}


def test_a_vm_is_protected_once(store: Protections) -> None:
    made = store.make(VALUES)
    with pytest.raises(BlockedError, match="protected already"):
        store.make(VALUES)
    store.add_point(made.id, point(1), "mudanza-1-1")
    store.remove(made.id)
    assert store.all() == ()
    with pytest.raises(UsageError, match="is not protected"):
        store.of("db")


def test_a_backup_of_the_journal_holds_protections(store: Protections, tmp_path: Path) -> None:
    made = store.make(VALUES)
    store.add_point(made.id, point(1), "mudanza-1-1")
    back_up(open_database(str(tmp_path / "mudanza.db")), tmp_path / "backup")
    other = open_database(str(tmp_path / "other.db"))
    restore(other, tmp_path / "backup", force=False)
    [found] = Protections(other).all()
    assert found.points == (point(1),)
