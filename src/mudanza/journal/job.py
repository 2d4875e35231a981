"""What the journal says of a job: frozen, as it was when it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUEUED = "queued"
"""The state of a job that waits for a controller."""
CLOSED = "closed"
"""The state of a job that a person ended without anything being done."""
NEEDS_PERSON = "needs a person"
"""The state of a job that was left to a person: nobody works on it, and it keeps other jobs away from its VM."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a job. ``outcome`` None: it was intended, and nobody wrote down how it went."""

    n: int
    name: str
    intent: Mapping[str, Any]
    outcome: Mapping[str, Any] | None
    at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job: the state it came into, under which epoch and owner."""

    at: float
    epoch: int
    owner: str
    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job, with its steps where they were read. Times in seconds since the epoch, by the database's clock."""

    id: int
    kind: str
    vm_uuid: str
    vm_name: str
    source: str
    target: str
    asked: Mapping[str, Any]
    asked_by: str
    state: str
    epoch: int
    owner: str
    lease_until: float
    started_at: float
    ended_at: float | None
    outcome: str
    exit_code: int | None
    report: Mapping[str, Any]
    cancel_asked_by: str | None
    cancel_asked_at: float | None
    steps: tuple[Step, ...]
    abandoned: bool
    """Unfinished, begun, and its controller's lease has run out."""
    read_at: float
    """When this was read."""
    queued_at: float | None = None
    """When it was put down to be done; None where whoever asked for it began at once."""
    plan: int | None = None
    """The plan it belongs to."""
    protocol: int = 1
    """What its writers meant by what they wrote; see ``protocol.PROTOCOL``."""
    written_by: str = ""
    """The version of mudanza that wrote it last; empty: one that did not tell."""
    events: tuple[Event, ...] = ()
    has_begun: bool = False
    """Whether it has steps, where they were not read with it, too."""

    @property
    def left_to_person(self) -> bool:
        """Whether nobody works on it before a person has looked."""
        return self.ended_at is None and self.state == NEEDS_PERSON

    def steps_named(self, name: str) -> tuple[Step, ...]:
        """Return the steps of that name, in their order."""
        return tuple(step for step in self.steps if step.name == name)

    @property
    def is_queued(self) -> bool:
        """Whether it waits for a controller, or its controller died before it had decided anything."""
        if self.ended_at is not None:
            return False
        return self.state == QUEUED or (self.queued_at is not None and self.abandoned and not self.has_begun)

    @property
    def way(self) -> str:
        """From where to where it goes, in words; what it is, where it goes from nowhere."""
        if self.source:
            return f"{self.source} → {self.target}"
        return f"{self.kind} to {self.target}" if self.target else self.kind

    @property
    def way_out(self) -> str:
        """What somebody can do in whose way this unfinished job stands."""
        if self.is_queued:
            return f"have it done: mudanza work; or cancel it: mudanza job cancel {self.id}"
        if not self.abandoned:
            return f"wait for it (mudanza job watch {self.id}), or cancel it: mudanza job cancel {self.id}"
        if self.state == NEEDS_PERSON:
            return (
                f"look at both hosts, then: mudanza job resume {self.id}; "
                f"or, if you have put it right yourself: mudanza job close {self.id}"
            )
        return f"its controller is gone: finish or undo it with: mudanza job resume {self.id}"


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a new job is about."""

    kind: str
    vm_uuid: str
    vm_name: str
    source: str
    target: str
    asked: Mapping[str, Any]
    asked_by: str
