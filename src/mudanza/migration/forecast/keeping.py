"""What is told of a move when it begins, its forecast among it: written down with the decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mudanza.journal.job import Job
from mudanza.migration.prepare import Prepared
from mudanza.model.migration import own_in_words
from mudanza.model.plain import plain


def announcement(prepared: Prepared) -> dict[str, Any]:
    """Return what is told of a move when it begins, as JSON values: where to and why, as its VM wishes or not, by which
    hooks, what to beware of, how all of it travels, what it will be like, and how many seconds old that is which was
    gone by of hosts that it does not concern."""
    return {
        "vm": prepared.vm.name,
        "source": prepared.vm.host,
        "target": prepared.chosen.target.name,
        "why": prepared.why,
        "own_wishes": list(own_in_words(prepared.options)),
        "hooks": list(prepared.hooks),
        "findings": plain(prepared.chosen.findings),
        "travels": plain(prepared.chosen.travels),
        "forecast": prepared.forecast.to_json() if prepared.forecast else None,
        "foreseen": prepared.forecast.sentence if prepared.forecast else "",
        "others_as_of": round(prepared.age, 1),
        "unasked": bool(prepared.options.probe) and prepared.kind != "live",
    }


def foreseen(prepared: Prepared) -> dict[str, Any]:
    """Return what the outcome of a job's decision keeps of what was told; its forecast stands by itself."""
    told = announcement(prepared)
    forecast = told.pop("forecast")
    return {"announced": told, **({"forecast": forecast} if forecast is not None else {})}


def announced(job: Job) -> dict[str, Any] | None:
    """Return what was told of a job when it was last decided about; None: it was not, or by an earlier version."""
    decided = job.steps_named("decide")
    told = (decided[-1].outcome or {}).get("announced") if decided else None
    return {**told, "forecast": forecast_on_record(job)} if told else None


def forecast_on_record(job: Job) -> Mapping[str, Any] | None:
    """Return what was foreseen of a job when it was last decided about; None: nothing was."""
    decided = job.steps_named("decide")
    return (decided[-1].outcome or {}).get("forecast") if decided else None
