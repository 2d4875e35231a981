"""Plans that are carried out by whoever takes them, and waited for, while one can want it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from mudanza import clock
from mudanza.model.carrying import MoveState, Run, RunState, Wish
from mudanza.model.errors import NeedsPersonError, UsageError
from mudanza.model.units import format_duration
from mudanza.operations.emptying import put_down

if TYPE_CHECKING:
    from mudanza.operations.emptying import Emptying
    from mudanza.operations.means import Means, Say

LOOK_AGAIN = 0.5
"""Seconds between two looks whether a plan has ended."""


class Carrying(Protocol):
    """Who carries out plans: returns each as it is when it has ended, or was paused."""

    def carry_out(self, wanted: Emptying) -> Run:
        """Carry out what empties a host, or fills it again."""

    def go_on(self, number: int) -> Run:
        """Go on with a plan that was left, or see how it goes with whoever has it."""


class Halt(Protocol):
    """Tells what takes its time that it is not to go on."""

    @property
    def stop_by(self) -> str:
        """Who wants nothing more begun; empty: nobody."""

    @property
    def leaving(self) -> bool:
        """Whether the controller that works on it is about to end."""


class NeverHalt:
    """It is to go on."""

    stop_by = ""
    leaving = False


class ControllerEndsError(NeedsPersonError):
    """A controller ends, and leaves something where it is, for somebody to go on with."""


class HandedOn:
    """Has plans carried out by whoever takes them."""

    def __init__(
        self,
        means: Means,
        asked_by: str,
        say: Say,
        halt: Halt,
        tell: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> None:
        """``say`` is told how each plan stands, whenever that changes, and ``tell`` so for programs."""
        self._means = means
        self._asked_by = asked_by
        self._say = say
        self._tell = tell
        self._halt = halt
        from mudanza.journal.plans import Plans

        self._plans = Plans(means.database)

    def carry_out(self, wanted: Emptying) -> Run:
        """Put a plan down that moves somebody, and see how it goes. Raises as ``go_on``."""
        number = put_down(self._means, wanted, self._asked_by, None)
        assert number is not None
        self._say(f"plan {number}: {wanted.plan.summary}: {len(wanted.plan.moves)} moves")
        return self._awaited(number)

    def go_on(self, number: int) -> Run:
        """Have somebody go on with a plan that was left, and see how it goes; return it when it has ended, or when it
        was paused because somebody wants nothing more begun. Raises ControllerEndsError."""
        self._plans.wish(number, Wish.GO_ON, self._asked_by)
        return self._awaited(number)

    def _awaited(self, number: int) -> Run:
        from mudanza.fleet.outlook import seconds_left

        told, paused = "", False
        while True:
            run = self._plans.get(number)
            if run.in_words != told:
                told, left = run.in_words, seconds_left(run)
                self._tell(as_event(run, left))
                self._say(f"{told}; done in about {format_duration(left)}" if left else told)
            if run.ended_at is not None:
                return run
            if paused and _rests(run):
                return run
            if self._halt.stop_by and not paused:
                with suppress(UsageError):  # it has just ended
                    self._plans.wish(number, Wish.PAUSE, self._halt.stop_by)
                paused = True
            if self._halt.leaving:
                raise ControllerEndsError(
                    f"this controller ends; plan {number} goes on with the next one",
                    vm_state="VMs are on the way, or where they were",
                    remedy=f"see how it goes: mudanza run watch {number}",
                )
            clock.sleep(LOOK_AGAIN)


def as_event(run: Run, left: float | None) -> dict[str, Any]:
    """Return what programs are told when a plan has got on; ``left``: seconds that it will take yet."""
    counts = {state.value: run.count(state) for state in MoveState}
    return {"event": "plan", "plan": run.id, "state": run.state.value, "moves": counts, "seconds_left": left}


def _rests(run: Run) -> bool:
    """Whether nothing of a plan goes on that is to be paused: nobody takes one then that nobody has taken yet."""
    untaken = run.abandoned and run.wish is Wish.PAUSE
    return (run.state is RunState.PAUSED or untaken) and not run.count(MoveState.BEGUN)
