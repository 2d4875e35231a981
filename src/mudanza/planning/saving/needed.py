"""Which hosts are not switched off to save power, whatever is to be done: pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mudanza.model.cluster import Cluster
from mudanza.model.rules import RuleKind, Rules
from mudanza.planning.naming import Directory


def needed(cluster: Cluster, rules: Rules, awake: Collection[str], kept: Mapping[str, str]) -> Mapping[str, str]:
    """Return the hosts that have to stay on, and why; ``awake``: those that are on and open; ``kept``: what is known of
    hosts beside the snapshot, in words."""
    found = {host: why for host, why in kept.items() if host in awake}
    for zone, members in rules.zones.items():
        here = [host for host in members if host in awake]
        if len(here) == 1:
            found.setdefault(here[0], f"it is the last one of zone {zone} that is on")
    directory = Directory(cluster.vms, cluster.hosts, rules.zones)
    for rule in rules.rules:
        if rule.kind is not RuleKind.MUST or not directory.vms(rule.vms, rule.name):
            continue
        wanted = [cluster.hosts[number].name for number in directory.hosts(rule.hosts, rule.name)]
        here = [host for host in wanted if host in awake]
        if len(here) == 1:
            found.setdefault(here[0], f"rule {rule.name!r} leaves its VMs no other host that is on")
    if len(awake) == 1:
        found.setdefault(next(iter(awake)), "it is the last one that is on")
    return found
