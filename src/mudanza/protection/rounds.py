"""One round of replication: all disks of a VM at one instant, and what has changed since the round before.

The instant is libvirt's checkpoint with a pull-mode backup: QEMU keeps what the guest overwrites and serves the disks
as they were. A restore point exists once its row is in the database, and that is written when its images are whole at
the target. Until then the round's checkpoint is taken away again after any failure, by which what has changed since
counts for the one before: nothing is lost but the round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.relay import relay
from mudanza.hypervisor.shell import HostShell, login
from mudanza.hypervisor.xml.activation import activation_xml, epoch_of
from mudanza.hypervisor.xml.claims import without_claim
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.journal.protections import Protections
from mudanza.migration.claim import keeping
from mudanza.migration.residue import Residue
from mudanza.migration.vm_claim import VmClaim
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    UsageError,
)
from mudanza.model.migration import MigrationReport
from mudanza.model.protection import Protection, ReplicaDisk, RestorePoint, Standing
from mudanza.model.units import format_size
from mudanza.model.vm import Disk, Vm
from mudanza.protection import firmware
from mudanza.protection.aside import is_worth_it, served
from mudanza.protection.differences import Share, rate_of, served_of, shares, weighing_of
from mudanza.protection.drives import as_it_ran
from mudanza.protection.images import Image, images_of, replaced, with_images
from mudanza.protection.instants import Instants, checkpoint_of
from mudanza.protection.left_behind import KIND, break_off, finish_left
from mudanza.protection.lost import forget_lost
from mudanza.protection.pacing import Pace
from mudanza.protection.replica import Replica, image_name
from mudanza.protection.scratch import Watched
from mudanza.protection.serving import (
    Round,
    assert_tools,
    clear_if_reached,
    clear_scratch,
    free_beside,
    looked_into,
    near_socket,
    new_far_socket,
    protected_disks,
)
from mudanza.protection.telling import disk_changes, how_consistent, left_as
from mudanza.protection.thinning import thin
from mudanza.protection.together import Alone, Company
from mudanza.protection.wire import is_compressed, looked_at

INTERRUPTED = "it was interrupted (Ctrl-C)"
Refusals = (HypervisorError, HostUnreachableError, MigrationFailedError)


class Rounds:
    """Makes rounds of replication."""

    def __init__(
        self, connections: Connections, jobs: Jobs, protections: Protections, company: Company | None = None
    ) -> None:
        """``company``: beside whom rounds are made, of which this is one."""
        self._company = company or Alone(connections)
        self._connections = connections
        self._jobs = jobs
        self._protections = protections
        self._instants = Instants(connections, protections)
        self._entries = {entry.name: entry for entry in connections.entries}

    def sync(self, protection: Protection, vm: Vm, asked_by: str, *, verify: bool = False) -> RestorePoint:
        """Bring a replica up to date; return the new restore point. ``verify``: compare all of it with the
        source.

        Raises BlockedError where no round can be made, nothing being touched; MigrationFailedError where it broke off:
        the earlier restore points are whole.
        """
        if not vm.state.active:
            raise BlockedError(
                f"VM {vm.name!r} is {vm.state} on {vm.host}: a round needs it to run", remedy="start it: mudanza start"
            )
        return self._make(protection, vm, asked_by, verify=verify)

    def last(self, protection: Protection, vm: Vm, asked_by: str) -> RestorePoint:
        """Bring over what is new of a VM that is off, so that nothing is lost when it comes up there; return the new
        restore point. Its QEMU runs for it, and the guest in it does not. Raises as ``sync``; it is off then.
        """
        if vm.state.active:
            raise BlockedError(f"VM {vm.name!r} is not off: it is {vm.state} on {vm.host}")
        return self._make(protection, vm, asked_by, held=True)

    def _make(
        self, protection: Protection, vm: Vm, asked_by: str, *, verify: bool = False, held: bool = False
    ) -> RestorePoint:
        disks = self._refuse(protection, vm)
        finish_left(self._connections, self._jobs, vm.uuid)
        asked = {"protection": protection.id, "verify": verify, "held": held}
        handle = self._jobs.begin(NewJob(KIND, vm.uuid, vm.name, vm.host, protection.target, asked, asked_by))
        with acting_only_if(handle.assert_may_act), keeping(handle):
            claim = VmClaim(self._connections, self._jobs, handle, {})
            try:
                claim.take()
                with self._held(handle, protection, vm) if held else nullcontext():
                    point, lost = self._round(handle, self._protections.get(protection.id), vm, disks, verify)
            except Refusals as error:
                raise self._failed(handle, claim, protection, vm, error) from error
            except KeyboardInterrupt:
                raise self._failed(handle, claim, protection, vm, MigrationFailedError(INTERRUPTED)) from None
            warnings = claim.release()
            said = f"point {point.number}: {format_size(point.carried)} brought from {vm.host}{how_consistent(point)}"
            verified = "all of the replica is the same as the source" if verify else ""
            said = "; ".join((said, *filter(None, (verified, lost)), *disk_changes(protection.newest, point)))
            self._protections.change(protection.id, said="; ".join((said, *warnings)))
            self._protections.rename(vm.uuid, vm.name)
            handle.finish("done", said, 0, {"warnings": list(warnings)})
            return point

    def _refuse(self, protection: Protection, vm: Vm) -> Sequence[Disk]:
        if protection.standing is not Standing.ON:
            raise BlockedError(f"VM {vm.name!r} is {protection.standing}: no rounds are made")
        for host in (vm.host, protection.target):
            if host not in self._entries:
                raise UsageError(f"there is no host {host!r}", remedy="add it: mudanza host add NAME URI")
            login(self._entries[host])
        if vm.host == protection.target:
            beside = f"VM {vm.name!r} is on {vm.host}, where its replica is: no rounds are made of that"
            self._protections.change(protection.id, said=beside)
            raise BlockedError(
                beside, remedy="move it away, or protect it elsewhere; what changes until then is brought after that"
            )
        if protection.epoch and epoch_of(vm.inactive_xml or vm.xml) < protection.epoch:
            raise BlockedError(
                f"VM {vm.name!r} on {vm.host} is an old copy: it came up last under epoch {protection.epoch}",
                remedy="a person must look which copy is the VM: mudanza vms; nothing was touched",
            )
        for other in self._protections.replicas(vm.uuid):
            if other.standing is Standing.GOING_HOME:
                raise BlockedError(f"VM {vm.name!r} is going home to {other.target}: no rounds are made until it is")
        return protected_disks(vm)

    @contextmanager
    def _held(self, handle: JobHandle, protection: Protection, vm: Vm) -> Iterator[None]:
        """Have the QEMU of a VM that is off run, but not the guest in it."""
        domains = self._connections.domains(vm.host)
        handle.perform("hold", {"host": vm.host}, lambda: domains.start(vm.uuid, paused=True))
        try:
            yield
        except Refusals:
            self._undo(handle, protection, vm)  # which a VM that is off does not let us do
            raise
        finally:
            handle.perform("let go", {"host": vm.host}, lambda: domains.destroy(vm.uuid))

    def _round(
        self, handle: JobHandle, protection: Protection, vm: Vm, disks: Sequence[Disk], verify: bool
    ) -> tuple[RestorePoint, str]:
        """Return the new point, and what is told of those that are lost."""
        before = protection = looked_at(self._protections, protection, self._entries[vm.host], disks)
        number = self._protections.begin_round(protection.id)
        domains = self._connections.domains(vm.host)
        earlier = domains.written(vm.uuid)
        far, compressed = new_far_socket(protection, number), is_compressed(protection)
        with (
            relay({near_socket(protection, number): far}, compressed=compressed) as halves,
            HostShell(self._entries[vm.host], halves.pull) as here,
            HostShell(self._entries[protection.target], halves.push) as there,
        ):
            assert_tools(here)
            assert_tools(there)
            disks = looked_into(here, disks)
            replica = Replica(protection, there, far)
            protection, lost = self._prepare(handle, protection, vm, disks, replica, here)
            budget = min(protection.scratch, *(free_beside(here, disk) // 2 for disk in disks))
            written = domains.written(vm.uuid).rate_since(earlier)
            pace = Pace(protection.every, written, budget, protection.bandwidth, protection.carriage.rate)
            aside = (
                not verify
                and is_worth_it(self._connections.backups(vm.host), here, protection, pace)
                and not replaced(protection.newest, self._images(here, vm, disks))
            )
            taken_at = self._protections.instant()  # not after the instant, or the lag would be told too small
            last = protection.newest.firmware if protection.newest is not None else None
            with self._company.instant(handle, before, vm, here) as quiet:
                since = self._instants.begin(handle, protection, vm, disks, number, aside=aside)
                copied = firmware.read(here, firmware.places_of(vm.xml), last)
            try:
                definition = self._definition(vm, disks)
                images = self._images(here, vm, disks)
                state = firmware.keep(there, protection, number, copied, last)
                told = since.disks - replaced(protection.newest, images)
                this = Round(
                    protection, vm, disks, number, told, here, there, far, verify, pace, compressed, since.aside
                )
                with served(handle, self._connections.backups(vm.host), this, budget) as watched:
                    point = replace(
                        self._carry(handle, this, replica, watched, definition), taken_at=taken_at, firmware=state
                    )
                    point = with_images(point, images)
                    point = replace(point, consistency=quiet.consistency, why_not=quiet.why_not)
            finally:
                self._instants.end(handle, vm)
            self._company.keep(self._protections, protection.id, point, checkpoint_of(protection, disks, number))
            if verify:
                self._protections.change(protection.id, verified_at=taken_at)
            protection = self._protections.get(protection.id)
            self._instants.drop_checkpoints(handle, protection, vm)
            thin(handle, self._protections, protection, replica)
        return point, lost

    def _prepare(
        self,
        handle: JobHandle,
        protection: Protection,
        vm: Vm,
        disks: Sequence[Disk],
        replica: Replica,
        here: HostShell,
    ) -> tuple[Protection, str]:
        """Have nothing of earlier rounds be left, and no host start the VM by itself; return the protection as it is
        then, and what is told of points that are lost."""
        protection, lost = forget_lost(handle, self._protections, protection, replica)
        thin(handle, self._protections, protection, replica)
        self._disarm(handle, vm)
        self._instants.end_left(handle, protection, vm, disks)
        self._instants.drop_checkpoints(handle, protection, vm)
        clear_scratch(here, protection, disks)
        return self._protections.get(protection.id), lost

    def _definition(self, vm: Vm, disks: Sequence[Disk]) -> str:
        """Return a VM's definition once the instant is kept, with all disks that are carried."""
        domains = self._connections.domains(vm.host)
        definition = without_claim(domains.describe(vm.uuid, inactive=vm.persistent))
        return as_it_ran(definition, domains.describe(vm.uuid), {disk.target for disk in disks})

    def _carry(
        self, handle: JobHandle, this: Round, replica: Replica, watched: Watched, definition: str
    ) -> RestorePoint:
        """Bring what is served over; the point's time is still to be told."""

        def carry(parts: Mapping[str, Share]) -> RestorePoint:
            images: dict[str, ReplicaDisk] = {}
            carried = 0
            weighing, rate = weighing_of(this, parts), rate_of(this, parts)
            for disk in this.disks:
                served, share = served_of(this, disk), parts[disk.target]
                file = image_name(disk.target, this.number, whole=not share.below)
                if share.below:
                    replica.bring_changes(served, file, share.below, share.extents, rate, watched.stop)
                    carried += sum(length for _, length in share.extents)
                else:
                    carried += replica.bring_everything(served, file, watched.stop)
                watched.refuse_to_go_on()
                images[disk.target] = ReplicaDisk(file, served.size)
                if this.verify and (where := replica.compare(served, file, watched.stop)):
                    self._protections.change(this.protection.id, checkpoint="")  # the next round compares all of it
                    raise HypervisorError(this.there.host, f"disk {disk.target} of the replica differs: {where}")
            sent, known = weighing.end(carried)
            self._protections.measured(this.protection.id, known)
            return RestorePoint(this.number, 0.0, images, definition, carried, sent=sent)

        since = this.protection.checkpoint if this.told else ""
        intent = {"host": this.there.host, "point": this.number, "since": since, "verify": this.verify}
        try:
            parts = shares(handle, this, watched.stop)
            return handle.perform(
                "carry point",
                intent,
                lambda: carry(parts),
                lambda point: {"carried": point.carried, "sent": point.sent},
                lasts=0.0,  # it ends with the logins
            )
        except MigrationFailedError as error:
            raise watched.failure(error) from error

    def _images(self, here: HostShell, vm: Vm, disks: Sequence[Disk]) -> Mapping[str, Sequence[Image]]:
        """Return which images its disks are once the instant is kept: they may have been others before."""
        now = parse_vm(self._connections.domains(vm.host).describe(vm.uuid), host=vm.host, state=vm.state)
        known = {disk.target: disk.source for disk in disks}
        found = [disk for disk in now.disks if disk.target in known]  # a volume of a pool is named there by that alone
        return images_of(
            here,
            [replace(disk, source=known[disk.target]) if disk.kind == "volume" else disk for disk in found],
        )

    def _disarm(self, handle: JobHandle, vm: Vm) -> None:
        """Keep the host from starting the VM by itself when it comes back: it may run elsewhere by then. That it is to
        do so otherwise is written into the VM's metadata."""
        domains = self._connections.domains(vm.host)
        wish = activation_xml(epoch_of(vm.inactive_xml or vm.xml), autostart=True)

        def disarm() -> None:
            domains.set_activation(vm.uuid, wish)
            domains.set_autostart(vm.uuid, False)

        if vm.persistent and domains.autostart(vm.uuid):
            handle.perform("disarm", {"host": vm.host}, disarm)

    def _failed(
        self, handle: JobHandle, claim: VmClaim, protection: Protection, vm: Vm, error: MudanzaError
    ) -> MigrationFailedError:
        self._undo(handle, protection, vm)
        claim.release()
        told = f"the replica of VM {vm.name!r} at {protection.target} was not brought up to date: {error}"
        self._protections.change(protection.id, said=str(error))
        handle.finish("failed", told, MigrationFailedError.exit_code)
        kept = self._protections.get(protection.id).newest
        whole = f"its newest restore point is {kept.number}" if kept else "it has no replica yet"
        seen = self._connections.domains(vm.host).sighting(vm.uuid)
        state = f"{left_as(vm, seen)}; {whole}"
        return MigrationFailedError(told, vm_state=state, remedy=error.remedy or "the next round tries again")

    def _undo(self, handle: JobHandle, protection: Protection, vm: Vm) -> None:
        """End the backup, and have what has changed since count for the point before, as far as the source answers."""
        with suppress(*Refusals):
            self._instants.end(handle, vm)
            self._instants.drop_checkpoints(handle, self._protections.get(protection.id), vm)

    def resume(self, job_id: int, _stop: clock.Event) -> MigrationReport:
        """End a round that its controller left behind: what it brought is worth nothing, the points before are whole.

        Raises MigrationFailedError once that is done; NeedsPersonError where the claim is lost.
        """
        return break_off(self._connections, self._jobs, job_id)

    def clean_up(self, _job_id: int) -> Residue:
        """What such a job leaves is deleted by the next round."""
        return Residue()

    def give_up(self, protection: Protection, vm: Vm | None, asked_by: str) -> tuple[str, ...]:
        """Give a replica of a VM up, and delete it; return warnings. ``vm``: where it is; None: no host lists it.

        Raises BlockedError and MigrationFailedError: it is protected still.
        """
        if protection.trial is not None:
            raise BlockedError(
                f"{protection.trial.name} stands on the replica of VM {protection.vm_name!r}",
                remedy=f"end that first: mudanza test-failover end {protection.vm_name}",
            )
        finish_left(self._connections, self._jobs, protection.vm_uuid)
        host = vm.host if vm is not None else protection.target
        asked = {"protection": protection.id}
        handle = self._jobs.begin(
            NewJob(KIND, protection.vm_uuid, protection.vm_name, host, protection.target, asked, asked_by)
        )
        with acting_only_if(handle.assert_may_act), keeping(handle):
            claim, left = VmClaim(self._connections, self._jobs, handle, {}), ""
            try:
                if vm is not None:
                    claim.take()
                    self._let_be(handle, protection, vm)
                    left = clear_if_reached(self._entries[vm.host], protection, vm)
                with HostShell(self._entries[protection.target]) as there:
                    remove = Replica(protection, there).remove
                    handle.perform("drop replica", {"host": protection.target, "path": protection.directory}, remove)
            except Refusals as error:
                claim.release()
                told = f"VM {protection.vm_name!r} is protected still: {error}"
                handle.finish("failed", told, MigrationFailedError.exit_code)
                raise MigrationFailedError(told, remedy=error.remedy or "try again") from error
            warnings = (*filter(None, [left]), *claim.release())
            self._protections.remove(protection.id)
            handle.finish("done", "it is protected no more", 0, {"warnings": list(warnings)})
            return warnings

    def _let_be(self, handle: JobHandle, protection: Protection, vm: Vm) -> None:
        self._instants.drop_checkpoints(handle, replace(protection, checkpoint=""), vm)
        others = [each for each in self._protections.replicas(vm.uuid) if each.id != protection.id]
        if any(each.standing is not Standing.LEFT for each in others):
            return  # it is protected all the same
        domains = self._connections.domains(vm.host)
        if protection.autostart and vm.persistent and not domains.autostart(vm.uuid):
            handle.perform("rearm", {"host": vm.host}, lambda: domains.set_autostart(vm.uuid, True))
        domains.set_activation(vm.uuid, None)
