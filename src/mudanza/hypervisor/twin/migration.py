"""libvirt's peer-to-peer migration, as a process in virtual time that anything can happen to.

It runs in the source's libvirtd, whoever asked for it. The phases, and what becomes of it when one of them is
interrupted, were measured on libvirt 9.0 or, where it says so, are taken from its source.
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import libvirt

from mudanza.hypervisor.twin import definitions, errors
from mudanza.hypervisor.twin.files import File
from mudanza.hypervisor.twin.guests import Image, Qemu
from mudanza.hypervisor.twin.host import PAUSED, RUNNING, START_TIME, Domain, TwinHost
from mudanza.hypervisor.twin.scheduler import Process
from mudanza.model.units import MIB

if TYPE_CHECKING:
    from mudanza.hypervisor.twin.world import Twin

LOGIN_TIME = 0.2
"""Seconds that the source's libvirt takes to log in at the target's."""
NOTICED_AT_ONCE = 1.0
"""Seconds until a libvirtd sees that the other one was killed. Measured."""
NOTICED_BY_SILENCE = 30.0
"""Seconds until it sees that the other host does not answer: its keepalive. Measured: 25 to 30."""
DEAD_CONNECTION = 900.0
"""Seconds that QEMU waits for a dead connection of a mirror unless it is told to give it up. Measured."""
LOST_QEMU = 2.0
"""Seconds until the source fails when the target's QEMU was killed. Measured: 2 to 30."""
TICK = 0.25
STOPPED = 0.08
"""Seconds from stopping the vCPUs to their memory being at the target."""
CALL = 0.02
"""Seconds that one libvirtd takes to ask the other one."""


class Phase(IntEnum):
    """How far it has come."""

    BEGIN = 0
    PREPARED = 1
    """There is an incoming QEMU at the target."""
    DISKS = 2
    MEMORY = 3
    STOPPED = 4
    """The vCPUs are stopped at the source."""
    HANDED_OVER = 5
    """All of it is at the target, and stands still on both hosts."""
    FINISHING = 6
    """The target lets it run."""
    CONFIRMED = 7


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    uri: str
    parameters: Mapping[str, Any]
    flags: int

    def has(self, name: str) -> bool:
        """Whether a flag is among it."""
        return bool(self.flags & int(getattr(libvirt, f"VIR_MIGRATE_{name}")))

    @property
    def disks(self) -> Sequence[str]:
        """The disks that are copied."""
        found = self.parameters.get("migrate_disks", ())
        return [found] if isinstance(found, str) else list(found)


