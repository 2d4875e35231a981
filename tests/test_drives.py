"""Which drives a VM comes up with at its replica: those that it wrote to as it ran, and what is there of the others."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lxml import etree

from mudanza.hypervisor.backups import counted_in
from mudanza.hypervisor.shell import HostShell
from mudanza.hypervisor.volumes import Volumes
from mudanza.model.errors import BlockedError
from mudanza.model.vm import Disk, VmState
from mudanza.operations.protecting import what_it_costs
from mudanza.protection import scripts
from mudanza.protection.cut_off import double_of
from mudanza.protection.drives import as_it_ran, ejected, in_words, left_out, media_of, missing_media, without_others
from mudanza.protection.serving import is_compared, is_counted, looked_into, protected_disks
from mudanza.protection.turning import Copies, seed_of
from tests import factories as make
from tests.test_restore_points import Local, sh


def drive(target: str, source: str = "", device: str = "disk", more: str = "") -> str:
    source = f'<source file="{source}"/>' if source else ""
    return f"<disk type='file' device='{device}'><driver type='qcow2'/>{source}<target dev='{target}'/>{more}</disk>"


def volume(target: str, name: str) -> str:
    source = f"<source pool='isos' volume='{name}'/>"
    return f"<disk type='volume' device='cdrom'>{source}<target dev='{target}'/></disk>"


def machine(*drives: str) -> str:
    return f"<domain><name>db</name><uuid>u-1</uuid><devices>{''.join(drives)}</devices></domain>"


def drives_of(definition: str) -> dict[str, str]:
    root = etree.fromstring(definition)
    return {
        str(each.xpath("string(target/@dev)")): str(each.xpath("string(source/@file)"))
        for each in root.iterfind("devices/disk")
    }


RUN = "<alias name='scsi0-0-0-1'/><address type='drive' unit='1'/><backingStore/>"


def test_a_disk_that_is_plugged_in_for_this_run_is_there_when_it_comes_up() -> None:
    plugged = drive("sdb", "/i/b", more=RUN)
    found = as_it_ran(machine(drive("vda", "/i/a")), machine(drive("vda", "/i/a", more=RUN), plugged), ["vda", "sdb"])
    assert drives_of(found) == {"vda": "/i/a", "sdb": "/i/b"}
    [_, added] = etree.fromstring(found).iterfind("devices/disk")
    assert [child.tag for child in added] == ["driver", "source", "target"], (
        "what is of that run only is left to libvirt"
    )
    whole = machine(drive("vda", "/i/a"))
    assert as_it_ran(whole, machine(plugged), ["vda"]) == whole


def test_a_disk_that_the_vm_did_not_run_with_is_not_there() -> None:
    """What lies elsewhere under its path is somebody else's, and would be written to."""
    held = [drive("hdc", "/i/cd", "cdrom"), drive("vdb", "/i/b", more="<readonly/>"), drive("fda", "", "floppy")]
    found = without_others(machine(drive("vda", "/i/a"), drive("vdc", "/i/c"), *held), ["vda"])
    assert drives_of(found) == {"vda": "/i/a", "hdc": "/i/cd", "vdb": "/i/b", "fda": ""}


def test_a_disk_that_was_a_part_of_a_file_is_a_whole_image_there() -> None:
    part = "<source file='/i/a'><slices><slice type='storage' offset='512' size='1024'/></slices></source>"
    held = [
        f"<disk device='disk'>{part}<target dev='{target}'/>{more}</disk>"
        for target, more in (("vda", ""), ("vdb", "<readonly/>"))
    ]
    root = etree.fromstring(without_others(machine(*held), ["vda"]))
    assert [len(each.findall("source/slices")) for each in root.iterfind("devices/disk")] == [0, 1]


