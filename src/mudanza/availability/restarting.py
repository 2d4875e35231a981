"""A VM whose host is proven dead is started on another one, upon storage that both hosts see.

Nothing but the proof makes this safe, so it is looked for anew before each step that cannot be taken back; a host that
answers after all ends it. The definition comes from the journal, for the host that had it is gone. What the plan of
another controller may do at the same time is seen by *define, look everywhere, start*: of two that try at once at least
one sees the other's definition, takes its own away, and starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.claims import without_claim
from mudanza.journal.fences import Fences
from mudanza.journal.job import Job
from mudanza.journal.jobs import JobHandle, Jobs
from mudanza.journal.protections import Protections
from mudanza.journal.remembered import Definitions
from mudanza.journal.secrets import HIDDEN
from mudanza.migration.claim import keeping, left_open
from mudanza.migration.residue import Residue
from mudanza.migration.secrets import with_secrets_of
from mudanza.model.errors import (
    BlockedError,
    DiskLockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
    UsageError,
)
from mudanza.model.fencing import Fencing
from mudanza.model.migration import MigrationReport, Side, Sighting
from mudanza.model.protection import Standing
from mudanza.model.units import format_duration
from mudanza.model.vm import VmState

LOST_LIMIT = 3.0
"""Seconds that a host which is proven off has to show that it lives after all."""
LOCK_WAIT = 180.0
"""Seconds for which it is waited that the lock of a disk is given up: by then an NFS server has forgotten a client that
is gone (90 s), and sanlock a host that does not renew its lease (140 s)."""
LOCK_AGAIN = 10.0
"""Seconds between two tries to get it."""
_ELSEWHERE = {Side.PRESENT: "has it", Side.UNSEEN: "could not be asked, and is not proven off"}


@dataclass(frozen=True, slots=True)
class Stores:
    """What the database knows that a restart goes by."""

    jobs: Jobs
    fences: Fences
    definitions: Definitions
    protections: Protections


class Restart:
    """Starts VMs of lost hosts elsewhere."""

    def __init__(
        self,
        connections: Connections,
        stores: Stores,
        say: Callable[[str], None] = lambda _: None,
        *,
        lock_wait: float = LOCK_WAIT,
    ) -> None:
        """``lock_wait``: see LOCK_WAIT."""
        self._connections = connections
        self._stores = stores
        self._say = say
        self._lock_wait = lock_wait

    def carry_out(self, job: Job, handle: JobHandle) -> MigrationReport:
        """Start a job's VM at its target. Raises BlockedError where nothing was touched, MigrationFailedError where it
        was taken back, NeedsPersonError where the target does not say whether it runs."""
        begun = clock.monotonic()
        with acting_only_if(handle.assert_may_act), keeping(handle):
            self._refuse_replicated(job)
            proof = self._proof(job)
            definition = self._definition(job)
            self._refuse_elsewhere(job)
            if self._seen(job).side is Side.PRESENT:
                raise BlockedError(
                    f"{job.target} has a VM {job.vm_name!r} of that UUID already",
                    remedy="look whose it is: mudanza show",
                )
            told = {"fencing": proof.id, "by": proof.asked_by, "said": proof.said}
            handle.note("prove", {"host": job.source}, told)
            domains = self._connections.domains(job.target)
            self._attempt(job, handle, "define", lambda: domains.define(definition))
            return self._started(job, handle, begun)

    def resume(self, job_id: int, _stop: clock.Event) -> MigrationReport:
        """Finish a restart that its controller left behind: where it is defined and does not run, it is started if all
        still holds. Raises what ``carry_out`` raises."""
        begun, job = clock.monotonic(), self._stores.jobs.get(job_id)
        handle = self._stores.jobs.take_over(job_id)
        with acting_only_if(handle.assert_may_act), keeping(handle):
            seen = self._seen(job)
            if seen.side is Side.UNSEEN:
                raise left_open(handle, _undecided(job, seen.reason))
            if job.source == job.target:
                return self._settle_in_place(job, handle, seen, begun)
            if seen.side is Side.ABSENT or not job.steps_named("define"):
                self._give_up(job, handle, "its controller died before it was defined")
            return self._started(job, handle, begun)

    def _settle_in_place(self, job: Job, handle: JobHandle, seen: Sighting, begun: float) -> MigrationReport:
        """Close the job of one that was to be started again where it was: whoever watches the hosts begins anew."""
        if not seen.state.active or seen.state is VmState.PAUSED:  # one that hangs is reset, and goes on then
            self._give_up(job, handle, "its controller died before it was started")
        return self._done(job, handle, begun, f"runs on {job.target}, started anew there")

    def clean_up(self, _job_id: int) -> Residue:
        """Such a job leaves nothing but the VM."""
        return Residue()

    def _started(self, job: Job, handle: JobHandle, begun: float) -> MigrationReport:
        """Start what is defined at the target, if nobody has it elsewhere and the proof holds."""
        until = clock.monotonic() + self._lock_wait
        while not self._seen(job).state.active:
            try:
                self._proof(job)
                self._refuse_elsewhere(job)
            except BlockedError as error:
                self._take_back(job, handle)
                self._give_up(job, handle, str(error))
            domains = self._connections.domains(job.target)
            try:
                self._attempt(job, handle, "start", partial(domains.start, job.vm_uuid))
                break
            except DiskLockedError as error:
                self._await_lock(job, handle, until, error)
        return self._done(job, handle, begun, f"runs on {job.target}, started anew; {job.source} is proven off")

    def _await_lock(self, job: Job, handle: JobHandle, until: float, error: DiskLockedError) -> None:
        """Wait until the lock of a disk may have been given up: that of a host which is proven off lasts until the
        storage forgets it. Raises NeedsPersonError once that has taken too long: somebody runs the VM, or has its disk.

        The job is left open then, with the VM defined and off. So nobody tries another host, which may have no lock
        manager and would start it; whoever has looked goes on here.
        """
        if clock.monotonic() + LOCK_AGAIN > until:
            told = (
                f"VM {job.vm_name!r} was not started at {job.target}: after {format_duration(self._lock_wait)} "
                "somebody still holds the lock of a disk, so it may run somewhere, though "
                f"{job.source} is proven off: {error}"
            )
            raise left_open(handle, NeedsPersonError(told, remedy=error.remedy)) from error
        self._say(f"{job.vm_name} waits at {job.target}: somebody holds the lock of a disk: {error.reason}")
        clock.sleep(LOCK_AGAIN)

    def _done(self, job: Job, handle: JobHandle, begun: float, told: str) -> MigrationReport:
        handle.finish("done", told, 0)
        self._say(f"{job.vm_name} {told}")
        return MigrationReport(
            job.vm_name, job.vm_uuid, job.source, job.target, job.kind, clock.monotonic() - begun, None, 0, 0, 0.0, 0,
            tls=False, transport=told,
        )  # fmt: skip

    def _attempt(self, job: Job, handle: JobHandle, name: str, act: Callable[[], object]) -> None:
        """Do one step; where it fails, take the VM back unless it runs or may. Raises DiskLockedError, nothing being
        taken back, where the lock of a disk is held."""
        try:
            handle.perform(name, {"host": job.target}, act)
        except DiskLockedError:
            raise  # it is off, and whoever calls waits
        except (HypervisorError, HostUnreachableError) as error:
            seen = self._seen(job)
            if seen.side is Side.UNSEEN:
                raise left_open(handle, _undecided(job, str(error))) from error
            if seen.side is Side.PRESENT and seen.state.active:
                return
            self._take_back(job, handle)
            self._give_up(job, handle, str(error), error)

    def _take_back(self, job: Job, handle: JobHandle) -> None:
        seen = self._seen(job)
        if seen.side is Side.PRESENT and not seen.state.active:
            domains = self._connections.domains(job.target)
            with suppress(HypervisorError, HostUnreachableError):
                handle.perform("take back", {"host": job.target}, lambda: domains.undefine(job.vm_uuid))

    def _give_up(self, job: Job, handle: JobHandle, why: str, cause: MudanzaError | None = None) -> NoReturn:
        told = f"VM {job.vm_name!r} was not started at {job.target}: {why}"
        handle.finish("failed", told, MigrationFailedError.exit_code)
        raise MigrationFailedError(
            told, vm_state="it is down; its disks were not touched", remedy="mend that, and make the plan anew"
        ) from cause

    def _proof(self, job: Job) -> Fencing:
        """Return what proves that the VM's host is dead. Raises BlockedError where nothing does."""
        if self._lives(job.source):
            self._stores.fences.seen_alive([job.source])
        proof = self._stores.fences.proof_of(job.source)
        if proof is None:
            raise unproven(job.source)
        return proof

    def _lives(self, host: str) -> bool:
        try:
            self._connections.get(host, timeout=LOST_LIMIT)
        except (HostUnreachableError, UsageError):  # one that was removed meanwhile answers nobody
            return False
        return True

    def _definition(self, job: Job) -> str:
        found = self._stores.definitions.of([job.vm_uuid]).get(job.vm_uuid)
        if found is None:
            raise BlockedError(
                f"nobody remembers the definition of VM {job.vm_name!r}", remedy="define it by hand, and start it"
            )
        return startable(found.definition, job.vm_name)

    def _refuse_replicated(self, job: Job) -> None:
        for each in self._stores.protections.all():
            if each.vm_uuid == job.vm_uuid and each.standing is Standing.ON:
                raise BlockedError(
                    f"VM {job.vm_name!r} has a replica at {each.target}: it is not started anew",
                    remedy=f"mudanza failover {job.vm_name} --source-is-dead",
                )

    def _refuse_elsewhere(self, job: Job) -> None:
        """Raise BlockedError where a third host has the VM, or may have it."""
        proven = self._stores.fences.proofs()
        others = [entry.name for entry in self._connections.entries if entry.name not in (job.source, job.target)]
        sides = {host: self._side(host, job.vm_uuid) for host in others}
        doubts = [
            f"{host} {_ELSEWHERE[side]}"
            for host, side in sides.items()
            if side is Side.PRESENT or (side is Side.UNSEEN and host not in proven)
        ]
        if doubts:
            raise BlockedError(
                f"VM {job.vm_name!r} was not started on {job.target}: {', '.join(doubts)}",
                remedy="look where it is: mudanza vms; of a host that is off: mudanza fence off HOST, or fence confirm",
            )

    def _seen(self, job: Job) -> Sighting:
        try:
            return self._connections.domains(job.target).sighting(job.vm_uuid)
        except HostUnreachableError as error:
            return Sighting(Side.UNSEEN, reason=str(error))

    def _side(self, host: str, uuid: str) -> Side:
        try:
            return self._connections.domains(host).sighting(uuid).side
        except HostUnreachableError:
            return Side.UNSEEN


def startable(definition: str, name: str) -> str:
    """Return a definition as it can be started: no claim is on it, and displays have passwords that nobody knows, for
    the journal keeps none. Raises BlockedError where another secret is missing."""
    text = with_secrets_of(without_claim(definition), "<domain/>")
    if HIDDEN in text:
        raise BlockedError(
            f"the definition of VM {name!r} has a password that the journal does not keep",
            remedy="define it by hand, with its password, and start it",
        )
    return text


def unproven(host: str) -> BlockedError:
    """Return what is told where nobody has shown that a host is off."""
    return BlockedError(
        f"nobody has shown that {host} is off: its VMs may be running there; nothing was touched",
        remedy=f"have its devices switch it off and prove it: mudanza fence off {host}; "
        f"or, if you have seen yourself that it is: mudanza fence confirm {host}",
    )


def _undecided(job: Job, why: str) -> NeedsPersonError:
    return NeedsPersonError(f"whether VM {job.vm_name!r} was started at {job.target} is not known: {why}")
