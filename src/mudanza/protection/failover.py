"""Failover: a protected VM comes up at its replica's host, from a restore point.

It runs on images of its own upon the point's, which stay as they are. That it is to be there from now on, under
another epoch, is written down before anything of it is started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.shell import HostShell
from mudanza.hypervisor.xml.activation import with_epoch
from mudanza.hypervisor.xml.domains import parse_vm
from mudanza.journal.jobs import Job, JobHandle, NewJob
from mudanza.migration.claim import keeping, left_open
from mudanza.migration.destination import destination_xml
from mudanza.migration.residue import Residue
from mudanza.migration.secrets import with_secrets_of
from mudanza.model.cluster import Cluster
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
)
from mudanza.model.migration import MigrationReport, Side, Sighting
from mudanza.model.protection import Protection, ReplicaDisk, RestorePoint, Standing
from mudanza.model.vm import VmState
from mudanza.preflight.mapping import DiskPlan
from mudanza.protection import firmware
from mudanza.protection.bringing_up import BringingUp, Refusals
from mudanza.protection.drives import ejected, in_words, missing_media, without_others
from mudanza.protection.replica import Replica

KIND = "failover"
"""What such jobs are called in the journal."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a failover went. ``seconds`` from when it was asked for until libvirt had started the VM."""

    vm: str
    host: str
    point: int
    age: float
    """How old the restore point was when it was asked for, in seconds: what is lost at the most."""
    seconds: float
    drives: str = ""
    """What of its drives is not as it was, in words; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The host that a VM is lost with, where that is proven and nobody gives their word."""

    host: str
    fencing: int
    """The number of what proves it."""
    said: str
    """What is lost, in words."""
    prove: Callable[[], None]
    """Looks once more whether all still holds. Raises BlockedError where it does not."""


