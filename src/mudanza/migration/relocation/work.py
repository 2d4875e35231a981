"""One job that moves disks within a host, being worked on: what is the same whether its VM runs or is off."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import read_host
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import LONG_LOOK, Job, JobHandle, Jobs, LeaseLostError
from mudanza.migration.asked import own_wishes
from mudanza.migration.claim import cancelled_because, journalling_cancel, left_open
from mudanza.migration.closing import Closing
from mudanza.migration.freight.comparison import not_compared
from mudanza.migration.freight.room import Room
from mudanza.migration.record import CopiedDisk
from mudanza.migration.relocation.plan import RelocationRecord, standing_of
from mudanza.migration.relocation.settle import At, Next, Standing, Verdict
from mudanza.migration.residue import Residue, deleted_by
from mudanza.migration.steering import ON_REQUEST
from mudanza.migration.vm_claim import VmClaim
from mudanza.model.errors import (
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
    VmDownError,
)
from mudanza.model.host import Host
from mudanza.model.migration import MigrationOptions, MigrationReport, Progress, Side, Sighting
from mudanza.preflight.cargo import CargoFile

HEEDED = ("deadline",)
"""What of a VM's wishes matters to disks that stay on their host: there is no downtime, no post-copy and no hook."""
MOST_TURNS = 30
"""Steps after which a job that still finds something to do goes in circles."""


