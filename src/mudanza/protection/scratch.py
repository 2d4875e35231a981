"""Watching what a backup takes up at the source: a full scratch would make the guest's own writes fail."""

from __future__ import annotations

from types import TracebackType

from mudanza import clock
from mudanza.hypervisor.backups import Backups
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.units import format_size

LOOK_EVERY = 0.5
"""Seconds between two looks."""


class Watched:
    """Watches the scratch of a VM's backup while the block runs; ``stop`` is set where the round has to give way."""

    def __init__(self, backups: Backups, uuid: str, budget: int) -> None:
        """``budget``: bytes."""
        self._backups = backups
        self._uuid = uuid
        self._budget = budget
        self._over = clock.new_event()
        self._why = ""
        self.stop = clock.new_event()

    def __enter__(self) -> Watched:
        self._look()
        clock.start_thread(self._watch, "scratch")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()

    def refuse_to_go_on(self) -> None:
        """Raise MigrationFailedError where the round has to give way."""
        if self.stop.is_set():
            raise MigrationFailedError(self._why)

    def failure(self, error: MigrationFailedError) -> MigrationFailedError:
        """Return why the round broke off, in place of that it was stopped."""
        return MigrationFailedError(self._why, remedy=error.remedy) if self._why else error

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY) and not self.stop.is_set():
            self._look()

    def _look(self) -> None:
        try:
            used = self._backups.scratch_used(self._uuid)
        except (HypervisorError, HostUnreachableError) as error:
            self.give_way(f"the source does not tell how much scratch the round takes up: {error}")
            return
        if used is None:
            self.give_way("the backup at the source has ended")
        elif used > self._budget:
            self.give_way(
                f"the guest has overwritten so much meanwhile that the round took up {format_size(used)} of "
                f"scratch at the source, and may take {format_size(self._budget)}"
            )

    def give_way(self, why: str) -> None:
        """Have the round end, for that reason."""
        if not self._over.is_set():
            self._why = why
            self.stop.set()