class Failover(BringingUp):
    """Brings protected VMs up at their replicas' hosts."""

    def from_point(
        self,
        protection: Protection,
        cluster: Cluster,
        number: int | None,
        nics: Mapping[str, str],
        asked_by: str,
        lost: Lost | None = None,
    ) -> Outcome:
        """Start a VM whose host is dead, by the word of the person who asks, from a restore point (None: the newest).

        ``nics``: a card's MAC address → what it hangs on there, where that is another one. ``lost``: what proves that
        its host is dead, where that is no person's word. Raises BlockedError where
        it runs, or there is no such point, nothing being touched; MigrationFailedError where it could not be started:
        it is protected as before.
        """
        begun = clock.monotonic()
        point = chosen_point(protection, number)
        self._refuse(protection, cluster)
        asked = {"protection": protection.id, "point": point.number} | ({"lost": lost.said} if lost else {})
        source = lost.host if lost is not None else ""
        handle = self._jobs.begin(
            NewJob(KIND, protection.vm_uuid, protection.vm_name, source, protection.target, asked, asked_by)
        )
        with acting_only_if(handle.assert_may_act), keeping(handle):
            if lost is not None:
                handle.note("prove", {"host": lost.host}, {"fencing": lost.fencing, "lost": lost.said})
            try:
                drives = self._bring_up(handle, protection, point, nics, lost)
            except (*Refusals, BlockedError) as error:
                raise self._failed(handle, protection, error) from error
            told = f"runs on {protection.target} from restore point {point.number}, under epoch {protection.epoch + 1}"
            told = "; ".join((told, *filter(None, [lost.said if lost is not None else "", drives])))
            self._protections.settle_at(protection.id, told)
            handle.finish("done", told, 0)
        age = protection.read_at - point.taken_at
        seconds = clock.monotonic() - begun
        return Outcome(protection.vm_name, protection.target, point.number, age, seconds, drives)

    def _refuse(self, protection: Protection, cluster: Cluster) -> None:
        name = protection.vm_name
        if protection.standing is not Standing.ON:
            raise already(protection)
        for other in self._protections.replicas(protection.vm_uuid):
            if other.standing is Standing.GOING_HOME:
                raise BlockedError(
                    f"VM {name!r} is going home to {other.target}, and nobody has written down yet where it is",
                    remedy=f"have that looked at: mudanza reprotect {name}",
                )
        for vm in cluster.vms:
            if vm.uuid != protection.vm_uuid:
                continue
            if vm.state.active:
                raise BlockedError(
                    f"VM {name!r} is not dead: {vm.host} answers, and says that it is {vm.state} there",
                    remedy="shut it down there first; two running copies would each write their own truth",
                )
            if vm.host == protection.target:
                raise BlockedError(
                    f"{vm.host} has a VM {name!r} of that UUID already", remedy="look whose it is: mudanza show"
                )

    def _bring_up(
        self,
        handle: JobHandle,
        protection: Protection,
        point: RestorePoint,
        nics: Mapping[str, str],
        lost: Lost | None,
    ) -> str:
        """Return what is told of its drives there; see ``in_words``."""
        host, epoch = protection.target, protection.epoch + 1
        prove = lost.prove if lost is not None else _nothing
        prove()
        handle.perform(
            "activate",
            {"host": host, "point": point.number, "epoch": epoch},
            lambda: self._protections.change(protection.id, standing=Standing.FAILED_OVER, epoch=epoch),
        )
        disks = {target: replace(disk, file=active_image(target, epoch)) for target, disk in point.disks.items()}
        with HostShell(self._entries[host]) as there:
            replica = Replica(protection, there)
            for target, disk in disks.items():
                replica.put_upon(point.disks[target].file, disk.file)
            definition = running_on(protection, point, disks, nics)
            definition = with_epoch(definition, epoch, autostart=protection.autostart)
            missing = missing_media(there, self._connections.volumes(host), definition)
            definition = ejected(definition, missing)
            domains = self._connections.domains(host)
            handle.perform("define", {"host": host}, lambda: domains.define(definition))
            # Not before: a VM there that has its name would have its variables there, too.
            firmware.put_in_place(handle, there, protection, point.firmware, definition)
        prove()
        handle.perform("start", {"host": host}, lambda: domains.start(protection.vm_uuid))
        return in_words(missing, definition, host)

    def _failed(self, handle: JobHandle, protection: Protection, error: MudanzaError) -> MudanzaError:
        """Undo it, unless the VM runs there after all or may do so."""
        domains = self._connections.domains(protection.target)
        seen = domains.sighting(protection.vm_uuid)
        if seen.side is Side.UNSEEN or (seen.side is Side.PRESENT and seen.state.active):
            return left_open(handle, NeedsPersonError(f"whether VM {protection.vm_name!r} was started: {error}"))
        self._take_back(handle, protection, protection.epoch)
        told = f"VM {protection.vm_name!r} could not be started at {protection.target}: {error}"
        handle.finish("failed", told, MigrationFailedError.exit_code)
        return MigrationFailedError(
            told,
            vm_state="it is protected as before",
            remedy=error.remedy
            or "mend that, and try again; or from an older point: --point N (mudanza protection points)",
        )

    def _take_back(self, handle: JobHandle, protection: Protection, epoch: int) -> None:
        """Have it be as before, under the epoch that it was under then: the VM's own copy is not stale."""
        domains = self._connections.domains(protection.target)
        if domains.sighting(protection.vm_uuid).side is Side.PRESENT:
            with suppress(HypervisorError):
                handle.perform("take back", {"host": protection.target}, lambda: domains.undefine(protection.vm_uuid))
        self._protections.change(protection.id, standing=Standing.ON, epoch=epoch)

    def resume(self, job_id: int, _stop: clock.Event) -> MigrationReport:
        """Finish a failover that its controller left behind: the VM runs there, or it is taken back. One that has run
        there meanwhile is not: what it wrote is on its disks there.

        Raises MigrationFailedError where it was taken back; NeedsPersonError where the host does not say.
        """
        begun, job = clock.monotonic(), self._jobs.get(job_id)
        protection = self._protections.get(int(job.asked["protection"]))
        handle = self._jobs.take_over(job_id)
        with acting_only_if(handle.assert_may_act), keeping(handle):
            seen = self._connections.domains(job.target).sighting(job.vm_uuid)
            if seen.side is Side.UNSEEN:
                raise left_open(handle, NeedsPersonError(f"whether VM {job.vm_name!r} was started: {seen.reason}"))
            told = said = f"runs on {job.target}"
            if seen.side is Side.ABSENT or not seen.state.active:
                if not self._has_run(handle, protection, job, seen):
                    self._give_up(handle, protection, job)
                said = f"came up at {job.target}, and its controller died over it"
                told = f"came up at {job.target}, and is off there by now: mudanza start {job.vm_uuid}"
            self._protections.settle_at(protection.id, said)
            handle.finish("done", told, 0)
        return MigrationReport(
            job.vm_name, job.vm_uuid, job.source, job.target, KIND, clock.monotonic() - begun, None, 0, 0, 0.0, 0,
            tls=False, transport=told,
        )  # fmt: skip

    def _has_run(self, handle: JobHandle, protection: Protection, job: Job, seen: Sighting) -> bool:
        """Whether a VM that is off there has run there: it was started, or has written to its disks. Raises
        NeedsPersonError where that cannot be found out."""
        steps = job.steps_named("start")
        if not steps or seen.side is Side.ABSENT or protection.standing is not Standing.FAILED_OVER:
            return False
        if any((step.outcome or {}).get("done") for step in steps):
            return True
        point = protection.point(int(job.asked["point"]))
        files = [active_image(target, protection.epoch) for target in (point.disks if point is not None else ())]
        try:
            with HostShell(self._entries[job.target]) as there:
                return bool(Replica(protection, there).written(files))
        except (HypervisorError, HostUnreachableError) as error:
            raise left_open(handle, NeedsPersonError(f"whether VM {job.vm_name!r} has run: {error}")) from error

    def _give_up(self, handle: JobHandle, protection: Protection, job: Job) -> NoReturn:
        activated = protection.standing is Standing.FAILED_OVER
        self._take_back(handle, protection, protection.epoch - 1 if activated else protection.epoch)
        told = f"VM {job.vm_name!r} was not started at {job.target}: its failover was broken off before"
        handle.finish("failed", told, MigrationFailedError.exit_code)
        remedy = f"ask for it again; where it was shut down for that, it is off there: mudanza start {job.vm_name}"
        raise MigrationFailedError(told, vm_state="it is protected as before", remedy=remedy)

    def clean_up(self, _job_id: int) -> Residue:
        """What such a job leaves is the VM's, or deleted by the next round."""
        return Residue()


