"""Which VMs are to be started elsewhere when their host dies, and what became of earlier restarts: as the database has
it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Engine, delete, insert, select, update

from mudanza.journal.database import now, reading, transaction
from mudanza.journal.duty import Duty
from mudanza.journal.protocol import RESTART
from mudanza.journal.restarts import restarts
from mudanza.journal.schema import job, kept_up, plan, plan_move
from mudanza.model.cluster import Cluster
from mudanza.model.kept import AS_USUAL, Care, KeptUp, OnHang, Past, ran_on

AVAILABILITY = Duty("availability", "hosts are watched", "watches the hosts", "mudanza ha status")
DAY = 86400.0


class KeptUps:
    """The VMs of one database that are kept up. Raises JournalLostError where that does not answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(
        self,
        uuid: str,
        name: str,
        priority: int,
        most: int,
        asked_by: str,
        *,
        autostart: bool,
        ran_on: str = "",
        after: Sequence[str] = (),
        care: Care = AS_USUAL,
    ) -> None:
        """Have a VM kept up, or change how; whether its host started it by itself is kept as it was first said.

        ``ran_on``: the host on which it runs; empty: none that was seen. ``after``: UUIDs of those started before it.
        """
        with transaction(self._engine) as connection:
            mine = kept_up.c.vm_uuid == uuid
            before = connection.execute(select(kept_up.c.autostart).where(mine)).first()
            connection.execute(delete(kept_up).where(mine))
            connection.execute(
                insert(kept_up).values(
                    vm_uuid=uuid, vm_name=name, priority=priority, most=most, asked_by=asked_by,
                    autostart=autostart if before is None else before.autostart, at=now(connection), ran_on=ran_on,
                    after=json.dumps(list(after)), from_replica=care.from_replica, max_loss=care.max_loss,
                    on_hang=care.on_hang.value, hang_after=care.hang_after, answers=care.answers,
                )
            )  # fmt: skip

    def all(self) -> Mapping[str, KeptUp]:
        """Return all of them, by UUID, in the order in which they are started."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(kept_up).order_by(kept_up.c.priority, kept_up.c.vm_name)).all()
        return {
            row.vm_uuid: KeptUp(
                row.vm_uuid,
                row.vm_name,
                row.priority,
                row.most,
                row.autostart,
                row.asked_by,
                row.at,
                row.ran_on,
                tuple(json.loads(row.after)),
                Care(row.from_replica, row.max_loss, OnHang(row.on_hang), row.hang_after, row.answers),
            )
            for row in rows
        }

    def seen(self, cluster: Cluster) -> None:
        """Write down where they ran when they were seen last."""
        changed = {uuid: there for uuid, each in self.all().items() if (there := ran_on(each, cluster)) != each.ran_on}
        if changed:
            with transaction(self._engine) as connection:
                for uuid, there in changed.items():
                    mine = update(kept_up).where(kept_up.c.vm_uuid == uuid)
                    connection.execute(mine.values(ran_on=there))

    def remove(self, uuid: str) -> None:
        """Keep a VM up no more."""
        with transaction(self._engine) as connection:
            connection.execute(delete(kept_up).where(kept_up.c.vm_uuid == uuid))

    def started_elsewhere(self) -> tuple[tuple[str, str], ...]:
        """Return, by UUID and old host, which VMs were ever started elsewhere because their host was lost."""
        mine = (job.c.kind == RESTART) & (job.c.exit_code == 0) & (job.c.source != job.c.target)
        with reading(self._engine) as connection:
            rows = connection.execute(select(job.c.vm_uuid, job.c.source).where(mine).distinct()).all()
        return tuple((row.vm_uuid, row.source) for row in rows)

    def past(self, uuids: Collection[str]) -> Mapping[str, Past]:
        """Return what became of earlier restarts of these VMs, by UUID."""
        found = {uuid: Past() for uuid in uuids}
        with reading(self._engine) as connection:
            instant = float(connection.scalar(select(now(connection))) or 0.0)
            recent = job.c.ended_at.is_(None) | (restarts() & (job.c.ended_at >= instant - DAY))
            for row in connection.execute(select(job).where(recent).order_by(job.c.ended_at)):
                if row.vm_uuid in found:
                    found[row.vm_uuid] = _with(found[row.vm_uuid], row.ended_at, row.exit_code, instant)
            carried_out = select(plan_move.c.vm_uuid).join(plan, plan.c.id == plan_move.c.plan)
            for uuid in connection.execute(carried_out.where(plan.c.ended_at.is_(None))).scalars():
                if uuid in found:
                    found[uuid] = replace(found[uuid], under_way=True)
        return found


def _with(before: Past, ended_at: float | None, exit_code: int | None, instant: float) -> Past:
    if ended_at is None:
        return replace(before, under_way=True)
    ago = max(instant - ended_at, 0.0)
    return replace(
        before,
        within_a_day=before.within_a_day + (exit_code == 0),
        failed=before.failed + 1 if exit_code != 0 else 0,
        ago=ago if before.ago is None else min(ago, before.ago),
    )
