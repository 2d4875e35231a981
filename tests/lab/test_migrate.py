"""Real guests move between real hosts, and whatever happens on the way, nothing is lost."""

from __future__ import annotations

import json
import signal
import sqlite3
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from lxml import etree

from mudanza.cli.lab import tell_mudanza
from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import Guest, create_guest, virsh
from mudanza.lab.guest_disk import read_ring
from mudanza.lab.lab import Lab
from mudanza.lab.watch import Watch
from mudanza.model.units import MIB
from tests.lab.checking import claimed
from tests.lab.command import Mudanza
from tests.lab.conftest import await_true
from tests.lab.handover import BLOCK, differences

pytestmark = pytest.mark.lab

IMAGES = "/var/lib/libvirt/images"
STRANGE_NAMES = ("a;reboot", "$(id)", "--help", '">', "ñandú 駱駝", "[bold]x")
SMALL = {"memory": 128 * MIB, "disk": 64 * MIB, "beat": 0.05}

MakeGuest = Callable[..., Guest]


@pytest.fixture
def make_guest(lab: Lab) -> Iterator[MakeGuest]:
    """Make guests that go with the test."""
    made: list[Guest] = []

    def make(name: str, on: str = "h1", **settings: object) -> Guest:
        guest = create_guest(lab, GuestSpec(name, **{**SMALL, **settings}), on=on)  # type: ignore[arg-type]  # by field
        made.append(guest)
        return guest

    yield make
    for guest in made:
        guest.remove()


def volumes(lab: Lab, host: str, pool: str = "default") -> set[str]:
    cell = lab.cell(host)
    virsh(cell, "pool-refresh", pool)
    path = etree.fromstring(virsh(cell, "pool-dumpxml", pool)).findtext("target/path")
    lines = [line.strip() for line in virsh(cell, "vol-list", pool).splitlines() if line.strip()]
    return {line.partition(f" {path}/")[0].strip() for line in lines} - {"lost+found"}


