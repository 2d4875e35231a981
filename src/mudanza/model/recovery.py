"""In which order protected VMs are brought up where their replicas are, and what is waited for in between: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mudanza.model.errors import UsageError


class Await(StrEnum):
    """What can be waited for once a group's VMs have started."""

    TCP = "tcp"
    """Somebody takes connections at an address, ``10.0.0.5:5432``."""
    AGENT = "agent"
    """A VM's guest agent answers."""
    TIME = "time"
    """So long has gone by."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that is waited for."""

    kind: Await
    what: str
    """An address, a VM's name, or empty."""
    limit: float
    """Seconds that it may take; of a time: how long it is."""

    def __str__(self) -> str:
        return (
            f"{self.limit:g} s" if self.kind is Await.TIME else f"{self.kind} {self.what}, {self.limit:g} s at the most"
        )


@dataclass(frozen=True, slots=True)
class Group:
    """VMs that are brought up one after the other, and what is waited for then."""

    name: str
    vms: tuple[str, ...]
    """Names or UUIDs."""
    after: tuple[str, ...] = ()
    """Groups that have to be through before."""
    waits: tuple[Wait, ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)
    """A network or bridge → what it is called where the replicas are."""


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """Groups in the order in which they are brought up."""

    name: str
    groups: tuple[Group, ...]

    @property
    def vms(self) -> tuple[str, ...]:
        """All VMs of it, in their order."""
        return tuple(vm for group in self.groups for vm in group.vms)


def recovery_plan(name: str, groups: Sequence[Group]) -> RecoveryPlan:
    """Return a plan of these groups, each behind those it comes after. Raises UsageError where that cannot be."""
    names = [group.name for group in groups]
    for what, each in (("group", names), ("VM", [vm for group in groups for vm in group.vms])):
        if twice := sorted({name for name in each if each.count(name) > 1}):
            raise UsageError(f"the {what} {twice[0]!r} is in plan {name!r} twice")
    if not groups or not all(group.vms for group in groups):
        raise UsageError(f"plan {name!r} has no group, or one without VMs")
    for group in groups:
        if unknown := [each for each in group.after if each not in names]:
            raise UsageError(f"group {group.name!r} comes after {unknown[0]!r}, and there is no such group")
    ordered: list[Group] = []
    waiting = list(groups)
    while waiting:
        through = {group.name for group in ordered}
        ready = next((group for group in waiting if through.issuperset(group.after)), None)
        if ready is None:
            circle = ", ".join(group.name for group in waiting)
            raise UsageError(f"no order of these groups is possible, for each comes after another one: {circle}")
        waiting.remove(ready)
        ordered.append(ready)
    return RecoveryPlan(name, tuple(ordered))