def _nothing() -> None:
    """A person has given their word."""


def already(protection: Protection) -> BlockedError:
    """Return what is told of a VM that has come up from its replica, or is about to leave it: pure."""
    name = protection.vm_name
    return BlockedError(
        f"VM {name!r} is {protection.standing} already, at {protection.target}",
        remedy=f"see where it is: mudanza vms; where it is off by now: mudanza start {name}",
    )


def active_image(disk: str, epoch: int) -> str:
    """Return what the image is called that a disk is written to from a failover on: pure."""
    return f"{disk}.active-{epoch}.qcow2"


def chosen_point(protection: Protection, number: int | None) -> RestorePoint:
    """Return a restore point (None: the newest). Raises BlockedError where there is no such."""
    point = protection.newest if number is None else protection.point(number)
    if point is None:
        there = ", ".join(str(each.number) for each in protection.points) or "none"
        raise BlockedError(
            f"VM {protection.vm_name!r} has no such restore point: there is {there}",
            remedy="see them: mudanza protections",
        )
    return point


def reconnected(protection: Protection, networks: Mapping[str, str]) -> Mapping[str, str]:
    """Return which cards of a VM hang on something else where its replica is: MAC address → what: pure."""
    if not networks or protection.newest is None:
        return {}
    found = parse_vm(protection.newest.definition, host=protection.target, state=VmState.SHUTOFF)
    return {nic.mac: networks[nic.source] for nic in found.nics if nic.source is not None and nic.source in networks}


def running_on(
    protection: Protection, point: RestorePoint, disks: Mapping[str, ReplicaDisk], nics: Mapping[str, str]
) -> str:
    """Return a VM's definition with these images for its disks."""
    plans = [
        DiskPlan(target, "copy", "", path=f"{protection.directory}/{disk.file}", format="qcow2", size=disk.size)
        for target, disk in disks.items()
    ]
    # The database keeps no passwords: a display gets one that nobody knows, and is rather shut than open to all.
    definition = without_others(point.definition, point.disks)
    return destination_xml(with_secrets_of(definition, "<domain/>"), plans, nics)
