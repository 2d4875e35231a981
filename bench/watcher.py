"""What Watcher's consolidation (``python-watcher``) makes of a cluster, driven without OpenStack.

It runs in a Python of its own (which is given this file as it is), for it is no part of mudanza. It gets what our
planner goes by, memory with QEMU's own included, and knows no rules. CPU is never what a host lacks here: it
may promise four vCPUs for each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mudanza.planning.problem import Problem

PACKAGES = ("python-watcher",)
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Consolidated:
    """What it came to."""

    hosts: int
    """That still bear somebody."""
    moves: int
    seconds: float
    """Of CPU."""


def consolidate(python: Path, problem: Problem) -> Consolidated:
    """Have it consolidate what our planner sees of a cluster. Raises CalledProcessError."""
    asked = json.dumps(_asked(problem))
    done = subprocess.run((python, "-I", __file__), input=asked, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return Consolidated(told["hosts"], told["moves"], told["seconds"])


def _asked(problem: Problem) -> dict[str, Any]:
    """Each unit has to be one VM: rules that keep some together are not for it."""
    from mudanza.planning.needs import MEMORY

    memory = [int(-(-each // MIB)) for each in problem.need[:, MEMORY].tolist()]
    vms = [problem.vms[vm] for (vm,) in problem.units]
    hosts = [
        (host.name, int(room // MIB), host.cpus)
        for host, room in zip(problem.hosts, problem.room[:, MEMORY].tolist(), strict=True)
    ]
    return {
        "hosts": hosts,
        "vms": [(vm.uuid, vm.name, need, vm.vcpus, vm.host) for vm, need in zip(vms, memory, strict=True)],
    }


class _Unmeasured:
    """A data source that knows nothing: then Watcher goes by what is promised, as our planner does."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_kwargs: None


def _model(hosts: Sequence[Any], vms: Sequence[Any]) -> Any:
    from watcher.decision_engine.model import element, model_root

    model = model_root.ModelRoot()
    model.extended_attributes_enabled = False
    for name, memory, cpus in hosts:
        model.add_node(
            element.ComputeNode(
                uuid=name,
                hostname=name,
                status="enabled",
                state="up",
                memory=memory,
                memory_mb_reserved=0,
                memory_ratio=1.0,
                vcpus=cpus,
                vcpu_reserved=0,
                vcpu_ratio=4.0,
                disk=1_000_000,
                disk_gb_reserved=0,
                disk_ratio=1.0,
            )
        )
    for uuid, name, memory, vcpus, host in vms:
        instance = element.Instance(
            uuid=uuid, name=name, state="active", memory=memory, vcpus=vcpus, disk=20, watcher_exclude=False
        )
        model.add_instance(instance)
        model.map_instance(instance, model.get_node_by_uuid(host))
    return model


def main() -> None:
    """Consolidate what comes in, and print what came of it."""
    from watcher.common.utils import Struct
    from watcher.decision_engine.strategy.strategies.vm_workload_consolidation import VMWorkloadConsolidation

    asked = json.load(sys.stdin)
    strategy = VMWorkloadConsolidation(config=Struct())
    strategy._compute_model = model = _model(asked["hosts"], asked["vms"])
    strategy._datasource_backend = _Unmeasured()
    strategy.input_parameters = Struct()
    began = time.process_time()
    strategy.do_execute()
    seconds = time.process_time() - began
    where = {uuid: model.get_node_by_instance_uuid(uuid).uuid for uuid, *_ in asked["vms"]}
    moves = sum(where[uuid] != host for uuid, _name, _memory, _vcpus, host in asked["vms"])
    told = {"hosts": len(set(where.values())), "moves": moves, "seconds": seconds}
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
