"""How what VMs used went over time: by spans of equal length, from the readings that are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import Engine, select

from mudanza.journal.database import now
from mudanza.journal.database import reading as reading_only
from mudanza.journal.schema import reading

HOUR = 3600.0


def by_vm(engine: Engine, spans: int, step: float, at: float | None = None) -> Mapping[str, tuple[float | None, ...]]:
    """Return the CPUs that each VM (by UUID) used in the last spans of ``step`` seconds that are over, the newest last;
    None: nobody looked. ``at``: by the database's clock; None: now. Raises JournalLostError."""
    end, found = _sums(engine, spans, step, at)
    first = end - spans
    return {vm: tuple(_mean(slots.get(first + number)) for number in range(spans)) for vm, slots in found.items()}


def by_hour(engine: Engine, hours: int, at: float | None = None) -> tuple[tuple[float, float], ...]:
    """Return the beginning of each of the last hours that are over and were measured, and the CPUs that all VMs used in
    it on average. Raises JournalLostError."""
    _, found = _sums(engine, hours, HOUR, at)
    total: dict[int, float] = defaultdict(float)
    for slots in found.values():
        for slot, values in slots.items():
            total[slot] += _mean(values) or 0.0
    return tuple((slot * HOUR, total[slot]) for slot in sorted(total))


def _sums(engine: Engine, spans: int, step: float, at: float | None) -> tuple[int, dict[str, dict[int, list[float]]]]:
    """Return the number of the span that is not over yet, and of each VM what was read within those before it."""
    with reading_only(engine) as connection:
        instant = at if at is not None else connection.scalar(select(now(connection))) or 0.0
        end = int(instant // step)
        within = (reading.c.kind == "vm") & reading.c.at.between((end - spans) * step, end * step)
        rows = connection.execute(select(reading.c.subject, reading.c.at, reading.c.cpus).where(within)).all()
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        slot = int(row.at // step)
        if slot < end:
            found[row.subject][slot].append(row.cpus)
    return end, found


def _mean(values: list[float] | None) -> float | None:
    return sum(values) / len(values) if values else None
