"""Before a migration: read the cluster, probe, judge every candidate, choose. Nothing of the VM is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from mudanza.hypervisor.bounded import for_each
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.probing.facts import gather_facts, gather_facts_in_place
from mudanza.journal.inventory import Inventory
from mudanza.journal.jobs import Jobs
from mudanza.migration.arrivals import Arrivals
from mudanza.migration.forecast.model import Forecast
from mudanza.migration.hooks import runnable
from mudanza.migration.vm_claim import in_the_way
from mudanza.model.cluster import Cluster
from mudanza.model.errors import BlockedError, HostUnreachableError, UsageError
from mudanza.model.finding import Finding, blockers
from mudanza.model.hook import Hook, hooks_for
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Facts, MigrationOptions, Probe, Tls
from mudanza.model.vm import Vm
from mudanza.planning.placement import best_target
from mudanza.preflight.arrivals import Arrival, reserved_at
from mudanza.preflight.checklist import check
from mudanza.preflight.journey import Leg, goes_encrypted, journey
from mudanza.preflight.mapping import Resolution, resolve
from mudanza.preflight.relocation import moves_disks

PROBING_LIMIT = 300.0
"""Seconds that probing every host may take; each probe has a limit of its own, far below it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One host the VM might go to, what was probed and what speaks against it."""

    target: Host
    facts: Facts
    findings: tuple[Finding, ...]
    resolution: Resolution
    """Where each of its disks and NICs would go."""
    travels: tuple[Leg, ...]
    """How everything that it is would travel."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A VM, where it is, where it shall go and why."""

    vm: Vm
    source: Host
    chosen: Candidate
    why: str
    """Why this host, in words; empty when it was named."""
    options: MigrationOptions
    checking_time: float = 0.0
    """Seconds all of this took, where somebody has measured it."""
    forecast: Forecast | None = None
    """What it will be like, where somebody has foreseen it."""
    hooks: tuple[str, ...] = ()
    """The controller's hooks that are run around it, by name."""
    age: float = 0.0
    """Seconds since others than the hosts that it concerns were read; 0: they were read with them."""

    @property
    def is_in_place(self) -> bool:
        """Whether only its disks move, and the VM stays on its host."""
        return self.source.name == self.chosen.target.name

    @property
    def kind(self) -> str:
        """The kind of job that it is."""
        if self.is_in_place:
            return "relocate"
        return "cold" if self.options.is_cold(active=self.vm.state.active) else "live"

    @property
    def tls(self) -> bool:
        """Whether memory and disks will travel encrypted."""
        return goes_encrypted(self.options, self.chosen.facts)


