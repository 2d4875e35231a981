"""Figures of jobs that have ended: counted in the transaction that ends them, so that none is missed or counted twice,
whichever controller did the job, and none is lost when old jobs are forgotten.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from sqlalchemy import Connection, select

from mudanza.journal.protocol import MOVES
from mudanza.journal.schema import tally
from mudanza.model.units import GIB, MIB

ENDED = "jobs_ended"
DURATION = "migration_duration_seconds"
DOWNTIME = "migration_downtime_seconds"
TRAVELLED = "migration_transferred_bytes"
ERROR = "forecast_error_ratio"
INFINITE = "+Inf"

EDGES: Mapping[str, tuple[float, ...]] = {
    DURATION: (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600),
    DOWNTIME: (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
    TRAVELLED: (64 * MIB, 256 * MIB, GIB, 4 * GIB, 16 * GIB, 64 * GIB, 256 * GIB, 1024 * GIB, 4096 * GIB),
    ERROR: (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5),
}
"""The upper edges of each figure's buckets."""
_SUM, _COUNT = "sum", "count"


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a figure was how large, under certain labels."""

    name: str
    labels: Mapping[str, str]
    buckets: tuple[tuple[str, float], ...]
    """Upper edges, the last one INFINITE, and how often the figure was not above."""
    total: float


@dataclass(frozen=True, slots=True)
class Tallies:
    """All that was counted since the journal was made."""

    ended: tuple[tuple[Mapping[str, str], float], ...] = ()
    """How often jobs of a ``kind`` have ended with an ``exit_code``."""
    histograms: tuple[Histogram, ...] = ()
    """Of moves that went well, by their ``kind``."""


def count(connection: Connection, kind: str, exit_code: int, report: Mapping[str, Any]) -> None:
    """Count a job that ends, within the transaction that ends it."""
    rows = {(ENDED, _labels(kind=kind, exit_code=str(exit_code)), _COUNT): 1.0}
    if exit_code == 0 and kind in MOVES:
        for name, value in _figures(report):
            rows[name, _labels(kind=kind), _edge(EDGES[name], value)] = 1.0
            rows[name, _labels(kind=kind), _SUM] = value
    insert = _insert(connection)
    for (name, labels, edge), value in sorted(rows.items()):  # in one order, so that no two wait for each other
        new = insert(tally).values(name=name, labels=labels, edge=edge, value=value)
        more = {"value": tally.c.value + new.excluded.value}
        connection.execute(new.on_conflict_do_update(index_elements=["name", "labels", "edge"], set_=more))


def _insert(connection: Connection) -> Any:
    """Return how this kind of database puts rows in that may be there. The other kind's takes long to load."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    from sqlalchemy.dialects import sqlite

    return sqlite.insert


def _labels(**labels: str) -> str:
    return json.dumps(labels, sort_keys=True)


def _edge(edges: tuple[float, ...], value: float) -> str:
    return next((str(float(edge)) for edge in edges if value <= edge), INFINITE)


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    moving = report.get("moving_time")
    if moving:
        yield DURATION, float(moving)
        foreseen = (report.get("forecast") or {}).get("total")
        if foreseen is not None:
            yield ERROR, abs(float(foreseen) - float(moving)) / float(moving)
    if report.get("downtime") is not None:
        yield DOWNTIME, float(report["downtime"])
    if "memory_bytes" in report:
        yield TRAVELLED, float(report["memory_bytes"] or 0) + float(report.get("disk_bytes") or 0)


def tallies(connection: Connection) -> Tallies:
    """Return all that was counted."""
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in connection.execute(select(tally).order_by(tally.c.name, tally.c.labels)):
        found[row.name, row.labels][row.edge] = row.value
    ended, histograms = [], []
    for (name, text), values in found.items():
        labels: dict[str, str] = json.loads(text)
        if name == ENDED:
            ended.append((labels, values[_COUNT]))
        elif name in EDGES:
            histograms.append(Histogram(name, labels, _cumulative(EDGES[name], values), values.get(_SUM, 0.0)))
    return Tallies(tuple(ended), tuple(histograms))


def _cumulative(edges: tuple[float, ...], values: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """Return how often it was not above each edge. What another version has counted at an edge of its own is not above
    the next one that this version knows."""
    counted = {float(edge): value for edge, value in values.items() if edge != _SUM}
    bounds = (float("-inf"), *map(float, edges), float("inf"))
    within = [
        sum(value for edge, value in counted.items() if below < edge <= above) for below, above in pairwise(bounds)
    ]
    names = (*(str(float(edge)) for edge in edges), INFINITE)
    return tuple(zip(names, accumulate(within), strict=True))
