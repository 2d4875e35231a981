"""Following a job that another process runs, and telling how it has ended."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.model.errors import MigrationFailedError, MudanzaError, NeedsPersonError, VmDownError
from mudanza.model.migration import MigrationReport, Standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from mudanza.cli.watching import View
    from mudanza.journal.jobs import Job

LOOK_EVERY = 0.5
"""Seconds between two looks."""

TAKEN = 30.0
"""Seconds within which a daemon takes up what another controller has left behind."""

_VM_STATES = {
    MigrationFailedError.exit_code: "it is on {source} as before",
    VmDownError.exit_code: "it is down, its disks are whole",
}
"""What a job's exit code says of its VM: the journal keeps no more."""


def follow(look: Callable[[], Standing], vm: str, view: View, patience: float = 0.0) -> None:
    """Show how a job of a VM goes until it has ended, or its controller has been gone for ``patience`` seconds.

    Ends: a controller that does not renew its lease is gone. Raises UsageError when there is no such job.
    """
    until = clock.monotonic() + patience
    while True:
        standing = look()
        if not standing.abandoned:
            until = clock.monotonic() + patience
        if standing.ended or standing.left_to_person or (standing.abandoned and clock.monotonic() >= until):
            view.on_end(vm)
            return
        view.on_progress(vm, standing.way, standing.progress)
        clock.sleep(LOOK_EVERY)


def report_of(job: Job) -> MigrationReport | None:
    """Return the report of a job that ended well; None where the journal has none that this version can read.

    Raises NeedsPersonError while nobody works on the job, and what its end means when it did not end well.
    """
    if job.ended_at is None:
        raise NeedsPersonError(
            f"job {job.id} is unfinished and nobody works on it: {job.state}",
            vm_state=f"nobody has asked {job.source} and {job.target} since",
            remedy=job.way_out,
        )
    if job.exit_code:
        raise ended_badly(job)
    known = {field.name for field in fields(MigrationReport)}
    try:
        return MigrationReport(**{name: value for name, value in job.report.items() if name in known})
    except TypeError:
        return None


def ended_badly(job: Job) -> MudanzaError:
    """Return what a job's end means, with the exit code that its own controller left with."""
    left = ", ".join(job.report.get("left", ()))
    state = _VM_STATES.get(job.exit_code or 0, "").format(source=job.source) if job.source else ""
    error = MudanzaError(
        f"job {job.id} ({'VM ' if job.source else ''}{job.vm_name!r}, {job.way}) has ended, {job.state}: {job.outcome}",
        vm_state=state + (f"; left over: {left} (try again: mudanza job resume {job.id})" if left else ""),
        remedy=f"see what was done: mudanza job show {job.id}",
    )
    error.exit_code = job.exit_code or MudanzaError.exit_code
    return error
