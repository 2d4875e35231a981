"""One host of the twin: its files, its pools, its domains, and a libvirt that looks after them."""

from __future__ import annotations

import posixpath
import uuid as uuids
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import libvirt

from mudanza.hypervisor.twin import definitions, errors
from mudanza.hypervisor.twin.domain import PAUSED, RUNNING, SHUTOFF, Domain, Pool
from mudanza.hypervisor.twin.files import File, FileSystem
from mudanza.hypervisor.twin.guests import Image, Qemu
from mudanza.hypervisor.twin.processes import Process
from mudanza.model.units import GIB

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.line import Line
    from mudanza.hypervisor.twin.processes import Running
    from mudanza.hypervisor.twin.world import Twin

LOCK_PATIENCE = 30.0
"""Seconds libvirt waits for a job on a domain to end before it refuses another one. Measured."""
_LOOK = 0.25
START_TIME = 0.5
"""Seconds a QEMU takes to start. Measured: 0.4 to 0.6."""
END_TIME = 0.2
"""Seconds it takes to end."""
OBEDIENCE = 3.0
"""Seconds a guest takes to shut down."""
BOOT_TIME = 20.0
"""Seconds from a host's power to its libvirt."""

AUTOSTART = "autostart"
"""Who starts guests on a host that boots."""


