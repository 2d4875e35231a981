"""Orders that take longer than an answer should: begun by one request, and looked at by others until they have ended.

An order's number is that of its row in the audit. So what came of it is known when its daemon is gone, too, and one
that comes again under its key is carried out once, whichever daemon it comes to.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.journal.errors import JournalLostError
from mudanza.journal.requests import Request
from mudanza.model.access import Asker, Scope
from mudanza.model.errors import BlockedError, MudanzaError
from mudanza.model.plain import plain
from mudanza.model.telling import error_from_data
from mudanza.operations.handed_on import ControllerEndsError
from mudanza.service.problems import NotReadyError, NotThereError, TooManyError, problem_of

if TYPE_CHECKING:
    from mudanza.journal.audit import Asked, Audit

AT_ONCE = 1.0
"""Seconds for which the answer to an order waits for its end: what stands against it is mostly found by then."""
MOST = 8
"""Orders that are carried out at one time; whoever asks for more has to come again."""
REMEMBERED = 200
"""Orders that have ended of which is told what was said, and what came of them."""

TOLD_WITHIN = 2.0
"""Seconds within which whoever follows an order looks at it again."""
MOST_SAID = 20_000
"""Sentences that are kept of one order: a command on hosts may print any number; and as many events."""

HERE = "daemon"
"""By whom, as the audit has it, a daemon itself goes on with what nobody had asked a daemon for."""
ORDERED_BY = frozenset({"http", HERE})

_log = logging.getLogger(__name__)


class State(StrEnum):
    """What becomes of an order."""

    RUNNING = "running"
    ENDED = "ended"
    LEFT = "left"
    """This daemon does not carry it out, or not any more, and nobody has written down yet how it ended: another daemon
    does, or did, or will."""


@dataclass
class Order:
    """Something that was asked for."""

    number: int
    command: tuple[str, ...]
    asker: str
    state: State = State.RUNNING
    heard: list[str | Mapping[str, Any]] = field(default_factory=list)
    """What was told on the way: sentences, and events, which have the name of what has happened as ``event``."""
    carrier: str = field(default_factory=lambda: uuid4().hex)
    """Whoever carries it out: where that is another one, it is told of from the beginning on."""
    result: Any = None
    """What came of it, as JSON; None: nothing more than that it went well, or nobody here knows."""
    problem: Mapping[str, Any] | None = None
    """Why it did not go well."""
    may_stop: bool = False
    """Whether it stops halfway where somebody wants that."""
    goes_on: bool = False
    """Whether the next daemon goes on with it where this one ends over it."""
    stop_by: str = ""
    """Who wants it to begin nothing more; empty: nobody."""
    ending: Callable[[], bool] = lambda: False
    """Whether this daemon is about to end."""
    ended_at: float | None = None
    """The monotonic time when it ended; None: it has not, or not here."""
    end_was_told: bool = False
    """Whether somebody was told that it has ended."""

    sentences: int = 0
    """How many were said."""
    events: int = 0

    @property
    def leaving(self) -> bool:
        """Whether whoever carries it out is about to end."""
        return self.ending()

    @property
    def said(self) -> list[str]:
        """The sentences."""
        return [each for each in self.heard if isinstance(each, str)]

    def say(self, words: str) -> None:
        """Tell whoever follows it a sentence; those beyond ``MOST_SAID`` are left out."""
        self.sentences += 1
        if self.sentences <= MOST_SAID:
            self.heard.append(words if self.sentences < MOST_SAID else "… and more, which is left out")

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tell whoever follows it, for programs, that something has happened."""
        self.events += 1
        if self.events <= MOST_SAID:
            self.heard.append({**event, "at": clock.time()})

    def stop(self, who: str) -> None:
        """Have it begin nothing more. Raises BlockedError where it cannot stop, or has ended."""
        if self.state is not State.RUNNING or not self.may_stop:
            why = "is brought to its end in any case" if self.state is State.RUNNING else f"is {self.state.value}"
            raise BlockedError(f"order {self.number} {why}", remedy=f"see how it goes: GET /orders/{self.number}")
        self.stop_by = self.stop_by or who

    def told(self, after: int = 0) -> Mapping[str, Any]:
        """Return it as JSON, without what was told first, so many sentences and events."""
        state, heard = self.state, list(self.heard)  # in this order: what has ended tells nothing more
        self.end_was_told |= state is not State.RUNNING
        return {
            "number": self.number,
            "command": list(self.command),
            "state": state.value,
            "said": [each for each in heard[after:] if isinstance(each, str)],
            "events": [each for each in heard[after:] if not isinstance(each, str)],
            "heard": len(heard),
            "carrier": self.carrier,
            "result": self.result,
            "problem": self.problem,
            "may_stop": self.may_stop,
            "stop_by": self.stop_by,
        }


