"""Who carries out the jobs of each kind, and finishes those that a controller left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mudanza.cli.context import App
from mudanza.cli.output import say
from mudanza.journal.protocol import RESTART
from mudanza.model.migration import Progress

if TYPE_CHECKING:
    from mudanza.availability.restarting import Restart
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.jobs import Jobs
    from mudanza.migration.cold.migration import ColdMigration
    from mudanza.migration.cpu_change import CpuChange
    from mudanza.migration.live.migration import LiveMigration
    from mudanza.migration.relocation.relocation import Relocation
    from mudanza.operations.recovering import Recovering
    from mudanza.protection.failover import Failover
    from mudanza.protection.homecoming import SettingApart
    from mudanza.protection.rounds import Rounds
    from mudanza.protection.trial import Trials
    from mudanza.protection.turning import Turning


def mover_of(
    app: App, connections: Connections, kind: str, on_progress: Callable[[Progress], None], jobs: Jobs | None = None
) -> LiveMigration | ColdMigration | Relocation:
    """Return what carries out jobs of a kind: ``live``, ``cold``, or ``relocate`` for disks within one host.

    ``jobs``: the journal as whoever has claimed a job sees it, where a move is not to begin a job of its own.
    """
    limits, jobs = app.loaded.settings.limits, jobs or app.jobs
    if kind == "relocate":
        from mudanza.migration.relocation.relocation import Relocation

        return Relocation(connections, app.inventory, jobs, limits.no_progress, on_progress)
    if kind == "cold":
        from mudanza.migration.cold.migration import ColdLimits, ColdMigration

        return ColdMigration(connections, app.inventory, jobs, ColdLimits(limits.no_progress), on_progress, app.hooks)
    from mudanza.migration.live.migration import Limits, LiveMigration

    live = Limits(limits.no_progress, limits.settle, limits.postcopy_recovery)
    return LiveMigration(connections, app.inventory, jobs, live, on_progress, app.hooks)


def finisher_of(
    app: App, connections: Connections, kind: str, on_progress: Callable[[Progress], None], jobs: Jobs | None = None
) -> (
    LiveMigration
    | ColdMigration
    | Relocation
    | CpuChange
    | Rounds
    | Failover
    | Trials
    | Turning
    | SettingApart
    | Recovering
    | Restart
):
    """Return what finishes jobs of a kind that a controller left behind, moves and all others."""
    if kind == RESTART:
        return restart_of(app, connections, jobs)
    if kind == "cpu":
        from mudanza.migration.cpu_change import CpuChange

        return CpuChange(connections, jobs or app.jobs)
    if kind == "protect":
        from mudanza.journal.protections import Protections
        from mudanza.protection.rounds import Rounds

        return Rounds(connections, jobs or app.jobs, Protections(app.database))
    if kind == "failover":
        from mudanza.journal.protections import Protections
        from mudanza.protection.failover import Failover

        return Failover(connections, jobs or app.jobs, Protections(app.database))
    if kind == "test failover":
        from mudanza.journal.protections import Protections
        from mudanza.protection.trial import Trials

        return Trials(connections, jobs or app.jobs, Protections(app.database))
    if kind == "reprotect":
        from mudanza.journal.protections import Protections
        from mudanza.protection.turning import Turning

        return Turning(connections, jobs or app.jobs, Protections(app.database))
    if kind == "set apart":
        from mudanza.protection.homecoming import SettingApart

        return SettingApart(connections, jobs or app.jobs)
    if kind in ("recovery", "cold start", "site stop"):
        from mudanza.operations.recovering import Recovering

        return Recovering(app, connections, say, app.asked_by())
    return mover_of(app, connections, kind, on_progress, jobs)


def restart_of(app: App, connections: Connections, jobs: Jobs | None = None) -> Restart:
    """Return what starts VMs of lost hosts elsewhere; ``jobs`` as for ``mover_of``."""
    from mudanza.availability.restarting import Restart, Stores
    from mudanza.journal.fences import Fences
    from mudanza.journal.protections import Protections
    from mudanza.journal.remembered import Definitions

    database = app.database
    stores = Stores(jobs or app.jobs, Fences(database), Definitions(database), Protections(database))
    return Restart(connections, stores, lock_wait=app.availability.lock_wait)
