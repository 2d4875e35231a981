"""What the API works on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mudanza.journal.audit import Audit
from mudanza.journal.balance import Balances
from mudanza.journal.jobs import Jobs
from mudanza.journal.plans import Plans
from mudanza.journal.tokens import Tokens
from mudanza.migration.looking import standing_of, without_figures
from mudanza.service.picture import Picture
from mudanza.service.problems import NotReadyError, TooManyError
from mudanza.service.under_way import Order, UnderWay

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.job import Job
    from mudanza.journal.standbys import Standby
    from mudanza.migration.residue import Residue
    from mudanza.model.access import Asker
    from mudanza.model.fencing import DeviceTest
    from mudanza.model.migration import Standing
    from mudanza.operations.means import Means, Say

MOST_AT_WORK = 8
"""Requests that look at hosts, or do something there, at one time; whoever asks for more has to come again."""


class Finisher(Protocol):
    """Deletes what jobs have left."""

    def clean_up(self, job_id: int) -> Residue:
        """Delete what an ended job has left; return what came of it."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The journal's parts, and the newest picture of the cluster."""

    jobs: Jobs
    plans: Plans
    balances: Balances
    audit: Audit
    tokens: Tokens
    newest: Callable[[], Picture | None]
    version: str
    means: Means | None = None
    """What requests work with that are about more than the picture and the journal; None: there are none such."""
    standing: Callable[[Job], Standing] = lambda job: standing_of(job, without_figures(job))
    """Tells how a job stands."""
    usual: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a move's options as the daemon's settings have them, where whoever asks does not say."""
    balance_every: float = 300.0
    """Seconds between two rounds of balance, as the settings have it."""
    finisher: Callable[[Connections, str], Finisher] | None = None
    """What deletes what jobs of a kind have left; None: nothing does."""
    under_way: UnderWay = field(default_factory=UnderWay)
    """The orders that are carried out beside the requests that began them."""
    fence_tests: Callable[[], Sequence[DeviceTest]] = tuple
    """Tells what fence devices said when they were asked last."""
    standbys: Callable[[], Sequence[Standby]] = tuple
    """Tells where copies of the journal are kept, and how old they are."""
    _places: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MOST_AT_WORK))

    @contextmanager
    def at_work(self) -> Iterator[Means]:
        """Look at hosts, or do something there, while the block runs.

        Raises NotReadyError where nothing can be done there, TooManyError while as many do as may.
        """
        if self.means is None:
            raise NotReadyError("this daemon does nothing on hosts itself")
        if not self._places.acquire(blocking=False):
            raise TooManyError(f"{MOST_AT_WORK} requests are at work on hosts already", remedy="try again in a moment")
        try:
            yield self.means
        finally:
            self._places.release()

    def begin(
        self, asker: Asker, command: Sequence[str], work: Callable[[Means, Say], Any], key: str | None = None
    ) -> Order:
        """Have something done that may take longer than an answer should; see ``UnderWay.begin``.

        Raises NotReadyError where nothing can be done on hosts.
        """
        means = self.means
        if means is None:
            raise NotReadyError("this daemon does nothing on hosts itself")
        return self.under_way.begin(self.audit, asker, command, lambda order: work(means, order.say), key)

    def begin_stoppable(
        self,
        asker: Asker,
        command: Sequence[str],
        work: Callable[[Means, Order], Any],
        key: str | None = None,
        *,
        goes_on: bool = False,
    ) -> Order:
        """The same of something that heeds what its order says: whether somebody wants nothing more begun, and whether
        this daemon is about to end. ``goes_on``: the next daemon goes on with it then."""
        means = self.means
        if means is None:
            raise NotReadyError("this daemon does nothing on hosts itself")
        begin = self.under_way.begin
        return begin(self.audit, asker, command, lambda order: work(means, order), key, may_stop=True, goes_on=goes_on)

    def picture(self) -> Picture:
        """Return the newest picture. Raises NotReadyError before there is one."""
        found = self.newest()
        if found is None:
            raise NotReadyError("the hosts have not been looked at yet", remedy="ask again in a few seconds")
        return found
