"""Clusters made up for benchmarks of planning: seeded, so that everybody plans for the very same one."""

from __future__ import annotations

import random
from itertools import accumulate
from uuid import UUID

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host, HostEntry, Network, Pool
from mudanza.model.units import GIB
from mudanza.model.vm import Disk, Nic, Vm, VmState

SIZES = ((1, 2), (2, 4), (2, 8), (4, 8), (4, 16), (8, 32))
"""vCPUs and GiB."""
WEIGHTS = (30, 25, 15, 15, 10, 5)
CPUS, MEMORY = 64, 256 * GIB


def uneven(hosts: int, vms: int, *, seed: int, skew: float = 1.0) -> Cluster:
    """Return equal hosts and VMs of six sizes, more of them on some hosts than on others; on storage all hosts see.

    ``skew`` 0: no host is preferred.
    """
    dice = random.Random(seed)
    preference = list(accumulate(dice.random() ** skew + 0.05 for _ in range(hosts)))
    free = [0.9 * MEMORY / GIB] * hosts
    placed = []
    for number in range(vms):
        vcpus, memory = dice.choices(SIZES, WEIGHTS)[0]
        host = dice.choices(range(hosts), cum_weights=preference)[0]
        while free[host] < memory + 1:
            host = dice.randrange(hosts)
        free[host] -= memory + 1
        placed.append(_vm(number, f"h{host:05d}", vcpus, memory * GIB))
    return Cluster(tuple(_host(f"h{number:05d}") for number in range(hosts)), tuple(placed))


def _host(name: str) -> Host:
    return Host(
        entry=HostEntry(name, f"qemu+tls://{name}.example/system"),
        hostname=f"{name}.example",
        arch="x86_64",
        cpus=CPUS,
        cpu_model="Skylake-Server-IBRS",
        cpu_vendor="Intel",
        memory_total=MEMORY,
        memory_free=MEMORY,
        libvirt_version=9_000_000,
        qemu_version=7_002_000,
        encrypted=True,
        domain_types=frozenset({"kvm", "qemu"}),
        machines=frozenset({"pc-q35-7.2"}),
        pools=(Pool("san", "netfs", "/san", active=True, capacity=1 << 50, available=1 << 49),),
        networks=(Network("lan", active=True, forward="bridge", bridge="br0"),),
        interfaces=frozenset({"br0"}),
        cpu_count_by_node=(CPUS,),
    )


def _vm(number: int, host: str, vcpus: int, memory: int) -> Vm:
    name = f"vm{number:06d}"
    disk = Disk(
        "vda", "disk", "virtio", "file", f"/san/{name}.qcow2", "qcow2", cache="none", capacity=20 * GIB,
        allocation=5 * GIB, pool="san", volume=f"{name}.qcow2",
    )  # fmt: skip
    return Vm(
        uuid=str(UUID(int=number + 1)),
        name=name,
        host=host,
        state=VmState.RUNNING,
        reason="booted",
        persistent=True,
        autostart=False,
        memory=memory,
        vcpus=vcpus,
        arch="x86_64",
        machine="pc-q35-7.2",
        domain_type="kvm",
        xml="<domain/>",
        memory_used=memory,
        cpu_mode="host-model",
        disks=(disk,),
        nics=(Nic(f"52:54:00:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}", "bridge", "br0"),),
    )
