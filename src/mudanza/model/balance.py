"""Balance that goes on: what each of its rounds came to."""

from __future__ import annotations

from dataclasses import dataclass

BALANCING = "balance"
"""The kind of a plan that a continuous balance has put down."""


@dataclass(frozen=True, slots=True)
class Round:
    """One look at the whole cluster."""

    said: str
    """What came of it, in one sentence."""
    asked: bool = False
    """Whether something was to be moved: what is asked for in several rounds in a row is done."""
    imbalance: float | None = None
    """Before anything was moved; None where nothing was planned."""
    plan: int | None = None
    """The plan that it put down, or that waits for a yes."""
    at: float = 0.0
    """When, in seconds since the epoch by the database's clock."""
    ago: float = 0.0
    """How many seconds ago that was when it was read."""


@dataclass(frozen=True, slots=True)
class OnDuty:
    """The controller that balances, or has another duty that only one has at a time, or had it last."""

    owner: str
    since: float
    alive: bool
    """Whether its lease lasts still."""
    name: str = "balance"
    """The duty."""
    epoch: int = 1
    """How often somebody took it."""
