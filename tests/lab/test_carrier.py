"""Files go from host to host by a carrier, byte for byte, and nothing of it stays behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.own.carrier import SECTOR, Carrier, Kind, Load
from mudanza.hypervisor.own.directories import pool_on
from mudanza.hypervisor.own.throwaway import is_abandoned, sweep, throwaway_name
from mudanza.hypervisor.reading.cluster import read_cluster, read_host
from mudanza.hypervisor.streams import copy_bytes, read_bytes, write_bytes
from mudanza.lab import faults
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.lab.process import LabError
from mudanza.migration.freight.reception import Reception
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.host import HostEntry
from mudanza.model.migration import Side
from mudanza.model.units import KIB, MIB
from tests.lab.conftest import await_true
from tests.lab.domains import WRITES, write
from tests.lab.tiny import domain_xml, tiny

pytestmark = pytest.mark.lab

HERE, THERE = "/var/lib/libvirt/images/cargo", "/var/lib/libvirt/fast/cargo"
NVRAM = "/var/lib/libvirt/qemu/nvram"
SMALL_FILES = 24
RATE = 10 * MIB
"""Bytes per second while something is to go wrong in the middle."""


class Scene:
    """A source and a target with a directory for files each; no pool of the owner's stands on it."""

    def __init__(self, lab: Lab, entries: list[HostEntry], connections: Connections) -> None:
        self.lab = lab
        self.entries = entries
        self.connections = connections
        self.here, self.there = (read_host(entry, connections=connections)[0] for entry in entries)

    def shell(self, host: str, script: str) -> str:
        return self.lab.cell(host).run(["sh", "-euc", script]).stdout.strip()

    def sha(self, host: str, path: str, length: int | None = None) -> str:
        head = "" if length is None else f"head --bytes={length} | "
        return self.shell(host, f"cat {path} | {head}openssl dgst -sha256")

    def same(self, name: str) -> bool:
        return self.sha("h1", f"{HERE}/{name}") == self.sha("h2", f"{THERE}/{name}")

    def make_place(self, name: str, size: int, format_: str = "raw") -> None:
        xml = f"""<volume><name>{name}</name><capacity unit='bytes'>{size}</capacity><allocation>0</allocation>
          <target><format type='{format_}'/></target></volume>"""
        with pool_on(self.connections.get("h2"), self.there, THERE) as pool:
            self.connections.volumes("h2").create(pool, xml)

    def carrier(self, name: str = "") -> Carrier:
        ends = (self.connections.get("h1"), self.connections.get("h2"), self.here, self.there)
        return Carrier(*ends, name or throwaway_name("carrier"), str(uuid4()), Kind("qemu", "x86_64", "q35"))

    def carry(self, carrier: Carrier, *, tls: bool = True) -> None:
        peer, parameters, flags = carrier.order(tls=tls)
        self.connections.domains("h1").migrate_p2p(carrier.uuid, peer, parameters, flags)

    def residue(self) -> list[str]:
        """What carriers and what belongs to them have left on both hosts."""
        found = "virsh list --all --name; virsh pool-list --all --name; ls -R /var/lib/libvirt"
        listed = [line.strip() for host in ("h1", "h2") for line in self.shell(host, found).splitlines()]
        return [name for name in listed if "mudanza-" in name]


@pytest.fixture(scope="module")
def scene(lab: Lab) -> Iterator[Scene]:
    entries = [
        HostEntry(name, lab.uri(name), peer_uri=lab.peer_uri(name), migration_address=name) for name in ("h1", "h2")
    ]
    with Connections(entries) as connections:
        made = Scene(lab, entries, connections)
        made.shell("h1", f"mkdir {HERE}")
        made.shell("h2", f"mkdir {THERE}")
        yield made
        made.shell("h1", f"rm -r {HERE}")
        made.shell("h2", f"rm -r {THERE}")


def raw(name: str, start: int, length: int, *, whole: bool = False, read_only: bool = False) -> Load:
    return Load(f"{HERE}/{name}", False, f"{THERE}/{name}", False, start, length, whole, read_only)


def converted(source: str, target: str, size: int, formats: tuple[str, str], *backing: tuple[str, str]) -> Load:
    ends = (f"{HERE}/{source}", False, f"{THERE}/{target}", False)
    return Load(*ends, 0, size, whole=True, read_only=False, source_format=formats[0], target_format=formats[1],
                backing=tuple((f"{HERE}/{path}", format_) for path, format_ in backing))  # fmt: skip


