"""Starting VMs and having them shut down."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mudanza import clock
from mudanza.model.errors import (
    BlockedError,
    HostUnreachableError,
    HypervisorError,
    MigrationFailedError,
    MudanzaError,
)
from mudanza.model.migration import Side, Sighting
from mudanza.model.units import format_duration
from mudanza.model.vm import Vm

if TYPE_CHECKING:
    from mudanza.hypervisor.connections import Connections
    from mudanza.operations.means import Means, Say

LOOK_AGAIN = 0.3
"""Seconds between two looks whether a guest is off."""
ASK_AGAIN = 10.0
"""Seconds before a guest is asked again to shut down: one that boots does not listen yet."""

_DOUBTS = {Side.PRESENT: "has it too", Side.UNSEEN: "could not be asked"}


def start_one(means: Means, connections: Connections, vm: Vm, say: Say) -> None:
    """Start a VM on the host it is defined on; tell what was done. Raises BlockedError where it may run elsewhere."""
    if vm.state.active:
        say(f"{vm.name} runs on {vm.host} already: nothing to do")
        return
    job = means.jobs.unfinished_of(vm.uuid)
    if job is not None:
        raise BlockedError(
            f"VM {vm.name!r} has an unfinished job, number {job.id}: it may be running elsewhere",
            remedy=job.way_out,
        )
    refuse_elsewhere(means, connections, vm)
    connections.domains(vm.host).start(vm.uuid)
    say(f"{vm.name} started on {vm.host}")


def refuse_elsewhere(means: Means, connections: Connections, vm: Vm) -> None:
    """Raise BlockedError where a VM that is off may run elsewhere, or come to: another host has it, or cannot be asked
    and is not proven off; another controller works on it; it is an old copy."""
    from mudanza.migration.vm_claim import in_the_way

    if (claim := in_the_way(means.jobs, vm.claims)) is not None:
        raise BlockedError(
            f"VM {vm.name!r} was not started: {claim.in_words}",
            remedy="wait until that job has ended; if its controller is gone for good: mudanza rebuild",
        )
    _refuse_stale(means, vm)
    refuse_copies(means, connections, vm.uuid, vm.name, vm.host, _epoch(means, vm))


def refuse_copies(means: Means, connections: Connections, uuid: str, name: str, target: str, epoch: int = 0) -> None:
    """Raise BlockedError where any other host than ``target`` has a VM, or cannot be asked and is not proven off.

    ``epoch``: the VM's activation epoch: copies of earlier ones that are off, which it has left, do not count.
    """
    from mudanza.journal.fences import Fences

    others = [entry.name for entry in means.inventory.hosts() if entry.name != target]
    sides = {host: _side(means, connections, host, uuid, epoch) for host in others}
    proven = Fences(means.database).proofs() if Side.UNSEEN in sides.values() else {}
    doubts = [
        f"{host} {_DOUBTS[side]}"
        for host, side in sides.items()
        if side in _DOUBTS and not (side is Side.UNSEEN and host in proven)
    ]
    if doubts:
        silent = [host for host, side in sides.items() if side is Side.UNSEEN and host not in proven]
        off = f"; where a host that is silent is off: mudanza fence off {silent[0]}" if silent else ""
        raise BlockedError(
            f"VM {name!r} was not started on {target}: {', '.join(doubts)}",
            remedy=f"look where it is: mudanza vms; two running copies would destroy its disks{off}",
        )


def _epoch(means: Means, vm: Vm) -> int:
    """Return how often a VM has changed its place by failover; 0 for one that is not protected."""
    from mudanza.journal.protections import Protections

    return next((each.epoch for each in Protections(means.database).replicas(vm.uuid)), 0)


def _refuse_stale(means: Means, vm: Vm) -> None:
    """Raise BlockedError for the copy of a VM that it has left by failover."""
    from mudanza.hypervisor.xml.activation import epoch_of

    newest = _epoch(means, vm)
    if (epoch := epoch_of(vm.inactive_xml or vm.xml)) < newest:
        raise BlockedError(
            f"VM {vm.name!r} was not started on {vm.host}: this is an old copy, of epoch {epoch}; by failover it has "
            f"come up elsewhere since, under epoch {newest}",
            remedy=f"have its replica begin with the old disks: mudanza reprotect {vm.name}",
        )


def _side(means: Means, connections: Connections, host: str, uuid: str, epoch: int) -> Side:
    """Return what a host says of a VM; one that cannot be asked says nothing, and one that has an old copy of it, off,
    has none that counts."""
    from mudanza.hypervisor.xml.activation import epoch_of

    try:
        domains = connections.domains(host)
        seen = domains.sighting(uuid, timeout=means.limits.read)
        if epoch and seen.side is Side.PRESENT and not seen.state.active:
            definition = domains.describe(uuid, inactive=True, secure=False)
            return Side.ABSENT if epoch_of(definition) < epoch else Side.PRESENT
    except (HostUnreachableError, HypervisorError):
        return Side.UNSEEN
    return seen.side


def wait_until_off(
    means: Means, connections: Connections, vms: Sequence[Vm], say: Say, *, limit: float | None = None
) -> list[MudanzaError]:
    """Wait until all are off, asking again what is not; return an error for each that is not off in the end. ``limit``:
    seconds; None: as the settings have it."""
    limit = means.limits.shutdown if limit is None else limit
    begun = clock.monotonic()
    ask_at = begun + ASK_AGAIN
    waiting = list(vms)
    errors: list[MudanzaError] = []
    while waiting and clock.monotonic() < begun + limit:
        for vm in tuple(waiting):
            seen = _sighting(means, connections, vm)
            if _has_left(seen, vm):
                waiting.remove(vm)
                errors.append(_left(vm))
            elif _is_off(seen):
                waiting.remove(vm)
                say(f"{vm.name} is off")
        if waiting and clock.monotonic() >= ask_at:
            names = ", ".join(vm.name for vm in waiting)
            say(f"{names}: still on after {format_duration(ask_at - begun)}, asked again")
            _ask_again(connections, waiting)
            ask_at += ASK_AGAIN
        clock.sleep(LOOK_AGAIN)
    return errors + [_still_on(vm, limit) for vm in waiting]


def _sighting(means: Means, connections: Connections, vm: Vm) -> Sighting:
    try:
        return connections.domains(vm.host).sighting(vm.uuid, timeout=means.limits.read)
    except HostUnreachableError:
        return Sighting(Side.UNSEEN)


def _has_left(seen: Sighting, vm: Vm) -> bool:
    """Whether the VM went to another host meanwhile; a transient one that is gone may as well be off.

    One that runs here and has come from elsewhere has the reason "migrated", too.
    """
    if seen.side is Side.PRESENT:
        return seen.reason == "migrated" and not seen.state.active
    return seen.side is Side.ABSENT and vm.persistent


def _is_off(seen: Sighting) -> bool:
    return seen.side is Side.ABSENT or (seen.side is Side.PRESENT and not seen.state.active)


def _left(vm: Vm) -> MudanzaError:
    return MigrationFailedError(
        f"VM {vm.name!r} was asked to shut down and has left {vm.host} meanwhile",
        vm_state="it may run elsewhere",
        remedy="look where it is: mudanza vms",
    )


def _still_on(vm: Vm, limit: float) -> MudanzaError:
    return MigrationFailedError(
        f"VM {vm.name!r} was asked to shut down and did not within {format_duration(limit)}",
        vm_state=f"as far as its host answers, it still runs on {vm.host}",
        remedy=f"look at it: mudanza console {vm.uuid}; more time: limits.shutdown in the settings",
    )


def _ask_again(connections: Connections, vms: Sequence[Vm]) -> None:
    for vm in vms:
        # It may have gone off since we looked, or its host may not answer now: the next look tells.
        with suppress(HypervisorError, HostUnreachableError):
            connections.domains(vm.host).shutdown(vm.uuid)


def start(means: Means, connections: Connections, vms: Sequence[Vm], say: Say) -> list[MudanzaError]:
    """Start VMs that are off, each on the host it is defined on; return an error for each that was not started."""
    errors: list[MudanzaError] = []
    for vm in vms:
        try:
            start_one(means, connections, vm, say)
        except MudanzaError as error:
            errors.append(error)
    return errors


def shut_down(
    means: Means, connections: Connections, vms: Sequence[Vm], say: Say, *, wait: bool, limit: float | None = None
) -> list[MudanzaError]:
    """Ask VMs to shut down, and ``wait`` until they are off, ``limit`` seconds (None: as the settings have it) at the
    most; return an error for each that could not be asked, or is not off in the end. They are never cut off."""
    errors: list[MudanzaError] = []
    asked = []
    for vm in vms:
        if not vm.state.active:
            say(f"{vm.name} is off already: nothing to do")
            continue
        try:
            connections.domains(vm.host).shutdown(vm.uuid)
            asked.append(vm)
            if not wait:
                say(f"{vm.name} on {vm.host} was asked to shut down")
        except MudanzaError as error:
            errors.append(error)
    return errors + wait_until_off(means, connections, asked, say, limit=limit) if wait else errors
