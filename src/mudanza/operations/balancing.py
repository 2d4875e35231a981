"""Balance: who keeps it, what came of its rounds, and one round that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mudanza.fleet.balancer import Balancer
    from mudanza.fleet.balancing import Verdict
    from mudanza.model.balance import OnDuty, Round
    from mudanza.operations.means import Means, Say


@dataclass(frozen=True, slots=True)
class RoundTold:
    """What is told of a round."""

    said: str
    """What came of it, in one sentence."""
    asked: bool
    """Whether something was to be moved."""
    imbalance: float | None
    act: str
    """What is done about it."""
    plan: int | None
    """The plan it put down."""
    withdrawn: Mapping[int, str]
    """Plans that waited for a yes and are not wanted any more → why."""
    words: str
    """All of it for people, each move with its reason."""


@dataclass(frozen=True, slots=True)
class Made:
    """A round that was asked for."""

    told: tuple[RoundTold, ...]
    said: tuple[str, ...]
    """What else was told on the way."""
    plan: int | None
    """The plan that is carried out now; None: nothing is."""


def seen(means: Means, limit: int) -> tuple[OnDuty | None, tuple[Round, ...]]:
    """Return who keeps the cluster in balance, and what the last rounds came to, the oldest first."""
    from mudanza.journal.balance import Balances

    balances = Balances(means.database)
    return balances.on_duty(), balances.rounds(limit)


def balancer_of(means: Means, asked_by: str, tell: Callable[[RoundTold], None], say: Say) -> Balancer:
    """Return who makes rounds; ``tell`` is told what came of each."""
    from mudanza.fleet.balancer import Balancer

    def told(verdict: Verdict, plan: int | None) -> None:
        tell(told_of(verdict, plan))

    who = f"{asked_by} (balance)"
    return Balancer(means.database, means.connections, means.loads, who, told, say, means.forecasting.link)


def once(means: Means, every: float, asked_by: str) -> Made:
    """Make one round, ``every`` so many seconds as somebody sees to, and leave what is to be carried out to whoever
    takes it. Raises BlockedError while somebody else balances, and what kept it from judging."""
    told: list[RoundTold] = []
    said: list[str] = []
    handle = balancer_of(means, asked_by, told.append, said.append).once(every)
    if handle is not None:
        handle.let_go()
    return Made(tuple(told), tuple(said), handle.id if handle is not None else None)


def told_of(verdict: Verdict, plan: int | None) -> RoundTold:
    """Return what is told of a round. ``plan``: what it put down."""
    found = verdict.round
    return RoundTold(
        said=found.said,
        asked=found.asked,
        imbalance=found.imbalance,
        act=verdict.act.value,
        plan=plan,
        withdrawn=dict(verdict.withdrawn),
        words=_in_words(verdict, plan),
    )


def _in_words(verdict: Verdict, plan: int | None) -> str:
    from mudanza.fleet.balancing import Act

    words = [verdict.round.said]
    if verdict.act is Act.BEGIN:
        words = [f"plan {plan} begins: {verdict.round.said}"]
    if verdict.act is Act.PROPOSE:
        words = [f"plan {plan} waits for a yes: {verdict.round.said}; mudanza run show {plan}, run approve {plan}"]
    moves = verdict.plan.moves if verdict.plan is not None else ()
    words += [f"  {move.vm}, {move.source} → {move.target}: {move.reason}" for move in moves]
    return "\n".join(words)