class TwinHost:
    """One host."""

    def __init__(self, twin: Twin, name: str, shared: FileSystem) -> None:
        self.twin = twin
        self.name = name
        self.uuid = str(uuids.uuid5(uuids.NAMESPACE_DNS, name))
        self.powered = True
        self.libvirtd = True
        self.isolated = False
        self.refuses_logins = False
        self.overlooks_cancelling = False
        """Its libvirt does not notice that a migration is cancelled at the switchover: see ``hypervisor/yank.py``."""
        self.memory = 8 * GIB
        self.nodes = 1
        """NUMA nodes that its memory lies at, in equal parts; its guests take as much of each."""
        self.beyond_nodes = 0
        """Bytes of its memory that no node is told to have."""
        self.cpu_lacks: frozenset[str] = frozenset()
        """Features of a CPU that it cannot give to guests, and others can."""
        self.cpu_vendor = ""
        """Who made its CPU; empty: who made the others'."""
        self.cpu_seconds_before = 0.0
        """What guests have worked here that have ended since."""
        self.own = FileSystem()
        self.shared = shared
        self.pools: dict[str, Pool] = {}
        self.domains: dict[str, Domain] = {}
        self.lines: set[Line] = set()
        self.requests: set[Running] = set()
        self.stubborn: set[str] = set()
        """Guests that ignore the power button."""
        self._last_number = 0
        self._starting: Running | None = None
        for pool, path in (("default", "/var/lib/libvirt/images"), ("fast", "/var/lib/libvirt/fast")):
            self.pools[pool] = Pool(pool, path, str(uuids.uuid5(uuids.NAMESPACE_DNS, name + pool)))
        self.own.files["/usr/bin/qemu-system-x86_64"] = File(1, 0.0, 0o755)
        self.pools["shared"] = Pool("shared", "/srv/shared", str(uuids.uuid5(uuids.NAMESPACE_DNS, name + "shared")))

    # Files.

    def system_of(self, path: str) -> FileSystem:
        """Return the file system that a path leads to."""
        return self.shared if path.startswith("/srv/shared") else self.own

    def file(self, path: str) -> File | None:
        """Return the file at a path."""
        return self.system_of(path).files.get(path)

    def chain(self, path: str) -> list[tuple[str, str]]:
        """Return path and format of each image below one."""
        found: list[tuple[str, str]] = []
        file = self.file(path)
        while file is not None and (below := file.backing):
            path = posixpath.join(posixpath.dirname(path), below)
            file = self.file(path)
            found.append((path, file.format if file else "raw"))
        return found

    def pool_at(self, directory: str) -> Pool | None:
        """Return the active pool on a directory."""
        return next((pool for pool in self.pools.values() if pool.active and pool.path == directory), None)

    # Power.

    @property
    def answers(self) -> bool:
        """Whether its libvirt can be asked by whoever has a way to it."""
        return self.powered and self.libvirtd

    def power_off(self) -> None:
        """The host dies: with all its guests, at once."""
        if not self.powered:
            return
        self.twin.catch_up()
        self.powered = False
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None
        for domain in list(self.domains.values()):
            if domain.qemu is not None:
                self.twin.end(domain.qemu)
                self._gone(domain, 0)
        self._libvirtd_ends(violently=False)
        self.twin.world_changed(self)

    def power_on(self) -> None:
        """It comes back, and after a while its libvirt, which starts what is to be started by itself."""
        if self.powered:
            return
        self.powered = True
        self.twin.scheduler.after(BOOT_TIME, lambda: self.start_libvirtd(autostart=True))

    def stop_libvirtd(self) -> None:
        """SIGKILL to libvirtd. The guests go on."""
        if self.answers:
            self._libvirtd_ends(violently=True)
            self.twin.world_changed(self)

    def _libvirtd_ends(self, *, violently: bool) -> None:
        self.libvirtd = False
        for request in list(self.requests):
            request.cancel()
        self.requests.clear()
        for line in list(self.lines):
            line.break_off(errors.hung_up(), at_once=violently)

    def start_libvirtd(self, *, autostart: bool = False) -> None:
        """It finds its guests again, settles what it was doing when it ended, and answers when it is done.

        ``autostart``: the host has just booted.
        """
        if self.libvirtd or self._starting or not self.powered:
            return
        self.twin.actor = ""
        for domain in list(self.domains.values()):
            if domain.owner is not None:
                self.end_guest(domain, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED)
            elif domain.migration is not None:
                domain.migration.recover(self)
            elif domain.qemu is not None and domain.qemu.dead:
                self._gone(domain, libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN)
        if not autostart:
            self.libvirtd = True
            return
        self._starting = self.twin.scheduler.spawn(self._autostart(), self._answer_again)

    def _autostart(self) -> Process:
        """libvirt lets nobody in before it has started what is to be started."""
        for domain in list(self.domains.values()):
            if domain.autostart and not domain.is_active:
                with suppress(libvirt.libvirtError):
                    for delay in self.start(domain, paused=False):
                        yield delay
                        self.twin.actor = AUTOSTART

    def _answer_again(self, _result: Any, _failure: BaseException | None) -> None:
        self._starting = None
        self.libvirtd = True
        self.twin.world_changed(self)

    # Domains.

    def domain(self, uuid: str) -> Domain:
        """Return one. Raises libvirtError."""
        found = self.domains.get(uuid)
        if found is None:
            raise errors.no_domain("uuid", uuid)
        return found

    def define(self, xml: str) -> Domain:
        """Keep a definition. Raises libvirtError."""
        root = definitions.completed(xml)
        uuid, name = root.findtext("uuid") or "", root.findtext("name") or ""
        known = self._same(uuid, name)
        if known is None:
            known = self.domains[uuid] = Domain(self, uuid, name)
        known.definition = definitions.text(root)
        return known

    def _same(self, uuid: str, name: str) -> Domain | None:
        """Return the domain of that UUID. Raises libvirtError where name and UUID belong to two."""
        for domain in self.domains.values():
            if domain.name == name and domain.uuid != uuid:
                raise errors.failed(f"domain '{name}' already exists with uuid {domain.uuid}")
        known = self.domains.get(uuid)
        if known is not None and known.name != name:
            raise errors.failed(f"domain '{known.name}' is already defined with uuid {uuid}")
        return known

    def create(self, xml: str, *, paused: bool, owner: Line | None) -> Process:
        """Start a guest from XML alone; it is gone when it ends, unless it is defined."""
        root = definitions.completed(xml)
        uuid, name = root.findtext("uuid") or "", root.findtext("name") or ""
        domain = self._same(uuid, name)
        if domain is not None and domain.is_active:
            raise errors.invalid(f"domain '{name}' is already active")
        if domain is None:
            domain = self.domains[uuid] = Domain(self, uuid, name)
        try:
            yield from self._boot(domain, definitions.text(root), paused=paused)
        except BaseException:
            self._forget_if_transient(domain)
            raise
        domain.owner = owner
        return domain.uuid

    def start(self, domain: Domain, *, paused: bool) -> Process:
        """Start a defined one."""
        yield from self.lock(domain)
        if domain.is_active or domain.definition is None:
            raise errors.invalid("domain is already running")
        yield from self._boot(domain, domain.definition, paused=paused)

    def _boot(self, domain: Domain, xml: str, *, paused: bool) -> Process:
        """libvirt says "paused (starting up)" of it from the first moment on."""
        qemu = Qemu(domain.uuid, self, definitions.memory(xml), self.open_images(xml), incoming=True)
        self.adopt(domain, xml, qemu)
        domain.enter(PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
        domain.starting = True
        try:
            yield START_TIME
            self.twin.catch_up()
            if domain.qemu is not qemu:
                raise errors.internal("qemu unexpectedly closed the monitor")
            self.refuse_locked(qemu.images)
        except BaseException:
            domain.starting = False
            if domain.qemu is qemu:
                self.end_guest(domain, libvirt.VIR_DOMAIN_SHUTOFF_FAILED)
            raise
        domain.starting = qemu.incoming = False
        reason = libvirt.VIR_DOMAIN_PAUSED_USER if paused else libvirt.VIR_DOMAIN_RUNNING_BOOTED
        domain.enter(PAUSED if paused else RUNNING, reason)
        if not paused:
            self.twin.run(qemu)

    def adopt(self, domain: Domain, xml: str, qemu: Qemu) -> None:
        """Have a domain be active with that QEMU."""
        self._last_number += 1
        domain.live, domain.qemu, domain.number = xml, qemu, self._last_number
        domain.completed = {}
        self.twin.oracle.qemus.append(qemu)

    def open_images(self, xml: str) -> list[Image]:
        """Open what a guest needs. Raises libvirtError where a file is missing."""
        images = []
        for disk in definitions.disks(xml):
            file = self.file(disk["path"])
            if file is None:
                words = f"Cannot access storage file '{disk['path']}': No such file or directory"
                raise errors.system(words, 2)
            below = self.file(disk["below"]) if disk["below"] else None
            is_plain = not disk["readonly"] and below is None
            images.append(Image(disk["target"], disk["path"], below or file, is_plain, bool(disk["shareable"])))
        return images

    def refuse_locked(self, images: list[Image]) -> None:
        """Raise libvirtError where another QEMU writes to one of them: QEMU's own image lock."""
        for image in images:
            if not image.writable or image.shareable:
                continue
            for other in self.twin.oracle.qemus:
                if other.incoming:
                    continue
                if any(held.file is image.file and held.writable and not held.shareable for held in other.images):
                    raise errors.internal(
                        'qemu unexpectedly closed the monitor: qemu-system-x86_64: Failed to get "write" lock\n'
                        f"Is another process using the image [{image.path}]?"
                    )

    def lock(self, domain: Domain) -> Process:
        """Wait until no migration has the domain. Raises libvirtError after LOCK_PATIENCE, or when it has gone."""
        waited = 0.0
        while domain.migration is not None or domain.starting:
            if waited >= LOCK_PATIENCE:
                holder = domain.migration.holder(self) if domain.migration else "remoteDispatchDomainCreate"
                raise errors.locked(holder)
            yield _LOOK
            waited += _LOOK
        if self.domains.get(domain.uuid) is not domain:
            raise errors.no_domain("uuid", domain.uuid)

    def resume(self, domain: Domain) -> Process:
        """Let the vCPUs run."""
        yield from self.lock(domain)
        qemu = domain.live_qemu
        if domain.state == RUNNING:
            raise errors.invalid("domain is already running")
        self.twin.run(qemu)
        domain.enter(RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED)

    def suspend(self, domain: Domain) -> Process:
        """Stop the vCPUs. Allowed while it migrates away."""
        if domain.migration is not None and domain.migration.target is self:
            yield from self.lock(domain)
        qemu = domain.live_qemu
        if domain.state != PAUSED:
            self.twin.stop(qemu)
            domain.enter(PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)

    def destroy(self, domain: Domain) -> Process:
        """End its QEMU, whoever works on it."""
        qemu = domain.live_qemu
        self.twin.end(qemu)
        yield END_TIME
        if domain.qemu is qemu:
            self.end_guest(domain, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED)

    def shut_down(self, domain: Domain) -> Process:
        """Press the power button; the guest takes its time."""
        yield from self.lock(domain)
        qemu = domain.live_qemu
        if qemu.running and domain.uuid not in self.stubborn:
            self.twin.scheduler.after(OBEDIENCE, lambda: self._obey(domain, qemu))

    def _obey(self, domain: Domain, qemu: Qemu) -> None:
        if qemu.running and not qemu.dead and domain.qemu is qemu and domain.migration is None:
            self.twin.actor = ""
            self.end_guest(domain, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN)

    def undefine(self, domain: Domain, flags: int) -> Process:
        """Forget a definition."""
        yield from self.lock(domain)
        if domain.definition is None:
            raise errors.invalid("cannot undefine transient domain")
        if not domain.is_active:
            self._refuse_with_history(domain, flags)
        domain.definition, domain.autostart = None, False
        self._forget_if_transient(domain)

    @staticmethod
    def _refuse_with_history(domain: Domain, flags: int) -> None:
        for kind, records, flag in (
            ("snapshots", domain.snapshots, libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA),
            ("checkpoints", domain.checkpoints, libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA),
        ):
            if records and not flags & flag:
                raise errors.invalid(f"cannot delete inactive domain with {len(records)} {kind}")

    def end_guest(self, domain: Domain, reason: int) -> None:
        """Be done with a domain's QEMU, in whatever way it ended; a migration of it fails."""
        qemu = domain.qemu
        if qemu is None:
            return
        self.twin.end(qemu)
        migration = domain.migration
        self._gone(domain, reason)
        if migration is not None:
            migration.lost(self)

    def _gone(self, domain: Domain, reason: int) -> None:
        domain.qemu = domain.live = domain.owner = None
        domain.number = -1
        domain.enter(SHUTOFF, reason)
        self._forget_if_transient(domain)

    def _forget_if_transient(self, domain: Domain) -> None:
        if domain.definition is None and not domain.is_active:
            self.domains.pop(domain.uuid, None)

    def qemu_died(self, domain: Domain) -> None:
        """QEMU was killed: libvirt sees that at once, if it runs."""
        if domain.qemu is None:
            return
        self.twin.end(domain.qemu)
        if self.answers:
            self.end_guest(domain, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED)

    def serve(self, work: Process, on_end: Callable[[Any, BaseException | None], None]) -> None:
        """Work on a request for as long as libvirtd lives."""
        request: list[Running] = []

        def ended(result: Any, failure: BaseException | None) -> None:
            self.requests.discard(request[0])
            on_end(result, failure)

        request.append(self.twin.scheduler.spawn(work, ended))
        self.requests.add(request[0])
