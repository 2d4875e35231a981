"""Protecting a VM the other way after a failover: its old host is back, and a replica begins with its old disks.

Nothing is started there. The old copy's definition goes, so that nobody starts it, and is kept in the journal; its
disks stay as they are, for the replica's images stand upon them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.activation import epoch_of
from mudanza.journal.jobs import JobHandle, Jobs, NewJob
from mudanza.journal.protections import Protections
from mudanza.migration.claim import keeping, left_open
from mudanza.migration.residue import Residue
from mudanza.model.cluster import Cluster
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    NeedsPersonError,
)
from mudanza.model.migration import MigrationReport, Side
from mudanza.model.protection import Protection, Standing
from mudanza.model.vm import Vm
from mudanza.protection.drives import as_what_it_is
from mudanza.protection.serving import protected_disks

KIND = "reprotect"
"""What such jobs are called in the journal."""


@dataclass(frozen=True, slots=True)
class Copies:
    """Where a VM runs after a failover, and its old copy."""

    running: Vm
    stale: Vm | None
    """None: no host that answers has one."""


TURNED = (Standing.FAILED_OVER, Standing.LEFT)
"""What becomes of a replica that a VM has come up from: it can be turned about."""


def to_be_turned(replicas: Sequence[Protection], to: str | None) -> Protection:
    """Return the protection of a VM that is to be turned about: one whose replica was at the very host that it is to
    be at again, else that at whose host the VM is; without any such, one that is refused: pure."""
    again = [each for each in replicas if each.target == to and each.standing in TURNED]
    at = [each for each in replicas if each.standing is Standing.FAILED_OVER]
    before = [each for each in replicas if each.standing is Standing.LEFT]
    return [*again, *at, *before, *replicas][0]


def copies_of(protection: Protection, cluster: Cluster, to: str | None = None) -> Copies:
    """Return which copy of a VM runs, and which one is stale, by their epochs: pure. ``to``: the host whose old copy is
    meant, where there are several.

    Raises BlockedError where that is not clear.
    """
    name = protection.vm_name
    if protection.standing not in TURNED:
        raise BlockedError(
            f"VM {name!r} is protected, to {protection.target}: there is nothing to turn about",
            remedy=f"home again: mudanza failback {name}" if protection.epoch else "see it: mudanza protections",
        )
    if protection.trial is not None:
        raise BlockedError(
            f"{protection.trial.name} stands on the images that VM {name!r} was brought up from",
            remedy=f"end that first: mudanza test-failover end {name}",
        )
    found = [vm for vm in cluster.vms if vm.uuid == protection.vm_uuid]
    running = [vm for vm in found if vm.state.active]
    if len(running) != 1:
        where = ", ".join(f"{vm.host} ({vm.state})" for vm in found) or "no host that answers"
        raise BlockedError(f"VM {name!r} is to run on one host, and is at: {where}", remedy="look: mudanza vms")
    old = [vm for vm in found if vm is not running[0]]
    meant = [vm for vm in old if to in (None, vm.host)]
    if len(meant) > 1:
        raise BlockedError(
            f"VM {name!r} has old copies on {' and '.join(vm.host for vm in old)}",
            remedy="say which one its replica is to begin with: --to HOST",
        )
    mine = epoch_of(running[0].xml)
    if mine != protection.epoch or any(epoch_of(vm.inactive_xml or vm.xml) >= mine for vm in old):
        epochs = ", ".join(f"{vm.host}: {epoch_of(vm.inactive_xml or vm.xml)}" for vm in found)
        raise BlockedError(
            f"VM {name!r} came up last under epoch {protection.epoch}, and its copies say: {epochs}",
            remedy="a person must look which of them is the VM; nothing was touched",
        )
    return Copies(running[0], meant[0] if meant else None)


def seed_of(copies: Copies, target: str) -> Mapping[str, str]:
    """Return the old copy's disks that the replica at the target can begin with: disk → image: pure."""
    if copies.stale is None or copies.stale.host != target:
        return {}
    sizes = {disk.target: disk.capacity for disk in copies.running.disks}
    return {
        disk.target: disk.source
        for disk in map(as_what_it_is, copies.stale.disks)
        if disk.source is not None
        and (disk.kind, disk.format, disk.device) == ("file", "qcow2", "disk")
        and disk.capacity is not None
        and sizes.get(disk.target) == disk.capacity
    }


