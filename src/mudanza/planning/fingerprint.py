"""What a plan relied on, in words that can be compared: when it is applied, the world must still be so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from mudanza.model.cluster import Cluster
from mudanza.model.plan import PlannedMove
from mudanza.model.rules import Rules, rules_as_data
from mudanza.model.units import format_size

LIMITS = frozenset(
    ("rules", "zones", "ignored", "vcpus_per_cpu", "memory_ratio", "host_reserve", "survive_hosts", "survive_zones")
)
"""What of the rules a plan must not break; how eager it was is its own affair."""


def fingerprint(cluster: Cluster, rules: Rules, moves: Iterable[PlannedMove]) -> dict[str, str]:
    """Return, thing by thing, what these moves rely on: the rules; where each of the VMs is, what it is and whether it
    runs; that the hosts are there and open; and who else is on the targets. Not how busy anybody is."""
    moves = list(moves)
    kept = {key: value for key, value in rules_as_data(rules).items() if key in LIMITS}
    print_ = {"the rules": _digest(kept)}
    wanted = {move.uuid for move in moves}
    for vm in sorted((vm for vm in cluster.vms if vm.uuid in wanted), key=lambda vm: (vm.uuid, vm.host)):
        key = f"VM {vm.name} ({vm.uuid}) on {vm.host}"
        print_[key] = f"{_running(vm.state.active)}, {format_size(vm.memory)}, {vm.vcpus} vCPUs, {len(vm.disks)} disks"
    targets = {move.target for move in moves}
    others: dict[str, list[str]] = {name: [] for name in targets}
    for vm in cluster.vms:
        if vm.host in others and vm.uuid not in wanted and vm.state.active:
            others[vm.host].append(vm.name)
    sources = {move.source for move in moves}
    for host in cluster.hosts:
        if host.name in targets:
            state = "not seen" if not host.seen else "in maintenance" if host.entry.maintenance else "up"
            print_[f"host {host.name}"] = f"{state}, {host.cpus} CPUs, {format_size(host.memory_total)}"
            print_[f"running on {host.name} besides"] = ", ".join(sorted(others[host.name])) or "nobody"
        elif host.name in sources:
            print_[f"host {host.name}"] = "up" if host.seen else "not seen"
    return print_


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Return in words what has changed; nothing: the plan still fits."""
    changed = []
    for key in sorted({*then, *now}):
        before, after = then.get(key), now.get(key)
        if before == after:
            continue
        if after is None:
            changed.append(f"{key}: it is not there any more (it was: {before})")
        elif before is None:
            changed.append(f"{key}: it is new ({after})")
        else:
            changed.append(f"{key}: it was {before}, and is {after}")
    return tuple(changed)


def _running(active: bool) -> str:
    return "runs" if active else "is off"


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
