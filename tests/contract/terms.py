"""What the rooms above rely on, as libvirt does it: each term holds on real hosts and on the twin alike.

A term is a function of a world, which has two hosts, h1 and h2, that nothing else works on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

import libvirt
import pytest

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.contents.by_libvirt import LibvirtContents
from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.own.carrier import Carrier, Kind, Load
from mudanza.hypervisor.own.throwaway import throwaway_name
from mudanza.hypervisor.probing.facts import probe_peer
from mudanza.hypervisor.probing.files import file_lengths, probe_files
from mudanza.hypervisor.probing.rehearsal import rehearse
from mudanza.hypervisor.reading.cluster import read_host
from mudanza.hypervisor.reading.load import read_counters
from mudanza.hypervisor.snapshots import SavedSnapshot
from mudanza.hypervisor.streams import read_bytes, write_bytes
from mudanza.hypervisor.xml.cpus import features_of, model_of, offered_cpu
from mudanza.model.counters import HostCounters, VmCounters
from mudanza.model.errors import HypervisorError, MudanzaError
from mudanza.model.host import Host, HostEntry
from mudanza.model.migration import Answer, Side, Sighting
from mudanza.model.units import MIB
from mudanza.model.vm import VmState

IMAGES = "/var/lib/libvirt/images"
SHARED = "/srv/shared"
LIVE = ("LIVE", "ABORT_ON_ERROR", "PERSIST_DEST", "UNDEFINE_SOURCE")
COPYING = (*LIVE, "NON_SHARED_DISK")
LIMIT = 60.0
"""Seconds that a condition may take to come true."""


class World(Protocol):
    """Two hosts, real or simulated."""

    entries: tuple[HostEntry, ...]

    def kill_qemu(self, host: str, name: str) -> None:
        """SIGKILL to a guest's QEMU."""

    def kill_libvirtd(self, host: str) -> None:
        """SIGKILL to libvirtd."""

    def start_libvirtd(self, host: str) -> None:
        """Start it again."""


Term = Callable[["Scene"], None]
TERMS: list[Term] = []


def term(function: Term) -> Term:
    """Add a function to the contract."""
    TERMS.append(function)
    return function


