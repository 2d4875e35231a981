"""A controller that does what others have put down, and takes up what others have left behind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial

from mudanza import clock
from mudanza.journal.jobs import NEEDS_PERSON, Job, Jobs, JournalLostError

LOOK_EVERY = 1.0
"""Seconds between two looks into the queue while there may be something to take."""
TRY_AGAIN = 60.0
"""Seconds after which a job is tried again that could be neither done nor ended."""


def to_take(unfinished: Iterable[Job], places: int, left_alone: Collection[int]) -> tuple[Job, ...]:
    """Return what a controller with that many free places takes next: pure.

    What was left behind comes first, for its VM may be standing still; then what waits, the oldest first. Nobody takes
    what needs a person, or what a living controller works on. ``left_alone``: numbers of jobs that are worked on here
    already, or were tried just now.
    """
    free = [job for job in unfinished if job.id not in left_alone and job.state != NEEDS_PERSON]
    behind = [job for job in free if job.abandoned and not job.is_queued]
    waiting = [job for job in free if job.is_queued]
    order = sorted(behind, key=lambda job: job.id) + sorted(waiting, key=lambda job: job.queued_at or 0.0)
    return tuple(order[: max(places, 0)])


class Worker:
    """Works on several jobs of the queue at once."""

    def __init__(
        self,
        jobs: Jobs,
        carry_out: Callable[[Job], None],
        parallel: int,
        stop: clock.Event,
        tell: Callable[[str], None] = lambda _: None,
        mine: Callable[[Job], bool] = lambda _: True,
    ) -> None:
        """``carry_out`` claims a job and does it, or takes it over and finishes it, in a thread of its own, and tells
        whom it concerns how that went; ``stop`` set: nothing more is taken; ``tell`` is told what stands in the way of
        taking anything; ``mine``: which jobs of the queue it takes.
        """
        self._jobs = jobs
        self._carry_out = carry_out
        self._parallel = parallel
        self._stop = stop
        self._tell = tell
        self._mine = mine
        self._changed = clock.new_condition()
        self._under_way: set[int] = set()
        self._tried: dict[int, float] = {}
        self._failure: BaseException | None = None
        self._trouble = ""

    def run(self, *, once: bool) -> None:
        """Work until stopped; ``once``: until there is nothing to take, each job being tried one time.

        Ends when what was begun has ended. Raises JournalLostError with ``once`` (else it is waited for), and what
        ``carry_out`` raises, which it should not.
        """
        try:
            while not self._stop.is_set() and self._failure is None:
                taken = self._take_patiently(once)
                with self._changed:
                    if once and not taken and not self._under_way:
                        break
                    self._changed.wait(LOOK_EVERY)
        finally:
            with self._changed:
                while self._under_way:
                    self._changed.wait(LOOK_EVERY)
        if self._failure is not None:
            raise self._failure

    def _take_patiently(self, once: bool) -> bool:
        try:
            taken = self._take(once)
        except JournalLostError as error:
            if once:
                raise
            if str(error) != self._trouble:
                self._tell(str(error))
            self._trouble = str(error)
            return False
        self._trouble = ""
        return taken

    def _take(self, once: bool) -> bool:
        """Begin what there is a place for; return whether there was something."""
        now = clock.monotonic()
        with self._changed:
            recent = {job for job, at in self._tried.items() if once or now - at < TRY_AGAIN}
            places, left_alone = self._parallel - len(self._under_way), recent | self._under_way
        chosen = to_take(filter(self._mine, self._jobs.unfinished(brief=True)), places, left_alone) if places else ()
        for job in chosen:
            with self._changed:
                self._under_way.add(job.id)
            clock.start_thread(partial(self._one, job), f"job {job.id}")
        return bool(chosen)

    def _one(self, job: Job) -> None:
        try:
            self._carry_out(job)
        except BaseException as error:  # the thread must end by saying what happened
            self._failure = error
        finally:
            with self._changed:
                self._tried[job.id] = clock.monotonic()
                self._under_way.discard(job.id)
                self._changed.notify_all()
