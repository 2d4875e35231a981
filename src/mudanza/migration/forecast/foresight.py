"""From what is known before a move to what it will be like: pure. Plays what the controller would do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from mudanza.migration.convergence import Budget
from mudanza.migration.forecast.dirtying import STILL, Dirtying
from mudanza.migration.forecast.model import COMPARING, Chance, Forecast, Known, Link, Prediction, Strategy, Streams
from mudanza.migration.forecast.precopy import Load, Run, carry
from mudanza.model.policy import Policy, PostCopy
from mudanza.model.units import format_duration, format_rate

MARGIN = 2.0
"""How many times as much, or as little, a guest may dirty as was measured, for a strategy to be called sure (or
unlikely): page sampling is right within about that."""
LEAST_SHARE = 0.5
"""The least of the link that the copies of disks, or memory, keep beside what the guest writes to them: what it writes
waits for them then."""


def foresee(known: Known) -> Forecast:
    """Return what every strategy would come to, and what will be done with what is allowed."""
    if not known.running or known.cold:
        cold = _cold(known)
        return Forecast(known, (cold,), cold, "it is switched off" if not known.running else "that was asked for")
    budget = known.budget
    never = replace(budget, policy=Policy.GENTLE, postcopy=PostCopy.NEVER)
    strategies = (
        _played(known, Strategy.PRECOPY, lambda load, left: carry(load, _within(never, left))),
        _played(known, Strategy.THROTTLED, lambda load, left: carry(load, _within(never, left), throttled=True)),
        _played(known, Strategy.POSTCOPY_AFTER, lambda load, left: carry(load, _within(never, left), fetch_after=1)),
        _played(
            known,
            Strategy.POSTCOPY_NOW,
            lambda load, _: carry(load, replace(never, postcopy=PostCopy.NOW, deadline=None)),
        ),
        _cold(known),
    )
    return _chosen(known, strategies)


def foresee_by(known: Known, proposed: Streams, *, asked: bool, excludes_postcopy: bool) -> Forecast:
    """Return what a move will be like by the connections that are proposed, or by one where that is better.

    ``asked``: they were asked for, and are not to be chosen. ``excludes_postcopy``: several do, between these hosts. A
    guest that may go over to post-copy gives that up for them only where pre-copy is sure to end.
    """
    if proposed.connections == 1:
        return foresee(replace(known, streams=proposed))
    many = foresee(_by_several(known, proposed, excludes_postcopy=excludes_postcopy))
    if asked or not excludes_postcopy or known.budget.postcopy is PostCopy.NEVER:
        return many
    if many.chosen.chance is Chance.SURE:
        return many
    why = f"one connection, for post-copy may be needed, which several exclude; {proposed.why}"
    return foresee(replace(known, streams=Streams(1, why)))


def _by_several(known: Known, proposed: Streams, *, excludes_postcopy: bool) -> Known:
    budget = replace(known.budget, postcopy=PostCopy.NEVER) if excludes_postcopy else known.budget
    rate = min(proposed.rate or known.link.rate, budget.bandwidth or math.inf)
    link = Link(rate, f"{proposed.connections} connections together")
    return replace(known, link=link, disk_link=known.link.rate, streams=proposed, budget=budget)


def _chosen(known: Known, strategies: tuple[Prediction, ...]) -> Forecast:
    """Return the forecast with what the controller will do, by the very means it does it with."""
    throttled = known.budget.policy is Policy.DEADLINE

    def as_it_goes(load: Load, left: float | None) -> Run:
        return carry(load, _within(known.budget, left), throttled=throttled)

    run = as_it_goes(_load(known, known.dirtying or STILL), _left_of_deadline(known))
    strategy = _strategy_of(run)
    chosen = _played(known, strategy, as_it_goes)
    return Forecast(known, strategies, chosen, _why(known, run))


def _strategy_of(run: Run) -> Strategy:
    if run.postcopy:
        return Strategy.POSTCOPY_AFTER if run.passes > 1 else Strategy.POSTCOPY_NOW
    return Strategy.THROTTLED if run.throttle else Strategy.PRECOPY


def _why(known: Known, run: Run) -> str:
    """Return the reason of the choice in one sentence."""
    if run.given_up:
        return run.given_up
    if run.postcopy:
        return run.postcopy
    passes = f"{run.passes} passes" if run.passes > 1 else "one pass"
    if known.dirtying is None:
        unknown = f"how much it dirties is not known: {known.dirtying_from}"
        return f"{passes} over memory will do if the guest is calm; {unknown}"
    slowed = f", slowed down by {round(run.throttle * 100)} %" if run.throttle else ""
    rates = (
        f"the guest dirties {format_rate(known.dirtying.rate)}{slowed}, and {format_rate(known.link.rate)} get across"
    )
    return f"{rates}: {passes} over memory will do"


def _played(known: Known, strategy: Strategy, play: Callable[[Load, float | None], Run]) -> Prediction:
    left, dirtying = _left_of_deadline(known), known.dirtying or STILL
    run = play(_load(known, dirtying), left)
    beside = known.habits.set_up + _before_memory(known)
    switchover = known.habits.switchover if run.arrived else 0.0
    return Prediction(
        strategy,
        total=beside + run.took + switchover,
        downtime=run.downtime + switchover if run.arrived else None,
        bytes=run.sent + known.disks + known.ahead,
        chance=_chance(known, run, lambda factor: play(_load(known, dirtying.faster(factor)), left)),
        outcome=_outcome(run),
        switchover=switchover,
    )


def _chance(known: Known, as_measured: Run, at: Callable[[float], Run]) -> Chance:
    if known.dirtying is None:
        return Chance.UNKNOWN if as_measured.arrived and not as_measured.postcopy else _plain(as_measured)
    if not as_measured.arrived:
        return Chance.UNLIKELY if at(1 / MARGIN).arrived else Chance.NO
    return Chance.SURE if at(MARGIN).arrived else Chance.LIKELY


def _plain(run: Run) -> Chance:
    return Chance.SURE if run.arrived else Chance.NO


def _outcome(run: Run) -> str:
    if run.given_up:
        return run.given_up
    if run.fetched:
        return f"runs without all of its memory for {format_duration(run.fetched)}"
    return f"{run.passes} passes" + (f", slowed down by {round(run.throttle * 100)} %" if run.throttle else "")


def _load(known: Known, dirtying: Dirtying) -> Load:
    link = known.link.rate
    beside = min(known.writes, link * LEAST_SHARE) if known.disks else 0.0
    packed = known.compressing
    share = (1.0 if packed.share is None else packed.share) if packed.cache else None
    return Load(max(known.memory, known.in_use), known.in_use, link - beside, dirtying, share)


def _before_memory(known: Known) -> float:
    """Return the seconds that go to what is brought ahead and to the disks: their mirrors come first."""
    link = known.link_of_disks
    return known.ahead / link + known.disks / (link - min(known.writes, link * LEAST_SHARE))


def _left_of_deadline(known: Known) -> float | None:
    """Return what is left of the deadline once memory begins to travel; None: there is none."""
    if known.budget.deadline is None:
        return None
    return known.budget.deadline - known.habits.set_up - _before_memory(known)


def _within(budget: Budget, left: float | None) -> Budget:
    return replace(budget, deadline=left)


def _cold(known: Known) -> Prediction:
    amount = known.disks + known.ahead
    compared = amount / COMPARING if known.compared else 0.0
    total = known.habits.set_up_cold + amount / known.link.rate + compared
    late = known.budget.deadline is not None and total > known.budget.deadline
    outcome = "switched off all the while" if known.running else "it is switched off"
    return Prediction(
        Strategy.COLD,
        total,
        total if known.running else 0.0,
        amount,
        Chance.NO if late else Chance.SURE,
        outcome,
        switchover=total if known.running else 0.0,
    )
