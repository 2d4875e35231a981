"""A guest has its own addresses again where its VM comes home: by whichever way it comes, this is what does it.

Whether it is home is known by somebody's word (``failback``, a plan that has no addresses for it there), or by the
disks that the VM ran on there before: its replica begins with these. Somewhere else it keeps those that it was given,
for they may be right there, too. That it is to have its own ones is written down before it is done, and stays so until
it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mudanza.hypervisor.connections import Connections
from mudanza.journal.protections import Protections
from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError
from mudanza.model.migration import Side
from mudanza.model.protection import Protection, Readdressed
from mudanza.protection.addressing import Back, take_back
from mudanza.protection.choosing import given_addresses, given_elsewhere, home_with_others, place_of
from mudanza.protection.in_guest import OWN, UNDO

MOMENT = 20.0
"""Seconds that the agent of a guest has that was not switched off: it has been there all the time."""
BY_HAND = f"in its guest, as root: sh {UNDO}, and then reboot it (Windows: what it had is in C:\\ProgramData\\mudanza)"
"""What a person can do in place of all of this."""


class OwnAddresses:
    """Has guests have their own addresses again."""

    def __init__(self, connections: Connections, store: Protections, say: Callable[[str], None]) -> None:
        """``say`` is told what becomes of it; what was not done begins with ``!``."""
        self._connections = connections
        self._store = store
        self._say = say

    def see_to(self, vm: str, *, home: bool = False, at_once: bool = False) -> bool:
        """Have the guest of a VM that has come up somewhere be as it was before it got addresses for another host, if
        it is at home there; return whether nothing is left to be done.

        ``home``: somebody has said so; ``at_once``: it has not been switched off since. Done once more it changes
        nothing. Where it is not done, that is told, and stays written down (``Readdressed.owed_at``). Raises UsageError
        where there is no such VM, and JournalLostError.
        """
        replicas = self._store.all_of(vm)
        host, given = home_with_others(replicas, home=home), given_addresses(replicas)
        if given is None or (not host and given_elsewhere(replicas) is None):
            return True
        at = place_of(replicas)
        if not host:
            self._say(
                f"! {at.vm_name} keeps the addresses that it was given at {given.at}: nobody has said that {at.target} "
                f"is its home, nor has it been there before. If it is to have its own ones there: {BY_HAND}; or have a "
                "plan carried out that has none for it there"
            )
            return True
        self._store.readdressed(at.id, replace(given, owed_at=host))
        if not at_once:
            self._say(f"{at.vm_name}: it gets its own addresses on {host} as soon as its guest's agent answers")
        return self._take_back(at, host, given, min(given.limit, MOMENT) if at_once else given.limit, at_once=at_once)

    def _take_back(self, at: Protection, host: str, given: Readdressed, limit: float, *, at_once: bool) -> bool:
        name = at.vm_name
        try:
            domains = self._connections.domains(host)
            seen = domains.sighting(at.vm_uuid)
            if seen.side is Side.ABSENT or (seen.side is Side.PRESENT and not seen.state.active):
                raise HypervisorError(host, "it does not run there")
            back = take_back(domains, at.vm_uuid, given.macs, limit)
        except (MigrationFailedError, HypervisorError, HostUnreachableError) as error:
            if given_addresses(self._store.all_of(at.vm_uuid)) is None:  # somebody else was at it, and faster
                return True
            self._say(
                f"! {name} has the addresses still that it was given at {given.at}: {error}. It is tried again by "
                f"mudanza serve, and by: mudanza reprotect {name}. By hand, {BY_HAND}"
            )
            return False
        self._store.readdressed(at.id, None)
        self._say(_told(back, name, given.at, host if not at_once else ""))
        return True


def _told(back: Back, name: str, at: str, started: str) -> str:
    """Return what came of it, in words. ``started``: the host at which it was started since; empty: it runs on."""
    match back:
        case Back.DONE:
            return f"{name} has its own addresses again"
        case Back.BY_OWN:
            return f"! {name} was given its addresses for {at} by its own program {OWN}, which has to take them back"
        case Back.NOTHING:
            if started:
                return f"{name} has its own addresses since it was started on {started}: none for {at} were written"
            return f"! {name}: nobody looks after its cards, and its addresses for {at} hold until it reboots"
