"""Carrying a plan out: what its journal says is to be begun becomes a job of the queue, and what has ended is noted.

Whoever conducts may die at any instant: the plan and each of its moves are in the journal, moves that have begun are
jobs like all others, and another controller goes on from what is written there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mudanza import clock
from mudanza.fleet.deciding import Ended, Fate, decide
from mudanza.fleet.outlook import seconds_left
from mudanza.journal.errors import JournalLostError
from mudanza.journal.job import NEEDS_PERSON, Job, NewJob
from mudanza.journal.jobs import Jobs
from mudanza.journal.plans import PlanHandle, Plans
from mudanza.journal.protocol import QUEUED_MOVE, RESTART
from mudanza.migration.asked import put_down, read_back
from mudanza.model.carrying import BRINGING_HOME, MoveState, Run, RunMove, RunState, Wish
from mudanza.model.errors import BlockedError, NeedsPersonError
from mudanza.model.migration import MigrationOptions, Mode
from mudanza.model.plan import MoveMode, PlannedMove

LOOK_EVERY = 0.5
"""Seconds between two looks into the journal."""


class Conductor:
    """Conducts one plan, of which it holds the lease."""

    def __init__(
        self,
        plans: Plans,
        jobs: Jobs,
        handle: PlanHandle,
        tell: Callable[[Run, float | None], None] = lambda _run, _left: None,
        leave: clock.Event | None = None,
        say: Callable[[str], None] = lambda _: None,
        *,
        hand_over: bool = False,
        elsewhere: Callable[[PlannedMove], PlannedMove | None] = lambda failed: replace(failed, target=""),
    ) -> None:
        """``tell`` is told how the whole stands at each look, with the seconds left; ``leave``: set, nothing more is
        begun, and the plan is left paused once what is under way has ended. With ``hand_over`` it is left at once, for
        whoever takes it next; and also where it is paused, or its time has not come. ``elsewhere`` finds another host
        for a VM that could not get to its target, where that is the plan's aim (else the best one is taken when its
        turn comes).
        """
        self._plans = plans
        self._jobs = jobs
        self._handle = handle
        self._tell = tell
        self._leave = leave or clock.new_event()
        self._say = say
        self._hand_over = hand_over
        self._elsewhere = elsewhere
        self._trouble = ""

    def run(self) -> Run:
        """Carry it out until it has ended, or is to be left; return it as it is then.

        A pause is waited out. Raises LeaseLostError. A journal that does not answer is asked again: nothing is begun
        meanwhile.
        """
        while True:
            try:
                run, over = self._turn()
                self._trouble = ""
                if over:
                    return run
            except JournalLostError as error:
                if str(error) != self._trouble:
                    self._say(f"! {error}")
                self._trouble = str(error)
            clock.sleep(LOOK_EVERY)

    def _turn(self) -> tuple[Run, bool]:
        """Take one look, do what follows from it; return the plan, and whether that was all."""
        self._handle.keep()
        run = self._heard(self._plans.get(self._handle.id))
        decision = decide(run, self._fates(run))
        for each in decision.ended:
            self._note(run, each)
        for job in decision.cancel:
            self._jobs.ask_to_cancel(job, run.wish_by or run.asked_by)
        if decision.end is not None:
            self._handle.finish(decision.end.state, decision.end.outcome, decision.end.exit_code)
            return self._plans.get(run.id), True
        if not self._leave.is_set():
            for n in decision.begin:
                self._begin(run, run.move(n))
        run = self._plans.get(run.id)
        self._tell(run, seconds_left(run))
        if self._may_leave(run):
            self._handle.let_go()
            return self._plans.get(run.id), True
        return run, False

    def _may_leave(self, run: Run) -> bool:
        rests = not run.count(MoveState.BEGUN)
        if self._hand_over:  # nobody has to wait here for what somebody else wants, or for the time of day
            waits = run.wish is not Wish.CANCEL and (run.wish is Wish.PAUSE or not run.policy.allows(run.read_at))
            return self._leave.is_set() or (rests and waits)
        return self._leave.is_set() and rests and run.wish is not Wish.CANCEL

    def _heard(self, run: Run) -> Run:
        """Write down that somebody's wish was heard."""
        if self._leave.is_set() and not self._hand_over and run.wish in (None, Wish.GO_ON):
            self._plans.wish(run.id, Wish.PAUSE, run.asked_by)
            run = self._plans.get(run.id)
        state = RunState.PAUSED if run.wish is Wish.PAUSE else RunState.RUNNING
        if run.state is not state:
            self._handle.enter(state)
            run = self._plans.get(run.id)
        return run

    def _fates(self, run: Run) -> dict[int, Fate]:
        numbers = [move.job for move in run.moves if move.state is MoveState.BEGUN and move.job is not None]
        found = (self._jobs.find(number) for number in numbers)
        return {job.id: fate_of(job) for job in found if job is not None}

    def _note(self, run: Run, each: Ended) -> None:
        again = self._elsewhere(each.again) if each.again is not None else None
        self._handle.ended(each.n, each.state, each.outcome, each.exit_code, again)
        move = run.move(each.n)
        if each.state is MoveState.DONE and run.kind == BRINGING_HOME:
            self._plans.is_home(move.about.uuid)

    def _begin(self, run: Run, move: RunMove) -> None:
        about = move.about
        if run.policy.comes_home == about.source:
            self._plans.leaves(
                about.uuid, about.vm, about.source, runs=about.mode is MoveMode.LIVE or about.uuid in run.policy.cold
            )
        kind = RESTART if about.mode is MoveMode.RESTART else QUEUED_MOVE
        asked: Mapping[str, object] = {"from": about.source, "to": about.target}
        if kind == QUEUED_MOVE:
            asked = put_down(options_of(run, move), about.target or None, about.source)
        new = NewJob(kind, about.uuid, about.vm, about.source, about.target, asked, run.asked_by)
        try:
            self._handle.put_down(move.n, new)
        except BlockedError as error:  # somebody else works on the VM
            self._handle.ended(move.n, MoveState.FAILED, f"{error}; it was not begun", error.exit_code)


def fate_of(job: Job) -> Fate:
    """Return how a job stands as far as its plan is concerned."""
    if job.ended_at is None and job.state == NEEDS_PERSON:
        return Fate(True, NeedsPersonError.exit_code, f"job {job.id} needs a person: {job.way_out}")
    if job.ended_at is None:
        return Fate(False)
    return Fate(True, job.exit_code or 0, job.outcome)


def options_of(run: Run, move: RunMove) -> MigrationOptions:
    """Return how a move is made: as was asked of all, and live where the plan says so. Nobody is shut down for it but
    those of whom it was said that they may be: one that was off, and runs now, goes live."""
    may_be_shut_down = move.about.uuid in run.policy.cold
    mode = Mode.COLD if may_be_shut_down else Mode.LIVE if move.about.mode is MoveMode.LIVE else Mode.AUTO
    return replace(read_back(run.policy.move or {}), mode=mode)
