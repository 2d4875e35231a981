"""What preflight has to say about one move."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding weighs."""

    BLOCKER = "blocker"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for or against a move: what is the matter, with which thing, and what to do about it."""

    level: Level
    code: str
    """A stable word a script can match, such as ``pool-missing``."""
    subject: str
    """The thing it is about: ``disk vda``, ``network blue``, ``host h2``."""
    message: str
    remedy: str


def blockers(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return the findings that forbid the move."""
    return tuple(finding for finding in findings if finding.level is Level.BLOCKER)
