"""A guest for real: it boots, beats to disk and network, writes at a rate, and what befalls it shows outside."""

from __future__ import annotations

import os
import pty
import re
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mudanza.lab import faults, layout
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, find_guest, guests, virsh
from mudanza.lab.guest_disk import disk_sum, read_ring
from mudanza.lab.lab import Lab
from mudanza.lab.process import LabError
from mudanza.lab.watch import Watch
from mudanza.model.errors import UsageError
from mudanza.model.units import MIB
from tests.lab.conftest import await_true

pytestmark = pytest.mark.lab

HOST = "h1"
DISK = 64 * MIB


@pytest.fixture(scope="module")
def guest(lab: Lab) -> Iterator[Guest]:
    made = create_guest(lab, GuestSpec('">$(id);reboot ü', disk=DISK, working_set=32 * MIB), on=HOST)
    yield made
    made.remove()


def disk_path(lab: Lab, guest: Guest) -> str:
    listing = virsh(lab.cell(HOST), "domblklist", guest.uuid)
    return re.split(r"\s+", listing.strip(), maxsplit=1)[1]


def test_it_runs_where_it_was_asked_to_and_is_found_by_its_name(lab: Lab, guest: Guest) -> None:
    assert guest.states() == {HOST: "running"}
    assert find_guest(lab, guest.name) == guest
    with pytest.raises(UsageError, match="no guest 'nobody'"):
        find_guest(lab, "nobody")


def test_every_beat_arrives_and_is_on_the_disk_first(lab: Lab, guest: Guest) -> None:
    with Watch(lab, guest.address) as watch:
        watch.until(lambda seen: len(seen.beats) >= 50 and len(seen.replies) >= 100, limit=30)
    seen = watch.series
    assert seen.every_beat_arrived
    assert seen.pings_lost == 0
    ring = read_ring(lab.cell(HOST), disk_path(lab, guest), "qcow2")
    assert ring.whole
    assert seen.last_beat is not None
    assert ring.first == 1
    assert ring.last >= seen.last_beat
    first, last = guest.verify()
    assert first == 1
    assert last >= ring.last


def test_a_stopped_qemu_is_a_blackout_and_no_lost_beat(lab: Lab, guest: Guest) -> None:
    with Watch(lab, guest.address) as watch:
        faults.stop_qemu(lab, HOST, guest.uuid)
        stopped = time.monotonic()
        time.sleep(0.7)  # the length of the fault itself
        resuming = time.monotonic()
        faults.cont_qemu(lab, HOST, guest.uuid)
        beats = len(watch.recording().beats)
        watch.until(lambda seen: len(seen.beats) > beats + 20, limit=30)
    seen = watch.series
    assert seen.blackout >= resuming - stopped
    assert seen.blackout_at is not None
    assert seen.blackout_at <= stopped + watch.step
    assert seen.blackout_at + seen.blackout >= resuming
    assert seen.longest_tick_stall >= resuming - stopped
    assert seen.every_beat_arrived
    assert seen.reconnects == 0


def test_the_memory_writer_dirties_memory_until_it_is_told_to_be_quiet(lab: Lab, guest: Guest) -> None:
    host = lab.cell(HOST)
    guest.command(f"mem {16 * MIB}")
    before = guest.stats()["memory_written"]
    await_true(lambda: guest.stats()["memory_written"] > before + 16 * MIB, "16 MiB rewritten")
    # Sampling pages: the other way (--mode dirty-bitmap) kills QEMU 7.2 under software emulation.
    virsh(host, "domdirtyrate-calc", guest.uuid, "--seconds", "1", "--mode", "page-sampling")
    await_true(lambda: "megabytes_per_second" in virsh(host, "domstats", guest.uuid, "--dirtyrate"), "a dirty rate")
    measured = re.search(r"megabytes_per_second=(\d+)", virsh(host, "domstats", guest.uuid, "--dirtyrate"))
    assert measured
    assert int(measured[1]) > 0
    guest.command("quiet")
    still = guest.stats()
    assert still["memory_rate"] == 0
    with Watch(lab, guest.address) as watch:
        watch.until(lambda seen: len(seen.beats) >= 20, limit=30)
    assert guest.stats()["memory_written"] == still["memory_written"]


def test_the_longest_time_between_two_writes_to_memory_is_told_once(lab: Lab, guest: Guest) -> None:
    guest.command(f"mem {16 * MIB}")
    before = guest.stats()["memory_written"]
    await_true(lambda: guest.stats()["memory_written"] > before, "it writes")
    guest.longest_write_gap()
    faults.stop_qemu(lab, HOST, guest.uuid)
    stopped = time.monotonic()
    time.sleep(0.7)  # the length of the fault itself
    resuming = time.monotonic()
    faults.cont_qemu(lab, HOST, guest.uuid)
    before = guest.stats()["memory_written"]
    await_true(lambda: guest.stats()["memory_written"] > before, "it writes again")
    assert guest.longest_write_gap() >= resuming - stopped
    guest.command("quiet")
    guest.longest_write_gap()
    assert guest.longest_write_gap() == 0, "who writes nothing waits for nothing"


