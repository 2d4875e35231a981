"""How eager balance is: what it leaves alone, and what each move must earn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mudanza.model.rules import Rules
from mudanza.planning.problem import Problem
from mudanza.planning.recent import NOBODY, Recent
from mudanza.planning.search import Terms

THRESHOLDS = {1: 0.20, 2: 0.12, 3: 0.06, 4: 0.03, 5: 0.01}
"""Level → the imbalance that is left alone. 0.06: hosts lie 6 % of what they have from the common share, as a rule."""
GAINS = {1: 0.20, 2: 0.12, 3: 0.06, 4: 0.03, 5: 0.01}
"""Level → by how much a move must lower the imbalance, times the hosts: what it does for the two it touches."""
PRICE = 0.1
"""What it costs to move as many bytes as a host has to carry on average, in the same measure."""
WISH = 2.0
"""How many times the least gain of a move one granted wish is worth: so a wish alone is reason enough for a move."""


def held(rounds: Sequence[bool], rules: Rules) -> bool:
    """Whether balance was asked for often enough in a row for something to be done. ``rounds``: the oldest first;
    whether each one's imbalance was above the threshold."""
    return len(rounds) >= rules.hold and all(rounds[-rules.hold :]) if rules.hold > 0 else True


def least_gain(rules: Rules, hosts: int) -> float:
    """Return what a move must earn, times the hosts."""
    return GAINS[rules.level] if rules.minimum_gain is None else rules.minimum_gain * hosts


def terms_of(problem: Problem, recent: Recent | None = None) -> Terms:
    """Return what moves must earn, and who may be moved for it. ``recent`` gives those a rest that have moved."""
    rules = problem.rules
    hosts = max(int(problem.open.sum()), 1)
    movable = problem.movable.copy()
    if recent is not None:
        tired = [h.name in recent.hosts and recent.hosts[h.name] < rules.host_rest for h in problem.hosts]
        movable &= ~np.array(tired, dtype=np.bool_)[problem.start]
        for unit, members in enumerate(problem.units):
            if any(recent.vms.get(problem.vms[vm].uuid, np.inf) < rules.vm_rest for vm in members):
                movable[unit] = False
    minimum = least_gain(rules, hosts)
    per_host = max(float(problem.travel.sum()) / hosts, 1.0)
    return Terms(movable, PRICE * problem.travel / per_host, minimum, WISH * minimum)


def resting(problem: Problem, recent: Recent | None) -> list[str]:
    """Return the hosts that take nobody for now."""
    known = recent.hosts if recent is not None else NOBODY
    return [host.name for host in problem.hosts if known.get(host.name, np.inf) < problem.rules.host_rest]
