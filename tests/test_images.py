"""What becomes another format: how its images are named to QEMU, and when its source may be let go. Pure."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mudanza.hypervisor.contents.by_ssh import node
from mudanza.hypervisor.contents.digests import Layer, is_readable
from mudanza.migration.freight.images import images_at_both_ends, length_of
from mudanza.migration.record import ColdRecord
from mudanza.migration.variables import why_needed
from mudanza.model.migration import Verify
from mudanza.model.vm import Backing, Firmware
from mudanza.preflight.cargo import CargoFile, Role
from tests import factories as make

KEPT = CargoFile(Role.DISK, "vda", "/a/one.qcow2", "/b/one.qcow2", format="qcow2", source_format="qcow2", size=700)
TURNED = replace(KEPT, label="vdb", source="/a/two.qcow2", path="/b/two.raw", format="raw")
RECORD = ColdRecord(
    "u-1", "web", "h1", "h2", False, False, False, True, Verify.FULL, "x86_64", "q35", "kvm", "<domain/>", "<domain/>",
    files=(KEPT, TURNED),
)  # fmt: skip
NVRAM = "/var/lib/libvirt/qemu/nvram/web_VARS.fd"


def test_every_image_is_named_with_its_format_and_nothing_lies_below_the_last() -> None:
    name = 'a "quoted", {odd} name'
    told = json.loads(node([Layer(name, "qcow2"), Layer("/base", "qcow2"), Layer("/dev/vg/x", "raw", is_block=True)]))
    assert told["file"] == {"driver": "file", "filename": name}
    assert told["backing"]["driver"] == "qcow2"
    assert told["backing"]["backing"] == {"driver": "raw", "file": {"driver": "host_device", "filename": "/dev/vg/x"}}
    assert json.loads(node([Layer("/alone", "qcow2")]))["backing"] is None


@pytest.mark.parametrize(
    ("layer", "readable"),
    [
        (Layer("/a", "qcow2"), True),
        (Layer("/dev/a", "raw", is_block=True), True),
        (Layer("/dev/a", "qcow2", is_block=True), False),
        (Layer("/a", "auto"), False),
        (Layer("/a", "vmdk"), False),
    ],
)
def test_what_can_be_read(layer: Layer, readable: bool) -> None:
    assert is_readable([Layer("/top", "qcow2"), layer]) is readable


def test_what_travels_as_it_is_is_compared_by_its_bytes() -> None:
    assert images_at_both_ends(KEPT) == ((), ())
    assert length_of(KEPT, 12345) == 12345
    here, there = images_at_both_ends(replace(TURNED, chain=(Backing("/a/base", "qcow2"),)))
    assert [layer.path for layer in here] == ["/a/two.qcow2", "/a/base"]
    assert there == (Layer("/b/two.raw", "raw"),)
    assert length_of(TURNED, 12345) == 1024, "QEMU counts in sectors"


def test_what_nobody_wrote_down_as_compared_is_kept() -> None:
    assert RECORD.unproven(()) == (TURNED,), "as in journals of earlier versions"
    assert RECORD.unproven(["/a/two.qcow2"]) == ()
    assert replace(RECORD, verify=Verify.NONE).unproven(()) == ()
    kept = {disk.source_path for disk in RECORD.as_move(()).disks}
    assert kept == {"/a/one.qcow2"}
    assert {disk.source_path for disk in RECORD.as_move(["/a/two.qcow2"]).disks} == {"/a/one.qcow2", "/a/two.qcow2"}


def test_a_disk_that_is_not_the_vms_own_is_named_among_what_stays() -> None:
    floppy = replace(KEPT, own=False, source_pool="images", source_volume="one.qcow2")
    disks = replace(RECORD, files=(floppy,)).as_move(()).disks
    assert [(disk.source_path, disk.removable) for disk in disks] == [("/a/one.qcow2", False)]


def test_uefi_variables_stay_for_whoever_may_need_them() -> None:
    host = make.host("h1")
    other = replace(make.vm(), uuid="u-2", name="db", inactive_xml=None)
    assert why_needed(NVRAM, host, [other]) == ""
    assert "could not be asked" in why_needed(NVRAM, replace(host, error="no answer"), [])
    for needy in (
        replace(other, name="web"),
        replace(other, firmware=Firmware("/loader", NVRAM)),
        replace(other, inactive_xml=f"<domain><os><nvram>{NVRAM}</nvram></os></domain>"),
        replace(other, disks=(make.disk(source=NVRAM),)),
    ):
        assert f"domain {needy.name!r} refers to it" in why_needed(NVRAM, host, [needy])
    assert "could not be found out" in why_needed(NVRAM, host, [replace(other, error="unreadable")])
