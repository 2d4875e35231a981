"""Before a migration: read the cluster, probe, judge every candidate, choose. Nothing of the VM is touched."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.probes import gather_facts
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, UsageError
from mudanza.model.finding import Finding, blockers
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Facts, MigrationOptions, Tls
from mudanza.model.vm import Vm
from mudanza.planning.placement import best_target
from mudanza.preflight.checklist import check
from mudanza.preflight.mapping import Resolution, resolve


@dataclass(frozen=True, slots=True)
class Candidate:
    """One host the VM might go to, what was probed and what speaks against it."""

    target: Host
    facts: Facts
    findings: tuple[Finding, ...]
    resolution: Resolution
    """Where each of its disks and NICs would go."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A VM, where it is, where it shall go and why."""

    vm: Vm
    source: Host
    chosen: Candidate
    why: str
    """Why this host, in words; empty when it was named."""
    options: MigrationOptions
    cluster: Cluster

    @property
    def tls(self) -> bool:
        """Whether memory and disks will travel encrypted."""
        return self.options.tls is not Tls.OFF and self.chosen.facts.tls.answer is Answer.YES


class Judge:
    """Judges moves of VMs in one picture of the cluster."""

    def __init__(self, connections: Connections, inventory: Inventory, jobs: Jobs, cluster: Cluster) -> None:
        self._connections = connections
        self._inventory = inventory
        self._jobs = jobs
        self._cluster = cluster

    def judge(self, vm: Vm, target: Host, options: MigrationOptions, *, rehearse: bool = False) -> Candidate:
        """Probe and check one host.

        ``rehearse`` tries the way between the hosts with a tiny paused domain; without it that is done only where TLS
        is wanted and this pair was never tried.
        """
        source = self._cluster.host(vm.host)
        facts = Facts()
        if source.seen and target.seen and source.name != target.name:
            known = self._inventory.tls_between(source.name, target.name)
            unknown = options.tls is not Tls.OFF and known.answer is Answer.UNKNOWN
            facts = gather_facts(
                self._connections,
                vm,
                source,
                target,
                options,
                rehearse=rehearse or unknown,
            )
            if facts.tls.answer is Answer.UNKNOWN:
                facts = replace(facts, tls=known)
            else:
                self._inventory.learn_tls(source.name, target.name, facts.tls)
        unfinished = self._jobs.unfinished_of(vm.uuid)
        facts = replace(facts, unfinished_job=unfinished.id if unfinished else None)
        findings = check(vm, source, target, self._cluster, options, facts)
        return Candidate(target, facts, findings, resolve(vm, source, target, options, facts))

    def judge_all(self, vm: Vm, options: MigrationOptions, *, rehearse: bool = False) -> tuple[Candidate, ...]:
        """Probe and check every host but the one the VM is on, side by side."""
        targets = [host for host in self._cluster.hosts if host.name != vm.host]
        if not targets:
            raise UsageError("there is no other host to go to", remedy="add one: mudanza host add NAME URI")
        with ThreadPoolExecutor(max_workers=min(8, len(targets))) as pool:
            return tuple(pool.map(lambda host: self.judge(vm, host, options, rehearse=rehearse), targets))

    def prepare(self, vm: Vm, target: str | None, options: MigrationOptions) -> Prepared:
        """Choose where the VM goes. Raises BlockedError with every finding when it cannot go."""
        source = self._cluster.host(vm.host)
        if target is not None:
            candidate = self.judge(vm, self._cluster.host(target), options)
            why = ""
        else:
            candidates = {each.target.name: each for each in self.judge_all(vm, options)}
            reports: Mapping[str, tuple[Finding, ...]] = {name: each.findings for name, each in candidates.items()}
            choice = best_target(vm, self._cluster, reports)
            candidate, why = candidates[choice.host], choice.reason
        against = blockers(candidate.findings)
        if against:
            count = "one thing stands" if len(against) == 1 else f"{len(against)} things stand"
            raise BlockedError(
                f"VM {vm.name!r} cannot go from {vm.host} to {candidate.target.name}: {count} in the way",
                findings=candidate.findings,
                remedy="nothing was touched; mend what is listed and try again",
            )
        return Prepared(vm, source, candidate, why, options, self._cluster)
