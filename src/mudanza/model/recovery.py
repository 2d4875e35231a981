"""In which order protected VMs are brought up where their replicas are, and what is waited for in between: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mudanza.model.errors import UsageError


class Await(StrEnum):
    """What can stand between the VMs of a plan: what is waited for, a script, or a question."""

    TCP = "tcp"
    """Somebody takes connections at an address, ``10.0.0.5:5432``."""
    AGENT = "agent"
    """A VM's guest agent answers."""
    TIME = "time"
    """So long has gone by."""
    SCRIPT = "script"
    """A hook of the controller's settings has ended well."""
    ASK = "ask"
    """A person has answered a question with yes."""


YES, NO = "yes", "no"
"""What a question can be answered with."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that has to be through before a plan goes on."""

    kind: Await
    what: str
    """An address, a VM's name, a hook's name, a question, or empty."""
    limit: float
    """Seconds that it may take; of a time: how long it is. A script has its own limit in the settings, too."""
    default: str = NO
    """What counts where nobody answers a question within its limit."""

    def __str__(self) -> str:
        if self.kind is Await.TIME:
            return f"{self.limit:g} s"
        return f"{self.kind} {self.what}, {self.limit:g} s at the most"


@dataclass(frozen=True, slots=True)
class Address:
    """What one card of a guest is to have where its VM comes up."""

    network: str
    """The network or bridge that the card hangs on at home."""
    address: str
    """With the length of its prefix: ``10.9.0.5/24``."""
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is different about one VM where its replica is."""

    networks: Mapping[str, str] = field(default_factory=dict)
    """As of its group, and before that."""
    addresses: tuple[Address, ...] = ()
    dns: tuple[str, ...] = ()
    """Addresses of servers that its guest asks for names."""
    limit: float = 300.0
    """Seconds until its guest's agent has given it its addresses."""
    test_networks: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    """Where it is to come up, of several hosts with a replica of it; empty: where the freshest one is."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many VMs are brought up side by side."""

    at_once: int = 6
    """In all."""
    per_host: int = 3
    """At one host."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One VM whose turn it is to be brought up."""

    vm: str
    """As its plan names it."""
    host: str = ""
    """Where it comes up; empty: that is not known before, and it counts for no host."""


@dataclass(frozen=True, slots=True)
class Group:
    """VMs that are brought up side by side, begun in their order, and what is waited for then."""

    name: str
    vms: tuple[str, ...]
    """Names or UUIDs."""
    after: tuple[str, ...] = ()
    """Groups that have to be through before."""
    waits: tuple[Wait, ...] = ()
    networks: Mapping[str, str] = field(default_factory=dict)
    """A network or bridge → what it is called where the replicas are."""
    before: tuple[Wait, ...] = ()
    """What has to be through before the first of its VMs is brought up."""
    test_networks: Mapping[str, str] = field(default_factory=dict)
    """A network or bridge → an isolated network where the replicas are, for doubles of its VMs."""
    at_once: int | None = None
    """How many of its VMs are brought up side by side at the most; None: as its plan says. 1: one after the other."""


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """Groups in the order in which they are brought up, one after the other."""

    name: str
    groups: tuple[Group, ...]
    machines: Mapping[str, Machine] = field(default_factory=dict)
    """By VM, as the groups name it."""
    hosts: tuple[str, ...] = ()
    """Those that a site's start waits for, and wakes; empty: all that are not in maintenance."""
    at_once: int | None = None
    """How many VMs are brought up side by side at the most; None: as the controller's settings say."""
    at_once_per_host: int | None = None
    """The same at one host."""

    def room_of(self, group: Group, usual: Room) -> Room:
        """Return how many of a group's VMs may be brought up side by side. ``usual``: what the settings say."""
        at_once = self.at_once or usual.at_once
        return Room(min(at_once, group.at_once or at_once), self.at_once_per_host or usual.per_host)

    def networks_of(self, vm: str, group: Group) -> Mapping[str, str]:
        """Return what a VM's cards hang on where its replica is: its own words count before its group's."""
        return {**group.networks, **self.machines.get(vm, Machine()).networks}

    def test_networks_of(self, vm: str, group: Group) -> Mapping[str, str]:
        """Return the same for a double of the VM."""
        return {**group.test_networks, **self.machines.get(vm, Machine()).test_networks}

    def host_of(self, vm: str) -> str:
        """Return at which of its replicas' hosts a VM is to come up; empty: at the freshest one's."""
        return self.machines.get(vm, Machine()).host

    @property
    def scripts(self) -> tuple[str, ...]:
        """The hooks that it runs, each once."""
        steps = [step for group in self.groups for step in (*group.before, *group.waits)]
        return tuple(dict.fromkeys(step.what for step in steps if step.kind is Await.SCRIPT))

    @property
    def vms(self) -> tuple[str, ...]:
        """All VMs of it, in their order."""
        return tuple(vm for group in self.groups for vm in group.vms)


def recovery_plan(
    name: str,
    groups: Sequence[Group],
    machines: Mapping[str, Machine] | None = None,
    hosts: Sequence[str] = (),
    *,
    at_once: int | None = None,
    at_once_per_host: int | None = None,
) -> RecoveryPlan:
    """Return a plan of these groups, each behind those it comes after. Raises UsageError where that cannot be."""
    machines = machines or {}
    names = [group.name for group in groups]
    for what, each in (("group", names), ("VM", [vm for group in groups for vm in group.vms])):
        if twice := sorted({name for name in each if each.count(name) > 1}):
            raise UsageError(f"the {what} {twice[0]!r} is in plan {name!r} twice")
    if not groups or not all(group.vms for group in groups):
        raise UsageError(f"plan {name!r} has no group, or one without VMs")
    if strangers := sorted(set(machines) - {vm for group in groups for vm in group.vms}):
        raise UsageError(f"plan {name!r} says something of VM {strangers[0]!r}, which is in none of its groups")
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
    return RecoveryPlan(name, tuple(ordered), machines, tuple(hosts), at_once, at_once_per_host)
