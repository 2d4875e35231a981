"""Which one host is to be woken or switched off next, and why: pure. One at a time, so that what was foreseen is seen
before more is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mudanza.planning.problem import Floats
from mudanza.planning.saving.deciding import decide, too_busy
from mudanza.planning.saving.park import Park
from mudanza.planning.saving.terms import Terms

LEAST_READINGS = 8
"""Of five minutes each: 40 minutes of quiet before a host is switched off; one that is missed is woken at once."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What one look comes to. Numbers of hosts; None: nothing is to be done."""

    wake: int | None
    off: int | None
    said: str


def advise(park: Park, names: Mapping[int, str], rested: Floats, terms: Terms, expected: float | None = None) -> Advice:
    """Return what is to be done next. ``rested``: seconds since each host was switched; ``expected``: CPUs that will be
    wanted before a host could be woken again, as far as that can be told."""
    full = terms.full_at(park.readings)
    ahead = 0.0 if expected is None else expected
    now = _missed(park, full, terms, names)
    if why := now or _missed_soon(park, ahead, full):
        host = _cheapest_asleep(park, rested, 0.0 if now else terms.least_off)
        said = f"{names[host]} is to be woken: {why}" if host is not None else f"{why}; no host can be woken"
        return Advice(host, None, said)
    if park.readings < LEAST_READINGS:
        return Advice(None, None, f"{park.readings * 5} minutes were measured; nothing is switched off before 40")
    used = {host: len(park.on_host(host)) for host in np.flatnonzero(park.on).tolist()}
    load, before = park.sums.mean(axis=1), park.on.copy()
    found = decide(park, rested, terms)
    for host in sorted(found.off, key=lambda each: (used[each], load[each], each)):
        left = float(park.capacity[before].sum() - park.capacity[host])
        if ahead <= full * left:
            return Advice(None, host, f"{names[host]} can be off: {found.why[host]}")
    if found.off:
        return Advice(None, None, f"all stay on: {ahead:.1f} CPUs are expected to be wanted soon")
    return Advice(None, None, "all hosts that are on are needed")


def _missed(park: Park, full: float, terms: Terms, names: Mapping[int, str]) -> str:
    """Return why one more host is wanted now; empty: none is."""
    busy = too_busy(park, terms)
    if len(busy):
        share = park.sums[busy[0], -1] / park.capacity[busy[0]]
        return f"{names[int(busy[0])]} has {share:.0%} of its CPUs in use"
    there = float(park.capacity[park.on].sum())
    now = float(park.sums[:, -1].sum())
    if now > terms.relief * full * there:
        return f"all together use {now:.1f} of {there:.1f} CPUs"
    return ""


def _missed_soon(park: Park, ahead: float, full: float) -> str:
    there = float(park.capacity[park.on].sum())
    if ahead <= full * there:
        return ""
    return f"{ahead:.1f} CPUs are expected to be wanted soon, and {full * there:.1f} are on and to be used"


def _cheapest_asleep(park: Park, rested: Floats, least_off: float) -> int | None:
    hosts = np.flatnonzero(park.asleep & ~park.on & (rested >= least_off))
    return int(hosts[np.argmin(park.per_work[hosts])]) if len(hosts) else None
