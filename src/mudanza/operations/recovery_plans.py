"""Plans for recovery, as they are asked for: kept, shown, checked, carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudanza.journal.recovery_plans import Kept, RecoveryPlans
from mudanza.model.errors import UsageError
from mudanza.operations.recovering import Recovering
from mudanza.operations.recovery_file import read_plan

if TYPE_CHECKING:
    from mudanza.model.finding import Finding
    from mudanza.operations.means import Means, Say
    from mudanza.protection.recovery import Recovered


def keep(means: Means, name: str, text: str, asked_by: str) -> str:
    """Keep a plan, in place of one of that name; return what is to be told. Raises UsageError for what is none."""
    plan = read_plan(name, text)
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


def run(
    means: Means, name: str, asked_by: str, say: Say, *, source_is_dead: bool, planned: bool
) -> tuple[Recovered, ...]:
    """Carry a plan out. Raises UsageError, and as ``Recovering.run``."""
    refuse_contradictory(source_is_dead=source_is_dead, planned=planned)
    plan = get(means, name)
    with means.connections() as connections:
        return Recovering(means, connections, say, asked_by).run(plan.name, plan.text, planned=planned)


def refuse_contradictory(*, source_is_dead: bool, planned: bool) -> None:
    """Raise UsageError where it is not said, or said twice, how VMs are brought up."""
    if planned == source_is_dead:
        raise UsageError(
            "one of --source-is-dead and --planned has to be said: that the VMs' hosts are dead is your word",
            remedy="if their hosts live: --planned; if they are dead (power off, or cut off): --source-is-dead",
        )