@dataclass
class RelocationWork(ABC):
    """One job being worked on."""

    connections: Connections
    inventory: Inventory
    jobs: Jobs
    handle: JobHandle
    claim: VmClaim
    record: RelocationRecord
    options: MigrationOptions
    no_progress: float
    stop: clock.Event
    on_progress: Callable[[Progress], None]
    why: str = ""
    """Why it is not wanted any more: cancelled, or failed; empty as long as it is."""
    remedy: str = ""
    begun: float = field(default_factory=clock.monotonic)
    spent: float = 0.0
    """Seconds that earlier controllers had worked on it."""
    about: Host = field(init=False)
    """What is known of the one host."""

    def to_the_end(self, begin: Callable[[], None]) -> MigrationReport:
        """Do whatever is to be done next until nothing is; ``begin`` sees to the claim on the VM.

        Raises what ``Relocation.migrate`` raises.
        """
        job = self.jobs.get(self.handle.id)
        self.why, self.spent = cancelled_because(job), job.read_at - job.started_at
        try:
            self._see_to_claim(begin)
            self.take_up(job)
            for _ in range(MOST_TURNS):
                if self.stop.is_set():
                    self.give_up(ON_REQUEST)
                standing = self.look()
                report = self._turn(self.settle(standing), standing)
                if report is not None:
                    return report
            raise NeedsPersonError(f"VM {self.name!r}: the job goes in circles")
        except NeedsPersonError as error:
            raise left_open(self.handle, error) from None
        except (HostUnreachableError, HypervisorError) as error:
            raise left_open(self.handle, self.person(str(error))) from None

    def _see_to_claim(self, begin: Callable[[], None]) -> None:
        try:
            begin()
        except (MigrationFailedError, HypervisorError, HostUnreachableError) as error:
            self.give_up(str(error), error.remedy)

    def take_up(self, job: Job) -> None:
        """Make sure of what an earlier controller may have left half done.

        Raises HypervisorError, HostUnreachableError.
        """
        self.about, _ = read_host(self.inventory.host(self.host), connections=self.connections)
        Room(self.connections, self.handle, self.about).make_sure(job)

    @abstractmethod
    def settle(self, standing: Standing) -> Verdict:
        """Decide what is to be done next."""

    @abstractmethod
    def take(self, step: Next, standing: Standing, /) -> None:
        """Take a step towards the new place; a MudanzaError it raises is why the move is given up."""

    @abstractmethod
    def before_clean_up(self) -> tuple[str, ...]:
        """Do what is to be done before the old place is cleaned up; return what is to be known of it."""

    @abstractmethod
    def report(self, residue: Residue) -> MigrationReport:
        """Say how it went."""

    def unproven(self) -> tuple[CargoFile, ...]:
        """Return what was carried and not compared, though it should have been."""
        return ()

    def after_undo(self) -> str:
        """Bring the VM back to what it was; return why it is down, empty if it is as before."""
        return ""

    @property
    def host(self) -> str:
        """The one host all of this is about."""
        return self.record.move.source

    @property
    def name(self) -> str:
        """The VM's."""
        return self.record.move.name

    @property
    def uuid(self) -> str:
        """The VM's."""
        return self.record.move.uuid

    def sighting(self) -> Sighting:
        """Ask what is with the VM. Raises HostUnreachableError."""
        seen = self.connections.domains(self.host).sighting(self.uuid)
        if seen.side is Side.UNSEEN:
            raise HostUnreachableError(self.host, seen.reason)
        return seen

    def look(self) -> Standing:
        """Ask the host how the disks stand. Raises HostUnreachableError, HypervisorError, LeaseLostError."""
        self.handle.renew(LONG_LOOK)
        seen = self.sighting()
        if seen.side is Side.ABSENT:
            return {}
        domains = self.connections.domains(self.host)
        live = domains.describe(self.uuid) if seen.state.active else None
        kept = domains.describe(self.uuid, inactive=True) if seen.persistent else None
        return standing_of(self.record, live, kept)

    def give_up(self, why: str, remedy: str = "") -> None:
        """Not go on towards the new place, if that is still possible. What is known first stands."""
        if not self.why:
            self.why, self.remedy = why, remedy
            journalling_cancel(self.handle)(why)

    def _turn(self, verdict: Verdict, standing: Standing) -> MigrationReport | None:
        match verdict.next:
            case Next.FINISH:
                return self._finish()
            case Next.UNDO:
                raise self._undone(verdict, standing)
            case Next.PERSON:
                raise self.person(verdict.why)
            case Next.DEFINE:
                self._define(standing)
            case Next.ABORT:
                self.take(verdict.next, standing)
            case _:
                try:
                    self.take(verdict.next, standing)
                except (NeedsPersonError, HostUnreachableError, LeaseLostError):
                    raise
                except MudanzaError as error:
                    self.give_up(str(error), error.remedy)
        return None

    def step(self, name: str, intent: Mapping[str, object], act: Callable[[], object]) -> None:
        """Do one journalled step. Raises HypervisorError, HostUnreachableError."""
        self.handle.perform(name, intent, act)

    def _define(self, standing: Standing) -> None:
        domains = self.connections.domains(self.host)
        moved = [name for name, disk in standing.items() if disk.used is At.NEW]
        xml = self.record.definition(domains.describe(self.uuid, inactive=True), moved)
        self.step("define", {"host": self.host, "moved": moved}, lambda: domains.define(xml))

    def own_wishes(self) -> tuple[str, ...]:
        """Return in words what of all that was asked the VM's own metadata has asked for, and is heeded here."""
        return own_wishes(self.jobs.get(self.handle.id).asked, HEEDED)

    def closing(self, disks: tuple[CopiedDisk, ...]) -> Closing:
        """Return what cleans up after these disks."""
        deleted = deleted_by(self.jobs.get(self.handle.id))
        return Closing(self.connections, self.inventory, self.handle, replace(self.record.move, disks=disks), deleted)

    def _finish(self) -> MigrationReport:
        self.claim.confirm()
        self.handle.enter("cleaning up")
        residue = Residue(warnings=self.before_clean_up()) + self._remove_old(self.record.move.disks)
        residue += Residue(warnings=self.claim.release())
        report = self.report(residue)
        places = ", ".join(f"{disk.target} to {disk.path}" for disk in self.record.move.disks)
        self.handle.finish("done", f"moved within {self.host}: {places}", 0, asdict(report))
        return report

    def _remove_old(self, disks: tuple[CopiedDisk, ...]) -> Residue:
        """Delete the old places of disks, but of what should have been compared and was not."""
        old = {disk.source_path for disk in disks}
        unproven = tuple(file for file in self.unproven() if file.source in old)
        kept = tuple(f"{self.host}:{file.source}" for file in unproven)
        proven = tuple(disk for disk in disks if f"{self.host}:{disk.source_path}" not in kept)
        removed = self.closing(proven).remove_source_disks()
        return removed + Residue(kept=kept, warnings=tuple(not_compared(file) for file in unproven))

    def _undone(self, verdict: Verdict, standing: Standing) -> MudanzaError:
        """Clean up the places that disks did not get to, and the old ones of those that did."""
        self.claim.confirm()
        self.handle.enter("cleaning up")
        arrived = tuple(disk for disk in self.record.move.disks if standing[disk.target].used is At.NEW)
        job = self.jobs.get(self.handle.id)
        theirs = {disk.path for disk in arrived}
        others = tuple(step for step in job.steps if step.name != "create volume" or step.intent["path"] not in theirs)
        residue = self.closing(self.record.move.disks).undo_at_target(replace(job, steps=others))
        old = self._remove_old(arrived) if arrived else Residue()
        down = self.after_undo()
        claimed = self.claim.release()
        seen = self.sighting()
        why, kind = self.why or verdict.why, VmDownError if down else MigrationFailedError
        shown = f"what was done: mudanza job show {self.handle.id}"
        what = "not all disks of" if arrived else "the disks of"
        told = kind(
            f"{what} VM {self.name!r} were {'' if arrived else 'not '}moved within {self.host}: {why}",
            vm_state=f"it is {seen.state} on {self.host}; {verdict.why}"
            + _left(residue + old, "; ".join(filter(None, (down, *claimed))), self.handle.id),
            remedy=f"{self.remedy}; {shown}" if self.remedy else shown,
        )
        self.handle.finish("down" if down else "failed", why, kind.exit_code, {"left": list(residue.kept)}, told)
        return told

    def person(self, why: str) -> NeedsPersonError:
        """Return the error that leaves it to a person."""
        return NeedsPersonError(
            f"VM {self.name!r}: {why}",
            vm_state=f"a copy that has begun goes on in QEMU; what was done: mudanza job show {self.handle.id}",
            remedy=f"look at {self.host} (virsh dumpxml {self.uuid}, virsh blockjob), "
            f"then: mudanza job resume {self.handle.id}",
        )


def _left(residue: Residue, down: str, job: int) -> str:
    words = f" ({down})" if down else ""
    if residue.removed:
        words += f"; removed: {', '.join(residue.removed)}"
    if residue.kept:
        words += f"; left over: {', '.join(residue.kept)} (try again: mudanza job resume {job})"
    return words
