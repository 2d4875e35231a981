"""What has to be tried to be known: every probe with both answers, and nothing of it left behind on any host."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.own.ghost import domain_xml
from mudanza.hypervisor.own.throwaway import Throwaway, remove_domain, sweep, throwaway_name
from mudanza.hypervisor.probing.clocks import probe_clock
from mudanza.hypervisor.probing.cpus import probe_cpu
from mudanza.hypervisor.probing.facts import gather_facts, probe_occupied, probe_peer
from mudanza.hypervisor.probing.files import probe_data_elsewhere, probe_files, probe_shared
from mudanza.hypervisor.probing.rehearsal import rehearse
from mudanza.hypervisor.reading.cluster import read_cluster
from mudanza.lab import faults
from mudanza.lab.guest import virsh
from mudanza.lab.lab import Lab
from mudanza.model.cluster import Cluster
from mudanza.model.errors import HostUnreachableError
from mudanza.model.host import Host, HostEntry
from mudanza.model.migration import Answer, Facts, MigrationOptions, Probe, Tls
from mudanza.model.vm import Disk, Vm
from mudanza.preflight.mapping import DiskPlan
from tests.lab.conftest import await_true
from tests.lab.tiny import file, tiny, volume
from tests.lab.troubles import pool

pytestmark = pytest.mark.lab

YES, NO, UNKNOWN = Answer.YES, Answer.NO, Answer.UNKNOWN
IMAGES = "/var/lib/libvirt/images"
SHARED = "/srv/shared"


def entry(lab: Lab, name: str) -> HostEntry:
    return HostEntry(name, lab.uri(name), peer_uri=lab.peer_uri(name))


class Scene:
    """The lab's hosts, connected and read."""

    def __init__(self, lab: Lab, connections: Connections) -> None:
        self.lab = lab
        self.connections = connections

    def read(self) -> Cluster:
        entries = [entry(self.lab, name) for name in self.lab.hosts]
        return read_cluster(entries, timeout=20, connections=self.connections)

    def host(self, name: str, **changes: object) -> Host:
        host = self.read().host(name)
        return replace(host, entry=replace(host.entry, **changes))  # type: ignore[arg-type]  # by field

    def vm(self, uuid: str) -> Vm:
        return self.read().find(uuid)

    def shared(self, path: str, kind: str = "file") -> Probe:
        disk = Disk("vda", "disk", "virtio", kind, path, "raw")
        return probe_shared(
            self.connections.get("h1"), self.connections.get("h2"), self.host("h1"), self.host("h2"), [disk]
        )["vda"]

    def files(self, *paths: str, **about: frozenset[str]) -> list[Answer]:
        answers = probe_files(self.connections.get("h2"), self.host("h2"), paths, **about)
        return [answers[path].answer for path in paths]

    def peer(self, **changes: object) -> Probe:
        return probe_peer(self.connections.get("h1"), self.host("h1"), self.host("h2", **changes))

    def rehearse(self, vm: Vm, *, tls: bool, **changes: object) -> Probe:
        source, target = self.connections.get("h1"), self.connections.get("h2")
        return rehearse(source, target, self.host("h1"), self.host("h2", **changes), vm, tls=tls)


@pytest.fixture(scope="module", autouse=True)
def _swept(lab: Lab) -> None:
    """What commands that ended badly in other tests have left behind goes, as with any check."""
    with Connections([entry(lab, name) for name in lab.hosts]) as connections:
        for name in lab.hosts:
            connections.get(name).ask(sweep, timeout=60.0)


@pytest.fixture
def scene(lab: Lab) -> Iterator[Scene]:
    """Whatever a test tries: all hosts are afterwards as they were before."""
    before = traces(lab)
    with Connections([entry(lab, name) for name in lab.hosts]) as connections:
        yield Scene(lab, connections)
    assert traces(lab) == before


def traces(lab: Lab) -> list[str]:
    """Return everything a probe could leave on a host."""
    found = []
    for host in lab.hosts:
        cell = lab.cell(host)
        found.append(virsh(cell, "list", "--all", "--name"))
        found.append(virsh(cell, "pool-list", "--all", "--name"))
        found.append(cell.run(["find", "/var/lib/libvirt", "/srv", "/etc/libvirt", "-name", "*mudanza-*"]).stdout)
    return found


@pytest.fixture(scope="module")
def running(lab: Lab) -> Iterator[str]:
    with volume(lab, "probed.qcow2") as path, tiny(lab, "probed", run=True, disk=(path, "qcow2")) as uuid:
        yield uuid


