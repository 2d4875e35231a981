"""Rounds whose changes are set aside at the source before they are carried: the replica is the disks at the instant,
byte for byte, and nothing stays at the source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.units import KIB, MIB
from tests.lab import dying
from tests.lab.cold import content
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true, replica_of
from tests.lab.domains import disk
from tests.lab.test_migrate import expire_leases
from tests.lab.test_protection import IMAGES, by_ssh
from tests.lab.tiny import tiny

__all__ = ["by_ssh"]

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

RATE = 96 * KIB
"""Bytes per second that may be sent: what is changed below takes over ten seconds then, which is too long to be read
from the guest's own QEMU."""


@dataclass
class Standing:
    """A VM whose guest does nothing: what its disks hold is known. The second one's last cluster is no whole one, the
    first one stands upon another image."""

    lab: Lab
    uuid: str
    paths: tuple[str, str]

    def write(self, number: int, *commands: str) -> None:
        device = f"/machine/peripheral/virtio-disk{number}/virtio-backend"
        for command in (*commands, "flush"):  # or the image does not hold it yet
            said = virsh(
                self.lab.cell("h1"), "qemu-monitor-command", self.uuid, "--hmp", f'qemu-io -d {device} "{command}"'
            )
            assert "failed" not in said
            assert "rror" not in said

    def change(self, pattern: str) -> None:
        """Change a good megabyte: data, data that become zeroes, what is given back, and the end of a disk."""
        self.write(0, f"write -q -P {pattern} 64k 768k", f"write -q -P {pattern} 7000k 100k")
        self.write(0, "write -q -z 2m 128k", "discard -q 3m 128k", f"write -q -P {pattern} 3100k 1k")
        self.write(1, f"write -q -P {pattern} 5m 512", f"write -q -P {pattern} 1000k 200k")

    def contents(self) -> list[str]:
        return [content(self.lab, "h1", path, "qcow2") for path in self.paths]

    def replicas(self, number: int) -> list[str]:
        there = replica_of(self.lab, self.uuid)
        return [content(self.lab, "h2", f"{there}/{name}.{number}.qcow2", "qcow2") for name in ("vda", "vdb")]

    def is_left_alone(self) -> bool:
        """Whether nothing of a round is at its host any more."""
        cell = self.lab.cell("h1")
        files = cell.run(["sh", "-c", f"ls {IMAGES} /var/lib/libvirt/qemu"]).stdout
        return "scratch" not in files and "mudanza-" not in files and not serving(self.lab)


def serving(lab: Lab) -> str:
    return lab.cell("h1").run(["pgrep", "-f", "^qemu-storage-daemon"], check=False).stdout


@pytest.fixture
def standing(lab: Lab, by_ssh: Mudanza) -> Iterator[Standing]:
    cell, names = lab.cell("h1"), ("below.qcow2", "aside, one.qcow2", "aside-two.qcow2")
    below, one, two = (f"{IMAGES}/{name}" for name in names)
    filled = ("-c", "write -q -P 1 2m 128k", "-c", "write -q -P 2 3m 128k")
    cell.run(["qemu-img", "create", "-q", "-f", "qcow2", below, "8M"])
    cell.run(["qemu-io", "-f", "qcow2", *filled, below])
    cell.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, one])
    cell.run(["qemu-img", "create", "-q", "-f", "qcow2", two, str(5 * MIB + 512)])
    try:
        with tiny(lab, "standing", run=True, disk=(one, "qcow2"), extra=disk(two, "vdb", "qcow2")) as uuid:
            by_ssh("protect", uuid, "--to", "h2", "--keep", "3", "--bandwidth", str(RATE))
            yield Standing(lab, uuid, (one, two))
            by_ssh("unprotect", uuid, expect=None)
    finally:
        cell.run(["rm", "-f", "--", below, one, two])


def steps_of(by_ssh: Mudanza) -> list[str]:
    """Return the steps of the newest job."""
    job = by_ssh("jobs", "-o", "json").data[0]["id"]
    return [step["name"] for step in by_ssh("job", "show", str(job), "-o", "json").data["steps"]]


def test_what_would_be_read_for_long_is_set_aside_and_arrives_byte_for_byte(
    lab: Lab, by_ssh: Mudanza, standing: Standing
) -> None:
    standing.change("0x61")
    by_ssh("protection", "sync", standing.uuid)
    assert "set aside" in steps_of(by_ssh)
    assert standing.replicas(2) == standing.contents()
    assert standing.is_left_alone()
    standing.write(0, "write -q -P 0x62 900k 1")
    assert standing.replicas(2) != standing.contents(), "one byte is seen"
    by_ssh("protection", "sync", standing.uuid)
    assert "set aside" not in steps_of(by_ssh), "of so little it is not worth it"
    assert standing.replicas(3) == standing.contents()


@pytest.mark.soak
def test_whose_controller_dies_meanwhile_leaves_nothing_and_loses_nothing(
    lab: Lab, by_ssh: Mudanza, standing: Standing
) -> None:
    standing.change("0x63")
    killed = by_ssh.start_argv(
        [sys.executable, dying.__file__, "KILL", "begun", "carry point", "protection", "sync", standing.uuid]
    )
    assert killed.end(None).code == -9
    assert steps_of(by_ssh)[-2:] == ["set aside", "carry point"]
    await_true(lambda: not serving(lab), "nothing is served any more")
    standing.write(1, "write -q -P 0x64 2m 1k")
    expire_leases(by_ssh)
    by_ssh("protection", "sync", standing.uuid)
    assert standing.replicas(3) == standing.contents()
    assert standing.is_left_alone()


@pytest.mark.soak
def test_the_round_of_a_guest_that_writes_much_takes_its_time(lab: Lab, by_ssh: Mudanza) -> None:
    spec = GuestSpec("busy", memory=128 * MIB, disk=128 * MIB, disk_write_rate=64 * MIB)
    guest = create_guest(lab, spec)
    try:
        by_ssh("protect", guest.uuid, "--to", "h2", "--every", "30s", "--scratch", "4GiB")
        by_ssh("protection", "sync", guest.uuid)
        job = by_ssh("jobs", "-o", "json").data[0]["id"]
        steps = {step["name"]: step for step in by_ssh("job", "show", str(job), "-o", "json").data["steps"]}
        assert "set aside" in steps
        carried = steps["carry point"]
        assert carried["outcome"]["carried"] > 64 * MIB
        assert carried["ended_at"] - carried["at"] > 8.0, (
            "a third of the time to the next one, but for what comes at once"
        )
        by_ssh("protection", "verify", guest.uuid)
        assert guest.stats()["disk_errors"] == 0
    finally:
        by_ssh("unprotect", guest.uuid, expect=None)
        guest.remove()
