"""Virtual time, and threads of which one runs at a time.

Real threads, and a baton that only one of them has. It may change hands where a thread sleeps, waits, or asks a host
for something: at a *scheduling point*. Who gets it there is drawn by whoever owns the simulation, so
that the same draws give the same run. When nobody can go on, time jumps to the next instant at which somebody can.

Threads belong to a *controller*, which stands for one process: it can be killed or stopped and woken at any scheduling
point. What happens on hosts is not in threads but in *processes*, generators that yield for how many seconds they wait.
"""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mudanza.hypervisor.twin.processes import Process, Running
from mudanza.hypervisor.twin.threads import Controller, Killed, SimThread, SimulationError, Worker
from mudanza.hypervisor.twin.waiting import SimCondition, SimEvent

Choose = Callable[[int], int]
"""Given how many can go on, which one does."""

EPOCH = 1_800_000_000.0
"""Where the simulation's calendar begins. Seconds."""
MOST_POINTS = 2_000_000
"""Scheduling points in one go after which something must be going in circles."""


class Scheduler:
    """Implements ``mudanza.clock.Clock``."""

    def __init__(self, choose: Choose) -> None:
        self.now = 0.0
        self.points = 0
        self.on_point: Callable[[str], None] = lambda _label: None
        """Told of every named scheduling point that is passed, by the thread that passes it."""
        self._choose = choose
        self._ready: list[SimThread] = []
        self._threads: set[SimThread] = set()
        self.running: SimThread | None = None
        """Who has the baton; None: whoever drives the simulation."""
        self._alarms: list[tuple[float, int, Callable[[], None], Callable[[], bool]]] = []
        self._numbers = itertools.count()
        self._driver = threading.Lock()
        self._driver.acquire()
        self._budget = 0
        self._horizon = 0.0
        self._halt = False
        self._failure: BaseException | None = None
        self._workers: dict[SimThread, Worker] = {}

    # What mudanza.clock asks for.

    def monotonic(self) -> float:
        """Return seconds since some instant."""
        return self.now

    def time(self) -> float:
        """Return seconds since the epoch."""
        return EPOCH + self.now

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.wait(seconds, f"sleeps {seconds:g} s")

    def new_event(self) -> SimEvent:
        """Return an event that has not happened yet."""
        return SimEvent(self)

    def new_condition(self) -> SimCondition:
        """Return a condition with a lock of its own."""
        return SimCondition(self)

    def start_thread(self, function: Callable[[], object], name: str) -> None:
        """Run a function beside its caller, in the caller's controller."""
        self.die_if_killed()
        self.start(function, name, self.controller)  # no scheduling point: who starts one may hold a lock

    # What a simulation's owner uses.

    @contextmanager
    def in_a_call(self) -> Iterator[None]:
        """Let the running thread not be stopped for as long as it can go on without waiting."""
        thread = self.running
        if thread is None:
            raise SimulationError("no simulated thread runs: use Scheduler.start")
        thread.calls += 1
        try:
            yield
        finally:
            thread.calls -= 1

    @property
    def controller(self) -> Controller:
        """The controller of the thread that runs."""
        if self.running is None:
            raise SimulationError("no simulated thread runs: use Scheduler.start")
        return self.running.controller

    def start(self, function: Callable[[], object], name: str, controller: Controller) -> SimThread:
        """Let a function run in a thread of a controller once it gets the baton."""
        thread = SimThread(name, controller)
        controller.threads.add(thread)
        self._threads.add(thread)
        self._ready.append(thread)
        worker = Worker.idle.pop() if Worker.idle else Worker()
        self._workers[thread] = worker
        worker.give(lambda: self._run(thread, function))
        return thread

    def after(self, seconds: float, act: Callable[[], None], is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Have something happen by itself when so much time has passed, if it is wanted still. It must not wait."""
        heapq.heappush(self._alarms, (self.now + seconds, next(self._numbers), act, is_wanted))

    def spawn(self, process: Process, on_end: Callable[[Any, BaseException | None], None]) -> Running:
        """Let a process of a host run; ``on_end`` gets what it returns or raises, unless it is cancelled."""
        return Running(self, process, on_end)

    def point(self, label: str = "") -> None:
        """Let others have the baton. Raises Killed in a thread whose controller is dead."""
        self.die_if_killed()
        thread = self.running
        if thread is None:
            return
        if label:
            self.on_point(label)
        thread.waits_for = label or "its turn"
        self._ready.append(thread)
        self._hand_over(thread)

    def halt(self) -> None:
        """Have ``advance`` return at the next scheduling point."""
        self._halt = True

    def advance(self, *, points: int = MOST_POINTS, seconds: float = float("inf")) -> bool:
        """Let the simulation go on for so many scheduling points and seconds; return whether it could go on still.

        Raises SimulationError when threads wait for what can never happen, or the twin itself fails.
        """
        if self.running is not None:
            raise SimulationError("a simulated thread cannot drive the simulation")
        self._budget, self._horizon, self._halt = points, self.now + seconds, False
        thread = self._next()
        if thread is not None:
            self.running = thread
            thread.baton.release()
            self._driver.acquire()
            self.running = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._budget <= 0 and points == MOST_POINTS:
            raise SimulationError(f"more than {MOST_POINTS} scheduling points: it goes in circles\n{self.stacks()}")
        if self.now < self._horizon < float("inf") and not self._halt and self._budget > 0 and not self._due():
            self.now = self._horizon
        self._forget_unwanted()
        return bool(self._ready or self._alarms)

    def kill(self, controller: Controller) -> None:
        """End a controller at once, like SIGKILL: none of its threads does anything any more."""
        if controller.killed:
            return
        controller.killed = True
        controller.stopped_until = 0.0
        for close in controller.on_death:
            close()
        for thread in controller.threads:
            if thread is not self.running and thread not in self._ready:
                thread.turn += 1
                self._ready.append(thread)

    def stop(self, controller: Controller, seconds: float) -> None:
        """Stop a controller, like SIGSTOP, and wake it after so many seconds."""
        controller.stopped_until = max(controller.stopped_until, self.now + seconds)
        self.after(seconds, lambda: None)  # so that time comes there

    def close(self) -> None:
        """End all that is left. Raises SimulationError where threads cannot be ended."""
        for controller in {thread.controller for thread in self._threads}:
            self.kill(controller)
        self._alarms.clear()
        for _ in range(100):
            if not self._threads:
                return
            self.advance(points=100_000)
            self._alarms.clear()
        raise SimulationError(f"threads are left over:\n{self.stacks()}")

    def stacks(self) -> str:
        """Return what each thread waits for, and where."""
        frames = sys._current_frames()
        lines = []
        for thread in sorted(self._threads, key=lambda each: each.name):
            lines.append(f"{thread.controller.name}: {thread.name}: {thread.waits_for}")
            worker = self._workers.get(thread)
            frame = frames.get(worker.ident or 0) if worker else None
            if frame is not None:
                lines += [line.rstrip() for line in traceback.format_stack(frame)[-6:-2]]
        return "\n".join(lines)

    # Handing the baton on.

    def _run(self, thread: SimThread, function: Callable[[], object]) -> None:
        thread.baton.acquire()
        try:
            if not thread.controller.killed:
                function()
        except Killed:
            pass
        except BaseException as failure:
            if not thread.controller.killed:
                self._failure = self._failure or failure
                self._halt = True
        finally:
            self._threads.discard(thread)
            thread.controller.threads.discard(thread)
            self._workers.pop(thread, None)
            self._pass_on(self._next())

    def die_if_killed(self) -> None:
        """Raise Killed in a thread whose controller is dead."""
        if self.running is not None and self.running.controller.killed:
            raise Killed

    def _hand_over(self, thread: SimThread) -> None:
        following = self._next()
        if following is not thread:
            self._pass_on(following)
            thread.baton.acquire()
        if thread.controller.killed:
            raise Killed

    def _pass_on(self, following: SimThread | None) -> None:
        self.running = following
        (self._driver if following is None else following.baton).release()

    def _next(self) -> SimThread | None:
        """Return who gets the baton; None: whoever drives the simulation."""
        while not self._halt and self._budget > 0:
            able = self._able()
            if able:
                self.points += 1
                self._budget -= 1
                chosen = able[self._choose(len(able))] if len(able) > 1 else able[0]
                self._ready.remove(chosen)
                return chosen
            self._forget_unwanted()
            if not self._alarms:
                if any(not thread.controller.killed for thread in self._threads):
                    self._failure = SimulationError(f"deadlock: nothing can go on\n{self.stacks()}")
                return None
            if self._alarms[0][0] > self._horizon:
                self.now = max(self.now, self._horizon)
                return None
            self._ring()
        return None

    def _able(self) -> list[SimThread]:
        return [thread for thread in self._ready if thread.calls or thread.controller.stopped_until <= self.now]

    def _due(self) -> bool:
        return bool(self._able() or (self._alarms and self._alarms[0][0] <= self._horizon))

    def _forget_unwanted(self) -> None:
        while self._alarms and not self._alarms[0][3]():
            heapq.heappop(self._alarms)

    def _ring(self) -> None:
        at, _, act, _ = heapq.heappop(self._alarms)
        self.now = max(self.now, at)
        try:
            act()
        except BaseException as failure:
            # Whatever the twin did wrong is not to be raised in the thread that happens to ring the alarm.
            self._failure = self._failure or failure
            self._halt = True

    # Waiting.

    def wait(self, seconds: float | None, for_what: str) -> bool:
        """Wait until woken; return whether that was before ``seconds`` had passed."""
        self.die_if_killed()
        thread = self.running
        if thread is None:
            raise SimulationError(f"only simulated threads can wait ({for_what})")
        thread.waits_for = for_what
        thread.timed_out = False
        if seconds is not None:
            turn = thread.turn
            self.after(
                max(seconds, 0.0),
                lambda: self._time_out(thread),
                lambda: thread.turn == turn and thread in self._threads,
            )
        self._hand_over(thread)
        return not thread.timed_out

    def _time_out(self, thread: SimThread) -> None:
        thread.timed_out = True
        self.wake(thread)

    def wake(self, thread: SimThread) -> None:
        """Let a thread that waits go on."""
        thread.turn += 1
        if thread in self._threads and thread not in self._ready:
            self._ready.append(thread)