def target_cpu(scene: Scene, vm: Vm, source: Host | None = None) -> Probe:
    return probe_cpu(scene.connections.get("h2"), vm, source or scene.host("h1"))


def test_the_cpu_of_a_running_vm(scene: Scene, running: str) -> None:
    vm = scene.vm(running)
    assert vm.cpu_mode == "custom"
    assert target_cpu(scene, vm).answer is YES


def with_cpu(vm: Vm, mode: str | None, xml: str | None = None) -> Vm:
    return replace(vm, cpu_mode=mode, cpu_xml=xml or f"<cpu mode='{mode}'/>")


def test_a_cpu_the_target_lacks_features_of(scene: Scene, running: str) -> None:
    xml = "<cpu mode='custom' match='exact'><model>qemu64</model><feature policy='require' name='sgx'/></cpu>"
    probe = target_cpu(scene, with_cpu(scene.vm(running), "custom", xml))
    assert probe.answer is NO
    assert "sgx" in probe.detail


def test_a_cpu_model_the_target_has_never_heard_of(scene: Scene, running: str) -> None:
    xml = "<cpu mode='custom' match='exact'><model fallback='forbid'>Newest</model></cpu>"
    probe = target_cpu(scene, with_cpu(scene.vm(running), "custom", xml))
    assert (probe.answer, probe.detail) == (NO, "h2 does not know the CPU model Newest")


def test_the_hosts_own_cpu_is_compared_with_the_targets(scene: Scene, running: str) -> None:
    vm, source = with_cpu(scene.vm(running), "host-passthrough"), scene.host("h1")
    assert target_cpu(scene, vm, source).answer is YES
    richer = replace(source, cpu_xml=source.cpu_xml.replace("</cpu>", "<feature name='sgx'/></cpu>"))
    assert target_cpu(scene, vm, richer).answer is NO


def test_cpus_that_are_made_up_at_the_start(scene: Scene, running: str) -> None:
    vm, source = scene.vm(running), scene.host("h1")
    assert target_cpu(scene, with_cpu(vm, "host-model")).answer is YES
    assert target_cpu(scene, replace(vm, cpu_mode=None, cpu_xml=None)).answer is YES
    assert target_cpu(scene, with_cpu(vm, "maximum")).answer is YES
    assert target_cpu(scene, with_cpu(vm, "maximum"), replace(source, qemu_version=1)).answer is UNKNOWN


@pytest.mark.parametrize("uri", ["qemu+tls://h2/system", "qemu+tcp://h2/system", "qemu+ssh://root@h2/system?no_tty=1"])
def test_the_source_can_log_in(scene: Scene, uri: str) -> None:
    probe = scene.peer(peer_uri=uri)
    assert probe == Probe(YES, f"logged in to {uri}"), probe.detail


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("qemu+tls://h2:1/system", "Connection refused"),
        ("qemu+ssh://nobody@h2/system?no_tty=1", "ermission denied"),
        ("qemu+tcp://h2/nowhere", ""),
    ],
)
def test_the_source_cannot_log_in(scene: Scene, uri: str, words: str) -> None:
    probe = scene.peer(peer_uri=uri)
    assert probe.answer is NO
    assert words in probe.detail


def test_without_a_uri_nothing_can_be_tried(scene: Scene) -> None:
    assert scene.peer(peer_uri=None) == Probe(UNKNOWN, "no URI is known by which h1 reaches h2")


@pytest.mark.soak
def test_a_login_that_hangs_is_no_login(scene: Scene) -> None:
    here, there = scene.host("h1"), scene.host("h2")
    faults.stop_daemon(scene.lab, "h2")
    try:
        probe = probe_peer(scene.connections.get("h1"), here, there)
    finally:
        faults.cont_daemon(scene.lab, "h2")
    assert probe.answer is NO
    assert "within" in probe.detail
    # libvirt keeps the ghost until it comes back from the login.
    h1 = scene.lab.cell("h1")
    await_true(lambda: "mudanza-" not in virsh(h1, "list", "--all", "--name"), "the ghost is gone")


def test_a_disk_on_a_shared_pool(scene: Scene) -> None:
    with file(scene.lab.cell("h1"), f"{SHARED}/a.img", "x" * 5000) as path:
        assert scene.shared(path) == Probe(YES, "a marker made in /srv/shared on h1 was seen there on h2")


