"""What of a switched-off VM travels, and where it ends up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mudanza.model.migration import Chain, Media, MigrationOptions, Mode
from mudanza.model.vm import Backing, Firmware, Snapshot, Vm, VmState
from mudanza.preflight.cargo import Cargo, CargoFile, Role, cargo_of
from mudanza.preflight.mapping import resolve
from tests import factories as make
from tests.factories import IMAGES, NO

BASE = Backing(f"{IMAGES}/base.qcow2", "qcow2")
ROOT = Backing(f"{IMAGES}/root.raw", "raw")


def cargo(vm: Vm, **options: Any) -> Cargo:
    vm = replace(vm, state=VmState.SHUTOFF)
    asked = MigrationOptions(mode=Mode.COLD, **options)
    source, target = make.host("h1"), make.host("h2", pools=(make.pool(), make.pool(name="fast", path="/srv/fast")))
    facts = replace(make.facts(vm, target), shared=dict.fromkeys(("vda", "vdb"), NO))
    return cargo_of(vm, source, target, asked, resolve(vm, source, target, asked, facts))


def files(vm: Vm, **options: Any) -> dict[str, CargoFile]:
    return {file.source: file for file in cargo(vm, **options).files}


def test_a_disk_travels_as_it_is() -> None:
    [file] = cargo(make.vm()).files
    assert (file.role, file.source, file.path) == (Role.DISK, f"{IMAGES}/web.qcow2", f"{IMAGES}/web.qcow2")
    assert file.as_it_is
    assert file.own
    assert not file.for_others_too


def test_a_chain_is_kept_file_by_file_and_what_others_may_use_is_only_read() -> None:
    found = files(make.vm(disks=(make.disk(backing=(BASE, ROOT)),)), map_storage={"images": "fast"})
    assert [file.path for file in found.values()] == [
        "/srv/fast/web.qcow2",
        "/srv/fast/base.qcow2",
        "/srv/fast/root.raw",
    ]
    assert [file.below for file in found.values()] == [BASE.path, ROOT.path, ""]
    assert [file.own for file in found.values()] == [True, False, False]
    assert all(file.as_it_is for file in found.values())


def test_flattened_it_is_one_image() -> None:
    [file] = cargo(make.vm(disks=(make.disk(backing=(BASE,)),)), chain=Chain.FLATTEN).files
    assert file.chain == (BASE,)
    assert not file.as_it_is


def test_two_disks_on_one_base_carry_it_once() -> None:
    second = make.disk(target="vdb", source=f"{IMAGES}/two.qcow2", volume="two.qcow2", backing=(BASE,))
    found = cargo(make.vm(disks=(make.disk(backing=(BASE,)), second))).files
    assert [file.role for file in found] == [Role.DISK, Role.BACKING, Role.DISK]


def test_reused_bases_must_be_there() -> None:
    found = files(make.vm(disks=(make.disk(backing=(BASE,)),)), chain=Chain.REUSE)
    assert found[BASE.path].must_exist


def test_another_format_is_another_content_of_the_file() -> None:
    [file] = cargo(make.vm(), format="raw").files
    assert (file.format, file.source_format, file.volume) == ("raw", "qcow2", "web.raw")
    assert not file.as_it_is


def test_media_travel_when_asked_and_are_never_deleted() -> None:
    vm = make.vm(disks=(make.disk(), make.iso()))
    path = f"{IMAGES}/debian.iso"
    assert path not in files(vm)
    assert path not in files(vm, media=Media.EJECT)
    assert not files(vm, media=Media.COPY)[path].own


def test_a_read_only_disk_travels_and_stays() -> None:
    vm = make.vm(disks=(make.disk(readonly=True),))
    [file] = cargo(vm).files
    assert file.for_others_too
    assert not file.own


def test_a_shareable_disk_travels_and_stays() -> None:
    [file] = cargo(make.vm(disks=(make.disk(shareable=True),))).files
    assert file.for_others_too
    assert not file.own


def test_a_floppy_that_can_be_written_to_travels_like_a_disk_and_stays_like_any_medium() -> None:
    floppy = make.disk(device="floppy", bus="fdc", format="raw", source=f"{IMAGES}/tools.img", volume="tools.img")
    before = Snapshot("one", external=False, current=True, disks=frozenset({f"{IMAGES}/tools.img"}))
    for vm in (make.vm(disks=(floppy,)), make.vm(disks=(floppy,), snapshots=(before,))):
        [file] = cargo(vm).files
        assert file.role is Role.DISK
        assert not file.own
        assert not file.for_others_too


def test_uefi_variables_are_found_where_libvirt_puts_them() -> None:
    auto = files(make.vm(firmware=Firmware(None, None)))
    assert auto["/var/lib/libvirt/qemu/nvram/web_VARS.fd"].optional
    named = files(make.vm(firmware=Firmware("/usr/share/OVMF/OVMF_CODE.fd", "/srv/web.fd")))
    assert named["/srv/web.fd"].role is Role.NVRAM


def test_saved_memory_travels() -> None:
    found = files(make.vm(has_managed_save=True))
    assert found["/var/lib/libvirt/qemu/save/web.save"].role is Role.SAVED


def test_what_snapshots_are_made_of_belongs_to_the_vm() -> None:
    below = Backing(f"{IMAGES}/web.before", "qcow2")
    snapshot = Snapshot("one", external=True, current=True, memory="/srv/one.mem", disks=frozenset({below.path}))
    found = files(make.vm(disks=(make.disk(backing=(below, BASE)),), snapshots=(snapshot,)))
    assert found["/srv/one.mem"].role is Role.SNAPSHOT
    assert found[below.path].own
    assert not found[BASE.path].own


def test_memory_of_a_snapshot_can_be_deleted_where_a_pool_knows_its_directory() -> None:
    paths = (f"{IMAGES}/web.mem", "/srv/two.mem")
    snapshots = tuple(Snapshot(path[-7:], external=True, current=False, memory=path) for path in paths)
    found = files(make.vm(snapshots=snapshots))
    assert [(found[path].source_pool, found[path].source_volume) for path in paths] == [("images", "web.mem"), ("", "")]


def test_two_files_of_one_name_cannot_become_one() -> None:
    base = Backing("/srv/base/web.qcow2", "qcow2")
    found = cargo(make.vm(disks=(make.disk(backing=(base,)),)), map_storage={"images": "fast", "/srv/base": "fast"})
    assert [finding.code for finding in found.findings] == ["volume-clash"]
    assert not cargo(make.vm(disks=(make.disk(backing=(base,)),)), map_storage={"/srv/base": "fast"}).findings


def test_a_read_only_disk_brings_what_it_is_built_upon() -> None:
    found = files(make.vm(disks=(make.disk(readonly=True, backing=(BASE, ROOT)),)))
    assert [file.role for file in found.values()] == [Role.MEDIUM, Role.BACKING, Role.BACKING]
    assert [file.below for file in found.values()] == [BASE.path, ROOT.path, ""]


def test_an_image_that_came_beside_libvirt_belongs_to_the_pool_of_its_directory() -> None:
    [file] = cargo(make.vm(disks=(make.disk(pool=None, volume=None),))).files
    assert (file.source_pool, file.source_volume) == ("images", "web.qcow2")
    [device] = cargo(make.vm(disks=(make.disk(pool=None, volume=None, kind="block", source="/dev/sdx"),)),
                     map_storage={"/dev": "fast"}).files  # fmt: skip
    assert (device.source_pool, device.source_volume) == ("", "")
