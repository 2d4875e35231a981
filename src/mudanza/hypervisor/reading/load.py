"""Counters of a host and of all its VMs, as libvirt keeps them: two questions about the host, one about all VMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import libvirt

from mudanza import clock
from mudanza.hypervisor.bounded import all_of
from mudanza.hypervisor.connection import HostConnection, Raw
from mudanza.hypervisor.own.throwaway import is_throwaway
from mudanza.hypervisor.states import state_name
from mudanza.model.counters import HostCounters, VmCounters
from mudanza.model.units import KIB
from mudanza.model.vm import VmState

LOOKING = 0.4
"""Seconds between two looks at how busy hosts are."""
ASKING = 5.0
"""Seconds that one host may take to tell. What comes later would be of another instant."""
_GROUPS = ("STATE", "CPU_TOTAL", "BALLOON", "VCPU", "INTERFACE", "BLOCK")


def read_counters(host: HostConnection, timeout: float = ASKING) -> HostCounters:
    """Return what a host and its VMs have used so far. Raises HostUnreachableError and HypervisorError.

    A QEMU that is busy with something else is not waited for: what it does not tell is None.
    """
    return host.ask(lambda raw: _read(raw, host.name), timeout=timeout)


def _read(raw: Raw, host: str) -> HostCounters:
    groups = 0
    for name in _GROUPS:
        groups |= getattr(libvirt, f"VIR_DOMAIN_STATS_{name}")
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    cpu = raw.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS)
    memory = raw.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    at = clock.monotonic()
    stats = raw.getAllDomainStats(groups, flags)
    total = int(memory["total"]) * KIB
    return HostCounters(
        host=host,
        at=at,
        cpus=int(raw.getInfo()[2]),
        busy_seconds=read_busy(cpu),
        memory_total=total,
        memory_used=read_used(memory),
        vms=tuple(
            read_vm(domain.UUIDString(), domain.name(), domain.ID(), figures)
            for domain, figures in stats
            if not is_throwaway(domain.name())
        ),
    )


def idle_cpus(hosts: Sequence[HostConnection]) -> dict[str, float | None]:
    """Return how many CPUs of each host had nothing to do within LOOKING seconds; None where it did not tell."""
    first, begun = _all_busy(hosts), clock.monotonic()
    clock.sleep(LOOKING)
    then, passed = _all_busy(hosts), clock.monotonic() - begun
    idle: dict[str, float | None] = {}
    for host in hosts:
        before, after = first[host.name], then[host.name]
        idle[host.name] = None
        if before is not None and after is not None:
            idle[host.name] = max(after[0] - (after[1] - before[1]) / passed, 0.0)
    return idle


def _all_busy(hosts: Sequence[HostConnection]) -> dict[str, tuple[int, float] | None]:
    """Return the CPUs of each host and the seconds that they have worked."""
    asked = all_of([partial(host.ask, _cpus_and_busy, timeout=ASKING) for host in hosts], timeout=ASKING)
    return {
        host.name: None if isinstance(answer, BaseException) else answer
        for host, answer in zip(hosts, asked, strict=True)
    }


def _cpus_and_busy(raw: Raw) -> tuple[int, float] | None:
    busy = read_busy(raw.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS))
    return None if busy is None else (int(raw.getInfo()[2]), busy)


def read_busy(figures: Mapping[str, int]) -> float | None:
    """Return the seconds that CPUs worked, from ``virNodeGetCPUStats`` in ns; None where it has counted nothing."""
    busy = sum(int(figures.get(name, 0)) for name in ("user", "kernel", "intr"))
    return busy / 1e9 if busy > 0 else None


def read_used(figures: Mapping[str, int]) -> int | None:
    """Return the bytes in use, from ``virNodeGetMemoryStats`` in KiB; None where that cannot be."""
    free = sum(int(figures.get(name, 0)) for name in ("free", "buffers", "cached"))
    used = int(figures.get("total", 0)) - free
    return used * KIB if used > 0 else None


def read_vm(uuid: str, name: str, run: int, figures: Mapping[str, Any]) -> VmCounters:
    """Read libvirt's statistics of one VM: times in ns, sizes of memory in KiB, the rest in bytes."""
    cpu, state = int(figures.get("cpu.time", 0)), state_name(int(figures.get("state.state", -1)))
    return VmCounters(
        uuid=uuid,
        name=name,
        run=run,
        running=state in (VmState.RUNNING, VmState.BLOCKED),
        cpu_seconds=cpu / 1e9 if cpu > 0 else None,  # no QEMU has lived on no CPU time: 0 is no answer
        waited=_waited(figures),
        memory=_memory(figures),
        disk_bytes=_sum(figures, "block", ("rd.bytes", "wr.bytes")),
        network_bytes=_sum(figures, "net", ("rx.bytes", "tx.bytes")),
    )


def _memory(figures: Mapping[str, Any]) -> int | None:
    resident, balloon = (int(figures.get(f"balloon.{name}", 0)) * KIB for name in ("rss", "current"))
    return resident or balloon or None


def _waited(figures: Mapping[str, Any]) -> float | None:
    delays = [value for name, value in figures.items() if name.startswith("vcpu.") and name.endswith(".delay")]
    return sum(map(int, delays)) / 1e9 if delays else None


def _sum(figures: Mapping[str, Any], group: str, names: tuple[str, ...]) -> int | None:
    """Return the sum over all of a VM's devices; None where their counters are not told."""
    count = int(figures.get(f"{group}.count", -1))
    keys = [f"{group}.{number}.{name}" for number in range(count) for name in names]
    told = [int(figures[key]) for key in keys if key in figures]
    return sum(told) if told or count == 0 else None  # a QEMU that was not waited for tells how many, and no more
