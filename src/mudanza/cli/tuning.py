"""``mudanza job tune``: other limits for a move that is under way."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mudanza.cli.auditing import audited
from mudanza.cli.context import app_of
from mudanza.cli.move_options import Bandwidth, Deadline
from mudanza.cli.output import say
from mudanza.model.migration import MigrationOptions
from mudanza.model.policy import PostCopy
from mudanza.model.units import format_rate, parse_duration, parse_rate
from mudanza.model.wishes import in_words, parse_downtime
from mudanza.operations.jobs import refuse_nothing
from mudanza.operations.limits import refuse_impossible


@audited
def tune(
    context: typer.Context,
    job_id: Annotated[int, typer.Argument(metavar="ID", help="The job's number, see `mudanza jobs`.")],
    bandwidth: Bandwidth = None,
    max_downtime: Annotated[
        str | None, typer.Option(metavar="TIME", help="The most the switchover may take from now on.")
    ] = None,
    deadline: Deadline = None,
    post_copy: Annotated[
        PostCopy | None, typer.Option("--post-copy", help="Whether post-copy may be used from now on; now: at once.")
    ] = None,
) -> None:
    """Change the limits of a live move while it runs. Whoever runs it takes them up within a second or two."""
    app = app_of(context)
    changes: dict[str, Any] = {}
    if bandwidth is not None:
        changes["bandwidth"] = parse_rate(bandwidth)
    if max_downtime is not None:
        changes["max_downtime"] = parse_downtime(max_downtime)
    if deadline is not None:
        changes["deadline"] = parse_duration(deadline)
    if post_copy is not None:
        changes["post_copy"] = post_copy
    refuse_impossible(MigrationOptions(**changes))
    refuse_nothing(job_id, changes)
    job = app.asked.tune_job(job_id, changes)
    by = "whoever resumes it" if job.abandoned else job.owner or "whoever takes it up"
    say(f"job {job_id} ({job.vm_name}): {_words(changes)}; for {by}")


def _words(changes: dict[str, Any]) -> str:
    words = {"bandwidth": format_rate}
    return ", ".join(
        f"{name} {words[name](value)}" if name in words else in_words(name, value) for name, value in changes.items()
    )