class Judge:
    """Judges moves of VMs in one picture of the cluster."""

    def __init__(
        self,
        connections: Connections,
        inventory: Inventory,
        jobs: Jobs,
        cluster: Cluster,
        arrivals: Arrivals,
        expected: Mapping[str, Arrival],
        hooks: Mapping[str, Hook] = MappingProxyType({}),
        age: float = 0.0,
    ) -> None:
        """``expected``: who was on the way when the picture began to be taken; some may have got there since;
        ``hooks``: those of the controller's settings, by name; ``age``: see ``Prepared``."""
        self._age = age
        self._hooks = hooks
        self._connections = connections
        self._inventory = inventory
        self._jobs = jobs
        self._cluster = cluster
        self._arrivals = arrivals
        self._expected = expected

    def judge(self, vm: Vm, target: Host, options: MigrationOptions, *, rehearse: bool = False) -> Candidate:
        """Probe and check one host.

        ``rehearse`` tries the way between the hosts with a tiny paused domain; without it that is done only where TLS
        is wanted and this pair was never tried.
        """
        return self._check(vm, target, options, self._probe(vm, target, options, rehearse=rehearse))

    def judge_all(self, vm: Vm, options: MigrationOptions, *, rehearse: bool = False) -> tuple[Candidate, ...]:
        """Probe and check every host but the one the VM is on, side by side."""
        probed = self._probe_all(vm, options, rehearse=rehearse)
        return tuple(self._check(vm, target, options, facts) for target, facts in probed)

    def _probe_all(self, vm: Vm, options: MigrationOptions, *, rehearse: bool) -> list[tuple[Host, Facts]]:
        targets = [host for host in self._cluster.hosts if host.name != vm.host]
        if not targets:
            raise UsageError("there is no other host to go to", remedy="add one: mudanza host add NAME URI")
        probed = for_each(
            lambda host: self._probe(vm, host, options, rehearse=rehearse), targets, workers=8, timeout=PROBING_LIMIT
        )
        return [(host, _facts_of(host, each)) for host, each in zip(targets, probed, strict=True)]

    def _probe(self, vm: Vm, target: Host, options: MigrationOptions, *, rehearse: bool) -> Facts:
        source = self._cluster.host(vm.host)
        in_place = source.name == target.name
        if not source.seen or not target.seen or (in_place and not options.map_storage):
            return Facts()
        arriving = {(each.pool, each.volume) for arrival in self._others(vm, target) for each in arrival.volumes}
        if in_place:
            others = [host for host in self._cluster.hosts if host.name != source.name]
            return gather_facts_in_place(self._connections, vm, source, others, options, arriving)
        known = self._inventory.tls_between(source.name, target.name)
        unknown = options.tls is not Tls.OFF and known.answer is Answer.UNKNOWN
        facts = gather_facts(
            self._connections,
            vm,
            source,
            target,
            options,
            rehearse=rehearse or unknown,
            arriving=arriving,
        )
        if facts.tls.answer is Answer.UNKNOWN:
            return facts if known.answer is Answer.UNKNOWN else replace(facts, tls=known)
        if Answer.YES in (facts.tls.answer, facts.data_path.answer):
            # Where nothing gets across in the clear either, it is not encryption that fails.
            self._inventory.learn_tls(source.name, target.name, facts.tls)
        return facts

    def _check(self, vm: Vm, target: Host, options: MigrationOptions, facts: Facts) -> Candidate:
        source = self._cluster.host(vm.host)
        unfinished = self._jobs.unfinished_of(vm.uuid)
        reserved = reserved_at(target, self._others(vm, target), self._cluster)
        facts = replace(
            facts,
            unfinished_job=unfinished.id if unfinished else None,
            claim=in_the_way(self._jobs, vm.claims),
            reserved_memory=reserved.memory,
            reserved_bound=reserved.bound,
            reserved_room=reserved.room,
            arriving=reserved.names,
            occupied=self._by_others(vm, target, facts),
            hooks={name: runnable(self._hooks.get(name)) for name in self._hooks_of(vm, target, options)},
        )
        findings = check(vm, source, target, self._cluster, options, facts)
        resolution = resolve(vm, source, target, options, facts)
        return Candidate(target, facts, findings, resolution, journey(vm, source, target, options, facts, resolution))

    def _hooks_of(self, vm: Vm, target: Host, options: MigrationOptions) -> tuple[str, ...]:
        """Return the hooks of a move by name; there are none where only disks move within a host."""
        if options.no_hooks or target.name == vm.host:
            return ()
        return hooks_for(vm.wishes.hooks if vm.wishes else (), self._hooks)

    def _by_others(self, vm: Vm, target: Host, facts: Facts) -> Mapping[str, Probe]:
        """Return which places are taken, but not by what an earlier job of the same VM has left for a repeat."""
        earlier = self._jobs.left_by(vm.uuid)
        left = frozenset(earlier.report["left"]) if earlier and earlier.kind == "cold" else frozenset()
        return {
            disk: Probe(Answer.NO, "left by an earlier try") if f"{target.name}:{probe.detail}" in left else probe
            for disk, probe in facts.occupied.items()
        }

    def _others(self, vm: Vm, target: Host) -> list[Arrival]:
        """Return who else is on the way there, or was when the picture was taken."""
        expected = {**self._expected, **self._arrivals.expected()}
        return [each for each in expected.values() if each.target == target.name and each.uuid != vm.uuid]

    def is_there(self, vm: Vm, target: str | None, options: MigrationOptions) -> bool:
        """Whether the VM is where it shall go, and so are its disks: there is nothing to do."""
        return vm.host == target and not moves_disks(vm, self._cluster.host(vm.host), options)

    def prepare(self, vm: Vm, target: str | None, options: MigrationOptions) -> Prepared:
        """Choose where the VM goes, and count on its arrival there. Raises BlockedError with every finding when it
        cannot go."""
        if target is not None:
            there = self._cluster.host(target)
            probed = [(there, self._probe(vm, there, options, rehearse=False))]
        else:
            probed = self._probe_all(vm, options, rehearse=False)
        # Probing takes its time, and others need not wait for it.
        with self._arrivals.admission:
            candidates = {host.name: self._check(vm, host, options, facts) for host, facts in probed}
            prepared = self._chosen(vm, target, options, candidates)
            self._arrivals.accept(vm, prepared.chosen.target.name, prepared.chosen.resolution)
        return prepared

    def _chosen(
        self, vm: Vm, target: str | None, options: MigrationOptions, candidates: Mapping[str, Candidate]
    ) -> Prepared:
        why = ""
        if target is None:
            reports: Mapping[str, tuple[Finding, ...]] = {name: each.findings for name, each in candidates.items()}
            choice = best_target(vm, self._cluster, reports)
            target, why = choice.host, choice.reason
        candidate = candidates[target]
        against = blockers(candidate.findings)
        if against:
            count = "one thing stands" if len(against) == 1 else f"{len(against)} things stand"
            raise BlockedError(
                f"{_what_cannot(vm, candidate.target.name)}: {count} in the way",
                findings=candidate.findings,
                remedy="nothing was touched; mend what is listed and try again",
            )
        hooks = self._hooks_of(vm, candidate.target, options)
        source = self._cluster.host(vm.host)
        return Prepared(vm, source, candidate, why, options, hooks=hooks, age=self._age)


def _facts_of(host: Host, probed: Facts | BaseException) -> Facts:
    if isinstance(probed, TimeoutError):
        raise HostUnreachableError(host.name, f"it could not be probed within {PROBING_LIMIT:g} s")
    if isinstance(probed, BaseException):
        raise probed
    return probed


def _what_cannot(vm: Vm, target: str) -> str:
    if target == vm.host:
        return f"the disks of VM {vm.name!r} cannot move within {vm.host}"
    return f"VM {vm.name!r} cannot go from {vm.host} to {target}"
