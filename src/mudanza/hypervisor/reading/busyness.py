"""How busy a guest is: its memory in use, what it dirties, computes and writes, without its noticing.

What it dirties is asked of QEMU's page sampling alone, which reads some pages twice (512 of each GiB) and compares
them. The other modes (dirty bitmap, dirty ring) count exactly, but write-protect all memory for it, which splits huge
pages; and asked for a dirty bitmap of an emulated guest, QEMU 7.2 ended, and the guest with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import libvirt

from mudanza import clock
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.reading.vms import written
from mudanza.model.errors import HypervisorError
from mudanza.model.units import GIB, KIB, MIB
from mudanza.model.vm import Written

GRAIN = GIB / 512
"""Bytes that each page which QEMU samples stands for."""
ASKING = 2.0
"""Seconds that QEMU may take to answer one question."""
POLL = 0.05
"""Seconds between two looks whether QEMU has sampled."""
LATE = 3.0
"""Seconds that sampling may take longer than its period."""

_MEASURED = 2  # VIR_DOMAIN_DIRTYRATE_MEASURED; libvirt before 7.2 has no such names


@dataclass(frozen=True, slots=True)
class Busyness:
    """What QEMU tells of a guest at one instant. Bytes, seconds; None where it does not tell."""

    memory: int | None
    """What the guest has now (its balloon)."""
    resident: int | None
    """What its QEMU occupies on the host."""
    told: int | None
    """What the guest itself said to use when it was last asked; that may have been when it started."""
    cpu_seconds: float | None
    written: Written


def read_busyness(figures: Mapping[str, Any]) -> Busyness:
    """Read libvirt's statistics (balloon, block, CPU): sizes in KiB, CPU time in ns."""

    def size(name: str) -> int | None:
        return int(figures[name]) * KIB if name in figures else None

    memory, unused = size("balloon.current"), size("balloon.unused")
    return Busyness(
        memory=memory,
        resident=size("balloon.rss"),
        told=memory - unused if memory is not None and unused is not None else None,
        cpu_seconds=figures["cpu.time"] / 1e9 if "cpu.time" in figures else None,
        written=written(figures),
    )


def busyness(host: HostConnection, uuid: str) -> Busyness:
    """Ask how busy a guest is. Raises HostUnreachableError and HypervisorError."""
    groups = libvirt.VIR_DOMAIN_STATS_BLOCK | libvirt.VIR_DOMAIN_STATS_BALLOON | libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    return host.ask(lambda raw: read_busyness(_stats(raw, uuid, groups)), timeout=ASKING)


def changed_within(host: HostConnection, uuid: str, seconds: int) -> int:
    """Return how many bytes of different pages a guest changes within so many whole seconds; takes as long.

    What is written as it was before does not count, nor do parts of memory below 128 MiB. Raises HostUnreachableError,
    and HypervisorError also where libvirt or QEMU cannot do it, or does not do it in time.
    """
    group = getattr(libvirt, "VIR_DOMAIN_STATS_DIRTYRATE", None)
    if group is None:
        raise HypervisorError(host.name, "the controller's libvirt knows of no dirty rate")
    host.ask(lambda raw: _start(raw, uuid, seconds), timeout=ASKING)
    until = clock.monotonic() + seconds + LATE
    clock.sleep(seconds)
    while clock.monotonic() < until:
        figures = host.ask(lambda raw: _stats(raw, uuid, group), timeout=ASKING)
        if (changed := read_changed(figures, seconds)) is not None:
            return changed
        clock.sleep(POLL)
    raise HypervisorError(host.name, f"QEMU did not sample within {seconds + LATE:g} s")


def read_changed(figures: Mapping[str, Any], seconds: int) -> int | None:
    """Return the bytes that changed within a period, from libvirt's statistics, which have MiB per second; None: it is
    not known yet."""
    done = figures.get("dirtyrate.calc_status") == _MEASURED and figures.get("dirtyrate.calc_period") == seconds
    if not done or figures.get("dirtyrate.megabytes_per_second", -1) < 0:
        return None
    return int(figures["dirtyrate.megabytes_per_second"]) * seconds * MIB


def _start(raw: Any, uuid: str, seconds: int) -> None:
    raw.lookupByUUIDString(uuid).startDirtyRateCalc(seconds, 0)


def _stats(raw: Any, uuid: str, groups: int) -> Mapping[str, Any]:
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    answer = raw.domainListGetStats([raw.lookupByUUIDString(uuid)], groups, flags)
    return answer[0][1] if answer else {}
