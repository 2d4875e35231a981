"""What can be done with domains, volumes and consoles of a real host."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest

from mudanza.hypervisor.bounded import bounded
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.domains import Domains, migration_flags
from mudanza.hypervisor.volumes import Volumes
from mudanza.lab import faults
from mudanza.lab.domain import GuestSpec
from mudanza.lab.guest import create_guest, virsh
from mudanza.lab.lab import Lab
from mudanza.model.errors import HostUnreachableError, HypervisorError, UsageError
from mudanza.model.host import HostEntry
from mudanza.model.migration import Side, Sighting
from mudanza.model.units import MIB
from mudanza.model.vm import VmState
from tests.lab.conftest import await_true
from tests.lab.tiny import domain_xml, file, tiny, volume

pytestmark = pytest.mark.lab

IMAGES = "/var/lib/libvirt/images"


@pytest.fixture
def connections(lab: Lab) -> Iterator[Connections]:
    with Connections([HostEntry(name, lab.uri(name)) for name in lab.hosts]) as opened:
        yield opened


@pytest.fixture
def domains(connections: Connections) -> Domains:
    return connections.domains("h1")


@pytest.fixture
def volumes(connections: Connections) -> Volumes:
    return connections.volumes("h1")


def test_sightings_of_a_life(lab: Lab, domains: Domains) -> None:
    uuid = str(uuid4())
    assert domains.sighting(uuid).side is Side.ABSENT
    assert domains.define(domain_xml("life", uuid)) == uuid
    try:
        assert domains.sighting(uuid) == Sighting(Side.PRESENT, VmState.SHUTOFF, "unknown", persistent=True)
        domains.start(uuid, paused=True)
        assert domains.sighting(uuid) == Sighting(Side.PRESENT, VmState.PAUSED, "user", persistent=True)
        domains.resume(uuid)
        assert domains.sighting(uuid) == Sighting(Side.PRESENT, VmState.RUNNING, "unpaused", persistent=True)
        domains.suspend(uuid)
        domains.destroy(uuid)
        assert domains.sighting(uuid) == Sighting(Side.PRESENT, VmState.SHUTOFF, "destroyed", persistent=True)
        assert domains.names()[uuid] == "life"
    finally:
        domains.undefine(uuid)
    assert domains.sighting(uuid).side is Side.ABSENT
    assert uuid not in domains.names()


def test_a_host_that_cannot_be_asked_has_not_said_that_a_vm_is_absent(lab: Lab, connections: Connections) -> None:
    domains = connections.domains("h3")
    faults.stop_daemon(lab, "h3")
    try:
        hanging = domains.sighting(str(uuid4()), timeout=2)
    finally:
        faults.cont_daemon(lab, "h3")
    faults.kill_daemon(lab, "h3")
    try:
        dead = domains.sighting(str(uuid4()))
    finally:
        faults.start_daemon(lab, "h3")
    assert (hanging.side, dead.side) == (Side.UNSEEN, Side.UNSEEN)
    assert "did not answer" in hanging.reason
    assert dead.reason


def test_a_job_that_qemu_does_not_tell_of_counts_as_one(lab: Lab, domains: Domains) -> None:
    with volume(lab, "mute.qcow2") as path, tiny(lab, "mute", run=True, disk=(path, "qcow2")) as uuid:
        xml = "<domainbackup mode='pull'><server transport='unix' socket='/srv/mute.sock'/></domainbackup>"
        virsh(lab.cell("h1"), "backup-begin", uuid, "/dev/stdin", stdin=xml)
        told = domains.sighting(uuid)
        faults.stop_qemu(lab, "h1", uuid)
        try:
            mute = domains.sighting(uuid, timeout=2)
        finally:
            faults.cont_qemu(lab, "h1", uuid)
        await_true(lambda: domains.sighting(uuid).job == "backup", "QEMU tells again")
        domains.abort_job(uuid)
        await_true(lambda: domains.sighting(uuid).job is None, "the job is over")
    assert told.job == "backup"
    assert (mute.side, mute.state, mute.job) == (Side.PRESENT, VmState.PAUSED, "unknown")


def test_definitions_live_and_inactive(lab: Lab, domains: Domains) -> None:
    with tiny(lab, "both", run=True) as uuid:
        assert "<domain type='qemu' id=" in domains.describe(uuid)
        assert "<domain type='qemu'>" in domains.describe(uuid, inactive=True)
        assert "<uuid>" in domains.describe(uuid, migratable=True)


def test_autostart(lab: Lab, domains: Domains) -> None:
    with tiny(lab, "auto") as uuid:
        assert not domains.autostart(uuid)
        domains.set_autostart(uuid, True)
        assert domains.autostart(uuid)
        domains.set_autostart(uuid, False)
        assert not domains.autostart(uuid)


def test_a_definition_with_snapshots_goes_only_when_told_so(lab: Lab, domains: Domains) -> None:
    with volume(lab, "snapped.qcow2") as path, tiny(lab, "snapped", disk=(path, "qcow2")) as uuid:
        virsh(lab.cell("h1"), "snapshot-create-as", uuid, "s")
        with pytest.raises(HypervisorError, match="snapshot"):
            domains.undefine(uuid)
        domains.undefine(uuid, with_snapshots=True)
        assert domains.sighting(uuid).side is Side.ABSENT


def test_refusals_say_which_host_and_why(domains: Domains) -> None:
    with pytest.raises(HypervisorError, match="host h1: Domain not found") as caught:
        domains.start(str(uuid4()))
    assert caught.value.code == 42


def test_flags_the_installed_libvirt_does_not_have() -> None:
    assert migration_flags(["LIVE", "PEER2PEER"]) == 3
    with pytest.raises(UsageError, match="knows no migration flag TELEPORT"):
        migration_flags(["LIVE", "TELEPORT"])


def test_a_migration_its_figures_and_its_end(lab: Lab, connections: Connections) -> None:
    """With its data held back, so that both hosts can be asked while it runs."""
    source, target = connections.domains("h1"), connections.domains("h2")
    spec = GuestSpec("carried", memory=128 * MIB, disk=0, working_set=24 * MIB, beat=0.1)
    guest = create_guest(lab, spec, on="h1")
    failures: list[Exception] = []

    def carry() -> None:
        try:
            parameters: dict[str, int | str | list[str]] = {"migrate_uri": "tcp://h2", "bandwidth": 100}
            source.migrate_p2p(guest.uuid, lab.peer_uri("h2"), parameters, ["LIVE", "PERSIST_DEST"])
        except Exception as error:
            failures.append(error)

    try:
        lab.set_uplink("h1", MIB)
        carrier = threading.Thread(target=carry)
        carrier.start()
        await_true(lambda: int(source.job_stats(guest.uuid).get("memory_processed", 0)) > 0, "memory flows")
        assert source.sighting(guest.uuid).job == "migration out"
        arriving = target.sighting(guest.uuid)
        assert (arriving.side, arriving.job, arriving.running) == (Side.PRESENT, "migration in", False)
        source.set_max_downtime(guest.uuid, 500)
        source.set_bandwidth(guest.uuid, 50)
        source.abort_job(guest.uuid)
        carrier.join(60)
        assert isinstance(failures.pop(), HypervisorError)
        assert source.sighting(guest.uuid).running
        await_true(lambda: target.sighting(guest.uuid).side is Side.ABSENT, "nothing is left at the target")
        lab.set_uplink("h1", None)
        carry()
        assert not failures
        assert target.sighting(guest.uuid).running
        assert int(target.completed_job_stats(guest.uuid)["memory_processed"]) > 0
        assert target.completed_job_stats(guest.uuid) == target.completed_job_stats(guest.uuid)
    finally:
        lab.set_uplink("h1", None)
        guest.remove()


def test_a_migration_from_a_host_that_hangs_is_not_begun(lab: Lab, connections: Connections) -> None:
    domains = connections.domains("h3")
    faults.kill_daemon(lab, "h3")
    try:
        with pytest.raises(HostUnreachableError):
            domains.migrate_p2p(str(uuid4()), lab.peer_uri("h1"), {}, ["LIVE"])
    finally:
        faults.start_daemon(lab, "h3")


VOLUME = """<volume><name>{name}</name><capacity>{size}</capacity><target><format type='qcow2'/></target></volume>"""


@pytest.mark.parametrize("size", [MIB, MIB + 512])
def test_volumes(volumes: Volumes, size: int) -> None:
    path = volumes.create("default", VOLUME.format(name="made.qcow2", size=size))
    try:
        assert path == f"{IMAGES}/made.qcow2"
        assert "made.qcow2" in volumes.names("default")
        assert volumes.find(path) == ("default", "made.qcow2")
        made = volumes.read("default", "made.qcow2")
        assert (made.capacity, made.format, made.path) == (size, "qcow2", path)
    finally:
        volumes.delete("default", "made.qcow2")
    assert volumes.find(path) is None
    assert "made.qcow2" not in volumes.names("default")


def test_no_volume_is_made_over_a_file_the_pool_does_not_know(lab: Lab, volumes: Volumes) -> None:
    with file(lab.cell("h1"), f"{IMAGES}/precious.qcow2", "precious") as path:
        assert "precious.qcow2" not in volumes.names("default")
        with pytest.raises(HypervisorError, match="already exists"):
            volumes.create("default", VOLUME.format(name="precious.qcow2", size=MIB))
        assert lab.cell("h1").run(["cat", "--", path]).stdout == "precious"
        volumes.refresh("default")
        assert "precious.qcow2" in volumes.names("default")
    volumes.refresh("default")


SERIAL = "<serial type='pty'><target port='0'/></serial>"


def test_a_console_that_is_closed_ends(lab: Lab, domains: Domains) -> None:
    with tiny(lab, "quiet", run=True, extra=SERIAL) as uuid:
        console = domains.console(uuid)
        waiting = threading.Thread(target=console.receive)
        waiting.start()
        with pytest.raises(HypervisorError, match="console"):
            domains.console(uuid)
        console.close()
        waiting.join(10)
        assert not waiting.is_alive()
        with pytest.raises(HypervisorError, match="the console is closed"):
            console.send(b"x")
        with domains.console(uuid):
            pass


def test_a_console_can_be_taken_over(lab: Lab, domains: Domains) -> None:
    with (
        tiny(lab, "taken", run=True, extra=SERIAL) as uuid,
        domains.console(uuid) as first,
        domains.console(uuid, force=True),
    ):
        assert bounded(first.receive, 10) == b""


def test_a_guest_that_ends_ends_its_console(lab: Lab, domains: Domains) -> None:
    with tiny(lab, "ends", run=True, extra=SERIAL) as uuid, domains.console(uuid) as console:
        domains.destroy(uuid)
        assert bounded(console.receive, 10) == b""


def test_what_the_firmware_says_comes_through_the_console(lab: Lab, domains: Domains) -> None:
    """The BIOS talks on the serial port, and after it has found nothing to boot, listens to it."""
    body = "<os><type arch='x86_64'>hvm</type><bios useserial='yes' rebootTimeout='200'/></os>"
    uuid = str(uuid4())
    xml = domain_xml("talks", uuid, extra=SERIAL).replace('<os><type arch="x86_64">hvm</type></os>', body)
    assert "useserial" in xml
    domains.define(xml.replace('<memory unit="MiB">1</memory>', "<memory unit='MiB'>16</memory>"))
    try:
        domains.start(uuid, paused=True)
        with domains.console(uuid) as console:
            domains.resume(uuid)
            console.send(b"hello")
            said = b""
            while b"SeaBIOS" not in said:
                piece = bounded(console.receive, 20)
                assert piece, f"the console ended after {said!r}"
                said += piece
    finally:
        domains.destroy(uuid)
        domains.undefine(uuid)
