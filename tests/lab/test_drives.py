"""What a VM of odd disks and drives comes up with from its replica, in domains whose guest does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from tests.lab.cold import IMAGES, content
from tests.lab.command import Mudanza
from tests.lab.conftest import replica_of
from tests.lab.domains import disk
from tests.lab.test_protection import by_ssh
from tests.lab.tiny import file, tiny

__all__ = ["by_ssh"]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

SCSI = "<controller type='scsi' index='0' model='virtio-scsi'/>"
ISO = f"{IMAGES}/drives.iso"


@pytest.fixture
def made(lab: Lab) -> Iterator[ExitStack]:
    """Takes what a test makes away again, the last first."""
    with ExitStack() as stack:
        yield stack


def new_image(lab: Lab, made: ExitStack, name: str, byte: int, options: str = "compat=1.1") -> str:
    """Have an image with something in it."""
    path = f"{IMAGES}/{name}.qcow2"
    made.callback(lab.cell("h1").run, ["rm", "-f", path])
    lab.cell("h1").run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "8M"])
    lab.cell("h1").run(["qemu-io", "-f", "qcow2", "-c", f"write -q -P {byte} 1M 1M", path])
    return path


def drives(lab: Lab, name: str) -> dict[str, str]:
    """Return what is in the drives of a VM at h2."""
    rows = virsh(lab.cell("h2"), "domblklist", name).splitlines()
    return {row.split()[0]: row.split(maxsplit=1)[1].strip() for row in rows if row.strip()}


def test_it_comes_up_with_the_disks_that_it_ran_with_and_with_no_cd_that_is_not_there(
    lab: Lab, by_ssh: Mudanza, made: ExitStack
) -> None:
    """Nor with what lies there under the path of a disk that it was to have one day."""
    here, there = lab.cell("h1"), lab.cell("h2")
    own, plugged, one_day = (new_image(lab, made, f"drives-{n}", n) for n in (1, 2, 3))
    made.enter_context(file(here, ISO))
    made.enter_context(file(there, one_day, "somebody else's"))
    virsh(here, "pool-refresh", "default")
    named = disk("<source pool='default' volume='drives-1.qcow2'/>", "vda", kind="volume")
    extra = SCSI + named + disk(ISO, "hdc", "raw", device="cdrom", extra="<readonly/>")
    by_pool = "<source pool='default' volume='drives.iso'/>"
    extra += disk(by_pool, "hdd", "raw", kind="volume", device="cdrom", extra="<readonly/>")
    uuid = made.enter_context(tiny(lab, "drives", run=True, extra=extra))
    made.callback(virsh, there, f"destroy {uuid}; undefine {uuid}", check=False)
    virsh(here, "attach-device", uuid, "/dev/stdin", "--live", stdin=disk(plugged, "sdb"))
    virsh(here, "attach-device", uuid, "/dev/stdin", "--config", stdin=disk(one_day, "vdc"))

    told = by_ssh("protect", uuid, "--to", "h2").err
    assert f"what is in its drive hdc is not carried: it comes up with that empty where h2 has no {ISO}" in told
    assert "vdc of its definition is not carried before it runs with it" in told
    directory = replica_of(lab, uuid)
    by_ssh("test-failover", uuid)
    test = {"vda": f"{directory}/test/vda.qcow2", "sdb": f"{directory}/test/sdb.qcow2", "hdc": "-", "hdd": "-"}
    assert drives(lab, "drives-test-1") == test
    assert by_ssh("test-failover", "end", uuid, "-o", "json").data["different"] == []

    virsh(here, "destroy", uuid)
    told = by_ssh("failover", uuid, "--source-is-dead").err
    assert f"! drives: its drive hdc is empty: h2 has no {ISO}" in told
    assert drives(lab, "drives") == {
        "vda": f"{directory}/vda.active-1.qcow2", "sdb": f"{directory}/sdb.active-1.qcow2", "hdc": "-", "hdd": "-",
    }  # fmt: skip
    for target, path in (("vda", own), ("sdb", plugged)):
        assert content(lab, "h2", f"{directory}/{target}.1.whole.qcow2", "qcow2") == content(lab, "h1", path, "qcow2")


@pytest.mark.soak
def test_a_disk_of_the_old_qcow2_is_compared_until_it_is_a_new_one(lab: Lab, by_ssh: Mudanza, made: ExitStack) -> None:
    """Beside one whose changes are counted all the time."""
    here = lab.cell("h1")
    paths = {"vda": new_image(lab, made, "old", 1, "compat=0.10"), "vdb": new_image(lab, made, "young", 2)}
    extra = disk(paths["vdb"], "vdb")
    uuid = made.enter_context(tiny(lab, "old", run=True, disk=(paths["vda"], "qcow2"), extra=extra))
    assert "vda is qcow2 of version 2, and nobody counts what changes" in by_ssh("protect", uuid, "--to", "h2").err
    made.callback(by_ssh, "unprotect", uuid, expect=None)

    def change(byte: int) -> None:
        for number in (0, 1):
            device = f"/machine/peripheral/virtio-disk{number}/virtio-backend"
            for command in (f"write -q -P {byte} {byte}k 3k", "flush"):
                virsh(here, "qemu-monitor-command", uuid, "--hmp", f'qemu-io -d {device} "{command}"')

    def state() -> dict[str, object]:
        [found] = [row for row in by_ssh("protections", "-o", "json").data if row["uuid"] == uuid]
        return dict(found)

    def assert_same(number: int) -> None:
        directory = replica_of(lab, uuid)
        for target, path in paths.items():
            there = f"{directory}/{target}.{number}.qcow2"
            assert content(lab, "h2", there, "qcow2") == content(lab, "h1", path, "qcow2"), target

    for number in (2, 3):
        change(number)
        by_ssh("protection", "sync", uuid)
        assert_same(number)
    assert state()["behind_bytes"] is None, "nobody knows how much has changed on one of them"
    virsh(here, "destroy", uuid)
    here.run(["qemu-img", "amend", "-f", "qcow2", "-o", "compat=1.1", paths["vda"]])
    here.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 9 5M 64k", paths["vda"]])
    virsh(here, "start", "--paused", uuid)
    for number in (4, 5):
        change(number)
        by_ssh("protection", "sync", uuid)
        assert_same(number)
    assert state()["behind_bytes"] == 0
    virsh(here, "destroy", uuid)
    by_ssh("unprotect", uuid)
    for path in paths.values():
        info = here.run(["qemu-img", "info", path]).stdout
        assert "bitmaps" not in info, "QEMU reverts to no internal snapshot of an image that has such"