def content(lab: Lab, host: str, path: str) -> bytes:
    """Return what a qcow2 disk holds."""
    cell = lab.cell(host)
    raw = f"/tmp/{Path(path).name}.raw"
    cell.run(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", "--", path, raw])
    try:
        return Path(f"/proc/{cell.pid}/root{raw}").read_bytes()
    finally:
        cell.run(["rm", "--", raw])


@contextmanager
def slow(lab: Lab, host: str, rate: int) -> Iterator[None]:
    lab.set_uplink(host, rate)
    try:
        yield
    finally:
        lab.set_uplink(host, None)


def assert_untouched(lab: Lab, guest: Guest, target: str = "h2") -> None:
    """The guest runs at h1 as before, and nothing of it is at the target."""
    assert guest.states() == {"h1": "running"}
    guest.await_answer()
    guest.verify()
    assert not [name for name in volumes(lab, target) if guest.name in name]


def test_there_and_back_under_load(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("busy", memory=256 * MIB, write_rate=8 * MIB, working_set=32 * MIB, disk_write_rate=4 * MIB)
    with Watch(lab, guest.address) as watch:
        there = mudanza("migrate", "busy", "--to", "h2", "-o", "json").report
        assert guest.states() == {"h2": "running"}
        assert "busy.qcow2" not in volumes(lab, "h1")
        back = mudanza("migrate", "busy", "--to", "h1", "-o", "json").report
    assert guest.states() == {"h1": "running"}
    assert watch.series.every_beat_arrived, watch.series
    assert watch.series.reconnects == 0
    assert watch.series.boots == 1
    assert there["source"] == back["target"] == "h1"
    for report in (there, back):
        assert report["tls"]
        assert report["disk_bytes"] > 0
        assert report["memory_bytes"] > 0
        assert report["downtime"] is not None
        assert report["removed"]
    guest.verify()
    guest.verify_memory()
    assert read_ring(lab.cell("h1"), f"{IMAGES}/busy.qcow2", "qcow2").whole


def test_disks_are_equal_at_the_hand_over(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    make_guest("equal", disk_write_rate=8 * MIB)
    report = mudanza("migrate", "equal", "--to", "h2", "--keep-source", "-o", "json").report
    path = f"{IMAGES}/equal.qcow2"
    assert report["kept"] == [f"h1:{path}"]
    assert any("h1 keeps its definition too" in warning for warning in report["warnings"])
    source, target = content(lab, "h1", path), content(lab, "h2", path)
    assert source != target, "the guest writes on, so that the copies part"
    assert differences(source, target) == []
    assert "disable" in virsh(lab.cell("h1"), "dominfo", "equal").split("Autostart:")[1].split("\n")[0]

    # The comparison sees a lost write: one old block in the target's copy is enough.
    at = next(at for at in range(len(source) - BLOCK, 0, -BLOCK) if source[at : at + 8] == b"MUDDATA1")
    spoilt = target[:at] + bytes(BLOCK) + target[at + BLOCK :]
    assert len(differences(source, spoilt)) == 1


def test_shared_storage_needs_no_copy(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("onshare", pool="shared")
    report = mudanza("migrate", "onshare", "--to", "h2", "-o", "json").report
    assert report["disk_bytes"] == 0
    assert guest.states() == {"h2": "running"}
    assert "onshare.qcow2" in volumes(lab, "h2", "shared")
    guest.verify()


@pytest.mark.soak
def test_a_guest_that_writes_at_two_thirds_of_the_link_arrives(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("writer", disk_write_rate=8 * MIB)
    try:
        for host in ("h1", "h2"):
            lab.set_uplink(host, 12 * MIB)
        report = mudanza("migrate", "writer", "--to", "h2", "--deadline", "4m", "-o", "json").report
    finally:
        for host in ("h1", "h2"):
            lab.set_uplink(host, None)
    assert "synchronously" in report["transport"], "a mirror in the background would never be done"
    assert guest.states() == {"h2": "running"}
    guest.verify()


def test_a_controller_elsewhere_carries_orders_and_no_data(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("remote", working_set=16 * MIB)
    seat = lab.cell("controller")
    for way, here, there in (("tls", "h1", "h2"), ("ssh", "h2", "h1")):
        for host in lab.hosts:
            seat.run(mudanza.argv("host", "edit", host, "--uri", lab.uri(host, via=way)))
        before = lab.switch_bytes()
        done = seat.run(mudanza.argv("migrate", guest.uuid, "--to", there, "-o", "json"), timeout=120)
        report = json.loads(done.stdout.splitlines()[-1])
        after = lab.switch_bytes()
        assert guest.states() == {there: "running"}
        assert report["tls"], "whatever the controller speaks, data is encrypted between the hosts"
        moved = report["memory_bytes"]
        by_host = after[here].received - before[here].received
        by_controller = after["controller"].received - before["controller"].received
        assert by_host > moved * 0.9, f"{way}: the counter at the switch sees the guest pass"
        assert by_controller < moved / 10, way
    guest.verify_memory()


def test_storage_and_network_maps(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("mapped", network="blue")
    blocked = mudanza("migrate", "mapped", "--to", "h2", expect=3)
    assert "network" in blocked.err
    mudanza("migrate", "mapped", "--to", "h2", "--map-network", "blue=green", "--map-storage", "default=fast")
    assert volumes(lab, "h2", "fast") == {"mapped.qcow2"}
    for flags in ((), ("--inactive",)):
        xml = virsh(lab.cell("h2"), "dumpxml", "mapped", *flags)
        assert "network='green'" in xml
        assert "/var/lib/libvirt/fast/mapped.qcow2" in xml
        assert "blue" not in xml
    guest.await_answer()


@pytest.mark.soak
def test_names_that_look_like_something_else(lab: Lab, mudanza: Mudanza) -> None:
    here, there = lab.cell("h1"), lab.cell("h2")
    for name in STRANGE_NAMES:
        uuid = str(uuid4())
        virsh(here, "vol-create", "default", "/dev/stdin", stdin=_volume(name))
        virsh(here, "define", "/dev/stdin", stdin=_bare_domain(name, uuid))
        virsh(here, "start", uuid)
        try:
            found = {vm["name"]: vm["host"] for vm in mudanza("vms", "-o", "json").data}
            assert found[name] == "h1"
            mudanza("migrate", "--to", "h2", "--", name)
            assert virsh(there, "domstate", uuid).strip() == "running"
            assert name not in volumes(lab, "h1")
            assert name in volumes(lab, "h2")
        finally:
            for cell in (here, there):
                virsh(cell, "destroy", uuid, check=False)
                virsh(cell, "undefine", uuid, "--remove-all-storage", check=False)


def _volume(name: str) -> str:
    volume = etree.Element("volume")
    etree.SubElement(volume, "name").text = name
    etree.SubElement(volume, "capacity", unit="MiB").text = "16"
    etree.SubElement(etree.SubElement(volume, "target"), "format", type="qcow2")
    return etree.tostring(volume, encoding="unicode")


def _bare_domain(name: str, uuid: str) -> str:
    """Return a VM that runs nothing but its BIOS: enough to be moved."""
    domain = etree.fromstring(
        "<domain type='qemu'><memory unit='MiB'>64</memory><os><type>hvm</type></os><devices>"
        "<disk type='file'><driver name='qemu' type='qcow2'/><source/><target dev='vda' bus='virtio'/></disk>"
        "</devices></domain>"
    )
    etree.SubElement(domain, "name").text = name
    etree.SubElement(domain, "uuid").text = uuid
    source = domain.find("devices/disk/source")
    assert source is not None
    source.set("file", f"{IMAGES}/{name}")
    return etree.tostring(domain, encoding="unicode")


def test_autostart_and_our_own_copy_of_the_definition_survive(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    make_guest("auto")
    virsh(lab.cell("h1"), "autostart", "auto")
    virsh(lab.cell("h1"), "desc", "auto", "--config", "the database")
    mudanza("migrate", "auto", "--to", "h2")
    assert "enable" in virsh(lab.cell("h2"), "dominfo", "auto").split("Autostart:")[1].split("\n")[0]
    assert "the database" in virsh(lab.cell("h2"), "dumpxml", "--inactive", "auto")
    assert "auto" not in virsh(lab.cell("h1"), "list", "--all", "--name").split()
    job = mudanza("jobs", "-o", "json").data[0]
    assert (job["state"], job["exit_code"]) == ("done", 0)
    decided = next(step for step in job["steps"] if step["name"] == "decide")
    assert "<domain" in decided["intent"]["inactive_xml"]


def test_a_paused_guest_stays_paused(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("resting")
    virsh(lab.cell("h1"), "suspend", "resting")
    mudanza("migrate", "resting", "--to", "h2")
    assert guest.states() == {"h2": "paused"}
    virsh(lab.cell("h2"), "resume", "resting")
    guest.await_answer()
    guest.verify()


@pytest.mark.soak
def test_the_best_host_is_chosen_and_said_why(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    make_guest("load", on="h2")
    guest = make_guest("roaming")
    done = mudanza("migrate", "roaming")
    assert "h3" in done.err
    assert guest.states() == {"h3": "running"}


@pytest.mark.soak
def test_several_at_once(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guests = [make_guest(f"many{n}") for n in range(3)]
    events = mudanza("migrate", *(guest.name for guest in guests), "--to", "h2", "-o", "json").events
    assert {event["vm"] for event in events if event["event"] == "report"} == {guest.name for guest in guests}
    assert all(guest.states() == {"h2": "running"} for guest in guests)
    again = mudanza("migrate", "many0", "--to", "h2")
    assert "nothing to do" in again.err
    make_guest("many9", network="blue")
    partly = mudanza("migrate", "many0", "many9", "--to", "h3", expect=7)
    assert "network" in partly.err


@pytest.mark.soak
def test_given_up_in_the_middle_as_often_as_one_likes(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("cancelled", memory=256 * MIB, working_set=96 * MIB)
    for number in (signal.SIGINT, signal.SIGTERM):
        with slow(lab, "h1", 5 * MIB):
            running = mudanza.start("migrate", "cancelled", "--to", "h2", "-o", "json")
            running.until("copying memory")
            running.send(number)
            ended = running.end(4)
        error = ended.events[-1]
        assert "cancelled on request" in error["message"], number
        assert "runs at the source" in error["vm_state"], number
        assert_untouched(lab, guest)
        assert not claimed(lab, "h1", "cancelled"), number
        assert "cancelled.qcow2" in volumes(lab, "h1")
    with slow(lab, "h1", 5 * MIB):
        late = mudanza("migrate", "cancelled", "--to", "h2", "--deadline", "2s", expect=4)
    assert "not done within the deadline" in late.err
    assert_untouched(lab, guest)


@pytest.mark.soak
def test_the_target_dies_in_the_middle(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("survivor", memory=256 * MIB, working_set=96 * MIB)
    try:
        with slow(lab, "h1", 5 * MIB), Watch(lab, guest.address) as watch:
            running = mudanza.start("migrate", "survivor", "--to", "h2", "-o", "json")
            running.until("copying memory")
            faults.kill_host(lab, "h2")
            ended = running.end(4)
    finally:
        faults.boot_host(lab, "h2")
    assert "runs at the source" in ended.events[-1]["vm_state"]
    assert guest.states() == {"h1": "running"}
    assert watch.series.every_beat_arrived
    # What could not be cleaned up on the dead host is remembered, and gone after the next look.
    assert "survivor.qcow2" in volumes(lab, "h2")
    assert "h2:" in ended.events[-1]["vm_state"]
    job = mudanza("jobs", "-o", "json").data[0]
    mudanza("job", "resume", str(job["id"]))
    assert_untouched(lab, guest)


def expire_leases(mudanza: Mudanza) -> None:
    """Let the lease of a dead controller run out at once."""
    with closing(sqlite3.connect(tomllib.loads(mudanza.config.read_text())["database"])) as database, database:
        database.execute("UPDATE job SET lease_until = 0 WHERE ended_at IS NULL")


@pytest.mark.soak
def test_a_job_of_a_dead_controller_ends_while_the_target_is_dead(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("halfway", memory=256 * MIB, working_set=96 * MIB)
    try:
        with slow(lab, "h1", 5 * MIB):
            running = mudanza.start("migrate", "halfway", "--to", "h2", "-o", "json")
            running.until("copying memory")
            running.send(signal.SIGKILL)
            running.end(-signal.SIGKILL)
            faults.kill_host(lab, "h2")
        expire_leases(mudanza)
        job = str(mudanza("jobs", "-o", "json").data[0]["id"])
        ended = mudanza("job", "resume", job, expect=4)
        assert "runs at the source" in ended.err
    finally:
        faults.boot_host(lab, "h2")
    mudanza("job", "resume", job)
    assert_untouched(lab, guest)


@pytest.mark.soak
def test_a_resumed_job_can_be_cancelled(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    guest = make_guest("unwanted", memory=256 * MIB, working_set=96 * MIB)
    with slow(lab, "h1", MIB):
        running = mudanza.start("migrate", "unwanted", "--to", "h2", "-o", "json")
        running.until("copying memory")
        running.send(signal.SIGKILL)
        running.end(-signal.SIGKILL)
        expire_leases(mudanza)
        resumed = mudanza.start("job", "resume", str(mudanza("jobs", "-o", "json").data[0]["id"]), "-o", "json")
        resumed.until("copying memory")
        resumed.send(signal.SIGINT)
        assert "cancelled on request" in resumed.end(4).err
    assert_untouched(lab, guest)


def test_a_disk_that_another_volume_is_built_upon_stays(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    make_guest("below")
    cell = lab.cell("h1")
    overlay = f"{IMAGES}/overlay.qcow2"
    # Made as people do it, behind libvirt's back and with a relative name; -u: QEMU has the disk open.
    size = str(SMALL["disk"])
    cell.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "below.qcow2", "-F", "qcow2", "--", overlay, size])
    try:
        report = mudanza("migrate", "below", "--to", "h2", "-o", "json").report
        assert report["removed"] == []
        assert any("is built upon it" in warning for warning in report["warnings"])
        assert "below.qcow2" in volumes(lab, "h1")
    finally:
        cell.run(["rm", "-f", "--", overlay])


@pytest.mark.soak
def test_a_killed_controller_leaves_a_job_that_can_be_finished(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("orphan", memory=256 * MIB, working_set=64 * MIB)
    with slow(lab, "h1", 20 * MIB):
        running = mudanza.start("migrate", "orphan", "--to", "h2", "-o", "json")
        running.until("copying memory")
        running.send(signal.SIGKILL)
        running.end(-signal.SIGKILL)
    await_true(lambda: guest.states() == {"h2": "running"}, "libvirt carries the migration on")
    assert "orphan.qcow2" in volumes(lab, "h1")
    job = mudanza("jobs", "-o", "json").data[0]
    busy = mudanza("migrate", "orphan", "--to", "h1", expect=3)
    assert f"job resume {job['id']}" in busy.err
    await_true(lambda: mudanza("jobs", "-o", "json").data[0]["abandoned"], "its lease runs out")
    mudanza("job", "resume", str(job["id"]))
    assert guest.states() == {"h2": "running"}
    assert "orphan.qcow2" not in volumes(lab, "h1")
    guest.verify()


@pytest.mark.soak
def test_what_a_dead_libvirt_forgot_in_qemu_stands_in_the_way_once(
    lab: Lab, mudanza: Mudanza, make_guest: MakeGuest
) -> None:
    guest = make_guest("forgotten")
    node = {"driver": "null-co", "node-name": "migration-vda-storage", "size": MIB}
    order = json.dumps({"execute": "blockdev-add", "arguments": node})
    virsh(lab.cell("h1"), "qemu-monitor-command", guest.uuid, order)
    refused = mudanza("migrate", "forgotten", "--to", "h2", expect=4)
    assert "Duplicate nodes" in refused.err
    assert_untouched(lab, guest)
    mudanza("migrate", "forgotten", "--to", "h2")
    assert guest.states() == {"h2": "running"}


@pytest.mark.soak
def test_ports_that_are_taken_say_nothing_about_encryption(lab: Lab, mudanza: Mudanza, make_guest: MakeGuest) -> None:
    make_guest("ported")
    faults.take_ports(lab, "h2")
    try:
        # Mostly it is seen before anything is touched (3); on a slow machine the rehearsal may have no time to tell.
        assert "Unable to find an unused port" in mudanza("migrate", "ported", "--to", "h2", expect=None).err
    finally:
        faults.free_ports(lab, "h2")
    assert mudanza("migrate", "ported", "--to", "h2", "-o", "json").report["tls"]


@pytest.mark.soak
def test_without_certificates_it_goes_unencrypted_and_says_so(needs_lab: None) -> None:
    with plain_lab() as lab:
        mudanza = Mudanza(lab)
        guest = create_guest(lab, GuestSpec("plain", memory=128 * MIB, disk=128 * MIB))
        required = mudanza("migrate", "plain", "--to", "h2", "--tls", "require", expect=3)
        assert "tls" in required.err.lower()
        report = mudanza("migrate", "plain", "--to", "h2", "-o", "json").report
        assert not report["tls"]
        assert any("encrypt" in warning or "TLS" in warning for warning in report["warnings"])
        assert guest.states() == {"h2": "running"}


@contextmanager
def plain_lab() -> Iterator[Lab]:
    import os

    lab = Lab.up(f"p{os.getpid()}", hosts=2, tls=False, tied=True)
    try:
        tell_mudanza(lab)
        yield lab
    finally:
        lab.down()
