"""Scenarios: a cluster, rules, what is asked and what is expected, in YAML that an operator can read.

Hosts are alike (8 CPUs, 32 GiB) unless it says otherwise, and so are VMs (1 vCPU, 1 GiB, on shared storage). ``busy``
gives loads: measured over ten minutes where nothing else is said. ``count`` makes several of a VM: web-1, web-2…
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import yaml

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host, HugePages, NumaNode
from mudanza.model.load import HostLoad, Loads, Spread, VmLoad
from mudanza.model.plan import Goal
from mudanza.model.rules import Rules, rules_from_data
from mudanza.model.units import GIB, parse_rate, parse_size
from mudanza.model.vm import BoundMemory, Graphics, HostDevice, Vm, VmState
from mudanza.model.wishes import wishes_of
from mudanza.planning.planner import Request
from mudanza.planning.recent import Recent
from tests import factories as make

SCENARIOS = Path(__file__).with_name("scenarios")
_HOST = {
    "cpus",
    "memory",
    "free",
    "tags",
    "zone",
    "maintenance",
    "unseen",
    "pool",
    "model",
    "vendor",
    "network",
    "pages",
    "nodes",
}
_VM = {
    *(
        "host",
        "count",
        "memory",
        "vcpus",
        "tags",
        "busy",
        "disk",
        "network",
        "device",
        "runs",
        "machine",
        "pages",
        "cpu",
    ),
    *("port", "name", "pins", "job", "wishes", "nodes"),
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of them, ready to be planned for."""

    name: str
    about: str
    cluster: Cluster
    rules: Rules
    loads: Loads | None
    recent: Recent | None
    request: Request
    what_if: tuple[str, ...]
    expect: Mapping[str, Any]


def read_scenarios() -> list[Scenario]:
    """Return all of them, by file and then in order."""
    return [
        scenario(f"{path.stem}: {name}", data)
        for path in sorted(SCENARIOS.glob("*.yaml"))
        for name, data in yaml.safe_load(path.read_text()).items()
    ]


def scenario(name: str, data: Mapping[str, Any]) -> Scenario:
    """Read one. Raises ValueError for words it does not know."""
    _known(data, {"about", "hosts", "vms", "rules", "ask", "what_if", "recent", "samples", "others", "expect"}, name)
    rules = dict(data.get("rules") or {})
    zones: dict[str, list[str]] = {}
    for host, given in data["hosts"].items():
        if given and "zone" in given:
            zones.setdefault(given["zone"], []).append(host)
    hosts = [_host(host, given or {}) for host, given in data["hosts"].items()]
    vms, loads = _vms(data.get("vms") or {}, data.get("samples", 20))
    measured = any("busy" in (given or {}) for given in (data.get("vms") or {}).values())
    goal, _, subject = data["ask"].partition(" ")
    recent = data.get("recent")
    return Scenario(
        name,
        data["about"],
        Cluster(tuple(hosts), tuple(vms)),
        rules_from_data({**rules, "zones": zones}),
        replace(Loads(), vms=loads, hosts=host_loads(vms, loads, hosts, data.get("others"))) if measured else None,
        _recent(recent, vms) if recent else None,
        Request(Goal(goal), subject),
        tuple(data.get("what_if", ())),
        data["expect"],
    )


def _known(data: Mapping[str, Any], words: set[str], where: str) -> None:
    if unknown := set(data) - words:
        raise ValueError(f"{where}: nobody knows {sorted(unknown)}")


def _host(name: str, given: Mapping[str, Any]) -> Host:
    _known(given, _HOST, name)
    total = parse_size(str(given.get("memory", "32GiB")))
    base = make.host(name, cpus=given.get("cpus", 8), memory_total=total, memory_free=total)
    entry = replace(base.entry, tags=tuple(given.get("tags", ())), maintenance=given.get("maintenance", False))
    pools = (make.pool(available=parse_size(str(given.get("pool", "500GiB")))), _shared_pool())
    pages = tuple(HugePages(2 << 20, count, count) for count in [given["pages"]] if count) if "pages" in given else ()
    base = replace(base, entry=entry, pools=pools, hugepages=pages)
    if "nodes" in given:  # what each has, and what of it is free
        sizes = [[parse_size(part) for part in each.split(", ")] for each in given["nodes"]]
        nodes = tuple(NumaNode(number, total, free) for number, (total, free) in enumerate(sizes))
        base = replace(base, nodes=nodes, memory_total=sum(total for total, _ in sizes))
        base = replace(base, memory_free=sum(free for _, free in sizes), cpu_count_by_node=(4,) * len(nodes))
    if "free" in given:
        base = replace(base, memory_free=parse_size(given["free"]))
    if "model" in given:
        base = replace(base, cpu_model=given["model"], cpu_features=frozenset({"vmx", given["model"]}))
    if "vendor" in given:
        base = replace(base, cpu_vendor=given["vendor"])
    if "network" in given:
        base = replace(base, interfaces=frozenset(given["network"]))
    return replace(base, error=given["unseen"]) if "unseen" in given else base


