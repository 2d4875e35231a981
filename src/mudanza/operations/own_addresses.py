"""A guest that was given other addresses elsewhere has its own ones again once its VM has come up at another host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mudanza.model.errors import HostUnreachableError, HypervisorError, MigrationFailedError

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.journal.protections import Protections

MOMENT = 20.0
"""Seconds that the agent of a guest has that was not switched off: it has been there all the time."""


def take_back_addresses(connections: Connections, store: Protections, vm: str, *, at_once: bool = False) -> str:
    """Have a VM's guest be as it was before it got addresses for elsewhere; return what is to be told, empty where
    there is nothing to do. ``at_once``: it has not been switched off since.

    Where that is not done it is told, and tried again by whoever calls this the next time. Raises UsageError.
    """
    from mudanza.protection.addressing import take_back
    from mudanza.protection.choosing import given_elsewhere, place_of

    replicas = store.all_of(vm)
    protection, given = place_of(replicas), given_elsewhere(replicas)
    if given is None:
        return ""
    name, limit = protection.vm_name, min(given.limit, MOMENT) if at_once else given.limit
    try:
        done = take_back(connections.domains(protection.target), protection.vm_uuid, given.macs, limit)
    except (MigrationFailedError, HypervisorError, HostUnreachableError) as error:
        return (
            f"! {name} has the addresses still that it was given at {given.at}: {error}; "
            f"it is tried again by: mudanza reprotect {name}"
        )
    store.readdressed(protection.id, None)
    if done:
        return f"{name} has its own addresses again"
    return f"! {name}: nothing in its guest says how it got its addresses for {given.at}: it has its own once it boots"
