"""Which jobs are meant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement

from mudanza.journal.job import NEEDS_PERSON, QUEUED
from mudanza.journal.schema import job

ABANDONED = "abandoned"
UNFINISHED = "unfinished"
"""Words that choose jobs besides the states that they are in."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are meant. ``since``: seconds before now in which they began."""

    vm: str | None = None
    """Name or UUID."""
    state: str | None = None
    """A job's state, or one of the words ABANDONED and UNFINISHED."""
    since: float | None = None
    below: int | None = None
    """Only those with lower numbers."""


def conditions(wanted: Filter, instant: float) -> Iterable[ColumnElement[bool]]:
    """Yield what holds of these jobs; ``instant``: now, by the database's clock."""
    if wanted.vm is not None:
        yield (job.c.vm_name == wanted.vm) | (job.c.vm_uuid == wanted.vm)
    if wanted.below is not None:
        yield job.c.id < wanted.below
    if wanted.since is not None:
        yield job.c.started_at >= instant - wanted.since
    if wanted.state == UNFINISHED:
        yield job.c.ended_at.is_(None)
    elif wanted.state == ABANDONED:
        yield job.c.ended_at.is_(None) & (job.c.lease_until < instant) & job.c.state.not_in((QUEUED, NEEDS_PERSON))
    elif wanted.state is not None:
        yield job.c.state == wanted.state
