"""What ProxLB's solver (``proxlb-solver``: one CP-SAT model of everything) makes of a balance, by its own score.

It runs in a Python of its own (which is given this file as it is), for it is no part of mudanza. Its score is the gap
between the most and the least loaded host, memory counting ten and vCPUs five.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mudanza.model.cluster import Cluster

PACKAGES = ("proxlb-solver",)
SECONDS = 60.0
"""That the solver may take, beside making its model."""
MEMORY_COUNTS, CPU_COUNTS = 10, 5


@dataclass(frozen=True, slots=True)
class Solved:
    """What it came to. ``places``: VM → host, by name; empty where it found nothing in its time."""

    places: Mapping[str, str]
    seconds: float
    """As a clock tells them, on both cores."""


def solve(python: Path, cluster: Cluster) -> Solved:
    """Have it balance a cluster. Raises CalledProcessError."""
    hosts = [(host.name, host.cpus, host.memory_total) for host in cluster.hosts]
    vms = [(vm.name, vm.host, vm.vcpus, vm.memory) for vm in cluster.vms]
    asked = json.dumps({"hosts": hosts, "vms": vms})
    done = subprocess.run((python, "-I", __file__), input=asked, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return Solved(told["places"], told["seconds"])


def gap(cluster: Cluster, moved: Mapping[str, str]) -> float:
    """Return its score once these VMs (name → host) have moved."""
    cpu = {host.name: 0.0 for host in cluster.hosts}
    memory = dict(cpu)
    of = {host.name: host for host in cluster.hosts}
    for vm in cluster.vms:
        host = moved.get(vm.name, vm.host)
        cpu[host] += vm.vcpus / of[host].cpus
        memory[host] += vm.memory / of[host].memory_total
    spread = [max(each.values()) - min(each.values()) for each in (memory, cpu)]
    return (MEMORY_COUNTS * spread[0] + CPU_COUNTS * spread[1]) / (MEMORY_COUNTS + CPU_COUNTS)


def main() -> None:
    """Balance what comes in, and print what came of it."""
    from proxlb_solver import VM, Balancing, Cluster, Constraints, Node, solve
    from proxlb_solver.models import Expect

    asked: dict[str, Any] = json.load(sys.stdin)
    nodes = [Node(name=name, cpu_total=cpus, memory_total=memory) for name, cpus, memory in asked["hosts"]]
    vms = [VM(name=name, node=host, cpu=vcpus, memory=memory, priority=1) for name, host, vcpus, memory in asked["vms"]]
    balancing = Balancing(method="global_smart", mode="assigned", balanciness=5, cpu_overcommit=4.0)
    cluster = Cluster(
        name="bench",
        description="",
        balancing=balancing,
        nodes=nodes,
        vms=vms,
        constraints=Constraints(),
        expect=Expect(),
    )
    began = time.monotonic()
    found = solve(cluster, time_limit_s=SECONDS)
    seconds = time.monotonic() - began
    sys.stdout.write("\n" + json.dumps({"places": found.placements, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
