"""Plans for recovery, as they are asked for: kept, shown, checked, carried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mudanza.journal.recovery_plans import Kept, RecoveryPlans
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.recovery import NO, YES
from mudanza.operations.recovering import Recovering, unfinished_run
from mudanza.operations.recovery_file import read_plan
from mudanza.operations.site import START, STOP
from mudanza.protection.recovery import KIND

if TYPE_CHECKING:
    from mudanza.model.finding import Finding
    from mudanza.operations.means import Means, Say
    from mudanza.operations.site import Stopped
    from mudanza.protection.recovery import Recovered


def keep(means: Means, name: str, text: str, asked_by: str) -> str:
    """Keep a plan, in place of one of that name; return what is to be told. Raises UsageError for what is none."""
    plan = read_plan(name, text)
    if name.isdecimal():
        raise UsageError(f"{name!r} is a number, which a run of a plan has", remedy="call it otherwise: --name")
    RecoveryPlans(means.database).keep(name, text, asked_by)
    return f"plan {name}: {len(plan.groups)} groups, {len(plan.vms)} VMs; is it possible? mudanza recovery check {name}"


def kept(means: Means) -> tuple[Kept, ...]:
    """Return every plan, by name."""
    return RecoveryPlans(means.database).all()


def get(means: Means, name: str) -> Kept:
    """Return a plan. Raises UsageError where there is none of that name."""
    return RecoveryPlans(means.database).get(name)


def remove(means: Means, name: str) -> str:
    """Forget a plan; return what is to be told. Raises UsageError where there is none of that name."""
    plans = RecoveryPlans(means.database)
    plans.remove(plans.get(name).name)
    return f"plan {name} is forgotten"


def check(means: Means, name: str, text: str | None, asked_by: str, say: Say, *, planned: bool) -> tuple[Finding, ...]:
    """Return everything that stands against a plan now. ``text``: what it says; None: the plan that is kept. Raises
    UsageError."""
    plan = read_plan(name, get(means, name).text if text is None else text)
    with means.connections() as connections:
        return Recovering(means, connections, say, asked_by).check(plan, planned=planned)


@dataclass(frozen=True, slots=True)
class HowToRun:
    """How the VMs of a plan are brought up where their replicas are: just one of these."""

    source_is_dead: bool = False
    """Somebody's word that the VMs' hosts are dead, or cut off for good."""
    planned: bool = False
    """Their hosts live: nothing is lost."""
    resume: bool = False
    """Its run goes on that has come to a stop, in the way in which it was begun."""

    def refuse_contradictory(self) -> None:
        """Raise UsageError where it is not said, or said twice, how."""
        if self.planned + self.source_is_dead + self.resume != 1:
            raise UsageError(
                "one of --source-is-dead, --planned and --resume has to be said: that the VMs' hosts are dead is your "
                "word",
                remedy="if their hosts live: --planned; if they are dead (power off, or cut off): --source-is-dead; "
                "if it has come to a stop: --resume",
            )


def run(means: Means, name: str, how: HowToRun, asked_by: str, say: Say) -> tuple[Recovered, ...]:
    """Bring up the VMs of a plan where their replicas are. Raises UsageError, and as ``Recovering.run``."""
    how.refuse_contradictory()
    job = unfinished_run(means, name, KIND) if how.resume else None
    plan = get(means, name) if job is None else None
    with means.connections() as connections:
        recovering = Recovering(means, connections, say, asked_by)
        if plan is None:
            assert job is not None
            return recovering.go_on(job)
        return recovering.run(plan.name, plan.text, planned=how.planned)


def start(means: Means, name: str, asked_by: str, say: Say, *, resume: bool) -> tuple[Recovered, ...]:
    """Start the VMs of a plan where they are. ``resume``: its run goes on that has come to a stop. Raises UsageError,
    and as ``Recovering.start``."""
    job = unfinished_run(means, name, START) if resume else None
    plan = get(means, name) if job is None else None
    with means.connections() as connections:
        recovering = Recovering(means, connections, say, asked_by)
        if plan is None:
            assert job is not None
            return recovering.go_on(job)
        return recovering.start(plan.name, plan.text)


def stop(
    means: Means, name: str, within: float | None, asked_by: str, say: Say, *, resume: bool
) -> tuple[Stopped, ...]:
    """Have the VMs of a plan shut down, in the opposite order. ``within``: seconds; ``resume``: as of ``start``. Raises
    UsageError, and as ``Recovering.stop``."""
    job = unfinished_run(means, name, STOP) if resume else None
    plan = get(means, name) if job is None else None
    with means.connections() as connections:
        recovering = Recovering(means, connections, say, asked_by)
        if plan is None:
            assert job is not None
            return recovering.go_on_stopping(job)
        return recovering.stop(plan.name, plan.text, within)


def answer(means: Means, wanted: str, word: str, asked_by: str) -> str:
    """Answer the question of a plan's run, by its job's number or the plan's name, with yes or no; return what is to be
    told. Raises UsageError where nothing is asked, BlockedError where another answer counts."""
    from mudanza.journal.answers import answer as answer_in
    from mudanza.journal.answers import open_question

    if word not in (YES, NO):
        raise UsageError(f"{word!r} is no answer", remedy="say yes or no")
    job = means.jobs.get(int(wanted)) if wanted.isdecimal() else unfinished_run(means, wanted)
    question = open_question(job)
    if question is None:
        raise UsageError(f"job {job.id} asks nothing now", remedy=f"see how it stands: mudanza job show {job.id}")
    counts = answer_in(means.database, job.id, question.n, word, asked_by)
    if counts is None or counts.word != word:
        why = f"{counts.by} has answered {counts.word} before" if counts else f"job {job.id} has ended just now"
        raise BlockedError(f"that answer does not count: {why}")
    return f"{question.intent['question']}: {word}"
