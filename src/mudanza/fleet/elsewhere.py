"""Another host for a VM that could not get to the one it was planned for: by the rules, and not there again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.reading.cluster import READ_TIMEOUT, read_cluster
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs
from mudanza.migration.arrivals import Arrivals
from mudanza.model.cluster import Cluster
from mudanza.model.errors import MudanzaError
from mudanza.model.load import Loads
from mudanza.model.plan import Goal, PlannedMove
from mudanza.model.rules import Rule, RuleKind

THINKING = 5.0
"""Seconds that finding another host may take."""


class Elsewhere:
    """Finds hosts in a picture of the cluster taken then."""

    def __init__(
        self, inventory: Inventory, jobs: Jobs, loads: Callable[[Cluster], Loads], connect: Callable[[], Connections]
    ) -> None:
        self._inventory = inventory
        self._jobs = jobs
        self._loads = loads
        self._connect = connect

    def __call__(self, failed: PlannedMove) -> PlannedMove | None:
        """Return the move of a VM to another host than the one it could not get to; None: there is no other."""
        # Imported where it is needed: most plans come through, and it takes its time to load.
        from mudanza.planning.planner import Request, think
        from mudanza.planning.result import as_plan

        with self._connect() as connections:
            cluster = read_cluster(self._inventory.hosts(), timeout=READ_TIMEOUT, connections=connections)
        there = Rule("it could not get there", RuleKind.MUST_NOT, (failed.uuid,), hosts=(failed.target,))
        rules = self._inventory.rules()
        rules = replace(rules, rules=(*rules.rules, there))
        until = clock.monotonic() + THINKING
        arrivals = tuple(Arrivals(self._jobs).expected().values())
        try:
            request = Request(Goal.PLACE, failed.uuid)
            outcome = think(
                request, cluster, rules, self._loads(cluster), arrivals=arrivals, stop=lambda: clock.monotonic() > until
            )
            plan = as_plan(outcome)
        except MudanzaError:
            return None  # it is nowhere, or twice, or its host was not seen: its own job has said so
        found = next((move for move in plan.moves if move.uuid == failed.uuid), None)
        if found is None or found.source != failed.source:
            return None
        reason = f"it could not get to {failed.target}: {found.reason}"
        return replace(found, mode=failed.mode, reason=reason, after=(), behind=(), start=None, finish=None)