def _shared_pool() -> Any:
    return make.pool(name="san", kind="netfs", path="/san")


def _vms(given: Mapping[str, Any], samples: int) -> tuple[list[Vm], dict[str, VmLoad]]:
    vms: list[Vm] = []
    loads: dict[str, VmLoad] = {}
    for name, each in given.items():
        _known(each, _VM, name)
        names = [f"{name}-{n}" for n in range(1, each["count"] + 1)] if "count" in each else [name]
        for one in names:
            vm = _vm(one, each)
            vms.append(vm)
            if "busy" in each:
                loads[vm.uuid] = _load(vm, each["busy"], samples)
    return vms, loads


def _vm(name: str, given: Mapping[str, Any]) -> Vm:
    memory = parse_size(str(given.get("memory", "1GiB")))
    uuid = str(uuid5(NAMESPACE_DNS, name))
    disk = make.disk(source=f"/san/{name}.qcow2", volume=f"{name}.qcow2", pool="san", cache="none")
    if "disk" in given:
        size = parse_size(given["disk"])
        disk = make.disk(source=f"{make.IMAGES}/{name}.qcow2", volume=f"{name}.qcow2", allocation=size, capacity=size)
    vm = make.vm(
        uuid=uuid,
        name=given.get("name", name),
        host=given["host"],
        memory=memory,
        memory_used=memory,
        vcpus=given.get("vcpus", 1),
        tags=tuple(given.get("tags", ())),
        machine=given.get("machine", "pc-q35-7.2"),
        cpu_mode=given.get("cpu", "host-model"),
        disks=(disk,),
        nics=(make.nic(mac=f"52:54:00:{uuid[:2]}:{uuid[2:4]}:{uuid[4:6]}", source=given.get("network", "br0")),),
        pinned_cpus=frozenset(given.get("pins", ())),
    )
    if not given.get("runs", True):
        vm = replace(vm, state=VmState.SHUTOFF, memory_used=None)
    if "device" in given:
        vm = replace(vm, host_devices=(HostDevice("pci", given["device"]),))
    if "pages" in given:
        vm = replace(vm, hugepages=(2 << 20,))
    if "nodes" in given:
        nodes = frozenset(given["nodes"])
        vm = replace(vm, numa_nodes=nodes, bound_memory=(BoundMemory(nodes, memory, vm.hugepages),))
    if "job" in given:
        vm = replace(vm, job=given["job"])
    if "wishes" in given:
        vm = replace(vm, wishes=wishes_of(given["wishes"]))
    if "port" in given:
        vm = replace(vm, graphics=(Graphics("vnc", "0.0.0.0", given["port"], autoport=False),))
    return vm


def _load(vm: Vm, given: Mapping[str, Any], samples: int) -> VmLoad:
    _known(given, {"cpus", "memory", "disk", "network"}, vm.name)

    def same(value: float) -> Spread:
        return Spread(value, value, value)

    return VmLoad(
        vm.uuid,
        same(float(given.get("cpus", 0.05))),
        same(parse_size(str(given["memory"])) if "memory" in given else vm.memory / 2),
        same(parse_rate(str(given.get("disk", "0MiB/s")))),
        same(parse_rate(str(given.get("network", "0MiB/s")))),
        samples,
        30.0 * (samples - 1),
    )


def host_loads(
    vms: Iterable[Vm], loads: Mapping[str, VmLoad], hosts: Iterable[Host], others: Mapping[str, float] | None = None
) -> dict[str, HostLoad]:
    """Return what hosts use: these VMs, ``others`` so many CPUs, and they themselves a little memory."""
    nothing = Spread()
    found = {}
    everybody = list(vms)
    for name in (host.name for host in hosts):
        mine = [loads[vm.uuid] for vm in everybody if vm.host == name and vm.uuid in loads]
        cpus = sum(load.cpus.p95 for load in mine) + (others or {}).get(name, 0.0)
        memory = sum(load.memory.p95 for load in mine) + GIB / 4
        spread = Spread(cpus, cpus, cpus)
        found[name] = HostLoad(name, spread, Spread(memory, memory, memory), nothing, nothing, 20, 570)
    return found


def _recent(given: Mapping[str, Any], vms: list[Vm]) -> Recent:
    by_name = {vm.name: vm.uuid for vm in vms}
    return Recent(
        {by_name[name]: float(ago) for name, ago in (given.get("vms") or {}).items()}, given.get("hosts") or {}
    )
