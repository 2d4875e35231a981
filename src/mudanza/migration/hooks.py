"""The hooks of one job: commands of the controller's own, run before its move, after it, or after it has failed.

Whatever a hook does, where the VM is follows from what both hosts say, and from nothing else. A hook is run once for
each of its moments, unless its controller dies over it: nobody knows how far it came then, and whoever goes on with the
job runs it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Protocol

from mudanza import clock
from mudanza.journal.job import Job, Step
from mudanza.journal.jobs import REOPENED, JobHandle, Jobs
from mudanza.migration.command import PARTING, run
from mudanza.migration.steering import past_deadline
from mudanza.model.errors import MigrationFailedError
from mudanza.model.hook import Hook, When
from mudanza.model.migration import Answer, Probe, Progress
from mudanza.model.units import format_duration

HOOK = "hook"
"""The step in the journal."""
RENEW_EVERY = 5.0
"""Seconds between two renewals of the job's lease while a hook runs: before anybody else would, with less to spare."""
MOST_TOLD = 4000
"""Characters that one variable of its environment may have."""
_ENDING = PARTING + 1.0
"""Seconds beyond its limit that a hook may take to be ended."""


_BEFORE = "the hook"


def is_of_hook(why: str) -> bool:
    """Whether a hook is why a VM was not moved."""
    return why.startswith(_BEFORE)


class HookFailedError(MigrationFailedError):
    """A hook that is run before a move did not want it."""


class Record(Protocol):
    """What hooks have to know of a job."""

    @property
    def uuid(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def hooks(self) -> tuple[str, ...]: ...


class Hooks:
    """The hooks of one job."""

    def __init__(
        self,
        known: Mapping[str, Hook],
        jobs: Jobs,
        handle: JobHandle,
        record: Record,
        mode: str,
        on_progress: Callable[[Progress], None],
    ) -> None:
        """``known``: those in the settings of this controller; ``mode``: ``live`` or ``cold``."""
        self._known = known
        self._jobs = jobs
        self._handle = handle
        self._record = record
        self._mode = mode
        self._on_progress = on_progress
        self._renew_at = 0.0
        self.took = 0.0
        """Seconds that hooks have taken."""

    def before(self, wanted: Callable[[], None], deadline: float | None, begun: float) -> None:
        """Run those that may stop the move; nothing of the VM was touched yet.

        ``wanted`` raises when the move is to be cancelled; ``deadline``: seconds since ``begun``. Raises
        HookFailedError, and MigrationFailedError where the deadline has passed.
        """

        def turn() -> None:
            wanted()
            if deadline is not None and clock.monotonic() - begun > deadline:
                raise MigrationFailedError(past_deadline(deadline))

        for hook in self._due(When.BEFORE):
            if fault := self._run(hook, When.BEFORE, turn):
                raise HookFailedError(
                    f"{_BEFORE} {hook!r}, which is run before a move, {fault}",
                    remedy="see what it is about on this machine, where it ran",
                )

    def after(self, when: When, outcome: str, why: str = "") -> tuple[str, ...]:
        """Run those that are to know what came of it; return a warning for each that failed.

        ``outcome``: ``moved``; ``stayed`` or ``down``, and ``why``.
        """
        warnings = []
        for hook in self._due(when):
            if fault := self._run(hook, when, lambda: None, outcome, why):
                warnings.append(
                    f"the hook {hook!r}, which is run after a {'move' if when is When.AFTER else when}, {fault}; where "
                    "the VM is has nothing to do with it"
                )
        return tuple(warnings)

    def done(self) -> tuple[str, ...]:
        """Return those that ended well, in words."""
        steps = self._steps(self._jobs.get(self._handle.id)) if self._record.hooks else ()
        return tuple(
            f"{step.intent['hook']} ({step.intent['when']}), {format_duration(step.ended_at - step.at)}"
            for step in steps
            if (step.outcome or {}).get("exit") == 0 and step.ended_at is not None
        )

    def _due(self, when: When) -> tuple[str, ...]:
        """Return the hooks that are to be run now; also those that this controller does not know."""
        if not self._record.hooks:
            return ()
        told = {
            step.intent["hook"]
            for step in self._steps(self._jobs.get(self._handle.id))
            if step.intent["when"] == when
            and step.outcome is not None
            and (when is not When.BEFORE or _went_well(step))
        }
        due = (name for name in self._record.hooks if name not in self._known or when in self._known[name].when)
        return tuple(name for name in due if name not in told)

    @staticmethod
    def _steps(job: Job) -> tuple[Step, ...]:
        """Return what was run for this try of the job: an earlier one has had its own end."""
        since = max((event.at for event in job.events if event.state == REOPENED), default=0.0)
        return tuple(step for step in job.steps_named(HOOK) if step.at >= since)

    def _run(self, name: str, when: When, wanted: Callable[[], None], outcome: str = "", why: str = "") -> str:
        """Run one hook; return in words what went wrong."""
        hook, begun = self._known.get(name), clock.monotonic()
        if hook is None:
            return "is not in this controller's settings, and was not run"
        until = begun + hook.limit + _ENDING
        step = self._handle.intend(HOOK, {"hook": name, "when": when.value}, lasts=hook.limit + _ENDING)
        self._handle.assert_held()
        self._renew_at = begun + RENEW_EVERY

        def turn() -> None:
            wanted()
            now = clock.monotonic()
            self._on_progress(Progress(f"hook {name}", now - begun))
            if now >= self._renew_at:
                # Others stay away for as long as it may run, also if this controller dies over it.
                self._handle.renew(max(until - now, 0.0))
                self._renew_at = now + RENEW_EVERY

        try:
            fault = run(hook.command, self._environment(hook, when, outcome, why), hook.limit, turn).fault
        except OSError as error:
            fault = f"could not be run: {error.strerror}"
        except MigrationFailedError as error:
            self._handle.done(step, {"ended": str(error)})
            raise
        finally:
            self.took += clock.monotonic() - begun
        self._handle.done(step, {"fault": fault} if fault else {"exit": 0})
        return fault

    def _environment(self, hook: Hook, when: When, outcome: str, why: str) -> Mapping[str, str]:
        record = self._record
        told = {
            "HOOK": hook.name,
            "WHEN": when.value,
            "VM": record.name,
            "UUID": record.uuid,
            "SOURCE": record.source,
            "TARGET": record.target,
            "MODE": self._mode,
            "JOB": str(self._handle.id),
            "OUTCOME": outcome,
            "REASON": why,
        }
        return {**os.environ, **{f"MUDANZA_{name}": text.replace("\0", "")[:MOST_TOLD] for name, text in told.items()}}


def runnable(hook: Hook | None) -> Probe:
    """Return whether this controller has a hook and can run it."""
    if hook is None:
        return Probe(Answer.UNKNOWN, "the settings of this controller do not have it")
    if not os.access(hook.command[0], os.X_OK):
        return Probe(Answer.NO, f"there is no program {hook.command[0]} on this machine that {_user()} may run")
    return Probe(Answer.YES)


def _user() -> str:
    return f"user {os.getuid()}" if os.getuid() else "root"


def _went_well(step: Step) -> bool:
    return (step.outcome or {}).get("exit") == 0
