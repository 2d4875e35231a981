"""Looking at a move that somebody else carries out: read-only, from the journal and the source host's own figures."""

from __future__ import annotations

from mudanza.hypervisor.connections import Connections
from mudanza.journal.job import Job
from mudanza.migration.progress import Trend, read_progress, told
from mudanza.model.errors import MudanzaError
from mudanza.model.migration import Progress, Standing

TRANSFERRING = "transferring"
"""The state of a job in which libvirt has figures of it."""


def look(connections: Connections, job: Job, trend: Trend) -> tuple[Progress, Trend]:
    """Return how far a job is, and the trend once that is known; without figures where its host tells none."""
    elapsed = job.read_at - job.started_at
    if job.state != TRANSFERRING:
        return without_figures(job), trend
    try:
        stats = connections.domains(job.source).job_stats(job.vm_uuid)
    except MudanzaError:
        return without_figures(job), trend  # the journal still tells
    if not stats.get("type"):
        return without_figures(job), trend
    progress = read_progress(stats, elapsed)
    trend = trend.after(progress)
    return told(progress, trend), trend


def without_figures(job: Job) -> Progress:
    """Return all that the journal tells of how far a job is."""
    return Progress(job.state, job.read_at - job.started_at)


def standing_of(job: Job, progress: Progress, way: str = "") -> Standing:
    """Return how a job stands. ``way``: from where to where, where somebody knows better than the journal."""
    return Standing(
        state=job.state,
        ended=job.ended_at is not None,
        abandoned=job.abandoned,
        left_to_person=job.left_to_person,
        decided=bool(job.steps_named("decide")),
        way=way or f"{job.source} → {job.target or '?'}",
        progress=progress,
    )