def test_a_drive_is_empty_where_its_medium_is_not(tmp_path: Path) -> None:
    there = tmp_path / "it's there, too.iso"
    there.touch()
    definition = machine(
        drive("vda", "/not/there"), drive("hda", str(there), "cdrom"), drive("hdc", "/not/there.iso", "cdrom"),
        drive("fda", "/not/there.img", "floppy"), drive("hdd", "", "cdrom"),
        volume("sda", "there.iso"), volume("sdb", "gone.iso"),
    )  # fmt: skip
    assert list(media_of(definition).files) == ["hda", "hdc", "fda"]
    volumes = cast("Volumes", SimpleNamespace(has=lambda pool, name: (pool, name) == ("isos", "there.iso")))
    missing = missing_media(cast("HostShell", Local()), volumes, definition)
    assert missing == {"hdc": "/not/there.iso", "fda": "/not/there.img", "sdb": "isos/gone.iso"}
    root = etree.fromstring(ejected(definition, missing))
    full = [str(each.xpath("string(target/@dev)")) for each in root.iterfind("devices/disk[source]")]
    assert full == ["vda", "hda", "sda"]
    held = machine(drive("vdb", "/ro", more="<readonly/>"), drive("hda", "/x", "cdrom", "<readonly/>"))
    assert in_words({"hdc": "/x.iso"}, held, "h2") == (
        "its drive hdc is empty: h2 has no /x.iso; its disk vdb is what h2 has there, for it is not carried"
    )
    nobody: Any = None
    assert (missing_media(nobody, nobody, machine()), in_words({}, machine(), "h2")) == ({}, "")


def test_a_double_writes_to_no_floppy() -> None:
    held = (drive("fda", "/i/one", "floppy"), drive("fdb", "/i/two", "floppy", "<readonly/>"))
    text = double_of(machine(*held), name="d", uuid="u-2", directory="/t", about=("u-1", 1))
    assert drives_of(text) == {"fda": "", "fdb": "/i/two"}


def test_what_is_not_carried_is_said() -> None:
    vm = make.vm(
        name="db",
        state=VmState.RUNNING,
        inactive_xml=machine(drive("vda", "/i/a"), drive("vdz", "/i/z")),
        disks=(
            make.disk(),
            make.disk(target="hdc", device="cdrom", source="/x.iso"),
            make.disk(target="hdd", device="cdrom", source=None),
            make.disk(target="vdb", readonly=True, source="/ro"),
            make.disk(target="vdc", transient=True, source="/tr"),
        ),
    )
    said = list(left_out(vm, "h2"))
    assert [line.split()[2] for line in said] == ["what", "vdb", "vdc", "vdz"]
    assert "comes up with that empty where h2 has no /x.iso" in said[0]
    assert "it cannot come up without /ro at h2" in said[1]
    assert "transient" in said[2]
    assert list(left_out(replace(vm, inactive_xml=None, disks=(make.disk(),)), "h2")) == []


def test_a_lun_that_is_passed_through_is_not_passed_over() -> None:
    vm = make.vm(
        disks=(make.disk(), make.disk(target="sda", device="lun", kind="block", format="raw", source="/dev/x"))
    )
    with pytest.raises(BlockedError, match="sda is a LUN that is passed through"):
        protected_disks(vm)


@pytest.mark.parametrize(
    ("source", "format_", "counted"),
    [("/pool/a.qcow2", "qcow2", True), ("/pool/a.raw", "raw", False), ("/dev/vg/a", "raw", False)],
)
def test_a_disk_that_is_named_as_a_volume_of_a_pool_is_what_the_pool_says(
    source: str, format_: str, counted: bool
) -> None:
    named = make.disk(kind="volume", source=source, format=format_)
    [found] = protected_disks(make.vm(disks=(named,)))
    assert (is_counted(found), is_compared(found), found.source) == (counted, not counted, source)
    copies = Copies(make.vm(disks=(named,)), make.vm(host="h2", disks=(named,)))
    assert seed_of(copies, "h2") == ({"vda": source} if counted else {})
    with pytest.raises(BlockedError):  # nobody knows where it is
        protected_disks(make.vm(disks=(replace(named, source="pool/a.qcow2"),)))


