"""VMs that are kept up and have stopped by themselves are brought back where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudanza.availability.mending import Act, Mend
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.reading.pulse import agent_answers
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.job import NewJob
from mudanza.journal.outbox import Outbox
from mudanza.journal.protocol import RESTART
from mudanza.migration.claim import keeping, left_open
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
    NeedsPersonError,
)
from mudanza.model.notice import Kind
from mudanza.model.pulse import Voice
from mudanza.model.vm import VmState
from mudanza.operations.power import refuse_elsewhere

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.jobs import JobHandle
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say


def _start(connections: Connections, handle: JobHandle, vm: Vm) -> None:
    """Start it; whether it runs then says its host. Raises what kept it from that, or NeedsPersonError."""
    domains = connections.domains(vm.host)
    try:
        domains.start(vm.uuid)
    except (HypervisorError, HostUnreachableError) as error:
        try:
            runs = domains.sighting(vm.uuid).state.active
        except HostUnreachableError:
            said = f"whether VM {vm.name!r} was started again on {vm.host} is not known: {error}"
            raise left_open(handle, NeedsPersonError(said)) from error
        if not runs:
            raise


def _reset(connections: Connections, handle: JobHandle, wanted: Mend) -> None:
    """Have a guest that hangs start anew, if it still does. Raises BlockedError where it does not, and what keeps it
    from that."""
    vm = wanted.vm
    domains = connections.domains(vm.host)
    seen = domains.sighting(vm.uuid)
    if not seen.state.active or seen.state is not vm.state:
        raise BlockedError(f"it is {seen.state} by now")
    if vm.state is not VmState.PAUSED:
        voice = agent_answers(connections.get(vm.host), vm.uuid)
        if voice is Voice.ANSWERS or (voice is not Voice.SILENT and not wanted.by_watchdog):
            raise BlockedError("its agent is not silent any more")
    handle.perform("reset", {"host": vm.host}, lambda: domains.reset(vm.uuid))
    if vm.state is VmState.PAUSED:
        handle.perform("go on", {"host": vm.host}, lambda: domains.resume(vm.uuid))


def mend(means: Means, connections: Connections, wanted: Mend, asked_by: str, say: Say) -> None:
    """Do what is to be done about one VM. A start or a reset is a job of its own, and counts as one.

    Raises BlockedError where it may run elsewhere or somebody else works on it, nothing being touched;
    MigrationFailedError where it could not be started; NeedsPersonError where nobody knows whether it was.
    """
    vm = wanted.vm
    if wanted.act is Act.GO_ON:
        connections.domains(vm.host).resume(vm.uuid)
        say(f"{vm.name} on {vm.host} is to go on: {wanted.why}")
        return
    asked = {"from": vm.host, "to": vm.host, "why": wanted.why}
    handle = means.jobs.begin(NewJob(RESTART, vm.uuid, vm.name, vm.host, vm.host, asked, asked_by))
    try:
        with acting_only_if(handle.assert_may_act), keeping(handle):
            refuse_elsewhere(means, connections, vm)
            if wanted.act is Act.RESET:
                _reset(connections, handle, wanted)
            else:
                handle.perform("start", {"host": vm.host}, lambda: _start(connections, handle, vm))
    except (JournalLostError, LeaseLostError, NeedsPersonError):
        raise
    except MudanzaError as error:
        how, state = ("reset", "as it was") if wanted.act is Act.RESET else ("started again", "off, as it was")
        told = f"VM {vm.name!r} was not {how} on {vm.host}: {error}"
        handle.finish("failed", told, MigrationFailedError.exit_code)
        raise MigrationFailedError(told, vm_state=f"it is {state}", remedy=error.remedy) from error
    told = f"runs on {vm.host}, started anew there: {wanted.why}"
    handle.finish("done", told, 0)
    if wanted.act is Act.RESET:
        about = {"vm": vm.name, "uuid": vm.uuid, "host": vm.host}
        Outbox(means.database).write_down(Kind.VM_RESTARTED, vm.name, f"{vm.name} {told}", about)
    say(f"{vm.name} {told}")
