"""UEFI variables of guests that move live: they come along, and their file goes from the source if nobody needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mudanza.lab.domain import FIRMWARE, NVRAM_TEMPLATE, GuestSpec
from mudanza.lab.guest import create_guest
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.cold import exists, off, states
from tests.lab.command import Mudanza
from tests.lab.test_cold_disks import move

pytestmark = pytest.mark.lab

DIRECTORY = "/var/lib/libvirt/qemu/nvram"


@pytest.fixture
def made(lab: Lab) -> Iterator[ExitStack]:
    """Takes what a test makes away again, the last first."""
    with ExitStack() as stack:
        yield stack


def body(path: str) -> str:
    """A VM whose UEFI variables lie in that file."""
    return f"""<memory unit='MiB'>64</memory><os><type arch='x86_64' machine='q35'>hvm</type>
      <loader readonly='yes' type='pflash'>{FIRMWARE}</loader><nvram template='{NVRAM_TEMPLATE}'>{path}</nvram></os>
      <features><acpi/></features>"""


def test_they_come_along_and_leave_nothing_behind(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    spec = GuestSpec("firmly", uefi=True, disk=64 * MIB, pool="shared", memory=256 * MIB)
    guest = create_guest(lab, spec, on="h1")
    made.callback(guest.remove)
    guest.keep("nvram", 4711)
    path = f"{DIRECTORY}/firmly_VARS.fd"
    report = move(mudanza, "firmly")
    assert report["removed"] == [f"h1:{path}"]
    assert not exists(lab, "h1", path)
    assert guest.kept("nvram") == 4711
    report = move(mudanza, "firmly", "--keep-source", to="h1")
    assert (report["removed"], report["kept"]) == ([], [f"h2:{path}"])
    assert exists(lab, "h2", path)
    assert guest.kept("nvram") == 4711


def test_a_file_that_the_target_sees_too_stays(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    path = "/srv/shared/common_VARS.fd"
    made.callback(lab.cell("h1").run, ["rm", "-f", path])
    with off(lab, "common", body=body(path), start=True) as uuid:
        report = move(mudanza, "common")
        assert states(lab, uuid) == {"h2": "paused"}
        assert (report["removed"], report["kept"]) == ([], [f"h1:{path}"])
        assert "it may be the one that h2 uses" in str(report["warnings"])
        assert exists(lab, "h2", path)


def test_a_file_that_another_vm_names_stays(lab: Lab, mudanza: Mudanza, made: ExitStack) -> None:
    path = f"{DIRECTORY}/pair.fd"
    for host in ("h1", "h2"):
        made.callback(lab.cell(host).run, ["rm", "-f", path])
    with off(lab, "pair-one", body=body(path), start=True), off(lab, "pair-two", body=body(path)):
        report = move(mudanza, "pair-one")
        assert (report["removed"], report["kept"]) == ([], [f"h1:{path}"])
        assert "domain 'pair-two' refers to it" in str(report["warnings"])
        assert exists(lab, "h1", path)