@pytest.fixture
def images(tmp_path: Path) -> Mapping[str, Disk]:
    """One of each version of qcow2, and one that is not there."""
    made = {}
    for target, compat in (("vda", "0.10"), ("vdb", "1.1")):
        path = tmp_path / f"it's, {compat} .qcow2"
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"compat={compat}", str(path), "1M"]
        subprocess.run(argv, check=True, timeout=60)
        made[target] = make.disk(target=target, source=str(path))
    return {**made, "vdc": make.disk(target="vdc", source=str(tmp_path / "gone"))}


def test_an_image_of_the_old_qcow2_is_compared_for_it_has_no_room_for_what_tells_of_changes(
    images: Mapping[str, Disk],
) -> None:
    raw = make.disk(target="vdd", format="raw")
    found = looked_into(cast("HostShell", Local()), [*images.values(), raw])
    assert [is_counted(disk) for disk in found] == [False, True, True, False]
    assert [is_compared(disk) for disk in found] == [True, False, False, True]
    assert looked_into(cast("HostShell", None), [raw]) == (raw,)
    [cost] = what_it_costs(make.vm(disks=(found[0],)), "h2")
    assert "vda is qcow2 of version 2, and nobody counts what changes on it" in cost
    assert "qemu-img amend -f qcow2 -o compat=1.1" in cost


@pytest.mark.parametrize(("disks", "behind"), [((), 7), (("vda",), 7), (("vda", "vdb"), None)])
def test_a_lag_in_bytes_is_told_only_if_it_is_that_of_all_disks(disks: tuple[str, ...], behind: int | None) -> None:
    checkpoint = """<domaincheckpoint><disks><disk name='vda' checkpoint='bitmap' size='7'/>
      <disk name='vdb' checkpoint='no'/></disks></domaincheckpoint>"""
    assert counted_in(checkpoint, disks) == behind


def test_what_has_told_of_changes_is_deleted_from_the_image_of_a_vm_that_is_off(images: Mapping[str, Disk]) -> None:
    image = images["vdb"].source
    for name in ("mudanza-1-9-3", "mudanza-1-9-12", "mudanza-1-99-3", "mudanza-1-9-3-of-others", "theirs"):
        subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", str(image), name], check=True, timeout=60)
    script, values = scripts.CLEAR_BITMAPS, {"begin": "mudanza-1-9"}
    told = Local().run(script, {**values, "disk": image})
    assert [words[1] for words in told] == ["mudanza-1-9-3", "mudanza-1-9-12"]
    info = subprocess.run(
        ["qemu-img", "info", str(image)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert [line.split()[1] for line in info.splitlines() if line.strip().startswith("name:")] == [
        "mudanza-1-99-3", "mudanza-1-9-3-of-others", "theirs",
    ]  # fmt: skip
    assert Local().run(script, {**values, "disk": images["vda"].source}) == []
    assert Local().run(script, {**values, "disk": images["vdc"].source}) == []


def test_a_replica_of_which_there_is_nothing_can_be_deleted(tmp_path: Path) -> None:
    """Its first round may have broken off before its directory was made."""
    about: dict[str, Any] = {"protection": "1", "journal": "j", "reign": 0, "directory": tmp_path / "replicas" / "u-1"}
    home = {"HOME": str(tmp_path)}
    sh(scripts.REMOVE.replace("/run/", f"{tmp_path}/").replace("/var/lib", f"{tmp_path}/var"), about, **home)
    (tmp_path / "replicas" / "u-1").mkdir(parents=True)
    (tmp_path / "replicas" / "u-2").mkdir()
    script = scripts.REMOVE.replace("/run/", f"{tmp_path}/").replace("/var/lib", f"{tmp_path}/var")
    sh(script, about, **home)
    assert [each.name for each in (tmp_path / "replicas").iterdir()] == ["u-2"], "others stay"