def test_a_disk_in_a_shared_directory_that_is_no_pool(scene: Scene) -> None:
    cell = scene.lab.cell("h1")
    cell.run(["mkdir", f"{SHARED}/deep"])
    try:
        with file(cell, f"{SHARED}/deep/a.img") as path:
            assert scene.shared(path).answer is YES
    finally:
        cell.run(["rmdir", f"{SHARED}/deep"])


def test_an_empty_image_is_an_image(scene: Scene) -> None:
    with file(scene.lab.cell("h1"), f"{SHARED}/empty.img", "") as path:
        assert scene.shared(path).answer is YES


def test_a_disk_the_target_does_not_have(scene: Scene) -> None:
    with file(scene.lab.cell("h1"), f"{IMAGES}/only.img") as path:
        assert scene.shared(path) == Probe(NO, f"h2 has no {path}")


def test_a_file_of_the_same_name_and_content_in_another_place_is_another_file(scene: Scene) -> None:
    with file(scene.lab.cell("h1"), f"{IMAGES}/same.img"), file(scene.lab.cell("h2"), f"{IMAGES}/same.img") as path:
        probe = scene.shared(path)
    assert probe == Probe(NO, f"h2 has a file of that name in a {IMAGES} of its own")


def test_a_link_in_a_shared_directory_that_leads_to_different_images(scene: Scene) -> None:
    h1, h2, link = scene.lab.cell("h1"), scene.lab.cell("h2"), f"{SHARED}/link.img"
    with file(h1, f"{IMAGES}/l.img", "here"), file(h2, f"{IMAGES}/l.img", "there"):
        h1.run(["ln", "-s", f"{IMAGES}/l.img", link])
        try:
            probe = scene.shared(link)
        finally:
            h1.run(["rm", link])
    assert probe.answer is UNKNOWN
    assert "reads differently" in probe.detail


def test_a_device_cannot_be_proven(scene: Scene) -> None:
    assert scene.shared("/dev/vg/disk", "block").answer is UNKNOWN
    assert scene.shared("/dev/loop0").answer is UNKNOWN


def test_a_directory_where_no_marker_can_be_made(scene: Scene) -> None:
    """/srv/boot is the same on all hosts and can only be read."""
    boot = scene.lab.directory / "boot" / "probe.iso"
    boot.write_text("iso")
    try:
        probe = scene.shared("/srv/boot/probe.iso")
    finally:
        boot.unlink()
    assert probe.answer is UNKNOWN
    assert "no marker can be made in /srv/boot" in probe.detail


def test_two_names_of_one_machine_see_the_same_files(scene: Scene) -> None:
    h1 = scene.host("h1")
    disk = Disk("vda", "disk", "virtio", "file", "/nowhere", "raw")
    connection = scene.connections.get("h1")
    assert probe_shared(connection, connection, h1, h1, [disk])["vda"].answer is YES


def test_files_that_are_there_and_files_that_are_not(scene: Scene) -> None:
    with file(scene.lab.cell("h2"), "/srv/'odd <name>&é.iso") as odd:
        answers = scene.files(
            odd, "/srv/none.iso", "/no/such/directory/x", f"{odd}/below", "/usr/bin/qemu-system-x86_64"
        )
    assert answers == [YES, NO, NO, NO, YES]


def test_what_should_not_be_opened_is_not_opened(scene: Scene) -> None:
    cell = scene.lab.cell("h2")
    cell.run(["mkfifo", "/srv/pipe"])
    try:
        answers = scene.files("/dev/null", "/run/x.sock", "/srv/pipe", unopened=frozenset({"/srv/pipe"}))
    finally:
        cell.run(["rm", "/srv/pipe"])
    assert answers == [UNKNOWN, UNKNOWN, UNKNOWN]
    assert scene.files("/dev/no-such-disk", devices=frozenset({"/dev/no-such-disk"})) == [NO]


def test_the_place_of_a_new_volume(scene: Scene) -> None:
    def plan(target: str, name: str) -> DiskPlan:
        return DiskPlan(target, "copy", "", pool="default", volume=name, path=f"{IMAGES}/{name}")

    with file(scene.lab.cell("h2"), f"{IMAGES}/behind-the-back.img") as path:
        copies = [plan("vda", "behind-the-back.img"), plan("vdb", "free.img")]
        answers = probe_occupied(scene.connections.get("h2"), scene.host("h2"), copies)
    assert answers["vda"] == Probe(YES, path)
    assert answers["vdb"].answer is NO


