"""Going on with plans that nobody carries out: put down for whoever works on the queue, or left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from mudanza import clock
from mudanza.fleet.conducting import Conductor
from mudanza.fleet.elsewhere import Elsewhere
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.jobs import Jobs
from mudanza.journal.plans import PlanHandle, Plans
from mudanza.model.carrying import MoveState, Run, RunState, Wish
from mudanza.model.errors import BlockedError, UsageError

LOOK_EVERY = 2.0
"""Seconds between two looks for such plans."""


def is_to_be_taken(run: Run) -> bool:
    """Whether a controller with nothing else to do goes on with a plan: pure. One that was paused is left alone until
    somebody wants it to go on, and one whose time has not come, until then."""
    if not run.abandoned:
        return False
    waits = not run.policy.allows(run.read_at) and not run.policy.ends_with_window
    is_early = waits and not run.count(MoveState.BEGUN)
    if is_early and run.wish is not Wish.CANCEL:
        return False
    if run.state is RunState.ASKED:  # only its end may be taken: a yes makes it one that runs
        return run.wish is Wish.CANCEL
    return run.wish is not Wish.PAUSE and (run.state is not RunState.PAUSED or run.wish in (Wish.GO_ON, Wish.CANCEL))


class Minder:
    """Conducts every plan that is to be taken, each in a thread of its own."""

    def __init__(
        self,
        plans: Plans,
        jobs: Jobs,
        leave: clock.Event,
        say: Callable[[str], None],
        elsewhere: Elsewhere,
        mine: Callable[[Run], bool] = lambda _: True,
    ) -> None:
        """``leave``: set, nothing more is taken or begun; others go on with the plans. ``mine``: which it takes."""
        self._mine = mine
        self._elsewhere = elsewhere
        self._plans = plans
        self._jobs = jobs
        self._leave = leave
        self._say = say
        self._lock = threading.Lock()
        self._under_way: set[int] = set()
        self.codes: list[int] = []
        """The exit codes of plans that have ended here."""

    @property
    def busy(self) -> bool:
        """Whether a plan is conducted here."""
        return bool(self._under_way)

    def take(self) -> bool:
        """Take every plan that nobody carries out; return whether there was one. Raises JournalLostError."""
        taken = False
        for run in self._plans.unfinished():
            if not (is_to_be_taken(run) and self._mine(run)) or self._leave.is_set():
                continue
            try:
                handle = self._plans.take_over(run.id)
            except (BlockedError, UsageError):
                continue  # another one was quicker
            self._say(f"plan {run.id} ({f'{run.kind} {run.subject}'.strip()}) is gone on with here")
            with self._lock:
                self._under_way.add(run.id)
            clock.start_thread(partial(self._conduct, handle), f"plan {run.id}")
            taken = True
        return taken

    def watch(self) -> None:
        """Take plans again and again, until told to leave."""
        while not self._leave.is_set():
            with suppress(JournalLostError):  # whoever works on the queue beside tells of it
                self.take()
            self._leave.wait(LOOK_EVERY)

    def _conduct(self, handle: PlanHandle) -> None:
        try:
            conductor = Conductor(
                self._plans,
                self._jobs,
                handle,
                leave=self._leave,
                say=self._say,
                hand_over=True,
                elsewhere=self._elsewhere,
            )
            run = conductor.run()
            if run.ended_at is not None:
                self.codes.append(run.exit_code or 0)
                self._say(f"plan {run.id} is {run.state.value}: {run.outcome}")
        except LeaseLostError as error:
            self._say(str(error))
        finally:
            with self._lock:
                self._under_way.discard(handle.id)
