"""Disks that move within one host: what follows from what the host says, and how that is read from definitions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mudanza.hypervisor.block_jobs import Mirror, mirrors, place_xml
from mudanza.migration.record import CopiedDisk, MoveRecord
from mudanza.migration.relocation.plan import RelocationRecord, standing_of
from mudanza.migration.relocation.settle import At, Copying, DiskStanding, Next, settle_off, settle_running
from mudanza.model.migration import MigrationOptions
from mudanza.preflight.relocation import moves_disks
from tests import factories as make
from tests.preflight_scenes import Scene, in_place

OLD, NEW, ELSEWHERE = At.OLD, At.NEW, At.ELSEWHERE
IDLE, BUSY, READY, FOREIGN = Copying.NOT, Copying.UNDER_WAY, Copying.READY, Copying.FOREIGN


def stands(live: At | None, kept: At | None, copying: Copying = IDLE) -> DiskStanding:
    return DiskStanding(live, kept, copying)


AT_OLD, COPIED, DONE = stands(OLD, OLD), stands(OLD, OLD, READY), stands(NEW, NEW)
UNDER_WAY, UNWRITTEN = stands(OLD, OLD, BUSY), stands(NEW, OLD)

# The disks, whether it is still wanted → what is to be done.
RUNNING = [
    ((AT_OLD, AT_OLD), True, Next.COPY),
    ((UNDER_WAY, AT_OLD), True, Next.COPY),
    ((COPIED, AT_OLD), True, Next.COPY),
    ((UNDER_WAY, COPIED), True, Next.WAIT),
    ((COPIED, COPIED), True, Next.PIVOT),
    ((DONE, COPIED), True, Next.PIVOT),
    ((DONE, UNDER_WAY), True, Next.WAIT),
    ((DONE, AT_OLD), True, Next.UNDO),
    ((UNWRITTEN, AT_OLD), True, Next.DEFINE),
    ((UNWRITTEN, COPIED), True, Next.PIVOT),
    ((DONE, DONE), True, Next.FINISH),
    ((DONE, UNWRITTEN), True, Next.DEFINE),
    ((stands(NEW, None),), True, Next.FINISH),
    ((AT_OLD, AT_OLD), False, Next.UNDO),
    ((UNDER_WAY, AT_OLD), False, Next.ABORT),
    ((COPIED, COPIED), False, Next.ABORT),
    ((DONE, COPIED), False, Next.ABORT),
    ((DONE, AT_OLD), False, Next.UNDO),
    ((DONE, DONE), False, Next.FINISH),
    ((UNWRITTEN, DONE), False, Next.DEFINE),
    ((stands(None, OLD), stands(None, OLD)), True, Next.UNDO),
    ((stands(None, NEW), stands(None, OLD)), True, Next.UNDO),
    ((stands(None, NEW), stands(None, NEW)), False, Next.FINISH),
    ((stands(OLD, OLD, FOREIGN),), True, Next.PERSON),
    ((stands(ELSEWHERE, OLD),), True, Next.PERSON),
    ((stands(OLD, ELSEWHERE),), False, Next.PERSON),
    ((), True, Next.PERSON),
    ((), False, Next.PERSON),
]

# The disks, whether it is still wanted, whether its guest is yet to be switched off → what is to be done.
OFF = [
    ((stands(None, OLD), stands(None, OLD)), True, False, Next.COPY),
    ((stands(None, OLD),), True, True, Next.COPY),
    ((stands(None, OLD),), False, False, Next.UNDO),
    ((AT_OLD,), True, True, Next.SWITCH_OFF),
    ((AT_OLD,), True, False, Next.UNDO),
    ((AT_OLD,), False, True, Next.UNDO),
    ((stands(None, NEW), stands(None, NEW)), True, False, Next.FINISH),
    ((stands(None, NEW),), False, False, Next.FINISH),
    ((DONE,), True, False, Next.FINISH),
    ((stands(OLD, NEW),), True, False, Next.DEFINE),
    ((stands(NEW, OLD),), True, False, Next.PERSON),
    ((stands(None, NEW), stands(None, OLD)), True, False, Next.PERSON),
    ((stands(None, ELSEWHERE),), True, False, Next.PERSON),
    ((), True, False, Next.PERSON),
]


def named(disks: tuple[DiskStanding, ...]) -> dict[str, DiskStanding]:
    return {f"vd{'abcd'[number]}": disk for number, disk in enumerate(disks)}


@pytest.mark.parametrize(("disks", "wanted", "expected"), RUNNING)
def test_running(disks: tuple[DiskStanding, ...], wanted: bool, expected: Next) -> None:
    verdict = settle_running(named(disks), wanted=wanted)
    assert verdict.next is expected, verdict.why
    assert verdict.why


@pytest.mark.parametrize(("disks", "wanted", "yet_to_stop", "expected"), OFF)
def test_off(disks: tuple[DiskStanding, ...], wanted: bool, yet_to_stop: bool, expected: Next) -> None:
    verdict = settle_off(named(disks), wanted=wanted, to_be_switched_off=yet_to_stop)
    assert verdict.next is expected, verdict.why
    assert verdict.why


EACH = [stands(*each) for each in itertools.product((OLD, NEW, ELSEWHERE), (OLD, NEW, ELSEWHERE, None), Copying)]


@given(st.lists(st.sampled_from(EACH), min_size=1, max_size=4), st.booleans())
def test_what_may_never_follow_while_it_runs(disks: list[DiskStanding], wanted: bool) -> None:
    found = settle_running(named(tuple(disks)), wanted=wanted).next
    if found is Next.FINISH:
        assert all(disk.live is NEW and disk.kept in (NEW, None) for disk in disks), "an old place still in use is kept"
    if found is Next.PIVOT:
        assert wanted
        assert all(disk.live is NEW or disk.copying is READY for disk in disks), "all or nothing"
    if found is Next.UNDO:
        assert not any(disk.live is OLD and disk.copying is not IDLE for disk in disks), (
            "copies end before their volumes"
        )
        assert all(disk.kept in (disk.live, None) for disk in disks), "no start from another place than it runs from"
    if not wanted:
        assert found not in (Next.COPY, Next.WAIT, Next.PIVOT)


@given(st.lists(st.sampled_from(EACH), min_size=1, max_size=4), st.booleans())
def test_doing_as_told_comes_to_an_end(disks: list[DiskStanding], wanted: bool) -> None:
    for _ in range(12):
        found = settle_running(named(tuple(disks)), wanted=wanted).next
        if found in (Next.FINISH, Next.UNDO, Next.PERSON):
            return
        disks = [carried_out(found, disk) for disk in disks]
    raise AssertionError(f"it goes in circles: {disks}")


def carried_out(step: Next, disk: DiskStanding) -> DiskStanding:
    at_old = disk.live is OLD
    match step:
        case Next.COPY if at_old and disk.copying is IDLE:
            return DiskStanding(disk.live, disk.kept, BUSY)
        case Next.WAIT if at_old:
            return DiskStanding(disk.live, disk.kept, READY)
        case Next.PIVOT if at_old:
            return DiskStanding(NEW, None if disk.kept is None else NEW)
        case Next.ABORT:
            return DiskStanding(disk.live, disk.kept)
        case Next.DEFINE:
            return DiskStanding(disk.live, None if disk.kept is None else disk.live, disk.copying)
    return disk


DOMAIN = """<domain type='kvm'><devices>
  <disk type='{kind}' device='disk'><driver name='qemu' type='{format}'/><source {source} index='3'/>{mirror}
    <target dev='vda' bus='virtio'/></disk>
  <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