def test_an_image_whose_content_lies_in_another_file(scene: Scene) -> None:
    cell = scene.lab.cell("h1")
    with file(cell, f"{IMAGES}/content.raw") as content, file(cell, f"{IMAGES}/apart.qcow2") as image:
        cell.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={content}", image, "1M"])
        images = (image, content, f"{IMAGES}/none.qcow2")
        answers = probe_data_elsewhere(scene.connections.get("h1"), scene.host("h1"), images)
    assert answers[image] == Probe(YES, content)
    assert [answers[path].answer for path in images[1:]] == [NO, NO]


def test_the_clocks_of_hosts_on_one_machine_agree(scene: Scene) -> None:
    h1, h2 = scene.connections.get("h1"), scene.connections.get("h2")
    offset = probe_clock(h1, h2, scene.host("h1"), scene.host("h2"))
    assert offset is not None
    assert abs(offset) < 0.25


def test_a_clock_cannot_be_read_without_a_pool(scene: Scene) -> None:
    h1, h2 = scene.connections.get("h1"), scene.connections.get("h2")
    assert probe_clock(h1, h2, scene.host("h1"), replace(scene.host("h2"), pools=None)) is None


@pytest.mark.parametrize("tls", [True, False])
def test_data_gets_through(scene: Scene, running: str, tls: bool) -> None:
    began = time.monotonic()
    probe = scene.rehearse(scene.vm(running), tls=tls)
    print(f"rehearsal: {time.monotonic() - began:.2f} s")
    assert probe == Probe(YES, f"a rehearsal went from h1 to h2{', encrypted' if tls else ''}")


def test_data_goes_to_the_address_it_will_go_to(scene: Scene, running: str) -> None:
    vm = scene.vm(running)
    assert scene.rehearse(vm, tls=False, migration_address="h2").answer is YES
    nowhere = scene.rehearse(vm, tls=False, migration_address="10.77.0.99")
    assert nowhere.answer is NO
    assert "No route to host" in nowhere.detail


def test_a_certificate_of_another_name(scene: Scene, running: str) -> None:
    probe = scene.rehearse(scene.vm(running), tls=True, tls_name="somebody.else")
    assert probe.answer is NO
    assert "certificate" in probe.detail


@contextmanager
def without_certificates(lab: Lab, host: str) -> Iterator[None]:
    lab.cell(host).run(["mv", "/etc/pki/qemu", "/etc/pki/qemu.off"])
    try:
        yield
    finally:
        lab.cell(host).run(["mv", "/etc/pki/qemu.off", "/etc/pki/qemu"])


@pytest.mark.parametrize("host", ["h1", "h2"])
def test_tls_that_is_not_set_up_on_one_of_them(scene: Scene, running: str, host: str) -> None:
    vm = scene.vm(running)
    with without_certificates(scene.lab, host):
        assert "Unable to access credentials" in scene.rehearse(vm, tls=True).detail
        facts = gather(scene, vm)
    assert (facts.tls.answer, facts.data_path.answer) == (NO, YES)


def test_a_guest_the_target_cannot_run_is_not_rehearsed(scene: Scene, running: str) -> None:
    vm = replace(scene.vm(running), machine="pc-i440fx-99.0")
    assert scene.rehearse(vm, tls=False).answer is UNKNOWN


def gather(scene: Scene, vm: Vm, *, rehearsed: bool = True, tls: Tls = Tls.AUTO) -> Facts:
    cluster = scene.read()
    options = MigrationOptions(tls=tls)
    return gather_facts(scene.connections, vm, cluster.host("h1"), cluster.host("h2"), options, rehearse=rehearsed)


def test_all_facts_of_a_running_vm_on_local_disks(scene: Scene, running: str) -> None:
    vm = scene.vm(running)
    began = time.monotonic()
    facts = gather(scene, vm)
    print(f"facts: {time.monotonic() - began:.2f} s")
    assert [probe.answer for probe in (facts.cpu, facts.peer, facts.tls, facts.data_path)] == [YES] * 4
    assert facts.shared["vda"].answer is NO
    assert facts.occupied["vda"].answer is NO
    assert facts.files[vm.emulator or ""].answer is YES
    assert facts.clock_offset is not None
    assert not facts.same_machine
    assert scene.vm(running).job is None


def test_all_facts_of_a_vm_that_is_off_with_snapshots_on_a_shared_disk(scene: Scene) -> None:
    with (
        volume(scene.lab, "kept.qcow2", pool="shared") as path,
        tiny(scene.lab, "kept", disk=(path, "qcow2")) as uuid,
    ):
        virsh(scene.lab.cell("h1"), "snapshot-create-as", uuid, "s")
        facts = gather(scene, scene.vm(uuid), rehearsed=False)
    assert [facts.peer.answer, facts.shared["vda"].answer] == [YES, YES]
    assert [facts.tls.answer, facts.data_path.answer] == [UNKNOWN, UNKNOWN]
    assert facts.occupied == {}


