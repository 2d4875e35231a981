"""What a move may send at the most holds for its disks and its memory together, counted at the switch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest
from mudanza.lab.lab import Lab
from mudanza.model.units import MIB
from tests.lab.command import Mudanza, Running
from tests.lab.conftest import await_true

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

BURST = 32 * MIB
"""What mirrors send beyond their limit and make up for afterwards: 16 MiB each."""
SPAN = 8.0


@pytest.fixture
def laden(lab: Lab) -> Iterator[Guest]:
    """A guest with two disks of unlike size that are full of data which cannot be made smaller."""
    spec = GuestSpec(
        "laden", memory=128 * MIB, disk=256 * MIB, extra_disk=128 * MIB, disk_format="raw", working_set=16 * MIB
    )
    made = create_guest(lab, spec, on="h1")
    images = Path(f"/proc/{lab.cell('h1').pid}/root/var/lib/libvirt/images")
    for volume, size in ((spec.volume, spec.disk), (spec.extra_volume, spec.extra_disk)):
        with (images / volume).open("r+b") as image:
            image.seek(16 * MIB)  # behind the guest's own
            image.write(os.urandom(size - 16 * MIB))
            os.fsync(image.fileno())
    yield made
    made.remove()


def sent(lab: Lab) -> int:
    return lab.switch_bytes()["h1"].received


def rate_over(lab: Lab, seconds: float) -> float:
    """Return what h1 sends in a second, looked at for so long."""
    before, begun = sent(lab), time.monotonic()
    await_true(lambda: time.monotonic() - begun >= seconds, "time has passed")
    return (sent(lab) - before) / (time.monotonic() - begun)


@pytest.mark.soak
def test_disks_and_memory_keep_to_the_limit_together_also_to_another_one(
    lab: Lab, mudanza: Mudanza, laden: Guest
) -> None:
    begun, before = time.monotonic(), sent(lab)
    running = mudanza.start("migrate", "laden", "--to", "h2", "--bandwidth", "12MiB/s", "-o", "json")
    running.until("copying disks")
    assert rate_over(lab, SPAN) <= 12 * MIB + BURST / SPAN
    job = str(mudanza("jobs", "-o", "json").data[0]["id"])
    mudanza("job", "tune", job, "--bandwidth", "24MiB/s")
    assert rate_over(lab, 4.0) > 16 * MIB, "the mirrors were told, too"
    report = end_of(running)
    took, all_of_it = time.monotonic() - begun, sent(lab) - before
    assert all_of_it > 340 * MIB
    assert all_of_it / took <= 24 * MIB
    assert report["downtime"] is not None
    assert laden.states() == {"h2": "running"}
    laden.verify()


def end_of(running: Running) -> dict[str, object]:
    return running.end().report


@pytest.fixture
def writing(lab: Lab) -> Iterator[Guest]:
    """A guest that goes on writing to its disk while its memory, which it dirties faster than the limit, travels."""
    spec = GuestSpec(
        "writing", memory=192 * MIB, disk=64 * MIB, working_set=64 * MIB, write_rate=48 * MIB, disk_write_rate=5 * MIB
    )
    made = create_guest(lab, spec, on="h1")
    yield made
    made.remove()


@pytest.mark.soak
def test_memory_leaves_what_the_guest_writes_to_its_disks_meanwhile(lab: Lab, mudanza: Mudanza, writing: Guest) -> None:
    limits = ["--bandwidth", "12MiB/s", "--policy", "gentle", "-o", "json"]
    running = mudanza.start("migrate", "writing", "--to", "h2", *limits)
    running.until_event(lambda event: event.get("iteration", 0) > 1, "the second pass")
    rate = rate_over(lab, 10.0)
    running.send(signal.SIGTERM)
    running.end(4)
    assert 8 * MIB < rate <= 13.5 * MIB
    assert writing.states() == {"h1": "running"}
