"""The uplinks of a story's hosts, and what is made of them by the product's own functions. Where guests go is simple
here: to the host that has least to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mudanza.availability.uplinks import Decision, Lines, Terms, cut_off, decide, refuges
from mudanza.model.vm import VmState
from tests.story_vms import Seen, Vms

Tell = Callable[[str], None]
NETWORK = "br0"
AGAIN = 300
"""Seconds, as of ``operations.uplinks``."""


@dataclass
class Uplinks:
    """What the controllers know of them."""

    policy: str = "off"
    lines: Lines = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    tried: dict[str, int] = field(default_factory=dict)

    def round(self, at: int, seen: Seen, dark: Mapping[str, bool], vms: Vms, tell: Tell) -> None:
        """Do what a round does, as ``operations.uplinks``."""
        if self.policy == "off":
            return
        found = {host: {NETWORK: not dark[host]} if host in dark else None for host in seen.every}
        decision = decide(self.lines, found, float(at), Terms())
        self.lines = decision.lines
        for word in decision.told:
            if word not in self.told:
                tell(word)
        self.told = set(decision.told)
        for host in decision.lost:
            self._lose(host, decision, tell)
        for host in sorted(self.lost - set(decision.lost)):
            if decision.is_well(host):
                tell(f"the uplinks of {host} are well" + ("; it is open again" if host in self.closed else ""))
                self.lost.discard(host)
                self.closed.discard(host)
                self.tried.pop(host, None)
        for host in sorted(self.closed & set(decision.lost)):
            if at >= self.tried.get(host, -AGAIN) + AGAIN:
                self.tried[host] = at
                self._drain(host, seen, decision, vms, tell)

    def _lose(self, host: str, decision: Decision, tell: Tell) -> None:
        if self.policy == "drain" and decision.worth_leaving(host) and host not in self.closed:
            self.closed.add(host)
            tell(f"host {host} takes no newcomers until its uplink is well")
        if host not in self.lost:
            tell(f"! {host} lives, and its guests on {', '.join(decision.lost[host])} have lost their network")
            self.lost.add(host)

    def _drain(self, host: str, seen: Seen, decision: Decision, vms: Vms, tell: Tell) -> None:
        networks = decision.worth_leaving(host)
        if host not in seen.answer or not networks:
            return
        cluster = vms.cluster(seen)
        for each in cut_off(cluster, host, networks):
            there = refuges(cluster, [each], networks, decision)
            if not there:
                tell(f"! no other host has the network that {each.name} on {host} has lost: it stays")
                return
            busy = {name: sum(name in vm.running for vm in vms.vms.values()) for name in there}
            target = min(there, key=lambda name: (busy[name], name))
            vms.of(each.uuid).states = {target: (VmState.RUNNING, "migrated")}
            tell(f"{each.name} moves from {host} to {target}, live")