def test_without_tls_wanted_only_the_way_is_tried(scene: Scene, running: str) -> None:
    facts = gather(scene, scene.vm(running), tls=Tls.OFF)
    assert (facts.tls.answer, facts.data_path.answer) == (UNKNOWN, YES)


def test_without_a_login_nothing_is_rehearsed(scene: Scene, running: str) -> None:
    cluster = scene.read()
    there = replace(cluster.host("h2"), entry=replace(entry(scene.lab, "h2"), peer_uri="qemu+tls://h2:1/system"))
    facts = gather_facts(
        scene.connections, cluster.find(running), cluster.host("h1"), there, MigrationOptions(), rehearse=True
    )
    assert [facts.peer.answer, facts.tls.answer, facts.data_path.answer] == [NO, UNKNOWN, UNKNOWN]


def test_two_names_of_one_machine(lab: Lab, running: str) -> None:
    twins = [entry(lab, "h1"), replace(entry(lab, "h1"), name="twin")]
    with Connections(twins) as connections:
        cluster = read_cluster(twins, connections=connections)
        vm = next(vm for vm in cluster.vms if vm.uuid == running)
        facts = gather_facts(
            connections, vm, cluster.host("h1"), cluster.host("twin"), MigrationOptions(), rehearse=True
        )
    assert facts == Facts(same_machine=True)


def test_what_a_call_makes_that_nobody_waits_for_any_more_goes_again(scene: Scene) -> None:
    h1, name = scene.connections.get("h1"), throwaway_name("probe")
    xml = domain_xml(name, "qemu", "x86_64")
    given_up, defined = threading.Event(), threading.Event()

    def define_late(raw: Any) -> None:
        given_up.wait(30)
        raw.defineXML(xml)
        defined.set()

    with Throwaway(h1, name, remove_domain) as domain, pytest.raises(HostUnreachableError):
        domain.ask(define_late, timeout=0.2)
    given_up.set()
    assert defined.wait(30)
    await_true(lambda: name not in virsh(scene.lab.cell("h1"), "list", "--all", "--name"), "it is gone")


def name_of_a_dead_process(purpose: str) -> str:
    script = f"from mudanza.hypervisor.own.throwaway import throwaway_name; print(throwaway_name({purpose!r}))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_what_a_killed_controller_left_behind_is_swept_up_and_nothing_else(scene: Scene, running: str) -> None:
    seat = throwaway_name("probe").split("-")[3]
    assert seat in name_of_a_dead_process("probe"), "it was a process of this machine"
    old = f"mudanza-probe-00000001-aaaaaaaa-1-{'0' * 16}"
    another_controllers = f"mudanza-rehearsal-{int(time.time()):08x}-aaaaaaaa-1-{'0' * 16}"
    dead, ours = name_of_a_dead_process("probe"), throwaway_name("probe")
    dead_marker, our_marker = (
        f"{IMAGES}/{name}" for name in (name_of_a_dead_process("marker"), throwaway_name("marker"))
    )
    h1 = scene.lab.cell("h1")
    with (
        tiny(scene.lab, old),
        tiny(scene.lab, dead, run=True),
        tiny(scene.lab, ours),
        tiny(scene.lab, another_controllers, run=True),
        tiny(scene.lab, "mudanza-probe-mine"),
        pool(h1, name_of_a_dead_process("probe"), "/srv/left"),
        file(h1, dead_marker),
        file(h1, our_marker),
    ):
        virsh(h1, "pool-refresh", "default")
        cluster = scene.read()
        gather(scene, scene.vm(running), rehearsed=False)
        left = virsh(h1, "list", "--all", "--name").split()
        markers = h1.run(["find", IMAGES, "-name", "mudanza-*"]).stdout.split()
        pools = virsh(h1, "pool-list", "--name")
    seen = {vm.name for vm in cluster.vms}
    assert {old, "mudanza-probe-mine"} <= seen
    assert not seen & {dead, ours, another_controllers}
    assert {"mudanza-probe-mine", ours, another_controllers} <= set(left)
    assert not {old, dead} & set(left)
    assert markers == [our_marker]
    assert "mudanza-" not in pools
    assert not any("mudanza-" in pool.name for pool in cluster.host("h1").pools or ())
    virsh(h1, "pool-refresh", "default")
