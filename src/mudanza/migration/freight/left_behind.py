"""Carriers that go on though nobody waits for them any more."""

from __future__ import annotations

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.own.carrier import end_carrier
from mudanza.journal.jobs import LONG_LOOK, Job, JobHandle


def end_carriers(connections: Connections, handle: JobHandle, job: Job) -> None:
    """End what still carries for a job though nobody waits for it: it would go on writing into the job's places.

    Raises HypervisorError, HostUnreachableError.
    """
    for step in job.steps_named("carry"):
        outcome = step.outcome or {}
        if step.outcome is None or "left" in outcome:
            handle.renew(LONG_LOOK)
            for host in (job.source, job.target):  # in this order: what is gone here cannot get there any more
                end_carrier(connections.get(host), str(step.intent["carrier"]))
            through = {"carried": outcome["carried"]} if "carried" in outcome else None
            handle.done(step.n, through or {"error": "it was left behind, and ended by who went on with the job"})
