"""libvirt's peer-to-peer migration, as a process in virtual time that anything can happen to.

It runs in the source's libvirtd, whoever asked for it. The phases, and what becomes of it when one of them is
interrupted, were measured on libvirt 9.0 or, where it says so, are taken from its source.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import libvirt

from mudanza.hypervisor.twin import definitions, errors, figures
from mudanza.hypervisor.twin.domain import PAUSED, RUNNING, Domain
from mudanza.hypervisor.twin.guests import Image, Qemu
from mudanza.hypervisor.twin.host import START_TIME, TwinHost
from mudanza.hypervisor.twin.mirrors import copy_share, make_missing
from mudanza.hypervisor.twin.order import Order, Phase
from mudanza.hypervisor.twin.processes import Process
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
        self.done = 0.0
        """How much of the phase is done, from 0 to 1."""
        self.begun = 0.0
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
        self.begun, self._was_running = self.twin.scheduler.now, self._qemu.running
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
        make_missing(target, xml, self.order.disks, domain.live_qemu.images)
        qemu = Qemu(domain.uuid, target, definitions.memory(xml), target.open_images(xml), incoming=True)
        if known is None:
            known = target.domains[domain.uuid] = Domain(target, domain.uuid, domain.name)
        target.adopt(known, xml, qemu)
        known.migration = self
        known.enter(PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
        self.there, self._qemu_there = known, qemu
        self._enter(Phase.PREPARED)
        yield from self._pass(START_TIME)

    def _copy_disks(self) -> Process:
        pairs = self.pairs
        if not pairs:
            return
        self._enter(Phase.DISKS)
        total = sum(mine.file.size for mine, _ in pairs)
        seconds = max(0.5, total / self.rate)
        while self.done < 1.0:
            yield from self._pass(min(TICK, seconds))
            self.done = min(1.0, self.done + TICK / seconds)
            copy_share(self._peer, (self.there.live if self.there else None) or "", pairs, self.done)
        for mine, theirs in pairs:
            mine.mirror = theirs.file

    @property
    def pairs(self) -> list[tuple[Image, Image]]:
        """Each disk that is copied, and the image it is copied into."""
        if self._qemu is None or self._qemu_there is None:
            return []
        theirs = {image.target: image for image in self._qemu_there.images}
        return [(image, theirs[image.target]) for image in self._qemu.images if image.target in self.order.disks]

    @property
    def rate(self) -> float:
        """Bytes per second that it may send."""
        limit = int(self.order.parameters.get("bandwidth", 0)) * MIB
        return min(self.twin.rate, limit) if limit else self.twin.rate

    def _copy_memory(self) -> Process:
        self._enter(Phase.MEMORY)
        self.domain.live_qemu.migration_status = "active"
        seconds = max(0.3, self.domain.live_qemu.memory / self.rate)
        while self.done < 1.0:
            yield from self._pass(min(TICK, seconds))
            self.done = min(1.0, self.done + TICK / seconds)

    def _hand_over(self) -> Process:
        """Stop the vCPUs, send the rest, and have the target let them run."""
        domain, qemu = self.domain, self.domain.live_qemu
        was_paused = not qemu.running
        self.twin.stop(qemu)
        domain.enter(PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
        self._enter(Phase.STOPPED)
        try:
            yield from self._pass(STOPPED)
        except libvirt.libvirtError:
            if self.abort_asked and self.source.overlooks_cancelling:
                yield from self._overlook(qemu)
            raise
        there = self._qemu_there
        if there is None:
            raise errors.lost_peer()
        there.counter, there.has_booted = qemu.counter, qemu.has_booted
        qemu.migration_status = "completed"
        self._enter(Phase.HANDED_OVER)
        yield from self._pass(CALL)
        if not self._peer.answers:
            raise errors.lost_peer()
        self._enter(Phase.FINISHING)
        self._peer.serve(self._finish(paused=was_paused or self.order.has("PAUSED")), self._on_finish)

    def _overlook(self, qemu: Qemu) -> Process:
        """Wait for a guest to stand still that QEMU, having cancelled the migration, lets run. Measured."""
        qemu.migration_status = "cancelled"
        self.twin.run(qemu)
        self.domain.enter(RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED)
        while self.domain.state == RUNNING:
            yield TICK
        self.domain.enter(PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)

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
        if self._qemu is not None and self._qemu.migration_status == "active":
            self._qemu.migration_status = "cancelled"
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
            has_mirrors = self.phase >= Phase.DISKS and bool(self.pairs)
            if gave_up and (self.cut_off or not has_mirrors or stalled >= DEAD_CONNECTION):
                raise errors.aborted() if self.abort_asked else errors.lost_peer()
            yield TICK
            stalled += TICK
        self._raise_failure()
        if self.cut_off and self.pairs:
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
        self.phase, self.done = phase, 0.0
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
        there.completed = figures.completed(self)
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
