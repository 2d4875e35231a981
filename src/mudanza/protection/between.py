"""What stands between the VMs of a plan: waits, scripts and questions, each a step of the plan's job.

What was waited for is waited for again by whoever goes on with the job. A script that has ended well is not run again,
nor is a question asked again that was answered with yes. One whose controller died over it is: nobody knows how far the
script came; and an answer that was given meanwhile counts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from mudanza import clock
from mudanza.journal.answers import ASK, Answer, answer, answer_to
from mudanza.journal.database import Database
from mudanza.journal.jobs import JobHandle, Jobs
from mudanza.migration.command import PARTING, Ended, run
from mudanza.migration.wanted import CancelledError
from mudanza.model.errors import NeedsPersonError
from mudanza.model.hook import Hook, When
from mudanza.model.recovery import YES, Await, Group, RecoveryPlan, Wait
from mudanza.model.units import format_duration

SCRIPT = "run script"
"""The step in the journal."""
LOOK_AGAIN = 0.5
"""Seconds between two looks whether what is waited for is so."""
ANSWER_TIMEOUT = 5.0
"""Seconds that an address or an agent may take to answer."""
RENEW_EVERY = 5.0
"""Seconds between two renewals of the job's lease while a script runs: before anybody else would do so."""
MOST_TOLD = 4000
"""Characters that one variable of a script's environment may have."""
_ENDING = PARTING + 1.0
"""Seconds beyond its limit that a script may take to be ended."""

Say = Callable[[str], None]
Turn = Callable[[], None]
AgentAnswers = Callable[[str], bool]
"""Whether the guest agent of a plan's VM answers now."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a plan something stands."""

    plan: RecoveryPlan
    group: Group
    moment: str
    """``before`` its VMs, or ``after``."""
    number: int
    """Among those of its moment, from 1."""

    @property
    def about(self) -> dict[str, object]:
        """Return it as a step's intent names it."""
        return {"group": self.group.name, "moment": self.moment, "number": self.number}


