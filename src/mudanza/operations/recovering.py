"""Plans, carried out: VMs brought up where their replicas are, a site started, a site shut down."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from mudanza import clock
from mudanza.model.errors import BlockedError, MigrationFailedError, UsageError
from mudanza.model.finding import Finding, blockers
from mudanza.model.migration import Answer, MigrationReport
from mudanza.model.recovery import RecoveryPlan, Room
from mudanza.model.units import format_duration
from mudanza.operations.recovery_file import read_plan

LOOK_AGAIN = 1.0
"""Seconds between two looks whether a controller that died is known to be gone."""

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.job import Job
    from mudanza.journal.jobs import JobHandle
    from mudanza.migration.residue import Residue
    from mudanza.model.protection import Protection
    from mudanza.operations.means import Means, Say
    from mudanza.operations.site import Starting, Stopped, Stopping
    from mudanza.protection.failover import Outcome
    from mudanza.protection.recovery import FailingOver, Recovered, Recovery


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
        scripts = self._scripts_not_runnable(plan)
        return findings_of(plan, Protections(self._means.database).all(), cluster, planned=planned, scripts=scripts)

    def _scripts_not_runnable(self, plan: RecoveryPlan) -> Mapping[str, str]:
        """Return why scripts of a plan cannot be run by this controller."""
        from mudanza.migration.hooks import runnable
        from mudanza.model.hook import When

        found = {}
        for name in plan.scripts:
            hook = self._means.hooks.get(name)
            if hook is not None and When.RECOVERY not in hook.when:
                found[name] = f'hooks.{name} of the settings is not for plans: when = ["recovery"]'
            elif (probe := runnable(hook)).answer is not Answer.YES:
                found[name] = probe.detail
        return found

    def run(self, name: str, text: str, *, planned: bool) -> tuple[Recovered, ...]:
        """Bring up all VMs of a plan where their replicas are. Raises UsageError; BlockedError where it is not
        possible, nothing being touched; NeedsPersonError where it has come to a stop: its job is to be resumed."""
        plan = read_plan(name, text)
        self._refuse_under_way(name)
        found = self.check(plan, planned=planned)
        if in_the_way := blockers(found):
            raise BlockedError(f"plan {name!r} is not possible now", findings=in_the_way)
        for warning in found:
            self._say(f"! {warning.subject}: {warning.message} [{warning.code}]")
        asked = {"plan": text, "planned": planned}
        return self._recovery(self._failing_over(planned=planned)).run(plan, asked, self._asked_by)

    def start(self, name: str, text: str) -> tuple[Recovered, ...]:
        """Start all VMs of a plan where they are, once their hosts answer. Raises UsageError; BlockedError where a
        script cannot be run, nothing being touched; NeedsPersonError as ``run``."""
        plan = read_plan(name, text)
        self._refuse_under_way(name)
        if lacking := self._scripts_not_runnable(plan):
            told = "; ".join(f"{script}: {why}" for script, why in lacking.items())
            raise BlockedError(f"plan {name!r} names scripts that cannot be run: {told}")
        return self._recovery(self._starting()).run(plan, {"plan": text}, self._asked_by)

    def stop(self, name: str, text: str, within: float | None) -> tuple[Stopped, ...]:
        """Have all VMs of a plan shut down, in the opposite order. Raises as ``Stopping.carry_out``, and UsageError."""
        from mudanza.journal.job import NewJob
        from mudanza.operations.site import STOP
        from mudanza.protection.recovery import busy_of

        plan = read_plan(name, text)
        self._refuse_under_way(name)
        asked = {"plan": text, "within": within}
        handle = self._means.jobs.begin(NewJob(STOP, busy_of(name), name, "", "", asked, self._asked_by))
        return self._stopping().carry_out(handle, plan, within)

    def _refuse_under_way(self, name: str) -> None:
        """Raise BlockedError where a plan is being carried out, or has come to a stop."""
        from mudanza.protection.recovery import busy_of, ways_on

        job = self._means.jobs.unfinished_of(busy_of(name))
        if job is None:
            return
        stands = "has come to a stop" if job.abandoned else "is under way"
        remedy = ways_on(job.id) if job.abandoned else job.way_out
        raise BlockedError(f"plan {name!r} {stands}: job {job.id}, {job.kind}", remedy=remedy)

    def _recovery(self, way: FailingOver | Starting) -> Recovery:
        from mudanza.protection.recovery import Recovery

        room = Room(self._means.recovery.at_once, self._means.recovery.at_once_per_host)
        return Recovery(self._means.database, self._means.jobs, way, self._means.hooks, self._say, room)

    def _failing_over(self, *, planned: bool, left_behind: bool = False) -> FailingOver:
        from mudanza.journal.protections import Protections
        from mudanza.protection.recovery import FailingOver

        store = Protections(self._means.database)

        def bring_up(protection: Protection, networks: Mapping[str, str]) -> Outcome:
            return self._bring_up(protection, networks, planned=planned)

        def start_again(handle: JobHandle, protection: Protection, group: str) -> None:
            self._starting().start_again(handle, protection, group, host_is_dead=not planned)

        finish = self._finish_left_behind if left_behind else lambda _: None
        return FailingOver(
            self._connections, self._means.jobs, store, bring_up, self._say,
            start_again=start_again, planned=planned, finish=finish,
        )  # fmt: skip

    def _starting(self) -> Starting:
        from mudanza.operations.host_off import switcher_of
        from mudanza.operations.site import Starting

        switcher = switcher_of(self._means, self._asked_by, self._say)
        return Starting(self._means, self._connections, switcher, self._say)

    def _stopping(self) -> Stopping:
        from mudanza.operations.site import Stopping

        return Stopping(self._means, self._connections, self._say)

    def _bring_up(self, protection: Protection, networks: Mapping[str, str], *, planned: bool) -> Outcome:
        from mudanza.journal.protections import Protections
        from mudanza.operations.handing_over import hand_over
        from mudanza.protection.failover import Failover, reconnected

        store = Protections(self._means.database)
        nics = reconnected(protection, networks)
        if planned:
            return hand_over(self._means, self._connections, protection, nics, self._asked_by, self._say)
        cluster = self._means.read_cluster(self._connections)
        failover = Failover(self._connections, self._means.jobs, store)
        return failover.from_point(protection, cluster, None, nics, self._asked_by)

    def resume(self, job_id: int, stop: clock.Event) -> MigrationReport:
        """Go on with a plan where it has come to a stop, or its controller died; give it up where ``stop`` is set, or
        somebody wants that. Raises as ``run`` and its like; MigrationFailedError once it is given up."""
        from mudanza.operations.site import STOP

        begun, job = clock.monotonic(), self._means.jobs.get(job_id)
        if stop.is_set() or job.cancel_asked_by:
            self._give_up(job)
        if job.kind == STOP:
            told = ", ".join(f"{each.vm} off after {format_duration(each.after)}" for each in self.go_on_stopping(job))
        else:
            up = self.go_on(job)
            told = ", ".join(f"{each.vm} on {each.host} after {format_duration(each.up_after)}" for each in up)
        return MigrationReport(
            job.vm_name, job.vm_uuid, job.source, job.target, job.kind, clock.monotonic() - begun, None, 0, 0, 0.0, 0,
            tls=False, transport=told,
        )  # fmt: skip

    def _give_up(self, job: Job) -> NoReturn:
        from mudanza.migration.steering import ON_REQUEST
        from mudanza.protection.recovery import given_up

        why = f"{ON_REQUEST} of {job.cancel_asked_by}" if job.cancel_asked_by else ON_REQUEST
        raise given_up(self._means.jobs.take_over(job.id), job.vm_name, why)

    def go_on(self, job: Job) -> tuple[Recovered, ...]:
        """Go on with bringing VMs up. Raises as ``run``."""
        from mudanza.operations.site import START

        plan = read_plan(job.vm_name, str(job.asked["plan"]))
        if job.kind == START:
            return self._recovery(self._starting()).carry_out(self._means.jobs.take_over(job.id), plan)
        way = self._failing_over(planned=bool(job.asked["planned"]), left_behind=True)
        return self._recovery(way).carry_out(self._means.jobs.take_over(job.id), plan)

    def go_on_stopping(self, job: Job) -> tuple[Stopped, ...]:
        """Go on with having VMs shut down. Raises as ``stop``."""
        plan, within = read_plan(job.vm_name, str(job.asked["plan"])), job.asked["within"]
        handle = self._means.jobs.take_over(job.id)
        return self._stopping().carry_out(handle, plan, None if within is None else float(within))

    def _finish_left_behind(self, plan: RecoveryPlan) -> None:
        """Finish the failovers of a plan's VMs whose controller died in the middle: they are up then, or taken back.

        That may have died over several of them a moment ago. Each has a lease of its own, which is waited for.
        """
        from mudanza.journal.handle import LEASE, LONGEST_CALL
        from mudanza.journal.protections import Protections
        from mudanza.protection.failover import KIND, Failover

        store = Protections(self._means.database)
        failover = Failover(self._connections, self._means.jobs, store)
        until = clock.monotonic() + LEASE + LONGEST_CALL
        for vm in plan.vms:
            job = self._abandoned(store.all_of(vm)[0].vm_uuid, until)
            if job is not None and job.kind == KIND:
                with suppress(MigrationFailedError):  # it is brought up anew
                    failover.resume(job.id, clock.new_event())

    def _abandoned(self, uuid: str, until: float) -> Job | None:
        """Return a VM's unfinished job, once its controller is known to be gone; None: there is none, or it lives."""
        told = False
        while (job := self._means.jobs.unfinished_of(uuid)) is not None and not job.abandoned:
            if clock.monotonic() >= until:
                return None
            if not told:
                self._say(f"{job.vm_name}: waiting until job {job.id} has ended, or its controller is known to be gone")
                told = True
            clock.sleep(LOOK_AGAIN)
        return job

    def clean_up(self, _job_id: int) -> Residue:
        """Such a job leaves nothing of its own."""
        from mudanza.migration.residue import Residue

        return Residue()


def unfinished_run(means: Means, plan: str, kind: str | None = None) -> Job:
    """Return the run of a plan that is under way or has come to a stop, of that kind. Raises UsageError."""
    from mudanza.protection.recovery import busy_of

    job = means.jobs.unfinished_of(busy_of(plan))
    if job is None or (kind is not None and job.kind != kind):
        other = f"; its job {job.id} is a {job.kind}" if job is not None else ""
        raise UsageError(f"plan {plan!r} is not under way{other}: there is nothing to go on with")
    return job
