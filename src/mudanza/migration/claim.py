"""Keeping, using and giving up the right to work on a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mudanza import clock
from mudanza.journal.jobs import NEEDS_PERSON, Job, JobHandle, LeaseLostError
from mudanza.migration.asked import read_back
from mudanza.migration.steering import ON_REQUEST
from mudanza.model.errors import MigrationFailedError, MudanzaError, NeedsPersonError
from mudanza.model.migration import MigrationOptions

LOOK_FOR_CANCEL = 1.0
"""Seconds between two looks whether somebody has asked the journal to cancel the job, or to have it done otherwise."""

KEEP_EVERY = 2.0
"""Seconds between two looks whether a claim has to be renewed while a job's VM is being checked."""


def renewing(
    handle: JobHandle,
    cancel: Callable[[str], None] | None = None,
    tune: Callable[[MigrationOptions], None] | None = None,
) -> Callable[[], None]:
    """Return a function that keeps the claim on a job when a third of the lease is over.

    It also calls ``cancel``, with the reason, when somebody has asked for that through the journal, and ``tune`` with
    what is asked of the job by now.
    """
    look_at = 0.0

    def renew() -> None:
        nonlocal look_at
        if cancel is not None and clock.monotonic() >= look_at:
            look_at = clock.monotonic() + LOOK_FOR_CANCEL
            who, asked = handle.wishes()
            if who:
                cancel(f"{ON_REQUEST} of {who}")
            if tune is not None and asked is not None:
                tune(read_back(asked))
        handle.keep()

    return renew


@contextmanager
def keeping(handle: JobHandle) -> Iterator[None]:
    """Keep the claim while others than the job's mover take their time over it: nothing is done to its VM meanwhile.

    What is lost is noticed by whatever writes next.
    """
    over = clock.new_event()

    def keep() -> None:
        while not over.wait(KEEP_EVERY):
            try:
                handle.keep()
            except LeaseLostError:
                return

    clock.start_thread(keep, f"keep job {handle.id}")
    try:
        yield
    finally:
        over.set()


@contextmanager
def heeding(handle: JobHandle, cancel: Callable[[str], None]) -> Iterator[None]:
    """Call ``cancel``, with the reason, once somebody has asked for that through the journal while the block runs."""
    over = clock.new_event()

    def look() -> None:
        with suppress(MudanzaError):  # a lease that is lost is noticed by whatever writes next
            while not (who := handle.cancel_asked()):
                if over.wait(LOOK_FOR_CANCEL):
                    return
            cancel(f"{ON_REQUEST} of {who}")

    clock.start_thread(look, f"heed job {handle.id}")
    try:
        yield
    finally:
        over.set()


def journalling_cancel(handle: JobHandle) -> Callable[[str], None]:
    """Return a function that writes down why a transfer is to be cancelled, before anybody orders that."""

    def decided(why: str) -> None:
        handle.note("cancel", {"why": why}, {"decided": True})

    return decided


def cancelled_because(job: Job) -> str:
    """Return why a job's transfer was to be cancelled, as decided by whoever worked on it before."""
    decisions = job.steps_named("cancel")
    return str(decisions[-1].intent["why"]) if decisions else ""


def reason_on_record(job: Job) -> str:
    """Return why a job that its controller left behind did not go well, as far as the journal tells."""
    if decided := cancelled_because(job):
        return decided
    transfers = job.steps_named("transfer")
    if transfers and transfers[-1].outcome:
        return str(transfers[-1].outcome.get("stopped") or transfers[-1].outcome.get("error") or "")
    return "its controller was interrupted"


def died_undecided(handle: JobHandle) -> MigrationFailedError:
    """End a job whose controller died before it had written down what it would do."""
    error = MigrationFailedError(f"job {handle.id} had done nothing yet", vm_state="the VM was not touched")
    handle.finish("failed", "its controller died before anything was done", error.exit_code, error=error)
    return error


def left_open(handle: JobHandle, error: NeedsPersonError) -> NeedsPersonError:
    """Leave a job to a person: it owns the VM until somebody has looked, and `job resume` goes on from here."""
    error.remedy = error.remedy or "look at both hosts"
    if "job resume" not in error.remedy:
        error.remedy += f"; then: mudanza job resume {handle.id}"
    handle.let_go(NEEDS_PERSON, error)
    return error
