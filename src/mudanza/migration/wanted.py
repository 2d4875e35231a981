"""Whether what is being done for a job is still wanted."""

from __future__ import annotations

from mudanza import clock
from mudanza.journal.jobs import JobHandle
from mudanza.migration.claim import renewing
from mudanza.migration.steering import ON_REQUEST
from mudanza.model.errors import MigrationFailedError


class CancelledError(MigrationFailedError):
    """Somebody wanted it so, or its deadline has passed."""


class Wanted:
    """Keeps the claim on a job while something is done for it, and hears when it is to be cancelled."""

    def __init__(self, handle: JobHandle, stop: clock.Event) -> None:
        self.stop = stop
        """Set once it is wanted no more."""
        self.cancelled = ""
        """Who cancelled it through the journal, in words."""
        self.keep_claim = renewing(handle, self._cancel)
        self._handle = handle

    def _cancel(self, why: str) -> None:
        self.cancelled = self.cancelled or why
        self.stop.set()

    def look(self) -> None:
        """As ``turn``, and look at the journal in any case: before something is begun that is not taken back."""
        if who := self._handle.cancel_asked():
            self._cancel(f"{ON_REQUEST} of {who}")
        self.turn()

    def turn(self) -> None:
        """Keep the claim on the job, and look from time to time. Raises CancelledError when it is to be cancelled."""
        self.keep_claim()
        if self.stop.is_set():
            raise CancelledError(self.cancelled or ON_REQUEST)
