"""Giving a VM another CPU at its next start, or the one back that it had: one journalled step.

Only the persistent definition is changed; what runs is not touched. The old CPU is kept in the definition's own
metadata by the very same call, so there is no instant at which it is lost, and any controller can put it back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.claims import same_definition
from mudanza.hypervisor.xml.cpus import same_cpu, with_cpu, with_former_cpu
from mudanza.journal.jobs import Job, JobHandle, Jobs, NewJob
from mudanza.migration.claim import left_open
from mudanza.migration.residue import Residue
from mudanza.migration.sighting import UNSEEN_PATIENCE
from mudanza.migration.vm_claim import VmClaim
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
)
from mudanza.model.migration import MigrationReport
from mudanza.model.vm import Vm

KIND = "cpu"
"""What such jobs are called in the journal."""
DEFINE = "define"
SET, UNDO = "set", "undo"
LOOK_AGAIN = 1.0
"""Seconds between two questions to a host that does not answer."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of a definition."""

    what: str
    model: str
    cpu: str
    """The new ``<cpu>``; empty: the one it had before."""

    def of(self, definition: str, host: str) -> str | None:
        """Return what is wanted; None: it is so already. Raises HypervisorError."""
        if self.what == UNDO:
            return with_former_cpu(definition, host)
        return None if same_cpu(definition, self.cpu, host) else with_cpu(definition, self.cpu, host)


