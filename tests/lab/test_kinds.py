"""Guests of every kind: what they keep outside their disks, and on disks that are not just files of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.guest_disk import read_ring
from mudanza.lab.lab import Lab
from mudanza.lab.process import LabError
from mudanza.lab.watch import Watch
from mudanza.model.units import MIB
from tests.lab import kinds
from tests.lab.conftest import await_true

pytestmark = pytest.mark.lab

SMALL = 64 * MIB


@pytest.fixture
def made(lab: Lab) -> Iterator[ExitStack]:
    """Takes what a test makes away again, the last first."""
    with ExitStack() as stack:
        yield stack


def make(lab: Lab, made: ExitStack, spec: GuestSpec, on: str = "h1") -> Guest:
    guest = create_guest(lab, spec, on=on)
    made.callback(guest.remove)
    return guest


def shut_down(lab: Lab, guest: Guest, host: str) -> None:
    virsh(lab.cell(host), "shutdown", guest.uuid)
    await_true(lambda: guest.states()[host] == "shut off", f"{guest.name} is off")


def image_info(lab: Lab, host: str, path: str) -> str:
    return lab.cell(host).run(["qemu-img", "info", "--force-share", path]).stdout


@pytest.mark.soak
def test_firmware_and_tpm_keep_what_the_guest_put_there(lab: Lab, made: ExitStack) -> None:
    guest = make(lab, made, GuestSpec("firm", disk=SMALL, uefi=True, tpm=True))
    for place in ("nvram", "tpm"):
        with pytest.raises(LabError, match="answered"):
            guest.kept(place)
        guest.keep(place, 2**64 - 2)
        guest.keep(place, 4711)
    shut_down(lab, guest, "h1")
    virsh(lab.cell("h1"), "start", guest.uuid)
    guest.await_answer()
    assert [guest.kept("nvram"), guest.kept("tpm")] == [4711, 4711]
    assert guest.stats()["boot"] == 2


def test_a_guest_without_firmware_of_its_own_keeps_nothing(lab: Lab, made: ExitStack) -> None:
    guest = make(lab, made, GuestSpec("plain", disk=0))
    for place in ("nvram", "tpm"):
        with pytest.raises(LabError, match="answered"):
            guest.keep(place, 1)


def test_disks_of_every_kind_at_once(lab: Lab, made: ExitStack) -> None:
    device, export, quorum = (
        made.enter_context(make(lab)) for make in (kinds.loop_device, kinds.nbd, kinds.shared_raw)
    )
    image = made.enter_context(kinds.iso(lab))
    base = made.enter_context(kinds.base_image(lab, size=SMALL))
    devices = [
        kinds.block(device, "vdc"),
        kinds.network_disk(export, "vdd"),
        kinds.shareable(quorum, "vde"),
        kinds.read_only(base, "vdf", "qcow2"),
        kinds.cdrom(image),
    ]
    first = make(lab, made, GuestSpec("first", disk=SMALL, backing="base.qcow2", devices=devices[2] + devices[4]))
    all_of_them = GuestSpec("second", disk=SMALL, backing="base.qcow2", extra_disk=32 * MIB, devices="".join(devices))
    second = make(lab, made, all_of_them)
    for name in ("first", "second"):
        assert f"backing file: {base}" in image_info(lab, "h1", f"/var/lib/libvirt/images/{name}.qcow2")
    first.verify()
    second.verify()
    marker = second.sum(kinds.MARKER_AT, 4 * MIB)
    assert marker == first.sum(kinds.MARKER_AT, 4 * MIB) != second.sum(kinds.MARKER_AT - 4 * MIB, 4 * MIB)
    first.remove()
    second.remove()
    left = {
        path for path in (base, image, quorum) if lab.cell("h1").run(["test", "-e", path], check=False).returncode == 0
    }
    assert left == {base, image, quorum}, "what others may have stays"
    volumes = virsh(lab.cell("h1"), "vol-list", "default")
    assert "first" not in volumes
    assert "second" not in volumes


def test_a_loop_device_and_a_network_disk_are_the_same_from_both_hosts(lab: Lab, made: ExitStack) -> None:
    device, export = made.enter_context(kinds.loop_device(lab)), made.enter_context(kinds.nbd(lab))
    url = "nbd://10.77.0.4:10809/disk"
    assert f"name='10.77.0.4' port='{kinds.NBD_PORT}'" in export
    for place in (device, url):
        lab.cell("h1").run(["qemu-io", "-f", "raw", "-c", "write -q -P 0x5a 1M 64k", place])
        lab.cell("h2").run(["qemu-io", "-f", "raw", "-c", "read -q -P 0x5a 1M 64k", place])
        assert (
            "verification failed"
            in lab.cell("h2").run(["qemu-io", "-f", "raw", "-c", "read -P 0x5b 1M 64k", place], check=False).stdout
        )


def test_nothing_of_them_is_left(lab: Lab) -> None:
    with kinds.loop_device(lab) as device, kinds.nbd(lab), kinds.base_image(lab, on=("h1", "h2")) as base:
        backing = Path("/sys/block", Path(device).name, "loop/backing_file")
        assert backing.read_text().startswith(str(lab.directory))
        sums = {host: lab.cell(host).run(["sha256sum", base]).stdout for host in ("h1", "h2")}
        assert sums["h1"] == sums["h2"]
    await_true(lambda: not backing.exists(), "the loop device is let go of")
    assert not list(lab.directory.glob("*.raw"))
    assert "base" not in virsh(lab.cell("h1"), "vol-list", "default")
    with kinds.nbd(lab):
        pass  # and again, in place of the first


def test_a_stubborn_guest_ignores_the_power_button(lab: Lab, made: ExitStack) -> None:
    guest = make(lab, made, GuestSpec("mule", disk=SMALL, stubborn=True))
    virsh(lab.cell("h1"), "shutdown", guest.uuid, "--mode", "acpi")
    with Watch(lab, guest.address) as watch:
        watch.until(lambda seen: len(seen.beats) >= 100, limit=30)
    assert guest.states() == {"h1": "running"}
    guest.command("poweroff")
    await_true(lambda: guest.states() == {"h1": "shut off"}, "off when told by the agent")


def test_no_acknowledged_beat_is_lost_when_it_goes_on_elsewhere(lab: Lab, made: ExitStack) -> None:
    guest = make(lab, made, GuestSpec("wander", disk=SMALL, pool="shared"))
    with Watch(lab, guest.address) as watch:
        watch.until(lambda seen: len(seen.beats) >= 50, limit=30)
    shut_down(lab, guest, "h1")
    definition = virsh(lab.cell("h1"), "dumpxml", "--inactive", guest.uuid)
    virsh(lab.cell("h1"), "undefine", guest.uuid)
    on_disk = read_ring(lab.cell("h2"), "/srv/shared/wander.qcow2", "qcow2")
    assert on_disk.whole
    assert watch.series.last_beat is not None
    assert on_disk.last >= watch.series.last_beat
    virsh(lab.cell("h2"), "define", "/dev/stdin", stdin=definition)
    virsh(lab.cell("h2"), "start", guest.uuid)
    guest.await_answer()
    first, last = guest.verify()
    assert first == 1
    assert last > on_disk.last
    assert guest.stats()["boot"] == 2


def test_qemu_need_not_be_root(needs_lab: None, made: ExitStack) -> None:
    lab = Lab.up(f"u{os.getpid()}", hosts=1, qemu_user="libvirt-qemu", tied=True)
    made.callback(lab.down)
    host = lab.cell("h1")
    owner = ["stat", "--format=%U", "/var/lib/libvirt/images/low.qcow2"]
    guest = make(lab, made, GuestSpec("low", disk=SMALL))
    assert "libvirt-qemu" in host.run(["ps", "-C", "qemu-system-x86_64", "-o", "user:14="]).stdout
    assert host.run(owner).stdout.strip() == "libvirt-qemu"
    known = ["sh", "-c", "stat --format=%Y%n /var/cache/libvirt/qemu/capabilities/*"]
    virsh(host, "capabilities")
    before = host.run(known).stdout
    virsh(host, "capabilities")
    assert host.run(known).stdout == before, "libvirtd looks at its QEMU anew again and again"
    shut_down(lab, guest, "h1")
    assert host.run(owner).stdout.strip() == "root"
