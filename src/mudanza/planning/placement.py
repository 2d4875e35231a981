"""The best host for one VM: simple on purpose. It fits, and it is the least loaded afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError
from mudanza.model.finding import Finding, blockers
from mudanza.model.host import Host
from mudanza.model.units import format_size
from mudanza.model.vm import Vm


@dataclass(frozen=True, slots=True)
class Choice:
    """The host chosen, why, and why not each of the others."""

    host: str
    reason: str
    rejected: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Load:
    """What the VMs of one host are promised once the VM is there. Bytes; CPUs."""

    host: Host
    memory: int
    vcpus: int

    @property
    def memory_share(self) -> Fraction:
        return Fraction(self.memory, max(self.host.memory_total, 1))

    @property
    def vcpus_per_cpu(self) -> Fraction:
        return Fraction(self.vcpus, max(self.host.cpus, 1))

    @property
    def order(self) -> tuple[Fraction, Fraction, str]:
        return self.memory_share, self.vcpus_per_cpu, self.host.name

    def __str__(self) -> str:
        return (
            f"{format_size(self.memory)} of {format_size(self.host.memory_total)} of memory promised "
            f"({float(self.memory_share):.0%}), {self.vcpus} vCPUs on {self.host.cpus} CPUs "
            f"({float(self.vcpus_per_cpu):.2f} each)"
        )


def candidates(vm: Vm, cluster: Cluster) -> tuple[Host, ...]:
    """Return the hosts it is worth probing for the VM: seen, not in maintenance, not where it is."""
    return tuple(host for host in cluster.hosts if _out_of_question(vm, host) is None)


def best_target(vm: Vm, cluster: Cluster, reports: Mapping[str, tuple[Finding, ...]]) -> Choice:
    """Choose among the hosts whose preflight report has no blocker the one least loaded after the move.

    Load is the share of memory promised to active VMs, then vCPUs per CPU; equal hosts go by name. Raises
    BlockedError, with why for each host, where none is left.
    """
    rejected: dict[str, str] = {}
    loads: list[_Load] = []
    for host in cluster.hosts:
        why_not = _out_of_question(vm, host) or _blocked(host, reports)
        if why_not is None:
            loads.append(_load_after(vm, host, cluster))
        else:
            rejected[host.name] = why_not
    if not loads:
        raise _nobody(vm, rejected, reports)
    best, *others = sorted(loads, key=lambda load: load.order)
    rejected |= {load.host.name: f"fits, but is more loaded: {load}" for load in others}
    compared = f"the least loaded of {len(loads)} hosts that fit" if others else "the only host that fits"
    return Choice(best.host.name, f"{compared}: after the move {best}", rejected)


def _out_of_question(vm: Vm, host: Host) -> str | None:
    if host.name == vm.host:
        return "the VM is there now"
    if not host.seen:
        return f"not seen: {host.error}"
    if host.entry.maintenance:
        return "in maintenance"
    return None


def _blocked(host: Host, reports: Mapping[str, tuple[Finding, ...]]) -> str | None:
    if host.name not in reports:
        return "preflight did not look at it"
    found = blockers(reports[host.name])
    return "; ".join(f"{finding.subject}: {finding.message}" for finding in found) or None


def _load_after(vm: Vm, host: Host, cluster: Cluster) -> _Load:
    there = [other for other in cluster.vms_on(host.name) if other.state.active and other.uuid != vm.uuid]
    memory = sum(other.memory for other in there) + vm.memory
    return _Load(host, memory, sum(other.vcpus for other in there) + vm.vcpus)


def _nobody(vm: Vm, rejected: Mapping[str, str], reports: Mapping[str, tuple[Finding, ...]]) -> BlockedError:
    reasons = "\n".join(f"  {host}: {reason}" for host, reason in sorted(rejected.items())) or "  there are no hosts"
    findings = tuple(finding for name in sorted(reports) for finding in blockers(reports[name]))
    return BlockedError(
        f"no host can take {vm.name}:\n{reasons}",
        findings=findings,
        remedy="mend what is named, or add a host: mudanza host add NAME URI",
    )
