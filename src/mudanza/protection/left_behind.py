"""Rounds that were left behind by their controller."""

from __future__ import annotations

from contextlib import suppress
from typing import NoReturn

from mudanza.hypervisor.connection import acting_only_if
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.domains import Domains
from mudanza.journal.jobs import Job, JobHandle, Jobs
from mudanza.migration.claim import keeping, left_open
from mudanza.migration.vm_claim import VmClaim
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    NeedsPersonError,
)
from mudanza.model.migration import Side
from mudanza.model.vm import VmState
from mudanza.protection.freezing import thaw_if_left
from mudanza.protection.together import go_on_if_left

KIND = "protect"
"""What jobs that make rounds are called in the journal."""


def finish_left(connections: Connections, jobs: Jobs, vm_uuid: str) -> bool:
    """Have a round of a VM end that its controller has left behind; return whether there was one. One that held the
    QEMU of a VM that was off, in which the guest has not run, ends that. Raises BlockedError while that controller may
    live; NeedsPersonError as ``break_off``."""
    job = jobs.unfinished_of(vm_uuid)
    if job is None or job.kind != KIND:
        return False
    if not job.abandoned:
        raise BlockedError(
            f"VM {job.vm_name!r} has an unfinished job: number {job.id}, a round of its replica", remedy=job.way_out
        )
    with suppress(MigrationFailedError):  # which is how a round ends that broke off
        break_off(connections, jobs, job.id)
    return True


def break_off(connections: Connections, jobs: Jobs, job_id: int) -> NoReturn:
    """End a round that its controller left behind.

    Raises MigrationFailedError once that is done; NeedsPersonError where the claim is lost.
    """
    job = jobs.get(job_id)
    handle = jobs.take_over(job_id)
    with acting_only_if(handle.assert_may_act), keeping(handle):
        claim = VmClaim(connections, jobs, handle, {})
        try:
            claim.look_after()
            domains = connections.domains(job.source)
            backups = connections.backups(job.source)
            handle.perform("end backup", {"host": job.source}, lambda: backups.end(job.vm_uuid))
            _let_go(handle, domains, job)
            go_on_if_left(handle, domains, job)
            thaw_if_left(handle, domains, job)
        except NeedsPersonError as error:
            raise left_open(handle, error) from None
        except (HypervisorError, HostUnreachableError) as error:
            told = f"the round was broken off with its controller; its backup could not be ended: {error}"
        else:
            told = "the round was broken off with its controller"
        claim.release()
        handle.finish("failed", told, MigrationFailedError.exit_code)
    raise MigrationFailedError(
        f"VM {job.vm_name!r}: {told}",
        vm_state="its restore points are whole"
        + ("; it was off when that began, and was not started" if job.asked.get("held") else ""),
        remedy=f"make another round: mudanza protection sync {job.vm_name}",
    )


def _let_go(handle: JobHandle, domains: Domains, job: Job) -> None:
    """End the QEMU of a VM that was off, unless somebody has its guest run by now."""
    seen = domains.sighting(job.vm_uuid)
    if job.asked.get("held") and seen.side is Side.PRESENT and seen.state is VmState.PAUSED:
        handle.perform("let go", {"host": job.source}, lambda: domains.destroy(job.vm_uuid))