class Migration:
    """One migration."""

    def __init__(self, twin: Twin, domain: Domain, order: Order) -> None:
        self.twin = twin
        self.domain = domain
        self.source = domain.host
        self.order = order
        self.target = twin.by_uri(order.uri)
        self.there: Domain | None = None
        self.phase = Phase.BEGIN
        self.abort_asked = False
        self.cut_off = False
        """Its mirrors were told to give up their connections (yank)."""
        self._failure: BaseException | None = None
        self._failed_at = 0.0
        self._done = 0.0
        """How much of the phase is done, from 0 to 1."""
        self._begun = 0.0
        self._was_running = False
        self._qemu: Qemu | None = None
        self._qemu_there: Qemu | None = None
        self._finished: tuple[bool, BaseException | None] | None = None

    # What the source's libvirtd does.

    def run(self) -> Process:
        """Carry it over. Raises what the caller of the migration gets to see."""
        if self.order.has("OFFLINE"):
            yield from self._log_in()
            raise errors.invalid("cannot perform offline migration without specifying the persist flag")
        domain = self.domain
        self._refuse()
        self._qemu = domain.live_qemu
        domain.migration = self
        self._begun, self._was_running = self.twin.scheduler.now, self._qemu.running
        try:
            yield from self._log_in()
            yield from self._prepare()
            yield from self._copy_disks()
            yield from self._copy_memory()
            yield from self._hand_over()
            yield from self._await_finish()
        except GeneratorExit:
            self._noticed_at_target(NOTICED_AT_ONCE)  # the source's libvirtd was killed
            raise
        except libvirt.libvirtError as error:
            yield from self._fail()
            raise error from None
        self._confirm()

    def _refuse(self) -> None:
        domain, order = self.domain, self.order
        if domain.qemu is None:
            raise errors.not_running()
        if domain.migration is not None:
            raise errors.invalid(f"another migration job is already running for domain '{domain.name}'")
        if domain.snapshots:
            raise errors.invalid(f"cannot migrate domain with {len(domain.snapshots)} snapshots")
        copied = order.disks if order.has("NON_SHARED_DISK") or order.has("NON_SHARED_INC") else ()
        for image in domain.qemu.images:
            if image.writable and not image.shareable and image.target not in copied and not order.has("UNSAFE"):
                raise errors.refusal(
                    libvirt.VIR_ERR_MIGRATE_UNSAFE,
                    libvirt.VIR_FROM_QEMU,
                    "Unsafe migration: Migration without shared storage is unsafe",
                )

    def _log_in(self) -> Process:
        yield LOGIN_TIME
        target = self.target
        if target is None:
            raise errors.no_way(self.order.uri, "Name or service not known", errno.EINVAL)
        if not self.twin.linked(self.source, target):
            yield 127.0
            raise errors.no_way(self.order.uri, "Connection timed out", errno.ETIMEDOUT)
        if not target.libvirtd:
            raise errors.no_way(target.name, "Connection refused", errno.ECONNREFUSED)
        if target.refuses_logins:
            raise errors.refusal(libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_FROM_RPC, "authentication failed")

    @property
    def _peer(self) -> TwinHost:
        if self.target is None:
            raise errors.lost_peer()
        return self.target

    def _prepare(self) -> Process:
        target, domain = self._peer, self.domain
        xml = self.order.parameters.get("destination_xml") or domain.live or ""
        xml = definitions.text(definitions.completed(xml))
        known = target._same(domain.uuid, domain.name)
        if known is not None and known.is_active:
            raise errors.invalid(f"domain '{domain.name}' is already active")
        self._make_missing(target, xml)
        qemu = Qemu(domain.uuid, target, definitions.memory(xml), target.open_images(xml), incoming=True)
        if known is None:
            known = target.domains[domain.uuid] = Domain(target, domain.uuid, domain.name)
        target.adopt(known, xml, qemu)
        known.migration = self
        known.enter(PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
        self.there, self._qemu_there = known, qemu
        self._enter(Phase.PREPARED)
        yield from self._pass(START_TIME)

    def _make_missing(self, target: TwinHost, xml: str) -> None:
        """libvirt makes what is to be copied and is not there, where it has a pool for it. Measured."""
        for disk in definitions.disks(xml):
            path = disk["path"]
            if disk["target"] in self.order.disks and target.file(path) is None:
                pool = target.pool_at(posixpath.dirname(path))
                if pool is None:
                    raise errors.no_pool(posixpath.dirname(path))
                size = next(i.file.size for i in self.domain.live_qemu.images if i.target == disk["target"])
                target.system_of(path).files[path] = File(size, self.twin.scheduler.time())

    def _copy_disks(self) -> Process:
        pairs = self._pairs()
        if not pairs:
            return
        self._enter(Phase.DISKS)
        total = sum(mine.file.size for mine, _ in pairs)
        seconds = max(0.5, total / self._rate)
        while self._done < 1.0:
            yield from self._pass(min(TICK, seconds))
            self._done = min(1.0, self._done + TICK / seconds)
            self._copy(pairs)
        for mine, theirs in pairs:
            mine.mirror = theirs.file

    def _copy(self, pairs: Sequence[tuple[Image, Image]]) -> None:
        now = self.twin.scheduler.time()
        for mine, theirs in pairs:
            system = self._peer.system_of(theirs.path)
            if not system.available and mine.file.allocated:
                raise errors.failed(f"migration of disk {mine.target} failed: No space left on device")
            first = 1 if (mine.file.format, theirs.file.format) != ("raw", "raw") and not self._as_bytes(theirs) else 0
            whole = -(-mine.file.size // (64 * 1024))
            theirs.file.copy(mine.file, now, first=first, upto=max(first, int(whole * self._done)))
            if first == 0:
                theirs.file.size = max(theirs.file.size, mine.file.size)

    def _as_bytes(self, theirs: Image) -> bool:
        """Whether the disk is raw to QEMU, whatever it contains: then every byte is copied."""
        xml = (self.there.live if self.there else "") or ""
        return any(disk["target"] == theirs.target and disk["format"] == "raw" for disk in definitions.disks(xml))

    def _pairs(self) -> list[tuple[Image, Image]]:
        if self._qemu is None or self._qemu_there is None:
            return []
        theirs = {image.target: image for image in self._qemu_there.images}
        return [(image, theirs[image.target]) for image in self._qemu.images if image.target in self.order.disks]

    @property
    def _rate(self) -> float:
        limit = int(self.order.parameters.get("bandwidth", 0)) * MIB
        return min(self.twin.rate, limit) if limit else self.twin.rate

    def _copy_memory(self) -> Process:
        self._enter(Phase.MEMORY)
        seconds = max(0.3, self.domain.live_qemu.memory / self._rate)
        while self._done < 1.0:
            yield from self._pass(min(TICK, seconds))
            self._done = min(1.0, self._done + TICK / seconds)

    def _hand_over(self) -> Process:
        """Stop the vCPUs, send the rest, and have the target let them run."""
        domain, qemu = self.domain, self.domain.live_qemu
        was_paused = not qemu.running
        self.twin.stop(qemu)
        domain.enter(PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
        self._enter(Phase.STOPPED)
        yield from self._pass(STOPPED)
        there = self._qemu_there
        if there is None:
            raise errors.lost_peer()
        there.counter, there.has_booted = qemu.counter, qemu.has_booted
        self._enter(Phase.HANDED_OVER)
        yield from self._pass(CALL)
        if not self._peer.answers:
            raise errors.lost_peer()
        self._enter(Phase.FINISHING)
        self._peer.serve(self._finish(paused=was_paused or self.order.has("PAUSED")), self._on_finish)

    def _on_finish(self, _result: Any, failure: BaseException | None) -> None:
        self._finished = (failure is None, failure)

    def _await_finish(self) -> Process:
        """Wait for the target's answer. Without one libvirt takes the target for dead, as its source says itself."""
        waited = 0.0
        while self._finished is None or not self.twin.linked(self.source, self._peer):
            if not self._peer.answers and self.twin.linked(self.source, self._peer):
                raise errors.lost_peer()
            if waited >= NOTICED_BY_SILENCE:
                raise errors.lost_peer()
            yield CALL
            waited += CALL
        if self._failure is not None:
            raise self._failure
        if not self._finished[0]:
            raise errors.failed("migration could not be finished at the target")

    def _confirm(self) -> None:
        domain = self.domain
        self._enter(Phase.CONFIRMED)
        domain.migration = None
        self._drop_mirrors()
        if self.order.has("UNDEFINE_SOURCE"):
            domain.definition, domain.autostart = None, False
        if domain.qemu is not None:
            self.source.end_guest(domain, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED)

    def _fail(self) -> Process:
        """Let the guest run on at the source, and the target be rid of its copy."""
        self._drop_mirrors()
        target = self.target
        if target is not None and self.there is not None:
            if target.answers and self.twin.linked(self.source, target):
                yield CALL
                self._end_there()
            elif self.twin.linked(self.source, target):
                pass  # its libvirtd settles that when it is back
            else:
                self._noticed_at_target(NOTICED_BY_SILENCE)
        domain = self.domain
        domain.migration = None
        self._go_on_at_source(domain)

    def _go_on_at_source(self, domain: Domain) -> None:
        self.twin.actor = ""
        qemu = domain.qemu
        if qemu is None or qemu.dead or not self._was_running:
            return
        if domain.state == PAUSED and domain.reason == libvirt.VIR_DOMAIN_PAUSED_MIGRATION:
            self.twin.run(qemu)
            domain.enter(RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATION_CANCELED)

    def _drop_mirrors(self) -> None:
        self.twin.catch_up()
        for qemu in (self._qemu, self._qemu_there):
            for image in qemu.images if qemu is not None else ():
                image.mirror = None

    def _pass(self, seconds: float) -> Process:
        """Let time pass while all goes well. Raises what makes the migration fail."""
        yield seconds
        stalled = 0.0
        while not self.twin.linked(self.source, self._peer):
            self._raise_failure()
            gave_up = stalled >= NOTICED_BY_SILENCE or self.abort_asked
            # QEMU waits for the mirrors' dead connections, unless it was told not to.
            has_mirrors = self.phase >= Phase.DISKS and bool(self._pairs())
            if gave_up and (self.cut_off or not has_mirrors or stalled >= DEAD_CONNECTION):
                raise errors.aborted() if self.abort_asked else errors.lost_peer()
            yield TICK
            stalled += TICK
        self._raise_failure()
        if self.cut_off and self._pairs():
            raise errors.failed("migration of a disk failed: its connection was ended")
        if self.abort_asked:
            raise errors.aborted()
        if stalled >= NOTICED_BY_SILENCE or not self._peer.answers:
            raise errors.lost_peer()
        if self.there is not None and self._peer.domains.get(self.domain.uuid) is not self.there:
            raise errors.lost_peer()

    def _raise_failure(self) -> None:
        if self._failure is not None and self.twin.scheduler.now >= self._failed_at:
            raise self._failure

    def _enter(self, phase: Phase) -> None:
        self.phase, self._done = phase, 0.0
        self.twin.note(f"phase {phase.name} of {self.domain.name}")

    # What the target's libvirtd does.

    def _finish(self, *, paused: bool) -> Process:
        there, qemu = self.there, self._qemu_there
        if there is None or qemu is None or there.qemu is not qemu or qemu.dead:
            raise errors.failed("domain is not running")
        if self.order.has("PERSIST_DEST"):
            self._persist(there)
        yield CALL
        self.twin.actor = ""
        self._let_run(there, qemu, paused=paused)
        yield CALL

    def _persist(self, there: Domain) -> None:
        xml = self.order.parameters.get("persistent_xml") or there.live or ""
        there.definition = definitions.text(definitions.completed(xml))

    def _let_run(self, there: Domain, qemu: Qemu, *, paused: bool) -> None:
        qemu.incoming = False
        there.completed = self._completed()
        there.migration = None
        if paused:
            there.enter(PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)
            return
        self.twin.run(qemu)
        there.enter(RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATED)

    def _end_there(self) -> None:
        there = self.there
        if there is None or there.migration is not self:
            return
        there.migration = None
        self._peer.end_guest(there, libvirt.VIR_DOMAIN_SHUTOFF_FAILED)

    def _noticed_at_target(self, after: float) -> None:
        """The target sees after a while that nobody is left whose copy it receives."""

        def notice() -> None:
            target = self.target
            if self.phase < Phase.FINISHING and target is not None and target.answers:
                self._end_there()

        self.twin.scheduler.after(after, notice)

    # What befalls it.

    def lost(self, host: TwinHost) -> None:
        """A QEMU is gone on that host, and libvirt has seen it."""
        if host is self.source:
            self.domain.migration = None
            self._failure, self._failed_at = errors.failed("domain is not running"), self.twin.scheduler.now
            if not self.source.answers:
                self._noticed_at_target(NOTICED_BY_SILENCE)
        elif self.there is not None:
            self.there.migration = None
            self._failure = errors.internal("qemu unexpectedly closed the monitor")
            self._failed_at = self.twin.scheduler.now + LOST_QEMU

    def recover(self, host: TwinHost) -> None:
        """A libvirtd is back that was killed over it, or its whole host: libvirt's own rules, from its source."""
        if host is self.source:
            self._recover_source()
        else:
            self._recover_target()

    def _recover_source(self) -> None:
        domain = self.domain
        domain.migration = None
        self._drop_mirrors()
        if domain.qemu is None:
            return
        if domain.qemu.dead:
            self.source.end_guest(domain, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED)
        elif self.phase is Phase.CONFIRMED:
            self.source.end_guest(domain, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED)
        elif self.phase < Phase.HANDED_OVER:
            self._go_on_at_source(domain)
        # Handed over: whether it runs at the target is not known, so it stays paused (migrating). Measured.

    def _recover_target(self) -> None:
        there, qemu = self.there, self._qemu_there
        if there is None or there.migration is not self:
            return
        if qemu is None or there.qemu is not qemu or qemu.dead or self.phase < Phase.FINISHING:
            self._end_there()
            return
        if there.definition is None and self.order.has("PERSIST_DEST"):
            self._persist(there)
        self._let_run(there, qemu, paused=not self._was_running)

    def holder(self, host: TwinHost) -> str:
        """Return who has the domain's lock, as libvirt names it."""
        call = "Perform3" if host is self.source else "Prepare3"
        return f"remoteDispatchDomainMigrate{call}Params"

    def abort(self) -> None:
        """Cancel it, if it is not too late."""
        self.abort_asked = True

    # What can be read of it.

    def stats(self) -> dict[str, int]:
        """Return the source's figures, as of jobStats."""
        memory = self.domain.qemu.memory if self.domain.qemu is not None else 0
        disks = sum(mine.file.size for mine, _ in self._pairs())
        figures = {
            "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
            "type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED,
            "time_elapsed": int((self.twin.scheduler.now - self._begun) * 1000),
            "memory_total": 0,
            "memory_processed": 0,
            "memory_remaining": 0,
            "disk_total": 0,
            "disk_processed": 0,
            "disk_remaining": 0,
        }
        if disks and self.phase >= Phase.DISKS:
            share = self._done if self.phase is Phase.DISKS else 1.0
            done = int(disks * share)
            figures |= {"disk_total": disks, "disk_processed": done, "disk_remaining": disks - done}
        if self.phase >= Phase.MEMORY:
            done = int(memory * (self._done if self.phase is Phase.MEMORY else 1.0))
            figures |= {
                "memory_total": memory,
                "memory_processed": done,
                "memory_remaining": memory - done,
                "memory_iteration": 1,
                "memory_bps": int(self._rate),
            }
        return figures

    def block_jobs(self) -> dict[str, tuple[int, int]]:
        """Return how far each disk's mirror has come, and its end."""
        share = self._done if self.phase <= Phase.DISKS else 1.0
        return {mine.target: (int(mine.file.size * share), mine.file.size) for mine, _ in self._pairs()}

    def _completed(self) -> dict[str, int]:
        figures = self.stats() | {"operation": libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN, "downtime": 120}
        return figures | {"type": libvirt.VIR_DOMAIN_JOB_COMPLETED}