@contextmanager
def loops(scene: Scene) -> Iterator[tuple[str, str]]:
    """A device of 8 MiB at the source and one of 12 MiB at the target; nothing but 8 MiB at both is random."""
    devices: list[tuple[str, str]] = []
    try:
        for host, file, size in (("h1", f"{HERE}/loop", 8), ("h2", f"{THERE}/loop", 12)):
            fill = f"head --bytes={8 * MIB} /dev/urandom >{file}; truncate --size={size}M {file}"
            devices.append((host, scene.shell(host, f"{fill}; losetup --find --show {file}")))
        yield devices[0][1], devices[1][1]
    finally:
        for host, device in devices:
            scene.shell(host, f"losetup --detach {device}")


@pytest.mark.parametrize("in_time", [True, False])
def test_it_is_ended_at_the_target_once_it_has_come_in(scene: Scene, in_time: bool) -> None:
    scene.shell("h1", f"head --bytes={4 * MIB} /dev/urandom >{HERE}/received")
    scene.make_place("received", 4 * MIB)
    carrier = scene.carrier()
    reception = Reception(carrier, scene.connections.get("h2"))
    try:
        carrier.start([raw("received", 0, 4 * MIB, whole=True)])
        reception.begin()
        if not in_time:
            reception.stop()
        scene.carry(carrier)
        if in_time:
            await_true(lambda: reception.has_come_in, "the target has all of it")
        assert carrier.has_left()
        assert reception.has_come_in is in_time
        assert in_time or carrier.arrived(), "nobody has ended it there"
        assert reception.end() == ()
        assert scene.same("received")
        assert scene.residue() == []
    finally:
        carrier.end()
        scene.shell("h1", f"rm -f {HERE}/received")
        scene.shell("h2", f"rm -f {THERE}/received")