class Turning:
    """Turns protections about."""

    def __init__(self, connections: Connections, jobs: Jobs, protections: Protections) -> None:
        self._connections = connections
        self._jobs = jobs
        self._protections = protections

    def turn(self, protection: Protection, copies: Copies, target: str, directory: str, asked_by: str) -> Protection:
        """Have a VM be protected at ``target`` from now on, no round being made yet; return its protection.

        Raises BlockedError, nothing being touched; MigrationFailedError where the old copy's definition stands in the
        way still.
        """
        running = copies.running
        if running.host == target:
            raise BlockedError(f"VM {running.name!r} runs on {target}: a replica there would be lost with it")
        protected_disks(running)
        asked = {
            "protection": protection.id,
            "directory": directory,
            "seed": dict(seed_of(copies, target)),
            "retire": copies.stale is not None and copies.stale.host == target,
        }
        handle = self._jobs.begin(
            NewJob(KIND, protection.vm_uuid, protection.vm_name, running.host, target, asked, asked_by)
        )
        with acting_only_if(handle.assert_may_act), keeping(handle):
            try:
                return self._turn(handle, protection)
            except (HypervisorError, HostUnreachableError) as error:
                told = f"VM {protection.vm_name!r} is not protected the other way: {error}"
                handle.finish("failed", told, MigrationFailedError.exit_code)
                state = f"it runs on {running.host} as before"
                raise MigrationFailedError(told, vm_state=state, remedy="mend that, and try again") from error

    def _turn(self, handle: JobHandle, protection: Protection) -> Protection:
        job = self._jobs.get(handle.id)
        if job.asked["retire"]:
            self._retire(handle, job.target, job.vm_uuid)
        self._protections.turn(protection.id, job.target, job.asked["directory"], job.asked["seed"])
        handle.finish("done", f"its replica is to be at {job.target} from now on", 0)
        return self._protections.get(protection.id)

    def _retire(self, handle: JobHandle, host: str, uuid: str) -> None:
        """Take the old copy's definition away, if it is there still and off."""
        domains = self._connections.domains(host)
        seen = domains.sighting(uuid)
        if seen.side is Side.UNSEEN:
            raise HostUnreachableError(host, seen.reason)
        if seen.side is Side.ABSENT:
            return
        if seen.state.active:
            raise HypervisorError(host, f"the old copy is {seen.state} there by now")
        definition = domains.describe(uuid, inactive=True, secure=False)
        undefine = lambda: domains.undefine(uuid, with_snapshots=True)  # noqa: E731
        handle.perform("retire copy", {"host": host, "definition": definition}, undefine)

    def resume(self, job_id: int, _stop: clock.Event) -> MigrationReport:
        """Finish what a controller left behind. Raises NeedsPersonError where the old copy's host does not say."""
        begun, job = clock.monotonic(), self._jobs.get(job_id)
        handle = self._jobs.take_over(job_id)
        with acting_only_if(handle.assert_may_act), keeping(handle):
            try:
                self._turn(handle, self._protections.get(int(job.asked["protection"])))
            except (HypervisorError, HostUnreachableError) as error:
                told = f"VM {job.vm_name!r} is not protected the other way: {error}"
                raise left_open(handle, NeedsPersonError(told)) from error
        return MigrationReport(
            job.vm_name, job.vm_uuid, job.source, job.target, KIND, clock.monotonic() - begun, None, 0, 0, 0.0, 0,
            tls=False, transport=f"its replica is to be at {job.target}",
        )  # fmt: skip

    def clean_up(self, _job_id: int) -> Residue:
        """Such a job leaves nothing."""
        return Residue()