class Between:
    """Has them be through, one after the other, in one run of a plan."""

    def __init__(
        self, engine: Database, jobs: Jobs, hooks: Mapping[str, Hook], answers: AgentAnswers, kind: str, say: Say
    ) -> None:
        """``hooks``: those of this controller's settings; ``kind``: of the job, told to scripts."""
        self._engine = engine
        self._jobs = jobs
        self._hooks = hooks
        self._agent_answers = answers
        self._kind = kind
        self._say = say

    def be_through(self, handle: JobHandle, plan: RecoveryPlan, group: Group, moment: str, turn: Turn) -> None:
        """Have all of one moment of a group be through. Raises NeedsPersonError where one is not, and what ``turn``
        raises, which is called over and over meanwhile: a script is ended then."""
        for number, step in enumerate(group.before if moment == "before" else group.waits, 1):
            place = Place(plan, group, moment, number)
            match step.kind:
                case Await.SCRIPT:
                    self._script(handle, place, step, turn)
                case Await.ASK:
                    self._ask(handle, place, step, turn)
                case _:
                    self._say(f"group {group.name}: waiting for {step}")
                    handle.perform("await", {**place.about, "what": str(step)}, partial(self._await, step, turn))

    # Waits.

    def _await(self, wait: Wait, turn: Turn) -> None:
        until = clock.monotonic() + wait.limit
        while not self._is_so(wait):
            turn()
            if clock.monotonic() >= until:
                if wait.kind is Await.TIME:
                    return
                raise NeedsPersonError(f"not so within {wait.limit:g} s: {wait.kind} {wait.what}")
            clock.sleep(min(LOOK_AGAIN, max(until - clock.monotonic(), 0.0)))

    def _is_so(self, wait: Wait) -> bool:
        match wait.kind:
            case Await.TCP:
                return answers_tcp(wait.what)
            case Await.AGENT:
                return self._agent_answers(wait.what)
            case _:
                return False

    # Scripts.

    def _script(self, handle: JobHandle, place: Place, wanted: Wait, turn: Turn) -> None:
        about = {**place.about, "script": wanted.what}
        done = [step for step in self._jobs.get(handle.id).steps_named(SCRIPT) if step.intent == about]
        if any((step.outcome or {}).get("exit") == 0 for step in done):
            return
        hook = self._hooks.get(wanted.what)
        if hook is None or When.RECOVERY not in hook.when:
            raise NeedsPersonError(
                f"script {wanted.what!r} is not in this controller's settings as one for plans",
                remedy=f'put it there: [hooks.{wanted.what}] with when = ["recovery"]',
            )
        self._say(f"group {place.group.name}: script {hook.name}")
        ended = self._run(handle, place, about, hook, min(hook.limit, wanted.limit), turn)
        if ended.fault:
            raise NeedsPersonError(
                f"script {hook.name!r} {ended.fault}",
                remedy=f"all of what it said: mudanza job show {handle.id} -o json; it is run again once you go on",
            )

    def _run(
        self, handle: JobHandle, place: Place, about: Mapping[str, object], hook: Hook, limit: float, turn: Turn
    ) -> Ended:
        until = clock.monotonic() + limit + _ENDING
        step = handle.intend(SCRIPT, about, lasts=limit + _ENDING)
        handle.assert_held()  # the last thing before the act: this process may have slept since it wrote
        renew_at = clock.monotonic() + RENEW_EVERY

        def meanwhile() -> None:
            nonlocal renew_at
            turn()
            if clock.monotonic() >= renew_at:
                # Others stay away for as long as it may run, also if this controller dies over it.
                handle.renew(max(until - clock.monotonic(), 0.0))
                renew_at = clock.monotonic() + RENEW_EVERY

        try:
            ended = run(hook.command, self._environment(handle, place, hook), limit, meanwhile)
        except CancelledError as error:
            handle.done(step, {"fault": f"was ended: {error}"})
            raise
        except OSError as error:
            told = f"could not be run: {error.strerror}"
            handle.done(step, {"fault": told})
            raise NeedsPersonError(f"script {hook.name!r} {told}", remedy="see to it on the controller") from error
        handle.done(step, {"exit": ended.code, "output": ended.text, **({"fault": ended.fault} if ended.fault else {})})
        return ended

    def _environment(self, handle: JobHandle, place: Place, hook: Hook) -> Mapping[str, str]:
        told = {
            "HOOK": hook.name,
            "WHEN": When.RECOVERY.value,
            "PLAN": place.plan.name,
            "RUN": self._kind,
            "GROUP": place.group.name,
            "MOMENT": place.moment,
            "VMS": " ".join(place.group.vms),
            "JOB": str(handle.id),
        }
        return {**os.environ, **{f"MUDANZA_{name}": text.replace("\0", "")[:MOST_TOLD] for name, text in told.items()}}

    # Questions.

    def _ask(self, handle: JobHandle, place: Place, question: Wait, turn: Turn) -> None:
        about = {**place.about, "question": question.what}
        asked = [step for step in self._jobs.get(handle.id).steps_named(ASK) if step.intent == about]
        if any((step.outcome or {}).get("answer") == YES for step in asked):
            return
        open_one = asked[-1].n if asked and asked[-1].outcome is None else None
        number = open_one if open_one is not None else handle.intend("ask", about)
        limit = format_duration(question.limit)
        self._say(
            f"? group {place.group.name}: {question.what} (yes or no, within {limit}, else {question.default}) "
            f"mudanza recovery answer {handle.id} yes|no"
        )
        found = self._answer(handle, number, question, turn)
        handle.done(number, {"answer": found.word, "by": found.by})
        self._say(f"group {place.group.name}: {found.word} ({found.by})")
        if found.word != YES:
            raise NeedsPersonError(
                f"{found.by} has answered {found.word} to: {question.what}",
                remedy="it is asked again once you go on",
            )

    def _answer(self, handle: JobHandle, number: int, question: Wait, turn: Turn) -> Answer:
        until = clock.monotonic() + question.limit
        while (found := answer_to(self._engine, handle.id, number)) is None:
            handle.assert_may_act()
            turn()
            if clock.monotonic() >= until:
                nobody = f"nobody, within {format_duration(question.limit)},"
                counts = answer(self._engine, handle.id, number, question.default, nobody)
                return counts or Answer(question.default, nobody)
            clock.sleep(min(LOOK_AGAIN, max(until - clock.monotonic(), 0.0)))
        return found


def answers_tcp(address: str) -> bool:
    """Whether somebody takes connections at ``HOST:PORT``, or ``[ADDRESS]:PORT``."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT):
            return True
    except OSError:
        return False
