"""Keeps figures of the moves under way, so that whoever looks sees their course, however late they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mudanza import clock
from mudanza.hypervisor.connections import Connections
from mudanza.journal.errors import JournalLostError
from mudanza.journal.jobs import Filter, Job, Jobs
from mudanza.migration.looking import TRANSFERRING, look, standing_of, without_figures
from mudanza.migration.progress import Trend
from mudanza.model.host import HostEntry
from mudanza.model.migration import Progress, Standing

MOST_SAMPLES = 600
"""Of one move; of a longer one every other is left out, again and again."""
MOST_JOBS = 100
"""Looked at, and remembered once they have ended: the newest ones."""

_NO_TREND = Trend()


@dataclass(frozen=True, slots=True)
class Course:
    """How a move went so far."""

    samples: tuple[Progress, ...] = ()
    trend: Trend = _NO_TREND
    told: Progress | None = None
    """What whoever carries it out told last."""

    def after(self, progress: Progress, trend: Trend) -> Course:
        """Return it with one more sample."""
        samples = self.samples[::2] if len(self.samples) >= MOST_SAMPLES else self.samples
        return Course((*samples, progress), trend)

    def heard(self, told: Progress, elapsed: float) -> Course:
        """Return it with what whoever carries it out tells, if that is new, and has figures in it."""
        if told is self.told or not (told.memory_total or told.disk_total):
            return self
        return replace(self.after(replace(told, elapsed=elapsed), self.trend), told=told)


class Watcher:
    """Looks at every move under way, whichever controller carries it out."""

    def __init__(self, jobs: Jobs, entries: Callable[[], tuple[HostEntry, ...]], *, connect: float) -> None:
        self._jobs = jobs
        self._entries = entries
        self._connect = connect
        self._courses: Mapping[int, Course] = {}
        self._heard: dict[int, tuple[str, Progress]] = {}

    def course(self, number: int) -> Course:
        """Return how a job's move went so far, as far as somebody has looked."""
        return self._courses.get(number, Course())

    def shares(self) -> Mapping[int, float]:
        """Return how much is done of each move, 0 to 1, by its job's number."""
        return {number: share_of(each.samples[-1]) for number, each in self._courses.items() if each.samples}

    def hear(self, number: int, way: str, progress: Progress | None) -> None:
        """Be told how a job stands by whoever carries it out in this process; None: it does not any more."""
        if progress is None:
            self._heard.pop(number, None)
        else:
            self._heard[number] = (way, progress)

    def standing(self, job: Job) -> Standing:
        """Return how a job stands, as whoever carries it out here tells, or else its source host."""
        if (heard := self._heard.get(job.id)) is not None and job.ended_at is None:
            way, progress = heard
            return standing_of(job, progress, way)
        samples = self.course(job.id).samples
        seen = samples and job.state == TRANSFERRING
        return standing_of(job, samples[-1] if seen else without_figures(job))

    def run(self, every: float, stop: clock.Event) -> None:
        """Look every so many seconds until ``stop`` is set."""
        known: tuple[HostEntry, ...] = ()
        connections = Connections((), timeout=self._connect)
        try:
            while not stop.wait(every):
                try:
                    jobs = self._jobs.latest(MOST_JOBS, Filter(state=TRANSFERRING), brief=True)
                    is_heard = all(job.id in self._heard for job in jobs)
                    entries = known if is_heard else self._entries()
                except JournalLostError:
                    continue  # whoever works on the queue tells of it
                if entries != known:
                    connections.close()
                    connections, known = Connections(entries, timeout=self._connect), entries
                self._look(connections, jobs)
        finally:
            connections.close()

    def _look(self, connections: Connections, jobs: tuple[Job, ...]) -> None:
        courses = dict(self._courses)
        for job in jobs:
            before = courses.get(job.id, Course())
            if (heard := self._heard.get(job.id)) is not None:  # its host need not be asked twice
                courses[job.id] = before.heard(heard[1], job.read_at - job.started_at)
                continue
            progress, trend = look(connections, job, before.trend)
            if progress.phase != job.state:  # else there are no figures
                courses[job.id] = before.after(progress, trend)
        newest = sorted(courses)[-MOST_JOBS:]
        self._courses = {number: courses[number] for number in newest}


def share_of(progress: Progress) -> float:
    """Return how much of what there is to send is there, 0 to 1; memory that is sent again goes back."""
    whole = progress.memory_total + progress.disk_total
    left = progress.memory_remaining + progress.disk_remaining
    return min(max(1 - left / whole, 0.0), 1.0) if whole else 0.0
