"""Disks of every kind move switched off, byte for byte; what several VMs use stays where it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab import kinds
from tests.lab.cold import FAST, IMAGES, content, definition, exists, image, look, off, refresh, spoiling, states, sums
from tests.lab.command import Mudanza
from tests.lab.domains import disk

pytestmark = pytest.mark.lab

ODD = 1234567
"""Bytes of a file that is no whole number of sectors."""
WRITES = ("write -q -P 0xa1 0 64k", "write -q -P 0xa2 20M 2M", "write -q -P 0xa3 63M 1M")


@pytest.fixture
def made(lab: Lab) -> Iterator[ExitStack]:
    """Takes what a test makes away again, the last first."""
    with ExitStack() as stack:
        yield stack


def move(mudanza: Mudanza, vm: str, *options: str, to: str = "h2") -> dict[str, object]:
    """Move a VM and return the report."""
    report: dict[str, object] = mudanza("migrate", vm, "--to", to, "-o", "json", *options).report
    return report


def test_every_kind_of_disk_arrives_byte_for_byte(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    made.callback(kinds.sweep, lab, "kinds")
    h1 = lab.cell("h1")
    device = made.enter_context(kinds.loop_device(lab, 8 * MIB))
    made.callback(kinds.sweep, lab, Path(device).name)  # it becomes a file of that name
    h1.run(["sh", "-c", 'head -c 8M /dev/urandom >"$1"', "sh", device])
    full = f"{IMAGES}/kinds-full.raw"
    h1.run(["sh", "-c", 'head -c 12M /dev/urandom >"$1"', "sh", full])
    odd = f"{IMAGES}/kinds-odd.raw"
    h1.run(["sh", "-c", f'head -c {ODD} /dev/urandom >"$1"', "sh", odd])
    sparse = image(lab, f"{IMAGES}/kinds-sparse.raw", "192M", *WRITES, "write -q -P 0xa4 191M 1M", kind="raw")
    qcow2 = image(lab, f"{IMAGES}/kinds.qcow2", "64M", *WRITES)
    fixed = image(lab, f"{IMAGES}/kinds-fixed.qcow2", "64M", *WRITES)
    files = [qcow2, full, odd, sparse, fixed]
    devices = (
        disk(qcow2, "sda")
        + disk(full, "sdb", "raw")
        + disk(odd, "sdc", "raw")
        + disk(sparse, "sdd", "raw")
        + kinds.read_only(fixed, "sde", "qcow2")
        + kinds.block(device, "sdf")
    )
    with off(lab, "kinds", devices):
        report = move(mudanza, "kinds", "--map-storage", "/dev=fast", "--keep-source")
        there = sums(lab, "h2", files)
        assert there == sums(lab, "h1", files)
        arrived = f"{FAST}/{device.rpartition('/')[2]}"
        assert look(lab, "h2", arrived).sha256 == look(lab, "h1", device).sha256
        assert f"<source file='{arrived}'" in definition(lab, "h2", "kinds")
        assert "6 files compared in full" in str(report["verified"])
        for path in (qcow2, sparse, fixed):
            here, copy = look(lab, "h1", path), look(lab, "h2", path)
            assert copy.allocated <= here.allocated + MIB, "holes stay holes"
            assert copy.owner == here.owner


def test_a_difference_is_seen_and_nothing_is_let_go(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    path = image(lab, f"{IMAGES}/spoilt.raw", "640M", *WRITES, kind="raw")
    last = 640 * MIB - 1
    with off(lab, "spoilt", disk(path, "sda", "raw")) as uuid:
        for how in ("full", "sample"):
            with spoiling(lab, "h2", path, last):
                refused = mudanza("migrate", "spoilt", "--to", "h2", "--verify", how, "-o", "json", expect=4)
            error = next(event for event in refused.events if event["event"] == "error")
            assert f"{path} is not the same on both hosts" in error["message"]
            assert f"h2:{path}" in error["vm_state"], "it is kept for a repeat"
            assert states(lab, uuid) == {"h1": "shut off"}
        # What is there already is looked at as a whole, however little is to be compared at the end.
        report = move(mudanza, "spoilt", "--verify", "sample", "--keep-source")
        assert "1 file compared in samples, 512 MiB" in str(report["verified"])
        assert look(lab, "h2", path).sha256 == look(lab, "h1", path).sha256


def test_what_is_not_compared_may_differ_and_the_report_says_so(lab: Lab, mudanza: Mudanza) -> None:
    path = image(lab, f"{IMAGES}/blind.raw", "16M", *WRITES[:1], kind="raw")
    with off(lab, "blind", disk(path, "sda", "raw")) as uuid:
        with spoiling(lab, "h2", path, 16 * MIB - 1):
            report = move(mudanza, "blind", "--verify", "none", "--keep-source")
        assert report["verified"] == ""
        assert states(lab, uuid) == {"h1": "shut off", "h2": "shut off"}
        assert look(lab, "h2", path).sha256 != look(lab, "h1", path).sha256


def test_what_several_use_is_still_there_after_all_went_away_and_came_back(
    lab: Lab, mudanza: Mudanza, made: ExitStack
) -> None:
    """A base image, a CD-ROM image and a shareable disk; who has the base open runs while another one moves."""
    made.callback(kinds.sweep, lab, "common")
    base = image(lab, f"{IMAGES}/common-base.qcow2", "64M", *WRITES)
    quorum = image(lab, f"{IMAGES}/common-quorum.raw", "8M", "write -q -P 0xcc 1M 1M", kind="raw")
    medium = f"{IMAGES}/common.iso"
    lab.cell("h1").run(["sh", "-c", 'head -c 1M /dev/urandom >"$1"', "sh", medium])
    common = [base, quorum, medium]
    before = sums(lab, "h1", common)
    own = {name: image(lab, f"{IMAGES}/{name}.qcow2", "", WRITES[1], backing=base) for name in ("left", "right")}
    left_devices = disk(own["left"], "vda") + kinds.cdrom(medium)
    left = made.enter_context(off(lab, "left", left_devices, start=True))
    right = made.enter_context(off(lab, "right", disk(own["right"], "vda") + kinds.shareable(quorum, "vdb")))
    mate = made.enter_context(off(lab, "mate", kinds.shareable(quorum, "vdb"), start=True))
    contents = content(lab, "h1", own["right"], "qcow2")

    in_use = mudanza("migrate", "right", "--to", "h2", expect=3)
    assert "in use by mate" in in_use.err
    virsh(lab.cell("h1"), "destroy", mate)
    assert move(mudanza, "right")["removed"] == [f"h1:{own['right']}"]
    virsh(lab.cell("h1"), "destroy", left)
    others = mudanza("migrate", "mate", "left", "--to", "h2", "--media", "copy", "--chain", "reuse", "-o", "json")
    removed = {event["vm"]: event["removed"] for event in others.events if event["event"] == "report"}
    assert removed == {"mate": [], "left": [f"h1:{own['left']}"]}
    assert sums(lab, "h2", common) == sums(lab, "h1", common) == before
    virsh(lab.cell("h2"), "start", "--paused", left)
    move(mudanza, "right", to="h1")
    virsh(lab.cell("h2"), "destroy", left)
    mudanza("migrate", "mate", "left", "--to", "h1")
    assert sums(lab, "h2", common) == sums(lab, "h1", common) == before
    assert {content(lab, "h1", path, "qcow2") for path in own.values()} == {contents}
    assert states(lab, left) == states(lab, right) == states(lab, mate) == {"h1": "shut off"}


def test_media_lie_there_or_travel_or_are_taken_out(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    medium = made.enter_context(kinds.iso(lab))
    made.callback(lab.cell("h2").run, ["rm", "-f", medium])
    with off(lab, "reader", kinds.cdrom(medium)) as uuid:
        mudanza("migrate", "reader", "--to", "h2", expect=3)
        assert move(mudanza, "reader", "--media", "copy")["removed"] == []
        assert look(lab, "h2", medium).sha256 == look(lab, "h1", medium).sha256
        move(mudanza, "reader", "--media", "there", to="h1")
        assert medium in definition(lab, "h1", "reader")
        move(mudanza, "reader", "--media", "eject")
        assert medium not in definition(lab, "h2", "reader")
        assert states(lab, uuid) == {"h2": "shut off"}
    assert exists(lab, "h1", medium)


@pytest.mark.parametrize("mode", ["cold", "live"])
def test_a_floppy_travels_and_stays_whatever_the_mode(lab: Lab, mudanza: Mudanza, made: ExitStack, mode: str) -> None:
    made.callback(kinds.sweep, lab, "tray")
    own = image(lab, f"{IMAGES}/tray.qcow2", "16M", *WRITES[:1])
    floppy = image(lab, f"{IMAGES}/tray-floppy.raw", "1440k", "write -q -P 0xf1 0 720k", kind="raw")
    before = look(lab, "h1", floppy)
    with off(lab, "tray", disk(own, "vda") + kinds.floppy(floppy), start=mode == "live") as uuid:
        report = move(mudanza, "tray", "--mode", mode)
        assert report["removed"] == [f"h1:{own}"]
        assert report["kept"] == [f"h1:{floppy}"]
        assert any("it is a medium" in warning for warning in cast(Sequence[str], report["warnings"]))
        assert list(states(lab, uuid)) == ["h2"]
        assert look(lab, "h1", floppy).sha256 == before.sha256
        assert exists(lab, "h2", floppy)


def test_a_chain_is_kept_or_found_there_or_becomes_one_image(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    made.callback(kinds.sweep, lab, "chain")
    h2 = lab.cell("h2")
    base = image(lab, f"{IMAGES}/chain-base.qcow2", "64M", *WRITES)
    middle = image(lab, f"{IMAGES}/chain-middle.qcow2", "", "write -q -P 0xb1 1M 1M", backing=base)
    top = image(lab, f"{IMAGES}/chain.qcow2", "", "write -q -P 0xb2 2M 1M", backing=middle)
    chain = [top, middle, base]
    holds = content(lab, "h1", top, "qcow2")
    with off(lab, "chain", disk(top, "vda")) as uuid:
        # Elsewhere, the files name each other where they lie now.
        report = move(mudanza, "chain", "--map-storage", "default=fast")
        assert report["removed"] == [f"h1:{top}"]
        moved = [path.replace(IMAGES, FAST) for path in chain]
        assert sums(lab, "h2", moved[2:]) == {moved[2]: look(lab, "h1", base).sha256}
        told = h2.run(["qemu-img", "info", "--backing-chain", moved[0]]).stdout
        assert f"backing file: {moved[1]}\n" in told
        assert f"backing file: {moved[2]}\n" in told
        assert content(lab, "h2", moved[0], "qcow2") == holds
        # And back, once what lies there is no longer of another name.
        lab.cell("h1").run(["rm", middle, base])
        refresh(lab)
        move(mudanza, "chain", "--map-storage", "fast=default", to="h1")
        assert content(lab, "h1", top, "qcow2") == holds
        assert states(lab, uuid) == {"h1": "shut off"}
        refused = mudanza("migrate", "chain", "--to", "h2", "--chain", "reuse", expect=4)
        assert "is to be used from there" in refused.err
        move(mudanza, "chain", "--chain", "flatten")
        assert "backing file" not in h2.run(["qemu-img", "info", top]).stdout
        assert content(lab, "h2", top, "qcow2") == holds
        assert not exists(lab, "h2", base)


def test_a_base_of_another_content_is_not_built_upon(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    made.callback(kinds.sweep, lab, "other")
    base = image(lab, f"{IMAGES}/other-base.qcow2", "64M", *WRITES)
    top = image(lab, f"{IMAGES}/other.qcow2", "", "write -q -P 0xb2 2M 1M", backing=base)
    with off(lab, "other", disk(top, "vda")) as uuid:
        lab.cell("h2").run(["sh", "-c", 'head -c "$2" /dev/zero >"$1"', "sh", base, str(look(lab, "h1", base).size)])
        theirs = look(lab, "h2", base)
        for how in ("keep", "reuse"):
            refused = mudanza("migrate", "other", "--to", "h2", "--chain", how, expect=4)
            assert f"h2 has a {base} of its own" in refused.err
        assert look(lab, "h2", base) == theirs
        assert states(lab, uuid) == {"h1": "shut off"}


@pytest.mark.soak
def test_another_format_holds_the_same(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    made.callback(kinds.sweep, lab, "form")
    path = image(lab, f"{IMAGES}/form.qcow2", "64M", *WRITES)
    holds = content(lab, "h1", path, "qcow2")
    with off(lab, "form", disk(path, "vda")) as uuid:
        report = move(mudanza, "form", "--format", "raw")
        raw = f"{IMAGES}/form.raw"
        assert "type='raw'" in definition(lab, "h2", "form")
        assert content(lab, "h2", raw, "raw") == holds
        assert look(lab, "h2", raw).size == 64 * MIB
        assert look(lab, "h2", raw).allocated < 8 * MIB
        assert report["kept"] == [f"h1:{path}"], "nobody has compared it"
        move(mudanza, "form", "--format", "qcow2", "--verify", "none", "--map-storage", "default=fast", to="h1")
        assert content(lab, "h1", f"{FAST}/form.qcow2", "qcow2") == holds
        assert not exists(lab, "h2", raw)
        assert states(lab, uuid) == {"h1": "shut off"}


def test_a_network_disk_needs_no_copy(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    export = made.enter_context(kinds.nbd(lab))
    with off(lab, "remote", kinds.network_disk(export, "vda")) as uuid:
        report = move(mudanza, "remote")
        assert (report["disk_bytes"], report["removed"], report["kept"]) == (0, [], [])
        assert "name='disk'" in definition(lab, "h2", "remote")
        virsh(lab.cell("h2"), "start", "--paused", uuid)
        assert states(lab, uuid) == {"h2": "paused"}


def test_a_base_that_libvirt_was_not_told_of_is_not_left_behind(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    made.callback(kinds.sweep, lab, "unsaid")
    with off(lab, "unsaid", disk(f"{IMAGES}/unsaid.qcow2", "vda")) as uuid:
        # Beside libvirt, whose list of volumes is old now.
        base = image(lab, f"{IMAGES}/unsaid-base.qcow2", "8M", WRITES[0])
        top = image(lab, f"{IMAGES}/unsaid.qcow2", "", backing=base)
        refused = mudanza("migrate", "unsaid", "--to", "h2", expect=4)
        assert f"{top} is built upon {base}, which libvirt of h1 does not know" in refused.err
        assert not exists(lab, "h2", top)
        refresh(lab)
        move(mudanza, "unsaid")
        assert sums(lab, "h2", [top, base]) == {top: look(lab, "h2", top).sha256, base: look(lab, "h1", base).sha256}
        assert states(lab, uuid) == {"h2": "shut off"}


def test_a_broken_copy_goes_on_and_trusts_nothing_it_finds(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    """What was brought is shorter, of another format or changed: the next try makes it what the source has."""
    path = image(lab, f"{IMAGES}/again.qcow2", "64M", *WRITES)
    h1, h2 = lab.cell("h1"), lab.cell("h2")
    with off(lab, "again", disk(path, "vda")):
        with spoiling(lab, "h2", path, 100):
            mudanza("migrate", "again", "--to", "h2", expect=4)
        # Meanwhile it has grown at the source.
        h1.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 0xd1 40M 4M", path])
        with spoiling(lab, "h2", path, 100):
            mudanza("migrate", "again", "--to", "h2", expect=4)
        assert look(lab, "h2", path).size == look(lab, "h1", path).size
        h2.run(["rm", path])
        move(mudanza, "again", "--keep-source")
        assert look(lab, "h2", path).sha256 == look(lab, "h1", path).sha256
