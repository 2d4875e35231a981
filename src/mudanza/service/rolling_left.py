"""Maintenance that rolls over hosts, left by its controller: a daemon goes on with it by itself, as with plans.

One that was stopped, by a fault or by somebody, waits for somebody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mudanza import clock
from mudanza.journal.errors import JournalLostError, LeaseLostError
from mudanza.journal.rollings import Rollings
from mudanza.model.errors import BlockedError
from mudanza.model.rolling import RollingState
from mudanza.service.rolling import roller_of
from mudanza.service.under_way import HERE, Order, State

if TYPE_CHECKING:
    from mudanza.journal.audit import Asked
    from mudanza.journal.duty import DutyHandle
    from mudanza.model.rolling import Rolling
    from mudanza.operations.means import Means
    from mudanza.service.desk import Desk

LOOK_EVERY = 2.0
"""Seconds between two looks for such."""
MOST_TRIES = 3
"""How often one daemon goes on with the same one: what ends it each time, nobody has foreseen."""


class LeftRollings:
    """Goes on with what was left, for one daemon."""

    def __init__(self, desk: Desk, say: Callable[[str], None]) -> None:
        self._desk = desk
        self._say = say
        self._tries: Counter[int] = Counter()
        self._order: Order | None = None

    def watch(self, stop: clock.Event) -> None:
        """Look for it again and again, until told to stop."""
        while not stop.is_set():
            with suppress(JournalLostError, BlockedError):  # whoever works on the queue tells of it; it is looked again
                self.take()
            stop.wait(LOOK_EVERY)

    def take(self) -> Order | None:
        """Go on with what nobody carries out; return the order by which. None: there is none, or not now. Raises
        JournalLostError, and BlockedError where another one was quicker, or the audit cannot be written."""
        means = self._desk.means
        if means is None or (self._order is not None and self._order.state is State.RUNNING):
            return None
        rollings = Rollings(means.database)
        found = rollings.left()
        if found is None or self._tries[found.id] >= MOST_TRIES:
            return None
        duty = rollings.take()
        order = None
        try:
            if rollings.get(found.id).state is RollingState.RUNNING:
                order = self._begun(means, found, duty)
        finally:
            if order is None:
                with suppress(LeaseLostError, JournalLostError):
                    duty.let_go()
        self._order = order or self._order
        return order

    def _begun(self, means: Means, found: Rolling, duty: DutyHandle) -> Order | None:
        def work(order: Order) -> Any:
            return roller_of(means, found.asked_by, order).take_up(found.id, duty)

        order = self._desk.under_way.take_up(self._desk.audit, lambda: self._asked(found), work)
        if order is not None:
            self._tries[found.id] += 1
            self._say(f"rolling maintenance {found.id} was left, and is gone on with here: order {order.number}")
        return order

    def _asked(self, found: Rolling) -> Asked:
        """Return the order that it was left by; a new one where there was none, or it has ended."""
        audit = self._desk.audit
        asked = audit.get(found.ordered) if found.ordered is not None else None
        if asked is None or asked.ended_at is not None:
            words = ("rolling resume", str(found.id))
            asked = audit.get(audit.asked({"user": found.asked_by, "by": HERE}, words))
        assert asked is not None
        return asked
