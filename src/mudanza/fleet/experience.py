"""What the journal knows of earlier moves that a plan goes by: what links carried, and who was moved of late."""

from __future__ import annotations

from mudanza.journal.database import Database
from mudanza.journal.reports import moved_within, reports
from mudanza.migration.forecast.learning import REMEMBERED, Past, link_of
from mudanza.migration.forecast.measuring import past_of
from mudanza.planning.recent import Recent

REPORTS = 1000
"""Of so many moves, the newest ones, it is looked what their links carried."""
LOOKED_BACK = 24 * 3600.0
"""Seconds for which the journal is asked who was moved."""


def links(database: Database, told: float | None) -> tuple[dict[tuple[str, str], float], float]:
    """Return what each link (source, target) that moves went over has carried, and what any other is taken to carry:
    as ``told``, else as is usual. Bytes per second."""
    pairs: dict[tuple[str, str], list[Past]] = {}
    for past in map(past_of, reports(database, REPORTS)):
        pairs.setdefault((past.source, past.target), []).append(past)
    known = {pair: link_of(found[:REMEMBERED], None, told).rate for pair, found in pairs.items()}
    return known, link_of((), None, told).rate


def moved_of_late(database: Database) -> Recent:
    """Return who was moved of late, and which hosts took or gave a VM."""
    vms: dict[str, float] = {}
    hosts: dict[str, float] = {}
    for moved in moved_within(database, LOOKED_BACK):
        vms.setdefault(moved.vm_uuid, moved.ago)
        for host in (moved.source, moved.target):
            hosts.setdefault(host, moved.ago)
    return Recent(vms, hosts)
