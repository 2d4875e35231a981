"""Disks where root is nobody, as on an NFS export, and QEMU is not root: who may read decides what can be done."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mudanza.cli.lab import tell_mudanza
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.lab.process import LabError
from mudanza.model.units import MIB
from tests.lab import kinds
from tests.lab.cold import FAST, content, image, look, off, spoiling, states
from tests.lab.command import Mudanza
from tests.lab.conftest import know_by_ssh
from tests.lab.domains import disk
from tests.lab.test_cold_disks import move

pytestmark = pytest.mark.lab

QEMU_USER = "libvirt-qemu"
AS_QEMU = ("setpriv", "--reuid", QEMU_USER, "--regid", QEMU_USER, "--clear-groups", "--")


@pytest.fixture(scope="module")
def squashing(needs_lab: None) -> Iterator[Lab]:
    """Two hosts whose QEMU is not root, and a pool of theirs where root is nobody."""
    lab = Lab.up(f"s{os.getpid()}", hosts=2, qemu_user=QEMU_USER, tied=True)
    try:
        with kinds.squashed(lab):
            yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def by_socket(squashing: Lab) -> Mudanza:
    """The command, which reaches these hosts by their libvirt only."""
    tell_mudanza(squashing)
    return Mudanza(squashing)


@pytest.fixture(scope="module")
def by_ssh_there(squashing: Lab, tmp_path_factory: pytest.TempPathFactory) -> Mudanza:
    """The command, which logs in at these hosts as root."""
    return know_by_ssh(squashing, tmp_path_factory.mktemp("seat"))


@pytest.fixture
def shy_disk(squashing: Lab) -> Iterator[str]:
    """An image that nobody but QEMU may read."""
    path = f"{kinds.SQUASHED}/shy.qcow2"
    cell = squashing.cell("h1")
    cell.run([*AS_QEMU, "qemu-img", "create", "-q", "-f", "qcow2", path, "64M"])
    cell.run([*AS_QEMU, "qemu-io", "-f", "qcow2", "-c", "write -q -P 0xa5 20M 2M", path])
    cell.run([*AS_QEMU, "chmod", "600", path])
    for host in squashing.hosts:
        virsh(squashing.cell(host), "pool-refresh", "squashed")
    yield path
    cell.run(["rm", "-f", f"{kinds.EXPORT}/shy.qcow2"])


@pytest.fixture
def shy(squashing: Lab, shy_disk: str) -> Iterator[str]:
    """A VM with that disk, switched off."""
    with off(squashing, "shy", disk(shy_disk, "vda")) as uuid:
        yield uuid


def test_root_is_nobody_there(squashing: Lab, shy_disk: str) -> None:
    h1, path = squashing.cell("h1"), shy_disk
    for forbidden in (["cat", path], ["chown", "root", path]):
        with pytest.raises(LabError, match=r"Permission denied|not permitted"):
            h1.run(forbidden)
    h1.run(["touch", f"{kinds.SQUASHED}/by-root"])
    assert h1.run(["stat", "-c", "%U", f"{kinds.SQUASHED}/by-root"]).stdout.strip() == "nobody"
    h1.run(["rm", f"{kinds.SQUASHED}/by-root"])
    assert squashing.cell("h2").run([*AS_QEMU, "head", "-c", "3", path]).stdout == "QFI"


def test_a_guest_moves_live_and_cold_and_its_disk_stays(squashing: Lab, by_socket: Mudanza, shy_disk: str) -> None:
    guest = create_guest(
        squashing, GuestSpec("timid", memory=128 * MIB, beat=0.05, disk=0, devices=disk(shy_disk, "vda")), on="h1"
    )
    try:
        _, written = guest.verify()
        for options, mode, to in (((), "live", "h2"), (("--mode", "cold"), "cold", "h1")):
            report = move(by_socket, "timid", *options, to=to)
            assert (report["mode"], report["disk_bytes"], report["removed"], report["kept"]) == (mode, 0, [], [])
            assert guest.states() == {to: "running"}
            guest.await_answer()
            first, last = guest.verify()
            assert first == 1
            assert last > written
        assert squashing.cell("h1").run(["ls", kinds.SQUASHED]).stdout.split() == ["shy.qcow2"], "no marker is left"
    finally:
        guest.remove()


def test_what_root_may_not_read_libvirt_reads_as_qemu_does(squashing: Lab, by_ssh_there: Mudanza, shy: str) -> None:
    export = f"{kinds.EXPORT}/shy.qcow2"
    before = look(squashing, "h1", export).sha256
    with spoiling(squashing, "h2", f"{FAST}/shy.qcow2", 100):
        refused = by_ssh_there("migrate", "shy", "--to", "h2", "--map-storage", "squashed=fast", expect=4)
    assert "is not the same on both hosts" in refused.err
    report = move(by_ssh_there, "shy", "--map-storage", "squashed=fast")
    assert "1 file compared in full" in str(report["verified"])
    assert "what root may not read there through the controller, over libvirt" in str(report["verified"])
    assert report["removed"] == [f"h1:{kinds.SQUASHED}/shy.qcow2"]
    assert look(squashing, "h2", f"{FAST}/shy.qcow2").sha256 == before
    assert states(squashing, shy) == {"h2": "shut off"}


def test_what_nobody_may_read_is_not_said_to_be_compared(squashing: Lab, by_ssh_there: Mudanza, shy: str) -> None:
    """libvirt reads the file, and does not tell what is in an image."""
    holds = content(squashing, "h1", f"{kinds.EXPORT}/shy.qcow2", "qcow2")
    report = move(by_ssh_there, "shy", "--map-storage", "squashed=fast", "--format", "raw")
    assert report["verified"] == ""
    assert (report["removed"], report["kept"]) == ([], [f"h1:{kinds.SQUASHED}/shy.qcow2"])
    assert "was not compared: its source was kept" in str(report["warnings"])
    assert content(squashing, "h2", f"{FAST}/shy.raw", "raw") == holds
    assert states(squashing, shy) == {"h2": "shut off"}


def test_where_root_may_make_nothing_a_move_is_refused_with_the_way_out(
    squashing: Lab, by_socket: Mudanza, shy: str
) -> None:
    squashing.cell("h1").run(["chmod", "755", kinds.EXPORT])
    refused = by_socket("check", "shy", "--to", "h2", expect=3)
    assert "no marker can be made in /srv/squashed" in refused.out
    assert "anonuid and anongid" in refused.out
    squashing.cell("h1").run(["chmod", "777", kinds.EXPORT])
    by_socket("check", "shy", "--to", "h2")
    assert states(squashing, shy) == {"h1": "shut off"}


def test_a_copy_to_there_is_refused_before_anything_is_touched(squashing: Lab, by_socket: Mudanza) -> None:
    """What libvirt makes there belongs to nobody, and QEMU may not open it."""
    path = image(squashing, f"{FAST}/bold.qcow2", "8M")
    with off(squashing, "bold", disk(path, "vda")):
        refused = by_socket("check", "bold", "--to", "h2", "--map-storage", "fast=squashed", expect=3)
        assert "pool-squashes-root" in refused.out
        by_socket("check", "bold", "--to", "h2", "--map-storage", "fast=default")
    assert squashing.cell("h2").run(["ls", kinds.SQUASHED]).stdout == ""
