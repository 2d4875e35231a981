"""Hosts that live and whose guests have lost their network: pure. What one look has found of hosts' uplinks goes in,
with what the look before made of it; what is lost comes out, who could take the guests, and what is told.

An uplink is *down* as soon as it carries nothing, and *lost* once that has lasted for ``Terms.confirm`` seconds; it is
well again once it has carried for as long. Where most hosts lose one network at once it is the switch that has died:
nobody gains by moving, and nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.units import format_duration
from mudanza.model.vm import Nic, Vm


class State(StrEnum):
    """What an uplink is taken for."""

    WELL = "well"
    DOWN = "down"
    """It carries nothing, and has for a moment."""
    LOST = "lost"
    BACK = "back"
    """It was lost, and carries again, for a moment."""


@dataclass(frozen=True, slots=True)
class Line:
    """An uplink as it is taken, and since when (of the looks' clock)."""

    state: State
    since: float


@dataclass(frozen=True, slots=True)
class Terms:
    """When what is done."""

    confirm: float = 30.0
    """Seconds."""
    brake: float = 0.5
    """The share of the hosts with one network that may have lost it at once; if more have, nothing is done."""


Place = tuple[str, str]
"""A host, and a bridge or device there."""
Lines = Mapping[Place, Line]


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a look."""

    lines: Lines
    lost: Mapping[str, tuple[str, ...]]
    """Host → its networks that are lost."""
    braked: frozenset[str]
    """Networks that too many hosts have lost at once: nobody gains by moving."""
    seen: frozenset[str]
    """The hosts that have told: of others nobody knows whether they are well."""
    told: tuple[str, ...]
    """What is to be said, as long as it is so."""

    def is_well(self, host: str) -> bool:
        """Whether all uplinks of a host that matter are known to be well, and there is one."""
        mine = [line.state for (name, _), line in self.lines.items() if name == host]
        return host in self.seen and bool(mine) and all(state is State.WELL for state in mine)

    def worth_leaving(self, host: str) -> tuple[str, ...]:
        """Return the networks that a host has lost, and others have."""
        return tuple(each for each in self.lost.get(host, ()) if each not in self.braked)

    def carries(self, host: str, network: str) -> bool:
        """Whether a network of a host is known to be well."""
        line = self.lines.get((host, network))
        return host in self.seen and line is not None and line.state is State.WELL


def decide(before: Lines, seen: Mapping[str, Mapping[str, bool] | None], at: float, terms: Terms) -> Decision:
    """Return what is made of one look. ``seen``: host → network → whether it carries; None: it could not be asked, and
    what it was taken for stays, but counts anew."""
    lines: dict[Place, Line] = {}
    for host, networks in seen.items():
        if networks is None:
            lines |= {place: _unseen(line, at) for place, line in before.items() if place[0] == host}
            continue
        for network, carries in networks.items():
            earlier = before.get((host, network), Line(State.WELL, at))
            lines[host, network] = _taken(earlier, at, terms, carries=carries)
        # One that was lost and is not told of any more is lost still.
        gone = {place: line for place, line in before.items() if place[0] == host and place[1] not in networks}
        lines |= {place: _unseen(line, at) for place, line in gone.items() if line.state in (State.LOST, State.BACK)}
    told: list[str] = []
    lost: dict[str, tuple[str, ...]] = {}
    braked = _braked(lines, terms, told)
    for (host, network), line in sorted(lines.items()):
        if line.state is State.DOWN and network not in braked:
            left = format_duration(max(terms.confirm - (at - line.since), 0.0))
            told.append(f"the uplink of {network} on {host} carries nothing; lost in {left} if that lasts")
        elif line.state is State.LOST:
            lost[host] = (*lost.get(host, ()), network)
        elif line.state is State.BACK:
            left = format_duration(max(terms.confirm - (at - line.since), 0.0))
            told.append(f"the uplink of {network} on {host} carries again; well in {left} if that lasts")
    asked = frozenset(host for host, networks in seen.items() if networks is not None)
    return Decision(lines, lost, braked, asked, tuple(told))


def _taken(earlier: Line, at: float, terms: Terms, *, carries: bool) -> Line:
    lasted = at - earlier.since >= terms.confirm
    if carries:
        if earlier.state is State.LOST:
            return Line(State.BACK, at)
        return earlier if earlier.state is State.BACK and not lasted else _become(earlier, State.WELL, at)
    if earlier.state is State.WELL:
        return Line(State.DOWN, at)
    if earlier.state is State.DOWN and not lasted:
        return earlier
    return _become(earlier, State.LOST, at)


def _become(earlier: Line, state: State, at: float) -> Line:
    return earlier if earlier.state is state else Line(state, at)


def _unseen(line: Line, at: float) -> Line:
    anew = {State.DOWN: State.WELL, State.BACK: State.LOST}
    return _become(line, anew.get(line.state, line.state), at)


def _braked(lines: Lines, terms: Terms, told: list[str]) -> frozenset[str]:
    """Return the networks that too many hosts have lost at once, and have it told."""
    found = set()
    for network in sorted({network for _, network in lines}):
        states = [line.state for (_, name), line in lines.items() if name == network]
        gone = [state for state in states if state in (State.DOWN, State.LOST)]
        if gone and len(gone) > terms.brake * len(states):
            told.append(
                f"{len(gone)} of {len(states)} hosts have lost the uplink of {network} at once: its switch may be "
                "dead, nobody would gain by moving"
            )
            found.add(network)
    return frozenset(found)


def wanted_on(cluster: Cluster, host: Host) -> frozenset[str]:
    """Return the bridges and devices of a host that matter: a running VM, wherever it is, has a card that hangs on one,
    or would. A spare card without a cable is nobody's loss."""
    cards = (nic for vm in cluster.vms if vm.state.active for nic in vm.nics)
    return frozenset(place for nic in cards if (place := _hangs_on(nic, host)))


def cut_off(cluster: Cluster, host: str, networks: Iterable[str]) -> tuple[Vm, ...]:
    """Return the running VMs of a host with a card on one of these networks."""
    there, wanted = cluster.host(host), set(networks)
    return tuple(
        vm for vm in cluster.vms_on(host) if vm.state.active and wanted & {_hangs_on(nic, there) for nic in vm.nics}
    )


def refuges(cluster: Cluster, vms: Sequence[Vm], networks: Iterable[str], decision: Decision) -> frozenset[str]:
    """Return the hosts where every card that has lost its network would have it again, as far as is known."""
    lost = set(networks)
    found = set()
    for host in cluster.hosts:
        if not host.seen or host.entry.maintenance or host.name in {vm.host for vm in vms}:
            continue
        cards = [(nic, cluster.host(vm.host)) for vm in vms for nic in vm.nics]
        dark = [nic for nic, here in cards if _hangs_on(nic, here) in lost]
        if all(decision.carries(host.name, _hangs_on(nic, host)) for nic in dark):
            found.add(host.name)
    return frozenset(found)


def _hangs_on(nic: Nic, host: Host) -> str:
    """Return the bridge or device of a host that a card hangs on, or would; empty: none that is known."""
    if nic.kind in ("bridge", "direct"):
        return nic.source or ""
    network = host.network(nic.source or "") if nic.kind == "network" else None
    return network.bridge or "" if network is not None else ""
