"""Whose turn it is to bring a file that several VMs use, such as a base image: the older job's; the others wait."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from mudanza import clock
from mudanza.journal.jobs import Job, Jobs
from mudanza.migration.wanted import CancelledError
from mudanza.model.units import format_duration
from mudanza.preflight.cargo import CargoFile

LOOK_EVERY = 1.0
"""Seconds between two looks into the journal."""


def await_turn(
    jobs: Jobs,
    job_id: int,
    files: Iterable[CargoFile],
    keep_claim: Callable[[], None],
    tell: Callable[[str], None],
    *,
    begun: float,
    deadline: float | None,
) -> None:
    """Wait until no older job is bringing one of these files to the same target, where it may be used then.

    To that job's end, for one that fails after all takes away what it brought; and as long as its controller lives,
    which is as long as its lease says. Nobody waits for a younger job, so that no two wait for each other.
    ``keep_claim`` is called at every look, and raises when the job is to be cancelled. ``deadline``: seconds within
    which the job is to be done, from ``begun`` on, by the monotonic clock. Raises CancelledError when it has passed.
    """
    shared = frozenset(file.path for file in files if file.for_others_too)
    if not shared:
        return
    target = jobs.get(job_id).target
    while (other := brought_by(job_id, target, shared, jobs.unfinished())) is not None:
        what = f"job {other.id} ({other.vm_name}), which brings what this one needs too"
        tell(f"waiting for {what}")
        keep_claim()
        if deadline is not None and clock.monotonic() - begun > deadline:
            raise CancelledError(f"not done within the deadline of {format_duration(deadline)}: it waited for {what}")
        clock.sleep(LOOK_EVERY)


def brought_by(job_id: int, target: str, paths: Collection[str], unfinished: Iterable[Job]) -> Job | None:
    """Return the older job that is, or may be, bringing one of these files to that host; None if there is none."""
    for job in unfinished:
        if job.id >= job_id or job.target != target or job.abandoned:
            continue
        decided = job.steps_named("decide")
        if not decided:  # it is about to write down what it will bring
            return job
        files = (*decided[-1].intent.get("files", ()), *decided[-1].intent.get("ahead", ()))
        if any(file["for_others_too"] and file["path"] in paths for file in files):
            return job
    return None
