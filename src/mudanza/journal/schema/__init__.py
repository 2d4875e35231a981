"""The tables. Times are the database's own clock, in seconds since the epoch.

To make all of them takes a third as long as to load SQLAlchemy: a part is loaded when one of its tables is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mudanza.journal.schema.availability import (
        answered,
        fence_device,
        fence_match,
        fence_test,
        fencing,
        host_power,
        kept_up,
        remembered,
        sighting,
        switching,
        uplink_loss,
    )
    from mudanza.journal.schema.base import HEAD, REVISIONS, about, identity, metadata
    from mudanza.journal.schema.fleet import (
        away,
        balance_round,
        duty,
        plan,
        plan_move,
        reading,
        rolling,
        rolling_host,
        rules,
    )
    from mudanza.journal.schema.moves import audit, event, host, job, measured_link, pair, step
    from mudanza.journal.schema.recovery import protection, recovery_plan, reign, restore_point, standby, trial
    from mudanza.journal.schema.service import delivery, happening, request, session, tally, token

__all__ = [
    "HEAD",
    "REVISIONS",
    "about",
    "answered",
    "audit",
    "away",
    "balance_round",
    "delivery",
    "duty",
    "event",
    "fence_device",
    "fence_match",
    "fence_test",
    "fencing",
    "happening",
    "host",
    "host_power",
    "identity",
    "job",
    "kept_up",
    "measured_link",
    "metadata",
    "pair",
    "plan",
    "plan_move",
    "protection",
    "reading",
    "recovery_plan",
    "reign",
    "remembered",
    "request",
    "restore_point",
    "rolling",
    "rolling_host",
    "rules",
    "session",
    "sighting",
    "standby",
    "step",
    "switching",
    "tally",
    "token",
    "trial",
    "uplink_loss",
]


PARTS = ("base", "moves", "service", "fleet", "recovery", "availability")
"""Our modules, those first that most commands need."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Return a table; ``metadata``: with all of them in it."""
        if name not in __all__:
            raise AttributeError(name)
        loaded = (vars(import_module(f"{__name__}.{part}")) for part in PARTS)
        looked_at = tuple(loaded) if name == "metadata" else loaded
        return next(part[name] for part in looked_at if name in part)
