"""Guests at home that have the addresses of elsewhere still are seen to by whoever makes rounds: where nobody was there
to wait for their agents, or these did not answer in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.journal.protections import Protections
from mudanza.model.errors import MigrationFailedError, MudanzaError
from mudanza.operations.reigning import refuse_replaced
from mudanza.protection.choosing import home_with_others
from mudanza.protection.own_addresses import OwnAddresses

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.operations.means import Means, Say

TRY_AGAIN = 300.0
"""Seconds after which it is tried again."""
LOOK_EVERY = 10.0
"""Seconds between two looks whether one has come home."""
AT_ONCE = 3
"""Guests that are seen to at the same time; most of it is waiting."""
LIMIT = 86400.0
"""Seconds after which nobody waits for one any more."""


class AddressesOwed:
    """Has guests at home have their own addresses again, some at once."""

    def __init__(self, means: Means, say: Say, failed: Callable[[MudanzaError], None]) -> None:
        """``failed`` is told what kept it from being tried."""
        self._means = means
        self._say = say
        self._failed = failed
        self._store = Protections(means.database)
        self._under_way: dict[str, Task[int]] = {}
        self._tried: dict[str, float] = {}
        self._told: set[str] = set()
        """What was told, so that it is told once."""
        self._look_at = 0.0

    def look(self) -> None:
        """Begin with those that have come home. Raises JournalLostError."""
        for vm in [vm for vm, task in self._under_way.items() if task.ended]:
            self._under_way.pop(vm).wait(0)  # a failure that nobody foresaw is one of whoever asks
        if clock.monotonic() < self._look_at:
            return
        self._look_at = clock.monotonic() + LOOK_EVERY
        for vm in self._due()[: AT_ONCE - len(self._under_way)]:
            self._under_way[vm] = self._begin(vm)

    def turn(self) -> list[int]:
        """See to all of them now; return exit codes. Raises JournalLostError."""
        return [self._begin(vm).wait(LIMIT) for vm in self._due()]

    def end(self) -> None:
        """Wait until those under way are seen to."""
        for task in self._under_way.values():
            task.wait(LIMIT)

    def _due(self) -> list[str]:
        """Return the UUIDs of the VMs that are at home and have the addresses of elsewhere."""
        now = clock.monotonic()
        given = dict.fromkeys(each.vm_uuid for each in self._store.all() if each.readdressed is not None)
        return [
            vm
            for vm in given
            if vm not in self._under_way
            and now - self._tried.get(vm, -TRY_AGAIN) >= TRY_AGAIN
            and home_with_others(self._store.replicas(vm))
        ]

    def _begin(self, vm: str) -> Task[int]:
        self._tried[vm] = clock.monotonic()
        return Task(lambda: self._see_to(vm))

    def _see_to(self, vm: str) -> int:
        try:
            refuse_replaced(self._means)
            with self._means.connections() as connections:
                done = OwnAddresses(connections, self._store, self._tell).see_to(vm)
                return 0 if done else MigrationFailedError.exit_code
        except MudanzaError as error:
            self._failed(error)
            return error.exit_code

    def _tell(self, said: str) -> None:
        if said not in self._told:
            self._told.add(said)
            self._say(said)


def see_to_addresses(
    means: Means, connections: Connections, vm: str, say: Say, *, home: bool = False, at_once: bool = False
) -> bool:
    """Have the guest of a VM that has come home have its own addresses again; see ``OwnAddresses.see_to``."""
    return OwnAddresses(connections, Protections(means.database), say).see_to(vm, home=home, at_once=at_once)
