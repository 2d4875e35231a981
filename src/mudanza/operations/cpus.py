"""The CPU that all hosts can give, which VMs theirs keep from which hosts, and giving it to VMs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mudanza.model.cpu import Baseline, CpuSurvey, Kept
from mudanza.model.errors import BlockedError, MudanzaError, UsageError
from mudanza.model.telling import error_as_data
from mudanza.operations.choosing import choose_vms

if TYPE_CHECKING:
    from mudanza.migration.cpu_change import CpuChange
    from mudanza.model.cluster import Cluster
    from mudanza.model.vm import Vm
    from mudanza.operations.means import Means, Say

TIED = ("host-model", "host-passthrough", "maximum")
"""CPU modes of guests that get what their host has, and are kept from those that have less."""


@dataclass(frozen=True, slots=True)
class VmCpu:
    """A VM's CPU."""

    name: str
    uuid: str
    host: str
    mode: str
    """As its definition has it; empty: it says nothing, and gets the hypervisor's default."""
    following: str
    """What becomes of it at its next start, in words; empty: nothing."""
    kept_from: tuple[tuple[str, str], ...]
    """Hosts that its CPU keeps it from, and why."""

    @property
    def is_of_note(self) -> bool:
        """Whether there is something to be said of it."""
        return bool(self.kept_from or self.mode in TIED or self.following)


@dataclass(frozen=True, slots=True)
class CpuPicture:
    """What was found out about the CPUs of a cluster."""

    baselines: tuple[Baseline, ...]
    kept: tuple[Kept, ...]
    unknown: tuple[str, ...]
    vms: tuple[VmCpu, ...]
    """Those that were asked for, or all."""


@dataclass(frozen=True, slots=True)
class CpuWish:
    """Which VMs are to have the CPU that all hosts can give, or the one back that they had before."""

    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    everyone: bool = False
    """All whose CPU is tied to its host, or keeps it from another one."""
    undo: bool = False

    def refuse_contradictory(self) -> None:
        """Raise UsageError where it names VMs twice over."""
        if self.everyone and (self.undo or self.names or self.tags):
            raise UsageError(
                "--all goes with --set, and names the VMs by itself", remedy="see: mudanza cluster cpu --help"
            )


@dataclass(frozen=True, slots=True)
class Changed:
    """What came of it for one VM."""

    vm: str
    said: str = ""
    error: dict[str, Any] | None = None
    """Why not, as ``error_as_data`` has it; None: it went well."""


def picture(means: Means, names: Sequence[str] | None, tags: Sequence[str] | None) -> CpuPicture:
    """Look at the CPUs of all hosts and of the VMs that are named, or of all. Raises UsageError."""
    from mudanza.hypervisor.probing.baseline import survey

    with means.connections() as connections:
        cluster = means.read_cluster(connections)
        chosen = choose_vms(cluster, names, tags) if names or tags else cluster.vms
        found = survey(connections, cluster)
    return CpuPicture(found.baselines, found.kept, found.unknown, tuple(_of(vm, found) for vm in chosen))


def _of(vm: Vm, found: CpuSurvey) -> VmCpu:
    kept = tuple((each.host, each.why) for each in found.kept if each.uuid == vm.uuid and each.on == vm.host)
    following = _next_start(vm, found.baseline_for(vm.arch, vm.domain_type, vm.host))
    return VmCpu(vm.name, vm.uuid, vm.host, vm.cpu_mode or "", following, kept)


def _next_start(vm: Vm, baseline: Baseline | None) -> str:
    """Say what becomes of a VM's CPU; empty: nothing."""
    from mudanza.hypervisor.xml.cpus import keeps_former, same_cpu

    if vm.inactive_xml is None:
        return "transient: it has no next start"
    if baseline is not None and same_cpu(vm.inactive_xml, baseline.xml, vm.host):
        return f"{baseline.model}, the baseline"
    if keeps_former(vm.inactive_xml, vm.host):
        return "another one than the baseline is now; --set again"
    return ""


def change(
    means: Means, wish: CpuWish, asked_by: str, say: Say, tell: Callable[[Changed], None] = lambda _: None
) -> tuple[Changed, ...]:
    """Have VMs start with another CPU from their next start on; return what came of it for each, of which ``tell`` is
    told at once. ``say`` is told what of the hosts could not be found out. What runs is not touched.

    Raises UsageError where no VM is named, or one that nobody knows.
    """
    from mudanza.hypervisor.probing.baseline import survey
    from mudanza.migration.cpu_change import CpuChange

    wish.refuse_contradictory()
    with means.connections() as connections:
        cluster = means.read_cluster(connections)
        changer = CpuChange(connections, means.jobs)
        if wish.undo:
            chosen, act = choose_vms(cluster, wish.names, wish.tags), _undo(changer, asked_by)
        else:
            found = survey(connections, cluster)
            for line in found.unknown:
                say(f"! {line}")
            chosen = _in_need(cluster, found) if wish.everyone else choose_vms(cluster, wish.names, wish.tags)
            act = _set(changer, found, asked_by)
        done = []
        for vm in chosen:
            done.append(_one(vm, act))
            tell(done[-1])
    return tuple(done)


def _in_need(cluster: Cluster, found: CpuSurvey) -> tuple[Vm, ...]:
    kept = {(each.uuid, each.on) for each in found.kept}
    return tuple(vm for vm in cluster.vms if vm.persistent and (vm.cpu_mode in TIED or (vm.uuid, vm.host) in kept))


def _set(changer: CpuChange, found: CpuSurvey, asked_by: str) -> Callable[[Vm], str]:
    def act(vm: Vm) -> str:
        baseline = found.baseline_for(vm.arch, vm.domain_type, vm.host)
        if baseline is None:
            raise BlockedError(
                f"VM {vm.name!r} gets no other CPU: {vm.host} has none in common with others for guests like it",
                remedy="see why: mudanza cluster cpu",
            )
        return changer.set(vm, baseline.xml, baseline.model, asked_by)

    return act


def _undo(changer: CpuChange, asked_by: str) -> Callable[[Vm], str]:
    return lambda vm: changer.undo(vm, asked_by)


def _one(vm: Vm, act: Callable[[Vm], str]) -> Changed:
    try:
        return Changed(vm.name, act(vm))
    except MudanzaError as error:
        return Changed(vm.name, error=error_as_data(error))
