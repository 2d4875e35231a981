"""What libvirt counts of hosts and VMs at one instant, and what two such looks say of the time between them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VmCounters:
    """One active VM on one host. Seconds and bytes since its QEMU started; None where libvirt does not tell."""

    uuid: str
    name: str
    run: int
    """libvirt's number of this run: another one is another QEMU, whose counters began anew."""
    running: bool
    """Its vCPUs run; it is not paused."""
    cpu_seconds: float | None
    waited: float | None
    """Seconds its vCPUs would have run and had no CPU: stolen from the guest's point of view."""
    memory: int | None
    """What it occupies now: its QEMU's RSS, or its balloon where that is not told. (Huge pages are in neither
    RSS nor here: the planner counts such guests by their definition.)"""
    disk_bytes: int | None
    """Read and written."""
    network_bytes: int | None
    """Received and sent."""


@dataclass(frozen=True, slots=True)
class HostCounters:
    """One host and its active VMs, at one instant of the controller's monotonic clock."""

    host: str
    at: float
    cpus: int
    busy_seconds: float | None
    """What all its CPUs have worked since it booted, for whomever."""
    memory_total: int
    memory_used: int | None
    """What is neither free nor a cache, whoever has it."""
    vms: tuple[VmCounters, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What somebody used between two looks. CPU-seconds per second, bytes, bytes per second."""

    span: float
    """Seconds between the two."""
    cpus: float
    memory: int
    disk: float | None
    network: float | None
    """None where that was not told this time, as while a QEMU is busy."""
    steal: float = 0.0
    """Seconds per second that its vCPUs waited for a CPU."""


@dataclass(frozen=True, slots=True)
class VmReading:
    """What one VM used between two looks."""

    uuid: str
    name: str
    used: Reading


@dataclass(frozen=True, slots=True)
class HostReading:
    """What a host and each of its VMs used between two looks."""

    host: str
    whole: Reading | None
    """All of it, whoever used it; None where it could not be told."""
    vms: tuple[VmReading, ...]
    """Those of which something can be said."""
