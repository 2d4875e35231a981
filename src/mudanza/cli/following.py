"""Moves that a daemon carries out, followed as if they were carried out here."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.cli.announcing import announce, nothing_to_do
from mudanza.cli.job_watch import LOOK_EVERY, TAKEN, report_of
from mudanza.cli.moving import Outcome, asking_at_ctrl_c
from mudanza.cli.output import Format, say
from mudanza.cli.watching import View, view_for
from mudanza.migration.forecast.keeping import announced
from mudanza.model.errors import MudanzaError
from mudanza.model.telling import error_from_data
from mudanza.operations.jobs import not_begun
from mudanza.remote.asking import DaemonLostError, new_key

if TYPE_CHECKING:
    from mudanza.journal.job import Job
    from mudanza.model.migration import MigrationOptions, MigrationReport, Standing
    from mudanza.model.vm import Vm
    from mudanza.remote.there import There


@dataclass
class Followed:
    """A job that a daemon was asked for."""

    vm: str
    uuid: str
    job: int
    announced: bool = False
    cancelled: bool = False
    left_since: float | None = None
    """Since when nobody works on it."""
    report: MigrationReport | None = None
    error: MudanzaError | None = None


class MovesThere:
    """Has VMs moved by a daemon, some at once, while one can watch and cancel."""

    def __init__(self, there: There, output: Format) -> None:
        self._there = there
        self._output = output
        self._stop = clock.new_event()

    def move(
        self, vms: Sequence[Vm], to: str | None, options: MigrationOptions, usual: Collection[str], parallel: int
    ) -> list[Outcome]:
        """Have them all moved; return how each one ended, in their order. ``usual``: see ``There.move``."""
        outcomes = {vm.uuid: Outcome(vm) for vm in vms}
        waiting, under_way = deque(vms), list[Followed]()
        with view_for(self._output) as view, asking_at_ctrl_c(self._stop, view):
            while waiting or under_way:
                while waiting and (self._stop.is_set() or len(under_way) < parallel):
                    vm = waiting.popleft()
                    begun = self._begin(vm, to, options, usual)
                    if isinstance(begun, Followed):
                        under_way.append(begun)
                    else:
                        outcomes[vm.uuid].error = begun
                for each in [each for each in under_way if not self.goes_on(each, view)]:
                    under_way.remove(each)
                    outcomes[each.uuid].report, outcomes[each.uuid].error = each.report, each.error
                if under_way:
                    clock.sleep(LOOK_EVERY)
        return list(outcomes.values())

    def _begin(
        self, vm: Vm, to: str | None, options: MigrationOptions, usual: Collection[str]
    ) -> Followed | MudanzaError:
        if self._stop.is_set():
            return not_begun(vm.name, vm.host)
        try:
            return Followed(vm.name, vm.uuid, self._there.move(vm, to, options, usual, new_key()))
        except MudanzaError as error:
            return error

    def finish(self, job: Job) -> MigrationReport | None:
        """Follow a job to its end that somebody works on, or will; return its report. Raises how it ended otherwise."""
        followed = Followed(job.vm_name, job.vm_uuid, job.id, announced=not job.is_queued)
        with view_for(self._output) as view, asking_at_ctrl_c(self._stop, view):
            while self.goes_on(followed, view):
                clock.sleep(LOOK_EVERY)
        if followed.error is not None:
            raise followed.error
        return followed.report

    def goes_on(self, followed: Followed, view: View) -> bool:
        """Look at one; return whether it goes on. If not, it has its report, or its error."""
        try:
            if self._look(followed, view):
                return True
        except DaemonLostError as error:
            error.vm_state = f"nobody has looked since; what becomes of it: mudanza job watch {followed.job}"
            followed.error = error
        except MudanzaError as error:
            followed.error = error
        view.on_end(followed.vm)
        return False

    def _look(self, followed: Followed, view: View) -> bool:
        if self._stop.is_set() and not followed.cancelled:
            with suppress(DaemonLostError):  # it is asked again, once it answers
                self._there.cancel_job(followed.job)
                followed.cancelled = True
        with self._there.looking(followed.job) as look:
            standing = look()
        if standing.ended or self._is_left(followed, standing):
            return self._ended(followed, self._there.job(followed.job))
        if standing.decided and not followed.announced:
            self._announce(followed, self._there.job(followed.job))
        view.on_progress(followed.vm, standing.way, standing.progress)
        return True

    @staticmethod
    def _is_left(followed: Followed, standing: Standing) -> bool:
        """Whether nobody works on it, and nobody will: daemons take up by themselves what others have left."""
        if not standing.abandoned:
            followed.left_since = None
            return False
        followed.left_since = followed.left_since or clock.monotonic()
        return standing.left_to_person or clock.monotonic() - followed.left_since >= TAKEN

    def _announce(self, followed: Followed, job: Job) -> None:
        told = announced(job)
        if told is not None and not followed.announced:
            announce(told, self._output)
            followed.announced = True

    def _ended(self, followed: Followed, job: Job) -> bool:
        """Take down how it ended; return whether another job goes on in its place. Raises how it ended."""
        self._announce(followed, job)
        if (instead := job.report.get("instead")) is not None:
            followed.job, followed.announced, followed.cancelled = int(instead), False, False
            return True
        if host := job.report.get("unchanged"):
            nothing_to_do(followed.vm, followed.uuid, host, self._output)
            return False
        told = job.report.get("error")
        if told and (job.ended_at is not None or job.left_to_person):
            raise error_from_data(told)
        followed.report = report_of(job)
        if followed.report is None:
            say(f"job {job.id} has ended: {job.outcome}")
        return False
