"""What became of VMs that are kept up, on hosts that live: one whose QEMU has crashed is started again where it is, one
that stands still for an I/O error goes on once its storage does, one that hangs is reset where that was said. Pure.

It goes by where each one ran when it was seen last, which is forgotten when somebody shuts it down: see ``ran_on``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from mudanza.availability.deciding import pause_after
from mudanza.model.cluster import Cluster
from mudanza.model.kept import ON_PURPOSE, KeptUp, OnHang, Past
from mudanza.model.vm import Vm, VmState

IO_ERROR = "I/O error"
WATCHDOG = "watchdog"
HANGS = {WATCHDOG: "hangs: its watchdog has it stand still", "crashed": "has crashed in itself, and stands still"}
"""Why libvirt says that a VM is paused → what is told of it; it is left as it is."""
BARKED = "its watchdog has run out, which is to do nothing about it (action none)"
NOBODY: Mapping[str, str] = MappingProxyType({})
AGAIN = 60.0
"""Seconds between two tries to have one go on that stands still for an I/O error."""


class Act(StrEnum):
    """What is to be done about a VM."""

    START = "start"
    GO_ON = "go on"
    RESET = "reset"
    """Its guest hangs: it starts anew within its QEMU."""


@dataclass(frozen=True, slots=True)
class Mend:
    """One VM about which something is to be done where it is."""

    vm: Vm
    act: Act
    why: str
    by_watchdog: bool = False
    """Whether its watchdog says that it hangs, so that its agent need not be there to be silent."""


def mends(
    kept: Mapping[str, KeptUp],
    cluster: Cluster,
    past: Mapping[str, Past],
    tried: Mapping[str, float],
    at: float,
    hung: Mapping[str, str] = NOBODY,
    barked: Collection[str] = (),
) -> tuple[tuple[Mend, ...], tuple[str, ...]]:
    """Return what is to be done about which VMs now, and what is to be told.

    ``tried``: when each one was last to go on, by UUID, by the clock of ``at``; ``hung``: by UUID, why a guest is taken
    to hang that runs; ``barked``: UUIDs of those whose watchdog has run out, and does nothing else than say so.
    """
    found: list[Mend] = []
    told: list[str] = []
    for uuid, each in kept.items():
        places = [vm for vm in cluster.vms if vm.uuid == uuid]
        running = [vm for vm in places if vm.state.active]
        before = past.get(uuid, Past())
        if before.under_way:
            continue
        if len(running) == 1:
            [vm] = running
            by_watchdog = uuid in barked and vm.state is not VmState.PAUSED
            if why := f"hangs: {BARKED}" if by_watchdog else _why_hung(vm, hung):
                mend = _of_one_that_hangs(vm, each, cluster, before, why, told)
                found += [replace(mend, by_watchdog=by_watchdog)] if mend else []
            elif vm.state is VmState.PAUSED and vm.reason in HANGS:
                told.append(f"{vm.name} on {vm.host} {HANGS[vm.reason]}")
            elif _stands_still(vm) and ((last := tried.get(uuid)) is None or at - last >= AGAIN):
                found.append(Mend(vm, Act.GO_ON, "it stands still for an I/O error"))
        elif not running:
            found += [mend for vm in places if (mend := _of_one_that_is_off(vm, each, cluster, before, told))]
    return tuple(found), tuple(told)


def _stands_still(vm: Vm) -> bool:
    return vm.state is VmState.PAUSED and vm.reason == IO_ERROR


def _why_hung(vm: Vm, hung: Mapping[str, str]) -> str:
    """Return why a guest hangs; empty: it does not, or has crashed, which is kept for a look."""
    if vm.state is VmState.PAUSED:
        return HANGS[WATCHDOG] if vm.reason == WATCHDOG else ""
    return f"hangs: {hung[vm.uuid]}" if vm.uuid in hung else ""


def _of_one_that_hangs(vm: Vm, kept: KeptUp, cluster: Cluster, before: Past, why: str, told: list[str]) -> Mend | None:
    said = f"{vm.name} on {vm.host} {why}"
    if kept.care.on_hang is not OnHang.RESTART or cluster.host(vm.host).entry.maintenance:
        told.append(said)
    elif before.within_a_day >= kept.most:
        told.append(f"{said}; it was started anew {before.within_a_day} times within a day: not again")
    elif before.ago is None or before.ago >= pause_after(before.failed):
        return Mend(vm, Act.RESET, f"it {why}")
    return None


def _of_one_that_is_off(vm: Vm, kept: KeptUp, cluster: Cluster, before: Past, told: list[str]) -> Mend | None:
    if vm.host != kept.ran_on or cluster.host(vm.host).entry.maintenance or vm.reason in ON_PURPOSE:
        return None
    if vm.state is VmState.CRASHED:  # its definition says so: on_crash
        told.append(f"{vm.name} on {vm.host} has crashed in itself, and is kept for a look: start it when you have")
        return None
    if before.within_a_day >= kept.most:
        told.append(f"{vm.name} was started anew {before.within_a_day} times within a day: not again")
        return None
    if before.ago is not None and before.ago < pause_after(before.failed):
        return None
    return Mend(vm, Act.START, _WHY.get(vm.reason, "nobody has shut it down"))


_WHY: Mapping[str, str] = {"crashed": "its QEMU has crashed", "failed": "it did not start"}