def test_the_working_set_is_what_the_guest_wrote_there(guest: Guest) -> None:
    guest.command(f"mem {16 * MIB}")
    assert guest.verify_memory() == 32 * MIB // 4096
    assert guest.stats()["memory_rate"] == 16 * MIB
    guest.command("quiet")


def test_a_working_set_it_has_no_memory_for_is_refused(guest: Guest) -> None:
    with pytest.raises(LabError, match="not enough memory"):
        guest.command(f"workingset {1024 * MIB}")
    assert guest.stats()["workingset"] == 32 * MIB


def test_guest_and_host_agree_on_what_the_disk_writer_wrote(lab: Lab, guest: Guest) -> None:
    figures = guest.stats()
    offset, length = figures["data_offset"], figures["disk_bytes"] - figures["data_offset"]
    blank = guest.sum(offset, length)
    guest.command(f"disk {8 * MIB}")
    await_true(lambda: guest.stats()["disk_written"] > figures["disk_written"] + 4 * MIB, "4 MiB written")
    guest.command("quiet")
    guest.command("sync")
    written = guest.sum(offset, length)
    assert written != blank
    assert disk_sum(lab.cell(HOST), disk_path(lab, guest), "qcow2", offset, length) == written
    assert guest.sum(offset, length) == written
    assert guest.stats()["disk_errors"] == 0


def test_its_console_is_a_shell(lab: Lab, guest: Guest) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r+b", buffering=0) as terminal:
        console = lab.cell(HOST).popen(
            ["virsh", "-c", "qemu:///system", "console", guest.uuid],
            stdin=terminal.fileno(), stdout=terminal.fileno(), stderr=terminal.fileno(),
        )  # fmt: skip
    try:
        # virsh drops what was typed before it had set the terminal up.
        _read_until(ours, rb"Escape character")
        _read_until(ours, rb"guest-\d+:/# ", nudge=b"\n")
        os.write(ours, b"echo $((6 * 7))\n")
        _read_until(ours, rb"\n42\r")
    finally:
        console.terminate()
        console.wait(timeout=10)
        os.close(ours)


def _read_until(descriptor: int, pattern: bytes, nudge: bytes = b"") -> None:
    """Read until the pattern has come; ``nudge`` is typed whenever nothing comes for a second."""
    said, deadline = b"", time.monotonic() + 20
    while not re.search(pattern, said):
        assert time.monotonic() < deadline, said
        if select.select([descriptor], [], [], 1)[0]:
            try:
                said += os.read(descriptor, 4096)
            except OSError:  # how a terminal says that nobody is there any more
                pytest.fail(f"the console ended: {said!r}")
        else:
            os.write(descriptor, nudge)


def test_power_button_then_a_restart_that_goes_on_counting_and_sees_damaged_records(lab: Lab) -> None:
    host = lab.cell(HOST)
    guest = create_guest(lab, GuestSpec("--help", disk=DISK, disk_format="raw", pool="shared"), on=HOST)
    try:
        path = disk_path(lab, guest)
        assert path.startswith(layout.SHARED_DIRECTORY)
        await_true(lambda: guest.verify()[1] > 8, "there is something on its disk to be damaged")
        virsh(host, "shutdown", guest.uuid, "--mode", "acpi")
        await_true(lambda: guest.states() == {HOST: "shut off"}, "shut off by its power button")
        stopped = read_ring(host, path, "raw")
        assert stopped.whole
        assert stopped.boots == 1

        image = lab.directory / "shared" / Path(path).name
        _change_a_byte(image, record=5)
        _misplace(image, record=7, to=8)
        damaged = read_ring(host, path, "raw")
        assert (damaged.missing, damaged.torn) == ((5, 8), (4, 7))

        virsh(host, "start", guest.uuid)
        guest.await_answer()
        with Watch(lab, guest.address) as watch:
            pass
        assert watch.series.first_beat is not None
        assert watch.series.first_beat > stopped.last
        assert guest.stats()["boot"] == 2
        with pytest.raises(LabError, match=r"bad 2 of .* first at 5"):
            guest.verify()
    finally:
        guest.remove()
    assert not image.exists()


def _place(record: int) -> int:
    return 4096 + (record - 1) * 512


def _change_a_byte(image: Path, record: int) -> None:
    with image.open("r+b") as disk:
        disk.seek(_place(record) + 100)
        disk.write(b"\xff")


def _misplace(image: Path, record: int, to: int) -> None:
    with image.open("r+b") as disk:
        disk.seek(_place(record))
        sector = disk.read(512)
        disk.seek(_place(to))
        disk.write(sector)


def test_a_guest_that_cannot_start_leaves_nothing(lab: Lab) -> None:
    host = lab.cell(HOST)
    known, volumes = guests(lab), virsh(host, "vol-list", "default")
    with pytest.raises(LabError, match="no network with matching name 'nowhere'"):
        create_guest(lab, GuestSpec("stillborn", network="nowhere"), on=HOST)
    assert guests(lab) == known
    assert virsh(host, "vol-list", "default") == volumes
    assert "stillborn" not in virsh(host, "list", "--all", "--name")


def test_two_guests_of_one_name_are_refused(lab: Lab, guest: Guest) -> None:
    with pytest.raises(UsageError, match="already"):
        create_guest(lab, GuestSpec(guest.name), on=HOST)
    assert guest.states() == {HOST: "running"}
