"""A plan for recovery: is it possible, and carrying it out, one VM after the other."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.model.errors import BlockedError, MigrationFailedError
from mudanza.model.finding import Finding, blockers
from mudanza.model.migration import MigrationReport
from mudanza.model.recovery import Group, RecoveryPlan
from mudanza.model.units import format_duration
from mudanza.operations.recovery_file import read_plan

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.migration.residue import Residue
    from mudanza.operations.means import Means, Say
    from mudanza.protection.failover import Outcome
    from mudanza.protection.recovery import Recovered, Recovery


class Recovering:
    """Checks plans and carries them out; finishes those that a controller has left behind."""

    def __init__(self, means: Means, connections: Connections, say: Say, asked_by: str) -> None:
        self._means = means
        self._connections = connections
        self._say = say
        self._asked_by = asked_by

    def check(self, plan: RecoveryPlan, *, planned: bool) -> tuple[Finding, ...]:
        """Return everything that stands against a plan now. ``planned``: the VMs' own hosts live."""
        from mudanza.journal.protections import Protections
        from mudanza.protection.possible import findings_of

        cluster = self._means.read_cluster(self._connections)
        return findings_of(plan, Protections(self._means.database).all(), cluster, planned=planned)

    def run(self, name: str, text: str, *, planned: bool) -> tuple[Recovered, ...]:
        """Carry a plan out. Raises UsageError; BlockedError where it is not possible, nothing being touched;
        NeedsPersonError where it has come to a stop: its job is to be resumed."""
        plan = read_plan(name, text)
        found = self.check(plan, planned=planned)
        if in_the_way := blockers(found):
            raise BlockedError(f"plan {name!r} is not possible now", findings=in_the_way)
        for warning in found:
            self._say(f"! {warning.subject}: {warning.message} [{warning.code}]")
        return self._recovery(planned=planned).run(plan, {"plan": text, "planned": planned}, self._asked_by)

    def _recovery(self, *, planned: bool) -> Recovery:
        from mudanza.journal.protections import Protections
        from mudanza.protection.recovery import Recovery

        store = Protections(self._means.database)

        def bring_up(vm: str, group: Group) -> Outcome:
            return self._bring_up(vm, group, planned=planned)

        return Recovery(self._connections, self._means.jobs, store, bring_up, self._say)

    def _bring_up(self, vm: str, group: Group, *, planned: bool) -> Outcome:
        from mudanza.journal.protections import Protections
        from mudanza.operations.handing_over import hand_over
        from mudanza.protection.failover import Failover, reconnected

        store = Protections(self._means.database)
        protection = store.of(vm)
        nics = reconnected(protection, group.networks)
        if planned:
            return hand_over(self._means, self._connections, protection.vm_uuid, nics, self._asked_by, self._say)
        cluster = self._means.read_cluster(self._connections)
        failover = Failover(self._connections, self._means.jobs, store)
        return failover.from_point(protection, cluster, None, nics, self._asked_by)

    def resume(self, job_id: int, _stop: clock.Event) -> MigrationReport:
        """Go on with a plan where it has come to a stop, or its controller died. Raises as ``run``."""
        begun, job = clock.monotonic(), self._means.jobs.get(job_id)
        plan = read_plan(job.vm_name, str(job.asked["plan"]))
        self._finish_left_behind(plan)
        handle = self._means.jobs.take_over(job_id)
        done = self._recovery(planned=bool(job.asked["planned"])).carry_out(handle, plan)
        told = ", ".join(f"{each.vm} on {each.host} after {format_duration(each.up_after)}" for each in done)
        return MigrationReport(
            job.vm_name, job.vm_uuid, job.source, job.target, job.kind, clock.monotonic() - begun, None, 0, 0, 0.0, 0,
            tls=False, transport=told,
        )  # fmt: skip

    def _finish_left_behind(self, plan: RecoveryPlan) -> None:
        """Finish the failovers of a plan's VMs whose controller died in the middle: they are up then, or taken back."""
        from mudanza.journal.protections import Protections
        from mudanza.protection.failover import KIND, Failover

        store = Protections(self._means.database)
        failover = Failover(self._connections, self._means.jobs, store)
        for vm in plan.vms:
            job = self._means.jobs.unfinished_of(store.of(vm).vm_uuid)
            if job is not None and job.kind == KIND and job.abandoned:
                with suppress(MigrationFailedError):  # it is brought up anew
                    failover.resume(job.id, clock.new_event())

    def clean_up(self, _job_id: int) -> Residue:
        """Such a job leaves nothing of its own."""
        from mudanza.migration.residue import Residue

        return Residue()