class CpuChange:
    """Changes CPUs in definitions."""

    def __init__(self, connections: Connections, jobs: Jobs) -> None:
        self._connections = connections
        self._jobs = jobs

    def set(self, vm: Vm, cpu: str, model: str, asked_by: str) -> str:
        """Have a VM start with that CPU (its XML) from its next start on; return what was done, in a sentence.

        Raises BlockedError where it has an unfinished job, is claimed or has no definition; MigrationFailedError where
        its host refused: its definition is as before.
        """
        return self._do(vm, Change(SET, model, cpu), asked_by)

    def undo(self, vm: Vm, asked_by: str) -> str:
        """Have a VM start with the CPU again that it had before the first ``set``. Raises what ``set`` raises."""
        return self._do(vm, Change(UNDO, "", ""), asked_by)

    def _do(self, vm: Vm, change: Change, asked_by: str) -> str:
        if not vm.persistent:
            raise BlockedError(
                f"VM {vm.name!r} has no definition whose CPU could be changed: it is transient",
                remedy=f"define it first: virsh dumpxml {vm.uuid}, virsh define",
            )
        asked = {"what": change.what, "model": change.model}
        handle = self._jobs.begin(NewJob(KIND, vm.uuid, vm.name, vm.host, vm.host, asked, asked_by))
        with acting_only_if(handle.assert_may_act):
            claim = VmClaim(self._connections, self._jobs, handle, asdict(change))
            try:
                claim.take()
                sentence = self._define(handle, vm, change)
            except (HypervisorError, HostUnreachableError, MigrationFailedError) as error:
                if not self._is_done_all_the_same(handle, vm.name, error):
                    raise self._failed(handle, claim, vm.name, error) from error
                sentence = _done(vm, change)
            return self._ended(handle, claim, sentence)

    def _define(self, handle: JobHandle, vm: Vm, change: Change) -> str:
        domains = self._connections.domains(vm.host)
        before = domains.describe(vm.uuid, inactive=True)
        wanted = change.of(before, vm.host)
        if wanted is None:
            return _nothing(vm.name, change)
        intent = {"host": vm.host, **asdict(change)}
        handle.perform(DEFINE, intent, lambda: domains.define(wanted))
        if same_definition(domains.describe(vm.uuid, inactive=True), before):
            raise HypervisorError(vm.host, "its libvirt took the definition and kept the old one")
        return _done(vm, change)

    def _ended(self, handle: JobHandle, claim: VmClaim, sentence: str) -> str:
        warnings = claim.release()
        handle.finish("done", sentence, 0, {"warnings": list(warnings)})
        return "; ".join((sentence, *warnings))

    def _is_done_all_the_same(self, handle: JobHandle, name: str, error: MudanzaError) -> bool:
        """Ask the definition after an error, for the answer may have been all that was lost. Raises NeedsPersonError
        where its host does not say within UNSEEN_PATIENCE seconds."""
        until = clock.monotonic() + UNSEEN_PATIENCE
        while True:
            try:
                return self._is_done(self._jobs.get(handle.id))
            except (HypervisorError, HostUnreachableError) as why:
                if clock.monotonic() >= until:
                    unclear = f"whether the CPU of VM {name!r} was changed was not found out: {error}"
                    raise left_open(handle, NeedsPersonError(unclear)) from why
            clock.sleep(LOOK_AGAIN)

    def _failed(self, handle: JobHandle, claim: VmClaim, name: str, error: MudanzaError) -> MigrationFailedError:
        claim.release()
        told = f"the CPU of VM {name!r} was not changed: {error}"
        handle.finish("failed", told, MigrationFailedError.exit_code)
        return MigrationFailedError(
            told, vm_state="what runs was not touched", remedy=error.remedy or "look at its host, and try again"
        )

    def resume(self, job_id: int, _stop: clock.Event) -> MigrationReport:
        """Finish a job that its controller left behind: see what the definition says, and take the claim off.

        Changed or not, the definition is whole, so nothing is done or undone. Raises MigrationFailedError where it was
        not changed; NeedsPersonError where its host does not say, or the claim is lost.
        """
        job, begun = self._jobs.get(job_id), clock.monotonic()
        handle = self._jobs.take_over(job_id)
        with acting_only_if(handle.assert_may_act):
            claim = VmClaim(self._connections, self._jobs, handle, {})
            try:
                claim.look_after()
                done, warnings = self._is_done(job), claim.release()
            except NeedsPersonError as error:
                raise left_open(handle, error) from None
            except (HypervisorError, HostUnreachableError) as error:
                person = NeedsPersonError(f"what became of the CPU of VM {job.vm_name!r} was not found out: {error}")
                raise left_open(handle, person) from error
        if not done:
            told = f"the CPU of VM {job.vm_name!r} was not changed: its controller died before"
            handle.finish("failed", told, MigrationFailedError.exit_code)
            raise MigrationFailedError(
                told, vm_state="nothing was touched", remedy="ask for it again: mudanza cluster cpu"
            )
        told = f"the CPU of VM {job.vm_name!r} was changed in its definition on {job.source} before its controller died"
        handle.finish("done", told, 0, {"warnings": list(warnings)})
        return MigrationReport(
            job.vm_name, job.vm_uuid, job.source, job.target, KIND, clock.monotonic() - begun, None, 0, 0, 0.0, 0,
            tls=False, transport=told, warnings=warnings,
        )  # fmt: skip

    def _is_done(self, job: Job) -> bool:
        """Ask the VM's definition, whatever was written of how the step went."""
        steps = job.steps_named(DEFINE)
        if not steps:
            return False
        definition = self._connections.domains(job.source).describe(job.vm_uuid, inactive=True)
        if steps[-1].intent["what"] == UNDO:
            return with_former_cpu(definition, job.source) is None
        return same_cpu(definition, str(steps[-1].intent["cpu"]), job.source)

    def clean_up(self, _job_id: int) -> Residue:
        """Such a job leaves nothing."""
        return Residue()


def _done(vm: Vm, change: Change) -> str:
    if vm.has_managed_save:
        when = "once it has been started and shut down again: its saved memory comes back with the old one"
    elif vm.state.active:
        when = "from its next start on; until it has been shut down it runs with the old one"
    else:
        when = "when it is started"
    return f"{vm.name} has {f'the CPU {change.model}' if change.cpu else 'the CPU it had before'} {when}"


def _nothing(name: str, change: Change) -> str:
    if change.what == UNDO:
        return f"{name} keeps no CPU from before: nothing to undo"
    return f"{name} has the CPU {change.model} in its definition already: nothing to do"