</devices></domain>"""
MIRROR = "<mirror type='file' file='/fast/web.qcow2' job='copy'{ready}><source file='/fast/web.qcow2'/></mirror>"


def domain(source: str, *, mirror: str = "", kind: str = "file", image_format: str = "qcow2") -> str:
    return DOMAIN.format(kind=kind, format=image_format, source=source, mirror=mirror)


def record(xml: str) -> RelocationRecord:
    disk = CopiedDisk(
        "vda", "/images/web.qcow2", "images", "web.qcow2", "fast", "web.qcow2", "/fast/web.qcow2", 1, True, False
    )
    move = MoveRecord("u", "web", "h1", "h1", False, True, False, False, False, xml, xml, (disk,))
    return RelocationRecord(move, {"vda": "raw"}, {"vda": "qcow2"}, None)


FILE = domain("file='/images/web.qcow2'")
VOLUME = domain("pool='images' volume='web.qcow2'", kind="volume")
MOVED = domain("file='/fast/web.qcow2'", image_format="raw")


def test_mirrors_are_read() -> None:
    assert mirrors(FILE) == {}
    assert mirrors(domain("file='/a'", mirror=MIRROR.format(ready=""))) == {"vda": Mirror("/fast/web.qcow2", False)}
    for ready, expected in ((" ready='yes'", True), (" ready='pivot'", False), (" ready='abort'", False)):
        assert mirrors(domain("file='/a'", mirror=MIRROR.format(ready=ready)))["vda"].ready is expected


@pytest.mark.parametrize("before", [FILE, VOLUME])
def test_where_a_disk_is_is_read_from_both_definitions(before: str) -> None:
    made = record(before)
    assert standing_of(made, before, before) == {"vda": AT_OLD}
    assert standing_of(made, MOVED, before) == {"vda": UNWRITTEN}
    assert standing_of(made, None, MOVED) == {"vda": stands(None, NEW)}
    assert standing_of(made, domain("file='/images/other.qcow2'"), None) == {"vda": stands(ELSEWHERE, None)}
    assert standing_of(made, domain("file='/images/web.qcow2'", mirror=MIRROR.format(ready="")), FILE) == {
        "vda": UNDER_WAY
    }
    elsewhere = MIRROR.replace("/fast/", "/slow/").format(ready="")
    assert standing_of(made, domain("file='/images/web.qcow2'", mirror=elsewhere), FILE)["vda"].copying is FOREIGN


@pytest.mark.parametrize("before", [FILE, VOLUME])
def test_a_definition_is_led_there_and_back(before: str) -> None:
    made = record(before)
    there = made.definition(before, ["vda"])
    assert standing_of(made, None, there)["vda"].kept is NEW
    assert "type='raw'" in there.replace('"', "'")
    back = made.definition(there, [])
    assert standing_of(made, None, back)["vda"].kept is OLD
    assert "type='qcow2'" in back.replace('"', "'")


def test_a_record_survives_the_journal() -> None:
    made = record(FILE)
    assert RelocationRecord.from_json(made.to_json()) == made


def test_a_place_ends_the_chain() -> None:
    assert '<source file="/fast/a"/><backingStore/>' in place_xml("/fast/a", "qcow2")
    assert '<source dev="/dev/vg/a"/>' in place_xml("/dev/vg/a", "raw")


def test_only_a_map_that_leads_elsewhere_moves_disks() -> None:
    host = in_place(Scene()).source
    assert not moves_disks(make.vm(), host, MigrationOptions())
    assert not moves_disks(make.vm(), host, MigrationOptions(format="raw"))
    assert moves_disks(make.vm(), host, MigrationOptions(map_storage={"images": "fast"}))
    assert moves_disks(make.vm(), host, MigrationOptions(map_storage={"images": "fats"})), "which is then refused"
    there = make.vm(disks=(make.disk(source="/fast/web.qcow2", pool="fast"),))
    assert not moves_disks(there, host, MigrationOptions(map_storage={"images": "fast"}))