class UnderWay:
    """The orders of one daemon."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(MOST)
        self._lock = threading.Lock()
        self._known: dict[int, Order] = {}
        self._takes_more = True

    @property
    def busy(self) -> bool:
        """Whether some are being carried out."""
        with self._lock:
            return any(order.state is State.RUNNING for order in self._known.values())

    def wound_up(self) -> bool:
        """Begin nothing more; return whether all that was begun has ended, and whoever follows it could hear of it."""
        self._takes_more = False
        if self.busy:
            return False
        recent = clock.monotonic() - TOLD_WITHIN
        with self._lock:
            return not any((each.ended_at or 0.0) > recent and not each.end_was_told for each in self._known.values())

    def begin(
        self,
        audit: Audit,
        asker: Asker,
        command: Sequence[str],
        work: Callable[[Order], Any],
        key: str | None,
        *,
        may_stop: bool = False,
        goes_on: bool = False,
    ) -> Order:
        """Have something done; return how it stands when it has ended, or after ``AT_ONCE``. ``may_stop``: the work
        heeds that it is to stop, and that this daemon is about to end; ``goes_on``: the next daemon goes on with it
        then.

        ``key``: asked for again under it, it is the same order, and nothing is done. Raises TooManyError while as many
        are carried out as may, UsageError where something else was asked for under the key, NotReadyError where the
        daemon is about to end.
        """
        if not self._takes_more:
            raise NotReadyError("this daemon is about to end, and begins nothing more", remedy="ask the next one")
        if not self._places.acquire(blocking=False):
            raise TooManyError(f"{MOST} orders are being carried out already", remedy="try again in a moment")
        order = None
        try:
            digest = hashlib.sha256("\0".join(command).encode()).hexdigest()
            request = Request(asker.name, key, f"order {digest}") if key else None
            number, is_new = audit.asked_once({"user": asker.name, "by": "http"}, command, request)
            if not is_new:
                return self.find(audit, asker, number)
            order = self._new(number, command, asker.name, may_stop=may_stop, goes_on=goes_on)
        finally:
            if order is None:
                self._places.release()
        self._remember(order)
        task = Task(lambda: self._carry_out(audit, order, work))
        with suppress(TimeoutError):
            task.wait(AT_ONCE)
        return order

    def take_up(self, audit: Audit, wanted: Callable[[], Asked], work: Callable[[Order], Any]) -> Order | None:
        """Go on with an order that another daemon has left, under its number; return it. None: not now, for as many are
        carried out as may, or this daemon is about to end. ``wanted`` returns it; raises what that raises."""
        if not self._takes_more or not self._places.acquire(blocking=False):
            return None
        try:
            asked = wanted()
        except BaseException:
            self._places.release()
            raise
        order = self._new(asked.n, asked.command, str(asked.who.get("user", "")), may_stop=True, goes_on=True)
        self._remember(order)
        Task(lambda: self._carry_out(audit, order, work))
        return order

    def _new(self, number: int, command: Sequence[str], asker: str, *, may_stop: bool, goes_on: bool) -> Order:
        order = Order(number, tuple(command), asker, may_stop=may_stop, goes_on=goes_on)
        order.ending = lambda: not self._takes_more
        return order

    def _carry_out(self, audit: Audit, order: Order, work: Callable[[Order], Any]) -> None:
        code, outcome, state = MudanzaError.exit_code, "", State.ENDED
        try:
            order.result = plain(work(order))
            code = 0
        except Exception as error:
            if order.goes_on and isinstance(error, ControllerEndsError):
                state = State.LEFT
                order.say(str(error))
            else:
                known = error if isinstance(error, MudanzaError) else _unexpected(order, error)
                code, outcome = known.exit_code, str(known)
                order.problem = {**problem_of(known)[1], "said": order.said}
        finally:
            try:
                with suppress(JournalLostError):  # it is done; the audit tells that no end was written
                    if state is State.ENDED:
                        audit.ended(order.number, code, outcome)
            finally:
                order.ended_at = clock.monotonic()
                order.state = state
                self._places.release()

    def find(self, audit: Audit, asker: Asker, number: int) -> Order:
        """Return an order; one that somebody else has asked for is there for those only who may do everything.

        Raises NotThereError.
        """
        with self._lock:
            order = self._known.get(number)
        if order is None and (asked := audit.get(number)) is not None and asked.who.get("by") in ORDERED_BY:
            order = _as_written(asked)
        may_see_all = asker.may(Scope.ADMIN) and not asker.is_limited
        if order is None or not (may_see_all or order.asker == asker.name):
            raise NotThereError(f"there is no order {number}", remedy="see what was asked for: mudanza audit")
        return order

    def _remember(self, order: Order) -> None:
        with self._lock:
            ended = [number for number, each in self._known.items() if each.state is not State.RUNNING]
            for number in ended[: max(len(ended) - REMEMBERED + 1, 0)]:
                del self._known[number]
            self._known[order.number] = order


def _unexpected(order: Order, error: Exception) -> MudanzaError:
    """Log where an error arose that nobody expected, and return what is told of it."""
    _log.exception("order %d: %s", order.number, " ".join(order.command[:1]), exc_info=error)
    return MudanzaError(type(error).__name__, remedy="the daemon's log tells where it arose")


def _as_written(asked: Asked) -> Order:
    """Return what the audit knows of an order that is not this daemon's, or of long ago."""
    found = Order(asked.n, asked.command, str(asked.who.get("user", "")), State.LEFT, carrier="")
    if asked.exit_code is not None:
        found.state = State.ENDED
        if asked.exit_code:
            told = error_from_data({"message": asked.outcome, "exit_code": asked.exit_code})
            found.problem = problem_of(told)[1]
    return found
