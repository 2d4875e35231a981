"""Digests of what lies on a real host: by ssh and by libvirt, the same of every file, and an end to every wait."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from mudanza.hypervisor import connection, ssh
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.contents import by_libvirt, by_ssh, digests
from mudanza.hypervisor.contents.by_libvirt import LibvirtContents
from mudanza.hypervisor.contents.reading import UNREAD, Contents, Digests, Layer, contents_of, differing
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.lab import faults
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.host import HostEntry
from mudanza.model.units import GIB, MIB
from tests.lab.conftest import await_true, ssh_entry

pytestmark = pytest.mark.lab

IMAGES = "/var/lib/libvirt/images/contents"
OUTSIDE = '/srv/it\'s a "$(id)" `id`; reboot'
ODD = "--help $(touch x)'\".raw"
CHUNK = 8 * MIB
"""Bytes of a chunk in these tests, so that little has to be read."""
START_LIMIT = 20.0
DEATH_LIMIT = 60.0
"""Seconds until a host that died must be missed, with a sign of life every second."""

MAKE = """
set -eu
mkdir "$1" "$2"
cd "$1"
truncate -s 26000005 sparse.raw
head -c 3000000 /dev/urandom | dd of=sparse.raw bs=1M seek=9 conv=notrunc status=none
qemu-img convert -f raw -O qcow2 sparse.raw image.qcow2
head -c 1234567 /dev/urandom >odd.raw
: >empty.raw
head -c $((18 << 20)) /dev/zero >zeroes.raw
cp zeroes.raw "$2/$3"
head -c 1777777 /dev/urandom | dd of="$2/$3" bs=1M seek=7 conv=notrunc status=none
chmod 0600 "$2/$3"
cp sparse.raw below-device.raw
truncate -s $((14 << 20)) below-device.raw
"""


@contextmanager
def ways_to(where: HostEntry) -> Iterator[Mapping[str, Contents]]:
    with Connections([where]) as connections:
        about = read_cluster([where], timeout=20, connections=connections).host(where.name)
        host = connections.get(where.name)
        with closing(contents_of(host, about)) as shell:
            yield {"ssh": shell, "libvirt": LibvirtContents(host, about)}


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        set_chunk(patch, CHUNK)
        yield


def set_chunk(patch: pytest.MonkeyPatch, size: int) -> None:
    for module in (digests, by_libvirt, by_ssh):
        patch.setattr(module, "CHUNK", size)


@pytest.fixture(scope="module")
def ways(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Contents]]:
    with ways_to(ssh_entry(lab, "h1", tmp_path_factory.mktemp("seat"))) as found:
        yield found


@pytest.fixture(scope="module")
def files(lab: Lab) -> Iterator[Mapping[str, str]]:
    cell = lab.cell("h1")
    with ExitStack() as stack:
        stack.callback(cell.run, ["rm", "-rf", "--", IMAGES, OUTSIDE])
        cell.run(["sh", "-c", MAKE, "sh", IMAGES, OUTSIDE, ODD])
        device = cell.run(["losetup", "--find", "--show", f"{IMAGES}/below-device.raw"]).stdout.strip()
        stack.callback(cell.run, ["losetup", "--detach", device])
        found = {name: f"{IMAGES}/{name}" for name in cell.run(["ls", IMAGES]).stdout.split()}
        yield {**found, "outside": f"{OUTSIDE}/{ODD}", "device": device}


def as_seen_from_outside(lab: Lab, path: str, length: int | None = None) -> Digests:
    """Read everything here and now."""
    chunks: list[str | None] = []
    content = Path(f"/proc/{lab.cell('h1').pid}/root{path}").read_bytes()[:length]
    for at in range(0, len(content), CHUNK):
        chunk = content[at : at + CHUNK]
        chunks.append(None if chunk.count(0) == len(chunk) else hashlib.sha256(chunk).hexdigest())
    return Digests(len(content), tuple(chunks))


def test_the_controller_reads_by_ssh_where_it_can(lab: Lab, ways: Mapping[str, Contents]) -> None:
    assert ways["ssh"].way == "by ssh on h1: qemu-img map, dd, openssl"
    local = HostEntry("h1", lab.uri("h1"))
    with Connections([local]) as connections:
        about = read_cluster([local], timeout=20, connections=connections).host("h1")
        assert isinstance(contents_of(connections.get("h1"), about), LibvirtContents)


@pytest.mark.parametrize(
    ("name", "holes"),
    [
        ("sparse.raw", (True, False, True, True)),
        ("image.qcow2", (False,)),
        ("odd.raw", (False,)),
        ("empty.raw", ()),
        ("zeroes.raw", (True, True, True)),
        ("outside", (False, False, True)),
        ("device", (True, False)),
    ],
)
def test_both_ways_see_what_is_there(
    lab: Lab,
    ways: Mapping[str, Contents],
    files: Mapping[str, str],
    caplog: pytest.LogCaptureFixture,
    name: str,
    holes: tuple[bool, ...],
) -> None:
    there = as_seen_from_outside(lab, files[name])
    assert tuple(chunk is None for chunk in there.chunks) == holes
    for way in ways.values():
        told: list[int] = []
        with caplog.at_level(logging.INFO):
            seen = way.digests(files[name], there.length, block=name == "device", on_progress=told.append)
        assert seen == there, way.way
        assert told == sorted(told)
        assert told[-1:] == [there.length] * bool(there.length)
    assert "peeked at" not in caplog.text


def test_a_changed_byte_and_another_length_are_seen(
    lab: Lab, ways: Mapping[str, Contents], files: Mapping[str, str]
) -> None:
    path = files["sparse.raw"]
    for way in ways.values():
        before = way.digests(path, 26000005, block=False)
        with Path(f"/proc/{lab.cell('h1').pid}/root{path}").open("r+b") as file:
            file.seek(10 * MIB)
            was = file.read(1)
            file.seek(10 * MIB)
            file.write(bytes([was[0] ^ 1]))
        after = way.digests(path, 26000005, block=False)
        assert differing(before, after) == ((CHUNK, CHUNK),), way.way
        shorter = way.digests(files["odd.raw"], 9999999, block=False)
        assert shorter == as_seen_from_outside(lab, files["odd.raw"])
        part = way.digests(path, 3 * CHUNK + 5, block=False)
        assert part.length == 26000005
        head = way.digests(files["device"], CHUNK + 1000, block=True)
        assert head == as_seen_from_outside(lab, files["device"], CHUNK + 1000), "a device may be longer than its use"


IMAGES_OF_ONE = """
set -eu
cd "$1"
qemu-img create -q -f qcow2 base.qcow2 26M
qemu-io -f qcow2 -c "write -q -P 0xb1 0 3M" -c "write -q -P 0xb2 17M 1M" base.qcow2
qemu-img create -q -f qcow2 -b "$1/base.qcow2" -F qcow2 "$2"
qemu-io -f qcow2 -c "write -q -P 0xb3 1M 1M" -c "write -q -z 17M 64k" -c "write -q -P 0 9M 1M" "$2"
qemu-img convert -f qcow2 -O raw "$2" flat.raw
qemu-img convert -f qcow2 -O qcow2 -c "$2" packed.qcow2
"""
TOP = "top, 'of' \"all\" {}.qcow2"


@pytest.fixture
def disks(lab: Lab, files: Mapping[str, str]) -> Iterator[Mapping[str, list[Layer]]]:
    """One disk of 26 MiB in several shapes."""
    cell = lab.cell("h1")
    cell.run(["sh", "-c", IMAGES_OF_ONE, "sh", IMAGES, TOP])
    base = Layer(f"{IMAGES}/base.qcow2", "qcow2")
    yield {
        "chain": [Layer(f"{IMAGES}/{TOP}", "qcow2"), base],
        "raw": [Layer(f"{IMAGES}/flat.raw", "raw")],
        "packed": [Layer(f"{IMAGES}/packed.qcow2", "qcow2")],
    }
    cell.run(["rm", "--", *(f"{IMAGES}/{name}" for name in (TOP, "base.qcow2", "flat.raw", "packed.qcow2"))])


def test_a_disk_is_the_same_in_every_format(
    lab: Lab, ways: Mapping[str, Contents], disks: Mapping[str, list[Layer]]
) -> None:
    way = ways["ssh"].images
    assert way is not None
    assert ways["libvirt"].images is None
    content = as_seen_from_outside(lab, f"{IMAGES}/flat.raw")
    assert [chunk is None for chunk in content.chunks] == [False, True, False, True]
    for name, layers in disks.items():
        told: list[int] = []
        assert way.image_digests(layers, 26 * MIB, on_progress=told.append) == content, name
        assert told[-1] == 26 * MIB
    some = way.image_digests(disks["chain"], 26 * MIB, chunks={2})
    assert some.chunks == (UNREAD, UNREAD, content.chunks[2], UNREAD)
    # A byte in the base, where nothing lies above it, and one that is hidden by the top.
    cell = lab.cell("h1")
    cell.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1536k 1", f"{IMAGES}/base.qcow2"])
    assert way.image_digests(disks["chain"], 26 * MIB) == content
    cell.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 18350079 1", f"{IMAGES}/base.qcow2"])
    assert differing(content, way.image_digests(disks["chain"], 26 * MIB)) == ((2 * CHUNK, CHUNK),)
    # What is not said to lie below is not read, though the header names it.
    alone = way.image_digests(disks["chain"][:1], 26 * MIB)
    assert alone.chunks[2] is None


def test_an_image_of_another_size_or_format_is_not_the_same(
    ways: Mapping[str, Contents], disks: Mapping[str, list[Layer]]
) -> None:
    way = ways["ssh"].images
    assert way is not None
    assert way.image_digests(disks["raw"], 30 * MIB).length == 26 * MIB
    assert way.image_digests(disks["raw"], 20 * MIB).length == 26 * MIB
    for wrong in (Layer(f"{IMAGES}/flat.raw", "qcow2"), Layer(f"{IMAGES}/nowhere.qcow2", "qcow2")):
        with pytest.raises(HypervisorError, match="host h1: "):
            way.image_digests([wrong], 26 * MIB)
    guessed = way.image_digests([Layer(f"{IMAGES}/packed.qcow2", "raw")], 26 * MIB)
    assert guessed.length < 26 * MIB, "what is said to be raw is never taken for anything else"


def test_only_the_chunks_that_are_wanted_are_read(
    lab: Lab, ways: Mapping[str, Contents], files: Mapping[str, str]
) -> None:
    whole = as_seen_from_outside(lab, files["outside"])
    for way in ways.values():
        told: list[int] = []
        seen = way.digests(files["outside"], whole.length, block=False, chunks={0, 2, 7}, on_progress=told.append)
        assert seen.chunks == (whole.chunks[0], UNREAD, whole.chunks[2]), way.way
        assert told[-1] == whole.length - CHUNK


def test_what_cannot_be_read_is_said(ways: Mapping[str, Contents]) -> None:
    for way in ways.values():
        with pytest.raises(HypervisorError, match=r"host h1: .*/nowhere/a"):
            way.digests("/nowhere/a", 5, block=False)
        with pytest.raises(HypervisorError, match=f"host h1: .*{IMAGES}"):
            way.digests(IMAGES, 4096, block=False)


@dataclass(frozen=True)
class Large:
    """Something that takes longer to read than it takes to notice."""

    path: str
    length: int
    block: bool

    def begin(self, way: Contents, tell: Callable[[int], None], stop: threading.Event | None = None) -> Task[Digests]:
        return Task(lambda: way.digests(self.path, self.length, block=self.block, stop=stop, on_progress=tell))


@contextmanager
def large(lab: Lab, host: str) -> Iterator[Mapping[str, Large]]:
    """Have one for each way: a device shows no holes, and a file that has none comes as a stream."""
    cell, directory = lab.cell(host), str(Path(IMAGES).parent)
    under, stream = f"{directory}/large-device.raw", Large(f"{directory}/large.raw", 512 * MIB, block=False)
    cell.run(["truncate", "-s", "64G", under])
    cell.run(["sh", "-c", f"head -c {stream.length} /dev/zero >{stream.path}"])
    device = cell.run(["losetup", "--find", "--show", under]).stdout.strip()
    try:
        yield {"ssh": Large(device, 64 * GIB, block=True), "libvirt": stream}
    finally:
        # Devices are the machine's: this one would outlive the host, and keep its disk from being mounted again.
        subprocess.run(["losetup", "--detach", device], check=True)
        if not lab.cell(host).alive:
            lab.boot_host(host)
        lab.cell(host).run(["rm", "-f", under, stream.path])


def set_event(event: threading.Event, _done: int) -> None:
    event.set()


def readers(lab: Lab, host: str, path: str) -> list[str]:
    """Return the programs on a host that have a file open, or wait for those that read it."""
    running = [process for process in lab.cell(host).processes() if process.argv]
    programs = [(Path(process.argv[0]).name, process.id.pid) for process in running]
    return [name for name, pid in programs if name in ("xargs", "cat", "qemu-img") or path in open_files(pid)]


def open_files(pid: int) -> set[str]:
    try:
        return {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115 - sockets are no paths
    except OSError:
        return set()  # it has ended, or closed one of them meanwhile


@pytest.mark.parametrize("by", ["ssh", "libvirt"])
def test_it_stops_when_told_and_leaves_nothing_running(lab: Lab, ways: Mapping[str, Contents], by: str) -> None:
    stop = threading.Event()
    domains = virsh(lab.cell("h1"), "list", "--all", "--name")
    ways["ssh"].close()  # a login that is kept for the next reading is no reader
    with large(lab, "h1") as larges:
        it = larges[by]
        with pytest.MonkeyPatch.context() as patch:
            # So that nothing ends just because a chunk does.
            set_chunk(patch, it.length)
            reading = it.begin(ways[by], lambda _: None, stop)
            await_true(lambda: bool(readers(lab, "h1", it.path)), "it is read on the host")
            stop.set()
            with pytest.raises(MigrationFailedError, match=f"cancelled while reading {it.path} on h1"):
                reading.wait(START_LIMIT)
        await_true(lambda: not readers(lab, "h1", it.path), "nothing reads it on the host any more")
        again = ways[by].digests(it.path, it.length, block=it.block, chunks={3})
    assert again.chunks[3] is None, "what was stopped stands in nobody's way"
    assert virsh(lab.cell("h1"), "list", "--all", "--name") == domains


def test_a_host_that_dies_is_missed_in_time(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE_INTERVAL", 1)
    monkeypatch.setattr(ssh, "KEEPALIVE_INTERVAL", 1)
    begun = {by: threading.Event() for by in ("ssh", "libvirt")}
    with large(lab, "h3") as larges, ways_to(ssh_entry(lab, "h3", tmp_path)) as ways:
        reading = {by: larges[by].begin(way, partial(set_event, begun[by])) for by, way in ways.items()}
        assert all(event.wait(START_LIMIT) for event in begun.values())
        faults.cut(lab, "h3")  # else its kernel would say good-bye
        lab.stop_host("h3")
        for task in reading.values():
            with pytest.raises(HostUnreachableError, match=r"host h3: the .*connection") as caught:
                task.wait(DEATH_LIMIT)
            assert caught.value.remedy
