"""Jobs that are under way, or were left behind: cancelling them, changing their limits, having them gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mudanza.journal.job import CLOSED
from mudanza.model.errors import BlockedError, MigrationFailedError, NeedsPersonError, UsageError
from mudanza.model.policy import PostCopy

if TYPE_CHECKING:
    from mudanza.journal.job import Job
    from mudanza.journal.jobs import JobHandle, Jobs
    from mudanza.operations.means import Means, Say

TUNABLE = ("bandwidth", "max_downtime", "deadline", "post_copy")
"""Fields of ``MigrationOptions`` that can be changed while a live move runs."""
HANDED_ON = "to be gone on with"
"""The state of a job that somebody wants gone on with, by whoever works on the queue."""


def cancel(jobs: Jobs, job: Job, who: str) -> Job:
    """Have whoever works on an unfinished job cancel it; one that has not begun ends at once. Return it as it is then,
    which is begun if a controller was quicker."""
    jobs.ask_to_cancel(job.id, who)
    if job.is_queued and (handle := jobs.claim([job.id])) is not None:
        error = not_begun(job.vm_name, job.source)
        handle.finish("failed", f"cancelled on request of {who} before it began", error.exit_code, error=error)
    return jobs.get(job.id)


def not_begun(vm: str, host: str) -> MigrationFailedError:
    """Return what is told of a move that was cancelled before anything was done."""
    return MigrationFailedError(
        f"VM {vm!r} was not moved: cancelled before its turn came",
        vm_state=f"it is on {host} as before; nothing was touched",
    )


def tune(jobs: Jobs, number: int, changes: Mapping[str, Any], who: str) -> Job:
    """Change the limits of a live move that waits or is under way, and return it.

    Raises UsageError where nothing is to be changed, BlockedError for a job that has ended or cannot be told so.
    """
    refuse_nothing(number, changes)
    job = jobs.get(number)
    _refuse(job, changes)
    if not jobs.tune(number, changes, who):
        raise BlockedError(f"job {number} ended just now", remedy=f"see how: mudanza job show {number}")
    return job


def refuse_nothing(number: int, changes: Mapping[str, Any]) -> None:
    """Raise UsageError where nothing is to be changed of a job."""
    if not changes:
        raise UsageError(
            "nothing is to be changed", remedy=f"say what, such as: mudanza job tune {number} --bandwidth 50MiB/s"
        )


def _refuse(job: Job, changes: Mapping[str, Any]) -> None:
    """Raise for a job that has ended, or that cannot be told so."""
    if job.ended_at is not None:
        raise BlockedError(f"job {job.id} has ended: {job.outcome}", remedy="there is nothing to be changed any more")
    if job.is_queued:
        return
    if job.kind != "live":
        raise BlockedError(
            f"job {job.id} is no live move, and nothing of one that is {job.kind} can be changed while it runs",
            remedy=f"cancel it (mudanza job cancel {job.id}); the same command again goes on from where it was",
        )
    transfers = job.steps_named("transfer")
    unprepared = transfers and "POSTCOPY" not in transfers[-1].intent.get("flags", ())
    if changes.get("post_copy") in (PostCopy.ALLOW, PostCopy.NOW) and unprepared:
        raise BlockedError(
            f"job {job.id} began without post-copy, which both hosts have to prepare for",
            remedy=f"cancel it (mudanza job cancel {job.id}), and move the VM again with --post-copy allow",
        )


def goes_on(job: Job) -> bool:
    """Whether there is something to go on with; of any other job only what it left can be deleted."""
    return job.ended_at is None or (job.kind == "cold" and bool(job.report.get("left")))


def hand_on(jobs: Jobs, job: Job) -> None:
    """Have a job gone on with by whoever works on the queue: one whose controller is gone, or that was left to a
    person; a cold move that failed, too, from where it stopped. One that waits for its turn is left as it is.

    Raises BlockedError while its controller lives, and where its VM has another job.
    """
    if job.is_queued:
        return
    handle = jobs.take_over(job.id) if job.ended_at is None else jobs.reopen(job.id)
    handle.let_go(HANDED_ON)


def close(means: Means, number: int, who: str, say: Say) -> str:
    """Close a job that somebody has looked at; return what is to be told. Nothing is touched but its claim on the VM.

    Raises UsageError; BlockedError while its controller lives.
    """
    job = means.jobs.get(number)
    if job.ended_at is not None:
        return f"job {number} has ended already: {job.outcome}: nothing to do"
    refuse_living(job)
    handle = means.jobs.take_over(number)
    handle.note("close", {"by": who}, {"touched": "nothing"})
    _take_claim_off(means, handle, say)
    sentence = f"closed by {who}, who has looked; nothing was touched"
    stays = {"stays": [f"{job.target}:{path}" for path in volumes_made(job)]}
    handle.finish(CLOSED, sentence, NeedsPersonError.exit_code, {**job.report, **stays})
    return f"job {number} is {sentence}"


def refuse_living(job: Job) -> None:
    """Raise BlockedError for an unfinished job whose controller lives."""
    if job.ended_at is None and not job.abandoned:
        raise BlockedError(f"job {job.id} belongs to a controller that lives: {job.owner}", remedy=job.way_out)


def _take_claim_off(means: Means, handle: JobHandle, say: Say) -> None:
    """Have other controllers see that the job has ended, as far as its hosts answer."""
    from mudanza.migration.vm_claim import VmClaim

    try:
        with means.connections() as connections:
            for warning in VmClaim(connections, means.jobs, handle, {}).release():
                say(f"! {warning}")
    except UsageError as error:
        say(f"! whether the VM still carries the job's claim was not looked at: {error}")


def volumes_made(job: Job) -> list[str]:
    """Return the paths of what the journal says the job made, or began to make, and has not deleted."""
    gone = [step.intent["volume"] for step in job.steps_named("delete volume") if (step.outcome or {}).get("done")]
    made = [step for step in job.steps_named("create volume") if not (step.outcome or {}).get("error")]
    return [str(step.intent["path"]) for step in made if step.intent["volume"] not in gone]