def test_every_kind_of_load_arrives_byte_for_byte(scene: Scene, lab: Lab) -> None:
    """All in one carrier, while a guest runs on one of the files."""
    scene.shell("h1", f"""cd {HERE}
      truncate --size=1G sparse; dd if=/dev/urandom of=sparse bs=1M count=16 seek=700 conv=notrunc status=none
      qemu-img create -q -f qcow2 snapped 64M; qemu-io -c 'write -P 7 0 8M' snapped >/dev/null
      qemu-img snapshot -c one snapped; qemu-io -c 'write -P 9 4M 8M' snapped >/dev/null
      head --bytes=1234567 /dev/urandom >odd
      head --bytes={8 * MIB} /dev/urandom >mended
      qemu-img create -q -f qcow2 base 16M; qemu-io -c 'write -P 3 1M 5M' base >/dev/null
      qemu-img create -q -f qcow2 -b base -F qcow2 guest
      qemu-img create -q -f qcow2 -b base -F qcow2 top; qemu-io -c 'write -P 5 4M 8M' top >/dev/null
      for i in $(seq {SMALL_FILES}); do head --bytes=$((i * 4096)) /dev/urandom >small$i; done""")  # fmt: skip
    write(lab.cell("h1"), f"{HERE}/boot", WRITES)
    scene.shell("h1", f"cd {HERE}; qemu-io -c 'write -s boot 0 512' guest >/dev/null")
    snapped, base = (int(scene.shell("h1", f"stat --format=%s {HERE}/{name}")) for name in ("snapped", "base"))
    for name, size in (("sparse", 1024 * MIB), ("snapped", snapped), ("odd", 1234567), ("base", base)):
        scene.make_place(name, size)
    scene.shell("h2", f"dd if=/dev/urandom of={THERE}/sparse bs=1M count=8 seek=300 conv=notrunc status=none")
    for i in range(1, SMALL_FILES + 1):
        scene.make_place(f"small{i}", i * 4096)
    scene.make_place("flat", 16 * MIB)
    scene.make_place("flat.qcow2", 16 * MIB, "qcow2")
    scene.make_place("mended.qcow2", 8 * MIB, "qcow2")
    scene.make_place("device", 8 * MIB)
    scene.make_place("medium", 1234567)
    # What a broken copy leaves: a few parts are wrong, and only these are carried.
    mended = scene.shell("h1", f"base64 {HERE}/mended")
    lab.cell("h2").run(["sh", "-c", f"base64 --decode >{THERE}/mended"], stdin=mended)
    for part in (10, 90):
        scene.shell("h2", f"dd if=/dev/urandom of={THERE}/mended bs=64K count=1 seek={part} conv=notrunc status=none")
    assert not scene.same("mended"), "a comparison must be able to fail"

    with loops(scene) as (device, device_there), tiny(lab, "onbase", disk=(f"{HERE}/guest", "qcow2")) as guest:
        virsh(lab.cell("h1"), "start", guest)
        with pytest.raises(HypervisorError, match='Failed to get "write" lock'):
            scene.carrier().start([raw("base", 0, base, whole=True)])
        carrier = scene.carrier()
        try:
            carrier.start([
                raw("sparse", 0, 1024 * MIB, whole=True),
                raw("snapped", 0, snapped, whole=True),
                raw("odd", 0, 1234567 // SECTOR * SECTOR),
                *(raw("mended", part * 64 * KIB, 64 * KIB) for part in (10, 90)),
                raw("base", 0, base, whole=True, read_only=True),
                *(raw(f"small{i}", 0, i * 4096, whole=True) for i in range(1, SMALL_FILES + 1)),
                converted("top", "flat", 16 * MIB, ("qcow2", "raw"), ("base", "qcow2")),
                converted("top", "flat.qcow2", 16 * MIB, ("qcow2", "qcow2"), ("base", "qcow2")),
                Load(device, True, f"{THERE}/device", False, 0, 8 * MIB, whole=True, read_only=False),
            ])  # fmt: skip
            assert len(carrier.loads) > 30
            scene.carry(carrier)
            assert carrier.arrived()
            assert all(vm.name != carrier.name for vm in read_cluster(scene.entries).vms)
        finally:
            assert carrier.end() == ()
        assert not carrier.arrived()
        assert virsh(lab.cell("h1"), "domstate", guest).strip() == "running"
        assert "No errors" in virsh(lab.cell("h1"), "domblkerror", guest)

        second = scene.carrier()
        try:
            second.start([
                Load(device, True, device_there, True, 0, 8 * MIB, whole=True, read_only=True),
                converted("mended", "mended.qcow2", 8 * MIB, ("raw", "qcow2")),
                replace(raw("odd", 0, 1234567 // SECTOR * SECTOR, read_only=True), target=f"{THERE}/medium"),
            ])  # fmt: skip
            scene.carry(second, tls=False)
        finally:
            assert second.end() == ()
        assert scene.sha("h1", device) == scene.sha("h2", f"{THERE}/device")
        assert scene.sha("h1", device) == scene.sha("h2", device_there, 8 * MIB)

    ends = (scene.connections.get("h1"), scene.here, f"{HERE}/odd", scene.connections.get("h2"), scene.there)
    tail = 1234567 // SECTOR * SECTOR
    for name in ("odd", "medium"):
        assert scene.sha("h2", f"{THERE}/{name}") != scene.sha("h1", f"{HERE}/odd")
        copy_bytes(*ends, f"{THERE}/{name}", start=tail, length=1234567 - tail)
    assert scene.sha("h2", f"{THERE}/medium") == scene.sha("h1", f"{HERE}/odd")
    names = ("sparse", "snapped", "odd", "mended", "base", *(f"small{i}" for i in range(1, SMALL_FILES + 1)))
    assert [name for name in names if not scene.same(name)] == []
    assert int(scene.shell("h2", f"du --block-size=1M {THERE}/sparse | cut -f1")) <= 17, "holes stay holes"
    assert "one" in scene.shell("h2", f"qemu-img snapshot -l {THERE}/snapped")
    scene.shell("h1", f"cd {HERE}; qemu-img convert -f qcow2 -O raw top flat")
    scene.shell("h2", f"cd {THERE}; for f in flat mended; do qemu-img convert -f qcow2 -O raw $f.qcow2 $f.check; done")
    flat, whole = scene.sha("h1", f"{HERE}/flat"), scene.sha("h1", f"{HERE}/mended")
    assert scene.sha("h2", f"{THERE}/flat") == scene.sha("h2", f"{THERE}/flat.check") == flat
    assert scene.sha("h2", f"{THERE}/mended.check") == whole
    assert scene.residue() == []


@contextmanager
def under_way(scene: Scene, carrier: Carrier) -> Iterator[Task[None]]:
    """Have 64 MiB on a slow way, a bit of it there already; the carrier is ended in any case."""
    scene.shell("h1", f"head --bytes={64 * MIB} /dev/urandom >{HERE}/slow")
    scene.shell("h2", f"rm -f {THERE}/slow")
    scene.make_place("slow", 64 * MIB)
    faults.slow(scene.lab, "h2", RATE)
    try:
        carrier.start([raw("slow", 0, 64 * MIB, whole=True)])
        sending = Task(lambda: scene.carry(carrier))
        await_true(lambda: sending.ended or (carrier.disk_progress()[0] or (0, 0))[0] > 0, "something has got there")
        yield sending
    finally:
        faults.slow(scene.lab, "h2", None)
        assert carrier.end() == ()


def a_dead_process_name() -> str:
    script = "from mudanza.hypervisor.own.throwaway import throwaway_name; print(throwaway_name('carrier'))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_a_carrier_under_way_keeps_the_vm_off_and_is_not_swept_up_until_it_stands(scene: Scene, lab: Lab) -> None:
    carrier = scene.carrier(a_dead_process_name())
    assert is_abandoned(carrier.name)
    h1, h2 = scene.connections.get("h1"), scene.connections.get("h2")
    with under_way(scene, carrier) as sending:
        for cell, path in ((lab.cell("h1"), f"{HERE}/slow"), (lab.cell("h2"), f"{THERE}/slow")):
            xml = domain_xml("itself", str(uuid4()), disk=(path, "raw"))
            with pytest.raises(LabError, match='"write" lock'):
                virsh(cell, "create", "--paused", "/dev/stdin", stdin=xml)
        for host in (h1, h2):
            host.ask(sweep)
        job = scene.connections.domains("h2").sighting(carrier.uuid).job
        assert (carrier.disk_progress()[0] or (0, 0))[1] == 64 * MIB
        scene.connections.domains("h1").abort_job(carrier.uuid)
        with pytest.raises(HypervisorError, match="canceled by client"):
            sending.wait(30)
        assert not carrier.arrived()
        sides = [scene.connections.domains(host).sighting(carrier.uuid).side for host in ("h1", "h2")]
        h1.ask(sweep)
        swept = scene.connections.domains("h1").sighting(carrier.uuid).side
    assert job == "migration in"
    assert sides == [Side.PRESENT, Side.ABSENT]
    assert swept is Side.ABSENT
    assert scene.residue() == []


def test_a_full_target_is_named_as_the_reason(scene: Scene, lab: Lab) -> None:
    carrier = scene.carrier()
    with under_way(scene, carrier) as sending:
        faults.fill(lab, "h2", "fast")
        try:
            with pytest.raises(HypervisorError, match="No space left on device"):
                sending.wait(30)
        finally:
            faults.unfill(lab, "h2", "fast")
    assert scene.residue() == []


def test_what_a_restart_of_the_sources_libvirt_leaves_is_ended_by_whoever_knows_its_name(
    scene: Scene, lab: Lab
) -> None:
    carrier = scene.carrier()
    with under_way(scene, carrier) as sending:
        faults.kill_daemon(lab, "h1")
        try:
            with pytest.raises(HostUnreachableError):
                sending.wait(30)
            await_true(
                lambda: scene.connections.domains("h2").sighting(carrier.uuid).side is Side.ABSENT, "gone at the target"
            )
        finally:
            faults.start_daemon(lab, "h1")
        left = scene.connections.domains("h1").sighting(carrier.uuid)
        assert (left.side, left.job) == (Side.PRESENT, None)
        again = scene.carrier(carrier.name)
        assert again.end() == again.end() == ()
    assert scene.residue() == []


def test_small_files_go_through_the_controller(scene: Scene) -> None:
    h1, h2 = scene.connections.get("h1"), scene.connections.get("h2")
    scene.shell("h1", f"head --bytes=540672 /dev/urandom >{NVRAM}/carried.fd")
    xml = """<volume><name>carried.fd</name><capacity>540672</capacity><allocation>0</allocation><target>
      <format type='raw'/><permissions><mode>0600</mode><owner>1234</owner><group>123</group></permissions>
      </target></volume>"""
    path = f"{NVRAM}/carried.fd"
    try:
        with pool_on(h2, scene.there, NVRAM) as pool:
            scene.connections.volumes("h2").create(pool, xml)
        copy_bytes(h1, scene.here, path, h2, scene.there, path, start=0, length=540672)
        assert scene.sha("h1", path) == scene.sha("h2", path)
        assert scene.shell("h2", f"stat --format='%a %u %g %s' {path}") == "600 1234 123 540672"
        write_bytes(h2, scene.there, path, 1000, b"other")
        assert scene.sha("h1", path) != scene.sha("h2", path)
        with pytest.raises(HypervisorError, match="has only 2 bytes"):
            read_bytes(h1, scene.here, path, 540670, 3)
        with pytest.raises(HypervisorError, match="no storage vol"):
            write_bytes(h2, scene.there, f"{NVRAM}/absent.fd", 0, b"x")
    finally:
        for host in ("h1", "h2"):
            scene.shell(host, f"rm -f {path}")
    assert scene.residue() == []


def test_two_at_once_take_turns_in_a_directory(scene: Scene) -> None:
    """libvirt refuses a second pool on one directory."""
    h2 = scene.connections.get("h2")
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with pool_on(h2, scene.there, NVRAM):
            inside.set()
            leave.wait(30)

    def follow() -> str:
        with pool_on(h2, scene.there, NVRAM) as pool:
            return pool

    first = Task(hold)
    assert inside.wait(30)
    second = Task(follow)
    with pytest.raises(TimeoutError):
        second.wait(0.5)
    leave.set()
    first.wait(30)
    assert second.wait(30).startswith("mudanza-probe-")
