"""VMs of one group that are brought up side by side: so many at once, and so many of them at one host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from mudanza import clock
from mudanza.journal.errors import LeaseLostError
from mudanza.model.errors import MudanzaError
from mudanza.model.recovery import Room, Turn

Result = TypeVar("Result")

LOOK_AGAIN = 1.0
"""Seconds after which whoever waits looks up: Ctrl-C that comes just before a wait is heard only after it."""
INTERRUPTED = 130
"""Exit code of a program that Ctrl-C has ended."""


def next_turns(waiting: Sequence[Turn], under_way: Sequence[Turn], room: Room) -> tuple[Turn, ...]:
    """Return who of those that wait, in their order, is begun now: pure. One whose host is full lets others pass."""
    chosen: list[Turn] = []
    for turn in waiting:
        busy = [*under_way, *chosen]
        if len(busy) >= room.at_once:
            break
        if not turn.host or sum(each.host == turn.host for each in busy) < room.per_host:
            chosen.append(turn)
    return tuple(chosen)


def take_turns(
    turns: Sequence[Turn], room: Room, act: Callable[[Turn], Result], say: Callable[[str], None] = lambda _: None
) -> list[Result | MudanzaError]:
    """Call ``act`` for each, side by side as there is room, begun in their order; return results and failures in that
    order. ``act`` sees to it itself that it ends: it is waited for as long as it takes.

    Whatever is no MudanzaError, or says that this controller may not act any more (LeaseLostError), keeps further ones
    from being begun, and is raised once those have ended that were. So it is with KeyboardInterrupt, which is said; a
    second one ends the program at once (SystemExit).
    """
    making = _Turns(turns, room, act)
    try:
        return making.take()
    except KeyboardInterrupt:
        making.wind_up(say)
        raise


class _Turns(Generic[Result]):
    def __init__(self, turns: Sequence[Turn], room: Room, act: Callable[[Turn], Result]) -> None:
        self._turns = turns
        self._room = room
        self._act = act
        self._changed = clock.new_condition()
        self._under_way: list[Turn] = []
        self._outcomes: dict[Turn, Result | MudanzaError] = {}
        self._over: list[BaseException] = []

    def take(self) -> list[Result | MudanzaError]:
        waiting = list(self._turns)
        while begun := self._await_next(waiting):
            for turn in begun:
                waiting.remove(turn)
                clock.start_thread(partial(self._run, turn), f"bring up {turn.vm}")
        if self._over:
            raise self._over[0]
        return [self._outcomes[turn] for turn in self._turns]

    def wind_up(self, say: Callable[[str], None]) -> None:
        """Wait for those under way, if any, after KeyboardInterrupt."""
        try:
            with self._changed:
                if self._under_way:
                    names = ", ".join(each.vm for each in self._under_way)
                    say(f"waiting for {names}; Ctrl-C again: left to whoever goes on with the job")
                while self._under_way:
                    self._changed.wait(LOOK_AGAIN)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None

    def _await_next(self, waiting: Sequence[Turn]) -> tuple[Turn, ...]:
        """Return who is begun now, as soon as there is room; nobody, once all have ended that ever will be begun."""
        with self._changed:
            while True:
                begun = () if self._over else next_turns(waiting, self._under_way, self._room)
                if begun or not self._under_way:
                    self._under_way += begun
                    return begun
                self._changed.wait(LOOK_AGAIN)

    def _run(self, turn: Turn) -> None:
        outcome: Result | BaseException
        try:
            outcome = self._act(turn)
        except BaseException as failure:
            outcome = failure  # for whoever waits for it
        with self._changed:
            if isinstance(outcome, BaseException) and (
                isinstance(outcome, LeaseLostError) or not isinstance(outcome, MudanzaError)
            ):
                self._over.append(outcome)
            else:
                self._outcomes[turn] = outcome
            self._under_way.remove(turn)
            self._changed.notify_all()
