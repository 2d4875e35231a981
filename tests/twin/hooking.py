"""Hooks in the model's world: what they would do as programs, and what must hold of when they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mudanza import clock
from mudanza.hypervisor.twin.world import Twin
from mudanza.journal.jobs import Job
from mudanza.migration.command import Ended
from mudanza.model.errors import MigrationFailedError, VmDownError
from mudanza.model.hook import Hook, When

LIMIT = 20.0
MANNERS = ("well", "well", "well", "fails", "hangs", "is missing")
"""What may become of a hook's program."""
HOOKS = {
    "ask": Hook("ask", ("/bin/true", "ask"), frozenset({When.BEFORE}), LIMIT, for_all=True),
    "dns": Hook("dns", ("/bin/true", "dns"), frozenset({When.BEFORE, When.FAILURE, When.AFTER}), LIMIT, for_all=True),
    "told": Hook("told", ("/bin/true", "told"), frozenset({When.AFTER, When.FAILURE}), LIMIT, for_all=True),
}
"""Those of every controller's settings, once there are any. The programs are simulated."""
_LASTS = 3
_LOOK = 1.0


@dataclass(frozen=True)
class Run:
    """A hook that was begun, and how things really were at that instant."""

    job: int
    hook: str
    when: str
    homes: tuple[str, ...]
    acted: tuple[str, ...]
    """What had been done for the job before."""
    source: str
    target: str


@dataclass
class Programs:
    """Stands in for processes of the controllers' machines."""

    twin: Twin
    homes: Callable[[], tuple[str, ...]]
    manners: dict[str, str] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    acted: dict[int, list[str]] = field(default_factory=dict)
    """Job → what hosts were made to do for it."""

    def run(self, argv: Sequence[str], environment: Mapping[str, str], limit: float, turn: Callable[[], None]) -> Ended:
        """As ``migration.command.run``."""
        name, when, job = argv[1], environment["MUDANZA_WHEN"], int(environment["MUDANZA_JOB"])
        acted = tuple(self.acted.get(job, ()))
        ends = environment["MUDANZA_SOURCE"], environment["MUDANZA_TARGET"]
        self.runs.append(Run(job, name, when, self.homes(), acted, *ends))
        manner = self.manners.get(name, "well")
        self.twin.note(f"hook {name} {when} of job {job}: {manner}")
        self.twin.scheduler.point(f"hook {name} {when}")  # it runs, whatever becomes of its controller
        if manner == "is missing":
            raise FileNotFoundError(2, "No such file or directory")
        until = clock.monotonic() + (limit if manner == "hangs" else _LASTS)
        while clock.monotonic() < until:
            turn()
            clock.sleep(_LOOK)
        self.twin.scheduler.point(f"hook {name} {when} has ended")
        return Ended({"well": 0, "fails": 1}.get(manner), "")


def faults_of(job: Job, runs: Sequence[Run], *, disturbed: bool) -> Iterator[str]:
    """Say what is wrong with when hooks were run for a job that has ended. ``disturbed``: where the VM is may have
    changed by other hands than its controllers'."""
    mine = [run for run in runs if run.job == job.id]
    moved = job.exit_code == 0
    stayed = job.exit_code in (MigrationFailedError.exit_code, VmDownError.exit_code)
    befores, afters, failures = ([run for run in mine if run.when == when] for when in ("before", "after", "failure"))
    for run in befores:
        if run.acted:
            yield f"{run.hook} was run before the move after {run.acted[0]} had been done"
    names = list(dict.fromkeys(run.hook for run in befores))
    if names != sorted(names, key=list(HOOKS).index):
        yield f"those before a move were run in the order {names}"
    if not disturbed:
        yield from (
            f"{run.hook} was told that it moved, it is at {run.homes}" for run in afters if _not_at(run, run.target)
        )
        yield from (
            f"{run.hook} was told that it stayed, it is at {run.homes}" for run in failures if _not_at(run, run.source)
        )
    if afters and failures:
        yield "it was told both that it moved and that it did not"
    if moved and failures:
        yield "those for a failure were run, and it moved"
    if moved and befores and {run.hook for run in afters} != _hooks_of(When.AFTER):
        yield f"it moved, and only {[run.hook for run in afters]} were told"
    if stayed and afters:
        yield "those after a move were run, and it did not move"
    if stayed and befores and {run.hook for run in failures} != _hooks_of(When.FAILURE):
        yield f"it did not move, and only {[run.hook for run in failures]} were told, to take back what they did"
    yield from _in_the_journal(job, moved=moved, mine=mine)


def _in_the_journal(job: Job, *, moved: bool, mine: Sequence[Run]) -> Iterator[str]:
    steps = job.steps_named("hook")
    for name in HOOKS:
        for when in When:
            these = [step for step in steps if (step.intent["hook"], step.intent["when"]) == (name, when.value)]
            ended = [step for step in these if step.outcome is not None]
            well = [step for step in ended if (step.outcome or {}).get("exit") == 0]
            if len(well) > 1 or (when is not When.BEFORE and len(ended) > 1):
                yield f"{name} ({when.value}) ended {len(ended)} times, as the journal knows, and was run again"
            if moved and when is When.BEFORE and these and not well:
                yield f"{name} did not want the move, and it was made"
    if len(mine) > len(steps):
        yield "a hook was run that was not written down before"


def _not_at(run: Run, place: str) -> bool:
    return place not in run.homes


def _hooks_of(when: When) -> set[str]:
    return {hook.name for hook in HOOKS.values() if when in hook.when}
