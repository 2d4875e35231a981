"""What VMs and hosts use: as measured over a window, or else as promised. Never as one reading says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mudanza.model.host import Host
from mudanza.model.load import HostLoad, Loads, VmLoad
from mudanza.model.rules import Rules
from mudanza.model.units import format_duration
from mudanza.model.vm import Vm
from mudanza.planning.problem import NOWHERE, Floats, Numbers
from mudanza.planning.recent import Recent

ENOUGH = 0.9
"""The share of running VMs whose load has to be known for plans to go by it."""


def usage(
    vms: Sequence[Vm],
    hosts: Sequence[Host],
    place: Numbers,
    rules: Rules,
    loads: Loads | None,
    recent: Recent | None,
    notes: list[str],
) -> tuple[Floats, Floats, Floats, bool]:
    """Return what VMs use (n x 4), what others use on hosts (m x 4), what hosts have (m x 4), and whether it was
    measured. Says in ``notes`` what the figures are."""
    capacity = np.array(
        [[max(h.cpus, 1), max(h.memory_total, 1), rules.disk_capacity, rules.network_capacity] for h in hosts],
        dtype=np.float64,
    ).reshape(len(hosts), 4)
    promise = np.zeros((len(vms), 4))
    promise[:, 0] = [vm.vcpus if vm.state.active else 0 for vm in vms]
    promise[:, 1] = [vm.memory if vm.state.active else 0 for vm in vms]
    notes += loads.told if loads else ()
    running = [number for number, vm in enumerate(vms) if vm.state.active]
    known = {number: load for number in running if (load := _load(vms[number], loads)) is not None}
    if not running or len(known) < ENOUGH * len(running):
        notes.append(_why_promised(len(known), len(running), loads))
        return promise, np.zeros((len(hosts), 4)), capacity, False
    use = np.zeros((len(vms), 4))
    for number, load in known.items():
        use[number] = _busy(load)
    _fill_in(use, promise, known, running)
    if missing := len(running) - len(known):
        notes.append(f"of {missing} VMs too little has been measured: they are taken to be as busy as the others")
    there = np.zeros((len(hosts), 4))
    placed = place != NOWHERE
    np.add.at(there, place[placed], use[placed])
    base = np.zeros((len(hosts), 4))
    for number, host in enumerate(hosts):
        whole = loads.hosts.get(host.name) if loads else None
        if whole is not None and whole.means_something and not _has_changed(host.name, whole.span, recent):
            base[number] = np.maximum(0, np.array(_busy(whole)) - there[number])
    span = min(load.span for load in known.values())
    by = "" if loads is None or loads.source == "libvirt" else f" by {loads.source}"
    notes.append(f"load: what was not exceeded 95 % of the time, measured{by} over {format_duration(span)} or more")
    return use, base, capacity, True


def _has_changed(host: str, span: float, recent: Recent | None) -> bool:
    """Whether a VM came or went since a host's readings began: then they tell of VMs that are not there, and what
    others use cannot be told from them."""
    return recent is not None and recent.hosts.get(host, span) < span


def _load(vm: Vm, loads: Loads | None) -> VmLoad | None:
    load = loads.vms.get(vm.uuid) if loads else None
    return load if load is not None and load.means_something else None


def _busy(load: VmLoad | HostLoad) -> tuple[float, float, float, float]:
    return load.cpus.p95, load.memory.p95, load.disk.p95, load.network.p95


def _fill_in(use: Floats, promise: Floats, known: dict[int, VmLoad], running: Sequence[int]) -> None:
    """A VM nobody has measured yet is taken to use of what it was promised what the others use of it."""
    seen = list(known)
    share = use[seen].sum(axis=0)[:2] / np.maximum(promise[seen].sum(axis=0)[:2], 1)
    for number in running:
        if number not in known:
            use[number, :2] = promise[number, :2] * share


def _why_promised(known: int, running: int, loads: Loads | None) -> str:
    if loads is None or not loads.vms:
        why = "no load has been measured"
    else:
        why = f"load is known well enough of {known} of {running} running VMs only"
    return f"{why}: what VMs were promised (vCPUs, memory) is taken for what they use"
