"""Going home while it runs: how a VM's disks get onto what its replica there holds, by what is new of them only.

The VM goes on in new, empty images, each upon what its disk was. The round made *after* that brings the replica to a
later instant: whatever the new images do not hold is the same in the replica, and has been since before. So what they
hold is all that a live move has to bring, upon the replica's images.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from types import MappingProxyType

from mudanza import clock
from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.xml.activation import epoch_of
from mudanza.journal.jobs import Jobs, NewJob
from mudanza.migration.claim import keeping, left_open
from mudanza.migration.residue import Residue
from mudanza.migration.vm_claim import VmClaim
from mudanza.model.cluster import Cluster
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError, NeedsPersonError
from mudanza.model.host import Host
from mudanza.model.migration import Chain, MigrationOptions, MigrationReport, Mode
from mudanza.model.protection import Protection, Standing, own_name
from mudanza.model.vm import Vm, VmState
from mudanza.protection.serving import protected_disks

KIND = "set apart"
"""What such jobs are called in the journal."""

_NOWHERE: Mapping[str, str] = MappingProxyType({})


def apart_images(protection: Protection, vm: Vm) -> Mapping[str, str]:
    """Return the new images that a VM goes on in before it goes home, beside those it has: disk → path; pure.

    Named by the round that was begun last, so that none of them is there yet. Raises BlockedError.
    """
    name = f"mudanza-{own_name(protection)}-{protection.rounds}"
    return {
        disk.target: f"{posixpath.dirname(disk.source or '')}/{name}-{disk.target}.qcow2"
        for disk in protected_disks(vm)
    }


def home_pool(protection: Protection, home: Host) -> str | None:
    """Return the pool of files at a host in whose directory its replica is: pure."""
    found = [
        pool
        for pool in home.pools or ()
        if pool.active and pool.path and protection.directory.startswith(f"{pool.path.rstrip('/')}/")
    ]
    return max(found, key=lambda pool: len(pool.path or "")).name if found else None


def homewards(
    protection: Protection, vm: Vm, pool: str, epoch: int, networks: Mapping[str, str] = _NOWHERE
) -> MigrationOptions:
    """Return how a VM moves home, upon the newest restore point and under an activation epoch: pure. Raises
    BlockedError."""
    disks = protected_disks(vm)
    point = protection.newest
    images = point.disks if point is not None else {}
    return MigrationOptions(
        mode=Mode.LIVE,
        chain=Chain.KEEP,
        map_storage={posixpath.dirname(disk.source or ""): pool for disk in disks},
        map_network=networks,
        keep_source=True,
        upon={target: f"{protection.directory}/{image.file}" for target, image in images.items()},
        epoch=epoch,
    )


def where_it_went(protection: Protection, cluster: Cluster) -> Standing:
    """Return what has become of a VM that was to go home live, no move of it being under way any more: it is protected
    as before, runs at home, or neither is sure (it goes home still): pure."""
    copies = [vm for vm in cluster.vms if vm.uuid == protection.vm_uuid]
    # What it has left even before, at others of its replicas' hosts, has nothing to do with this way.
    found = [vm for vm in copies if epoch_of(vm.xml) >= protection.epoch - 1 or vm.state.active]
    epochs = {vm.host: epoch_of(vm.xml) for vm in found}
    if epochs.get(protection.target) == protection.epoch:
        return Standing.FAILED_OVER
    if len(found) != 1 or protection.target in epochs or epochs[found[0].host] != protection.epoch - 1:
        return Standing.GOING_HOME
    sure = found[0].state is VmState.RUNNING or all(host.seen for host in cluster.hosts)
    return Standing.ON if sure else Standing.GOING_HOME


class SettingApart:
    """Has VMs go on in new images."""

    def __init__(self, connections: Connections, jobs: Jobs) -> None:
        self._connections = connections
        self._jobs = jobs

    def set_apart(self, protection: Protection, vm: Vm, asked_by: str) -> None:
        """Have all disks of a running VM go on in new images from one instant on.

        Raises BlockedError, nothing being touched; MigrationFailedError where it goes on in those it has.
        """
        images = apart_images(protection, vm)
        asked = {"protection": protection.id, "images": dict(images)}
        handle = self._jobs.begin(NewJob(KIND, vm.uuid, vm.name, vm.host, vm.host, asked, asked_by))
        with acting_only_if(handle.assert_may_act), keeping(handle):
            claim = VmClaim(self._connections, self._jobs, handle, {})
            try:
                claim.take()
                snapshots = self._connections.snapshots(vm.host)
                intent = {"host": vm.host, "images": dict(images)}
                handle.perform("set apart", intent, lambda: snapshots.set_apart(vm.uuid, images))
            except (HypervisorError, HostUnreachableError, MigrationFailedError) as error:
                claim.release()
                told = f"VM {vm.name!r} could not go on in new images: {error}"
                handle.finish("failed", told, MigrationFailedError.exit_code)
                state = f"it runs on {vm.host}; by which images: virsh domblklist {vm.uuid}"
                raise MigrationFailedError(told, vm_state=state, remedy=error.remedy or "try again") from error
            warnings = claim.release()
            handle.finish("done", "it goes on in new images", 0, {"warnings": list(warnings)})

    def resume(self, job_id: int, _stop: clock.Event) -> MigrationReport:
        """Let go of a VM whose controller died over this: whichever images it goes on in, all of its disk is there.

        Raises NeedsPersonError where the claim is lost.
        """
        begun, job = clock.monotonic(), self._jobs.get(job_id)
        handle = self._jobs.take_over(job_id)
        with acting_only_if(handle.assert_may_act), keeping(handle):
            claim = VmClaim(self._connections, self._jobs, handle, {})
            try:
                claim.look_after()
            except NeedsPersonError as error:
                raise left_open(handle, error) from None
            claim.release()
            told = "its controller died; it goes on in the images it has"
            handle.finish("done", told, 0)
        return MigrationReport(
            job.vm_name, job.vm_uuid, job.source, job.target, KIND, clock.monotonic() - begun, None, 0, 0, 0.0, 0,
            tls=False, transport=told,
        )  # fmt: skip

    def clean_up(self, _job_id: int) -> Residue:
        """Such a job leaves nothing but the VM's own images."""
        return Residue()