@dataclass
class Scene:
    """A world with connections to its hosts."""

    world: World
    connections: Connections

    def domains(self, host: str = "h1") -> Domains:
        return self.connections.domains(host)

    def about(self, host: str) -> Host:
        entry = next(each for each in self.world.entries if each.name == host)
        return read_host(entry, connections=self.connections)[0]

    def make_volume(
        self, name: str, host: str = "h1", *, pool: str = "default", size: int = 8 * MIB, data: int = 0
    ) -> str:
        """Make a raw volume whose first ``data`` MiB say something, and return its path."""
        kind = "<allocation>0</allocation><target><format type='raw'/></target>"
        xml = f"<volume><name>{name}</name><capacity>{size}</capacity>{kind}</volume>"
        path = self.connections.volumes(host).create(pool, xml)
        for number in range(data):
            piece = hashlib.sha256(b"%d" % number).digest() * (MIB // 32)
            write_bytes(self.connections.get(host), self.about(host), path, number * MIB, piece)
        return path

    def sha256(self, host: str, path: str, size: int = 8 * MIB) -> tuple[int, tuple[str | None, ...]]:
        found = LibvirtContents(self.connections.get(host), self.about(host)).digests(path, size, block=False)
        return found.length, found.chunks

    @contextmanager
    def vm(
        self, *, disk: str | None = None, run: bool = True, paused: bool = False, memory: int = 1, body: str = ""
    ) -> Iterator[tuple[str, str]]:
        """Have a VM on h1; yield name and UUID. In the end it goes from both hosts, with the volumes of its name."""
        name, uuid = f"vm-{uuid4().hex[:8]}", str(uuid4())
        try:
            self.domains().define(domain_xml(name, uuid, disk, memory=memory, body=body))
            if run:
                self.domains().start(uuid, paused=True)
                if not paused:
                    self.domains().resume(uuid)
            yield name, uuid
        finally:
            for host in ("h1", "h2"):
                with suppress(MudanzaError):
                    self.domains(host).destroy(uuid)
                with suppress(MudanzaError):
                    self.domains(host).undefine(uuid, with_snapshots=True)

    @contextmanager
    def disks(self, *, data: int = 6, pool: str = "default", both: bool = True) -> Iterator[str]:
        """Have a volume on h1 and an empty one of its name on h2; yield the path."""
        name = f"disk-{uuid4().hex[:8]}.raw"
        try:
            path = self.make_volume(name, pool=pool, data=data)
            if both:
                self.make_volume(name, "h2", pool=pool)
            yield path
        finally:
            for host in ("h1", "h2"):
                with suppress(MudanzaError):
                    self.connections.volumes(host).delete(pool, name)

    def migrate(self, uuid: str, flags: tuple[str, ...] = COPYING, to: str = "h2", **parameters: Any) -> Task[None]:
        """Begin to move a VM."""
        wanted: dict[str, Any] = {"migrate_uri": f"tcp://{to}", **parameters}
        if "NON_SHARED_DISK" in flags:
            wanted["migrate_disks"] = ["vda"]
        return Task(lambda: self.domains().migrate_p2p(uuid, f"qemu+tls://{to}/system", wanted, flags))

    @contextmanager
    def moving(self, *, seconds: int = 8, body: str = "") -> Iterator[tuple[str, str, Task[None]]]:
        """Have a VM with a disk on its way for some seconds; yield name, UUID and the call."""
        with self.disks() as path, self.vm(disk=path, body=body) as (name, uuid):
            call = self.migrate(uuid, bandwidth=max(1, 8 // seconds))
            self.until(
                lambda: any(done for done, _ in self.domains().disk_jobs(uuid, ["vda"]).values()), "its disk moves"
            )
            yield name, uuid, call
            with suppress(MudanzaError, TimeoutError):
                call.wait(LIMIT)

    def seen(self, uuid: str) -> tuple[Sighting, Sighting]:
        return self.domains("h1").sighting(uuid), self.domains("h2").sighting(uuid)

    @staticmethod
    def until(holds: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
        """Wait until something is so."""
        end = clock.monotonic() + limit
        while True:
            with suppress(MudanzaError):
                if holds():
                    return
            assert clock.monotonic() < end, f"not so after {limit:g} s: {what}"
            clock.sleep(0.05)


def domain_xml(name: str, uuid: str, disk: str | None = None, *, memory: int = 1, body: str = "") -> str:
    image = (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='{disk}'/>"
        "<target dev='vda' bus='virtio'/></disk>"
        if disk
        else ""
    )
    return f"""<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>{memory}</memory>{body}
      <os><type arch='x86_64' machine='pc'>hvm</type></os>
      <devices><controller type='usb' model='none'/><memballoon model='none'/>{image}</devices></domain>"""


@contextmanager
def refused(code: int, domain: int | None = None) -> Iterator[None]:
    """Expect a refusal with libvirt's number."""
    with pytest.raises(HypervisorError) as caught:
        yield
    assert caught.value.code == code, caught.value
    assert domain is None or caught.value.domain == domain, caught.value


def off(reason: str) -> Sighting:
    return Sighting(Side.PRESENT, VmState.SHUTOFF, reason, persistent=True)


def up(state: VmState, reason: str, *, persistent: bool = True, job: str | None = None) -> Sighting:
    return Sighting(Side.PRESENT, state, reason, persistent, job)


@term
def a_volume_lives_and_goes(it: Scene) -> None:
    volumes = it.connections.volumes("h1")
    path = it.make_volume("life.raw", size=3 * MIB)
    try:
        assert path == f"{IMAGES}/life.raw"
        assert volumes.find(path) == ("default", "life.raw")
        assert "life.raw" in volumes.names("default")
        found = volumes.read("default", "life.raw")
        assert (found.format, found.capacity, found.allocation, found.path) == ("raw", 3 * MIB, 0, path)
        with refused(libvirt.VIR_ERR_STORAGE_VOL_EXIST):
            it.make_volume("life.raw")
        before = found.changed_at
        clock.sleep(0.01)
        write_bytes(it.connections.get("h1"), it.about("h1"), path, 512, b"words")
        assert read_bytes(it.connections.get("h1"), it.about("h1"), path, 510, 9) == b"\0\0words\0\0"
        changed = volumes.read("default", "life.raw").changed_at
        assert before is not None
        assert changed is not None
        assert changed > before
    finally:
        volumes.delete("default", "life.raw")
    assert volumes.find(path) is None
    with refused(libvirt.VIR_ERR_NO_STORAGE_VOL):
        volumes.delete("default", "life.raw")
    with refused(libvirt.VIR_ERR_NO_STORAGE_POOL):
        volumes.names("nowhere")
    huge = "<volume><name>huge</name><capacity>9000000000000</capacity><target><format type='raw'/></target></volume>"
    with refused(libvirt.VIR_ERR_SYSTEM_ERROR):
        volumes.create("default", huge)


@term
def an_image_names_what_it_is_built_upon(it: Scene) -> None:
    volumes = it.connections.volumes("h1")
    base = "<volume><name>base.qcow2</name><capacity>4194304</capacity><target><format type='qcow2'/></target></volume>"
    path = volumes.create("default", base)
    top = base.replace("base.", "top.").replace(
        "</volume>", f"<backingStore><path>{path}</path><format type='qcow2'/></backingStore></volume>"
    )
    try:
        volumes.create("default", top)
        found = volumes.read("default", "top.qcow2")
        assert found.backing is not None
        assert (found.format, found.capacity, found.backing.path) == ("qcow2", 4 * MIB, path)
    finally:
        for name in ("top.qcow2", "base.qcow2"):
            with suppress(MudanzaError):
                volumes.delete("default", name)


@term
def a_domain_lives_and_goes(it: Scene) -> None:
    domains = it.domains()
    assert domains.sighting(str(uuid4())).side is Side.ABSENT
    with it.vm(run=False) as (name, uuid):
        assert domains.sighting(uuid) == off("unknown")
        for call in (domains.destroy, domains.suspend, domains.resume, domains.shutdown, domains.abort_job):
            with refused(libvirt.VIR_ERR_OPERATION_INVALID):
                call(uuid)
        with refused(libvirt.VIR_ERR_OPERATION_INVALID):
            domains.saved_definition(uuid)
        domains.set_autostart(uuid, True)
        assert domains.autostart(uuid)
        domains.start(uuid, paused=True)
        assert domains.sighting(uuid) == up(VmState.PAUSED, "user")
        with refused(libvirt.VIR_ERR_OPERATION_INVALID):
            domains.start(uuid)
        with refused(libvirt.VIR_ERR_OPERATION_INVALID):
            domains.abort_job(uuid)
        assert domains.job_stats(uuid) == {"type": 0}
        domains.resume(uuid)
        assert domains.sighting(uuid) == up(VmState.RUNNING, "unpaused")
        with refused(libvirt.VIR_ERR_OPERATION_INVALID):
            domains.resume(uuid)
        domains.suspend(uuid)
        domains.suspend(uuid)
        domains.undefine(uuid)
        assert domains.sighting(uuid) == up(VmState.PAUSED, "user", persistent=False)
        with refused(libvirt.VIR_ERR_OPERATION_INVALID):
            domains.set_autostart(uuid, True)
        domains.define(domains.describe(uuid, inactive=True))
        assert domains.sighting(uuid) == up(VmState.PAUSED, "user")
        assert not domains.autostart(uuid)
        domains.destroy(uuid)
        assert domains.sighting(uuid) == off("destroyed")
        with refused(libvirt.VIR_ERR_OPERATION_FAILED):
            domains.define(domain_xml(name, str(uuid4())))
        with refused(libvirt.VIR_ERR_OPERATION_FAILED):
            domains.define(domain_xml(f"{name}x", uuid))
        domains.undefine(uuid)
        assert domains.sighting(uuid).side is Side.ABSENT
        with refused(libvirt.VIR_ERR_NO_DOMAIN):
            domains.undefine(uuid)


@term
def a_definition_defined_again_is_the_same(it: Scene) -> None:
    with it.disks(data=0, both=False) as path, it.vm(disk=path, run=False) as (_, uuid):
        before = it.domains().describe(uuid, inactive=True)
        it.domains().define(before)
        assert it.domains().describe(uuid, inactive=True) == before
        it.domains().start(uuid, paused=True)
        assert it.domains().describe(uuid, inactive=True) == before
        assert path in it.domains().describe(uuid, migratable=True)


@term
def two_guests_cannot_write_to_one_image(it: Scene) -> None:
    with it.disks(data=0, both=False) as path, it.vm(disk=path), it.vm(disk=path, run=False) as (_, other):
        with refused(libvirt.VIR_ERR_INTERNAL_ERROR):
            it.domains().start(other, paused=True)
        assert it.domains().sighting(other).state is VmState.SHUTOFF


@term
def without_its_disk_it_does_not_start(it: Scene) -> None:
    with it.vm(disk=f"{IMAGES}/nothing.raw", run=False) as (_, uuid):
        with refused(libvirt.VIR_ERR_SYSTEM_ERROR):
            it.domains().start(uuid)
        assert it.domains().sighting(uuid).state is VmState.SHUTOFF


@term
def snapshots_are_records(it: Scene) -> None:
    snapshots = it.connections.snapshots("h1")
    with it.vm(run=False) as (_, uuid):
        definition = it.domains().describe(uuid, inactive=True)
        xml = f"""<domainsnapshot><name>one</name><state>shutoff</state><creationTime>1</creationTime>
          <memory snapshot='no'/>{definition}</domainsnapshot>"""
        assert snapshots.restore(uuid, [SavedSnapshot("one", xml, current=True)], []) == {}
        assert [(each.name, each.current) for each in snapshots.snapshots(uuid)] == [("one", True)]
        with refused(libvirt.VIR_ERR_OPERATION_INVALID):
            it.domains().undefine(uuid)
        it.domains().start(uuid, paused=True)
        with refused(libvirt.VIR_ERR_OPERATION_INVALID):
            it.migrate(uuid, LIVE).wait(LIMIT)
        snapshots.forget(uuid, ["one"])
        assert snapshots.snapshots(uuid) == ()
        assert snapshots.checkpoints(uuid) == ()


@term
def a_host_is_read(it: Scene) -> None:
    with it.disks(data=1, both=False) as path, it.vm(disk=path) as (name, uuid):
        entry = it.world.entries[0]
        host, vms = read_host(entry, connections=it.connections)
        assert host.error is None
        bare, same = read_host(entry, connections=it.connections, resources=False)
        assert (bare.seen, bare.cpus, [each.uuid for each in same]) == (True, 0, [each.uuid for each in vms])
        assert {"default", "fast", "shared"} <= {pool.name for pool in host.pools or ()}
        assert (host.arch, host.cpus > 0, host.memory_free > 0) == ("x86_64", True, True)
        assert {"pc", "q35"} <= host.machines
        vm = next(vm for vm in vms if vm.uuid == uuid)
        assert (vm.name, vm.host, vm.state, vm.persistent, vm.job, vm.error) == (
            name,
            "h1",
            VmState.RUNNING,
            True,
            None,
            None,
        )
        disk = vm.disks[0]
        assert (disk.target, disk.source, disk.pool, disk.capacity) == ("vda", path, "default", 8 * MIB)
        assert (disk.allocation or 0) >= MIB


@term
def what_numa_nodes_have_is_told(it: Scene) -> None:
    host = it.about("h1")
    assert host.nodes
    for node in host.nodes:
        told = it.connections.get("h1").ask(partial(_told_of_node, node.number), timeout=5.0)
        assert set(told) == {"total", "free"}, "caches are told of the whole host only"
        assert abs(told["total"] * 1024 - node.memory_total) < node.memory_total / 10
        assert 0 <= node.memory_free <= node.memory_total
    assert sum(node.memory_free for node in host.nodes) <= host.memory_free
    with refused(libvirt.VIR_ERR_INVALID_ARG):
        it.connections.get("h1").ask(partial(_told_of_node, 100), timeout=5.0)


def _told_of_node(number: int, raw: Any) -> dict[str, int]:
    return dict(raw.getMemoryStats(number))


@term
def what_a_guest_uses_is_counted(it: Scene) -> None:
    def look() -> tuple[HostCounters, VmCounters | None]:
        host = read_counters(it.connections.get("h1"))
        return host, next((vm for vm in host.vms if vm.uuid == uuid), None)

    disk = it.make_volume("counted.raw")
    try:
        with it.vm(disk=disk) as (name, uuid):
            host, first = look()
            assert first is not None
            assert (first.name, first.running, first.network_bytes) == (name, True, 0)
            assert first.memory
            assert first.disk_bytes is not None
            assert host.busy_seconds
            assert 0 < (host.memory_used or 0) < host.memory_total
            it.until(lambda: (look()[1] or first).cpu_seconds != first.cpu_seconds, "it works")
            later, second = look()
            assert second is not None
            assert second.run == first.run
            assert (second.cpu_seconds or 0.0) > (first.cpu_seconds or 0.0)
            assert (later.busy_seconds or 0.0) > host.busy_seconds
            it.domains().suspend(uuid)
            paused = look()[1]
            assert paused is not None
            assert not paused.running
            it.domains().destroy(uuid)
            assert look()[1] is None
            it.domains().start(uuid, paused=False)
            again = look()[1]
            assert again is not None
            assert again.run != first.run
    finally:
        it.connections.volumes("h1").delete("default", "counted.raw")


@term
def probes_find_out(it: Scene) -> None:
    with it.disks(data=1, both=False) as path:
        target, there = it.connections.get("h2"), it.about("h2")
        assert probe_files(target, there, [path])[path].answer is Answer.NO
        assert file_lengths(it.connections.get("h1"), it.about("h1"), [path]) == {path: 8 * MIB}
    source, here = it.connections.get("h1"), it.about("h1")
    assert probe_peer(source, here, there).answer is Answer.YES
    with it.vm() as (_, uuid):
        vm = next(vm for vm in read_host(it.world.entries[0], connections=it.connections)[1] if vm.uuid == uuid)
        assert rehearse(source, target, here, there, vm, tls=True).answer is Answer.YES


@term
def a_running_vm_moves_with_its_disk(it: Scene) -> None:
    with it.disks() as path, it.vm(disk=path) as (_, uuid):
        it.domains().set_autostart(uuid, True)
        it.migrate(uuid).wait(LIMIT)
        source, target = it.seen(uuid)
        assert source.side is Side.ABSENT
        assert target == up(VmState.RUNNING, "migrated")
        assert not it.domains("h2").autostart(uuid)
        assert int(it.domains("h2").completed_job_stats(uuid)["downtime"]) >= 0
        assert it.domains("h1").names().get(uuid) is None


@term
def its_disk_arrives_whole(it: Scene) -> None:
    with it.disks() as path, it.vm(disk=path, paused=True) as (_, uuid):
        before = it.sha256("h1", path)
        assert it.sha256("h2", path) != before
        it.migrate(uuid, (*COPYING, "PAUSED")).wait(LIMIT)
        assert it.sha256("h2", path) == before


@term
def the_source_may_keep_its_definition(it: Scene) -> None:
    with it.vm() as (_, uuid):
        it.migrate(uuid, ("LIVE", "PERSIST_DEST")).wait(LIMIT)
        assert it.seen(uuid) == (off("migrated"), up(VmState.RUNNING, "migrated"))


@term
def a_compressed_move_tells_what_that_came_to(it: Scene) -> None:
    with it.vm() as (_, uuid):
        cache: dict[str, Any] = {"compression": "xbzrle", "compression.xbzrle.cache": 128 * MIB}
        it.migrate(uuid, (*LIVE, "COMPRESSED"), **cache).wait(LIMIT)
        told = it.domains("h2").completed_job_stats(uuid)
        assert told["compression_cache"] == 128 * MIB
        for name in ("pages", "bytes", "cache_misses", "overflow"):
            assert int(told[f"compression_{name}"]) >= 0


@term
def a_paused_vm_arrives_paused(it: Scene) -> None:
    with it.vm(paused=True) as (_, uuid):
        it.migrate(uuid, (*LIVE, "PAUSED")).wait(LIMIT)
        source, target = it.seen(uuid)
        assert source.side is Side.ABSENT
        assert target == up(VmState.PAUSED, "user")


@term
def a_disk_that_both_see_moves_by_wish_only(it: Scene) -> None:
    with it.disks(pool="shared", both=False) as path, it.vm(disk=path) as (_, uuid):
        with refused(libvirt.VIR_ERR_MIGRATE_UNSAFE):
            it.migrate(uuid, LIVE).wait(LIMIT)
        assert it.seen(uuid)[0] == up(VmState.RUNNING, "unpaused")
        it.migrate(uuid, (*LIVE, "UNSAFE")).wait(LIMIT)
        assert it.seen(uuid)[1] == up(VmState.RUNNING, "migrated")


@term
def what_is_seen_while_it_moves(it: Scene) -> None:
    with it.moving() as (_, uuid, call):
        assert it.seen(uuid) == (
            up(VmState.RUNNING, "unpaused", job="migration out"),
            up(VmState.PAUSED, "migrating", persistent=False, job="migration in"),
        )
        stats = it.domains().job_stats(uuid)
        assert int(stats["disk_total"]) == 8 * MIB
        with refused(libvirt.VIR_ERR_OPERATION_INVALID):
            it.migrate(uuid).wait(LIMIT)
        with refused(libvirt.VIR_ERR_OPERATION_INVALID):
            it.domains("h2").set_autostart(uuid, True)
        it.domains().set_max_downtime(uuid, 300)
        it.domains().abort_job(uuid)
        with refused(libvirt.VIR_ERR_OPERATION_ABORTED):
            call.wait(LIMIT)
        source, target = it.seen(uuid)
        assert source == up(VmState.RUNNING, "unpaused")
        assert target.side is Side.ABSENT


@term
def mirrors_that_are_cut_off_end_it(it: Scene) -> None:
    with it.moving() as (_, uuid, call):
        assert len(it.domains().cut_off_copies(uuid)) == 1
        with pytest.raises(HypervisorError):
            call.wait(LIMIT)
        assert it.seen(uuid)[0] == up(VmState.RUNNING, "unpaused")
        assert it.seen(uuid)[1].side is Side.ABSENT


@term
def ended_at_the_source_it_is_gone_from_the_target(it: Scene) -> None:
    with it.moving() as (_, uuid, call):
        it.domains("h1").destroy(uuid)
        with refused(libvirt.VIR_ERR_OPERATION_FAILED):
            call.wait(LIMIT)
        it.until(lambda: it.seen(uuid)[1].side is Side.ABSENT, "gone from the target")
        assert it.seen(uuid)[0] == off("destroyed")


@term
def a_definition_made_there_meanwhile_stays(it: Scene) -> None:
    with it.moving() as (_, uuid, call):
        it.domains("h2").define(it.domains("h1").describe(uuid, inactive=True))
        assert it.seen(uuid)[1] == up(VmState.PAUSED, "migrating", job="migration in")
        it.domains().abort_job(uuid)
        with refused(libvirt.VIR_ERR_OPERATION_ABORTED):
            call.wait(LIMIT)
        assert it.seen(uuid) == (up(VmState.RUNNING, "unpaused"), off("failed"))


@term
def it_does_not_go_where_it_runs_already(it: Scene) -> None:
    with it.vm() as (_, uuid):
        it.domains("h2").define(it.domains("h1").describe(uuid, inactive=True))
        it.domains("h2").start(uuid, paused=True)
        with refused(libvirt.VIR_ERR_OPERATION_INVALID):
            it.migrate(uuid, LIVE).wait(LIMIT)
        it.domains("h2").destroy(uuid)
        it.migrate(uuid, LIVE).wait(LIMIT)
        assert it.seen(uuid)[1] == up(VmState.RUNNING, "migrated")


@term
def a_target_that_nobody_knows_is_refused(it: Scene) -> None:
    with it.vm() as (_, uuid):
        with pytest.raises(HypervisorError):
            it.migrate(uuid, LIVE, to="nowhere").wait(LIMIT)
        assert it.seen(uuid)[0] == up(VmState.RUNNING, "unpaused")


@term
def a_qemu_killed_at_the_source_ends_both(it: Scene) -> None:
    with it.moving() as (name, uuid, call):
        it.world.kill_qemu("h1", name)
        with refused(libvirt.VIR_ERR_OPERATION_FAILED):
            call.wait(LIMIT)
        it.until(lambda: it.seen(uuid)[1].side is Side.ABSENT, "gone from the target")
        assert it.seen(uuid)[0] == off("crashed")


@term
def a_libvirtd_killed_at_the_source_leaves_the_guest_there(it: Scene) -> None:
    with it.moving() as (_, uuid, call):
        it.world.kill_libvirtd("h1")
        with pytest.raises(MudanzaError):
            call.wait(LIMIT)
        it.until(lambda: it.domains("h2").sighting(uuid).side is Side.ABSENT, "gone from the target")
        it.world.start_libvirtd("h1")
        it.until(lambda: it.domains("h1").sighting(uuid).running, "it runs at the source")
        assert it.domains("h1").sighting(uuid).job is None


@term
def a_carrier_brings_every_byte(it: Scene) -> None:
    with it.disks(data=2) as path:
        hosts = it.connections.get("h1"), it.connections.get("h2")
        here, there = it.about("h1"), it.about("h2")
        carrier = Carrier(*hosts, here, there, throwaway_name("carrier"), str(uuid4()), Kind("qemu", "x86_64", "pc"))
        load = Load(path, False, path, False, 0, 8 * MIB, whole=True, read_only=True)
        try:
            carrier.start([load])
            peer, parameters, flags = carrier.order(tls=True)
            it.domains().migrate_p2p(carrier.uuid, peer, parameters, flags)
            assert carrier.arrived()
        finally:
            assert carrier.end() == ()
        assert it.sha256("h1", path) == it.sha256("h2", path)
        assert not [name for name in it.connections.volumes("h1").names("default") if name.startswith("mudanza-")]


@term
def a_cpu_with_what_no_host_has_is_refused_and_left_out_of_the_baseline(scene: Scene) -> None:
    with_more = "<feature policy='require' name='avx512f'/></cpu>"

    def ask(raw: Any) -> tuple[str, str, int]:
        told = raw.getDomainCapabilities(None, "x86_64", None, "qemu", 0)
        offer = offered_cpu(told, "h1")
        common = raw.baselineHypervisorCPU(None, "x86_64", None, "qemu", [offer], 0)
        why = libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
        return offer, common, raw.compareHypervisorCPU(None, "x86_64", None, "qemu", common, why)

    connection = scene.connections.get("h1")
    offer, common, verdict = connection.ask(ask)
    assert verdict in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET)
    assert model_of(common, "h1") == model_of(offer, "h1")
    assert features_of(common, "h1") == features_of(offer, "h1")

    def ask_too_much(raw: Any) -> None:
        why = libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
        raw.compareHypervisorCPU(None, "x86_64", None, "qemu", common.replace("</cpu>", with_more), why)

    with pytest.raises(HypervisorError, match="required features: avx512f") as refused:
        connection.ask(ask_too_much)
    assert refused.value.code == libvirt.VIR_ERR_CPU_INCOMPATIBLE

    def mix_makers(raw: Any) -> None:
        intel = "<cpu><model>Broadwell</model><vendor>Intel</vendor></cpu>"
        raw.baselineHypervisorCPU(None, "x86_64", None, "qemu", [offer, intel], 0)

    with pytest.raises(HypervisorError, match="CPU vendors do not match"):
        connection.ask(mix_makers)
