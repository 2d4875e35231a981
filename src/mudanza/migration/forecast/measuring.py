"""Finding out what a forecast rests on: from the guest, its host and what earlier moves have taught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mudanza import clock
from mudanza.hypervisor.bounded import Task
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.own.carrier import Kind
from mudanza.hypervisor.probing.link import measure_link
from mudanza.hypervisor.reading.busyness import GRAIN, Busyness, busyness, changed_within
from mudanza.hypervisor.reading.load import idle_cpus
from mudanza.journal.inventory import Inventory
from mudanza.journal.reports import Ended, PastMoves
from mudanza.migration.convergence import Budget
from mudanza.migration.forecast.compression import with_compression
from mudanza.migration.forecast.dirtying import Dirtying, Sample, fitted
from mudanza.migration.forecast.foresight import foresee_by
from mudanza.migration.forecast.learning import (
    REMEMBERED,
    SAMPLED,
    Past,
    dirtying_before,
    habits_of,
    link_of,
    memory_share,
)
from mudanza.migration.forecast.model import ONE, Forecast, Known, Streams
from mudanza.migration.forecast.streams import Carried, carried, needs_little, proposed, where_there_is_room
from mudanza.migration.live.passage import allowed_postcopy
from mudanza.migration.prepare import Candidate
from mudanza.model.errors import HostUnreachableError, HypervisorError
from mudanza.model.host import Host
from mudanza.model.link import MeasuredLink
from mudanza.model.migration import MigrationOptions, Verify
from mudanza.model.policy import Compression, PostCopy
from mudanza.model.units import MIB, format_duration
from mudanza.model.vm import Vm, VmState
from mudanza.preflight.cargo import Role, cargo_of
from mudanza.preflight.compression import cache_for
from mudanza.preflight.journey import goes_encrypted
from mudanza.preflight.streams import cannot_go_parallel, excludes_postcopy

PERIODS = (1, 3)
"""Seconds over which `mudanza forecast` has QEMU sample, one after the other: what grows less than the time does shows
how large the working set is."""
SHORT = (1,)
"""The same at the head of a move: the shortest that libvirt knows."""
ANSWERED = 0.15
"""Seconds beyond its periods that sampling is taken to be done in."""
PATIENCE = 5.0
"""Seconds more that `mudanza forecast` waits for it, on a busy host."""
WORTH = 0.1
"""The share of the least that a move can take for which a busy guest's sampling may hold it up."""
CALM = 0.1
"""CPUs' worth of computing below which a guest is taken to dirty little: nothing is waited for..."""
CALM_DIRTYING = Dirtying(1.0 * MIB, 16.0 * MIB)
"""...and this is taken for what it dirties. Seen of idle guests in the lab: 0 to 1 MiB/s."""
BASE = 0.1
"""Seconds that two readings of a guest's CPU time must lie apart to mean something."""
QEMU_ITSELF = {"qemu": 96 * MIB}
"""What a QEMU occupies beside its guest's memory, by kind of virtualization; emulating takes more. Seen in the lab: 60
to 135 MiB..."""
QEMU_USUALLY = 48 * MIB
"""...and what is usual where the hardware virtualizes."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings say. Seconds, bytes per second."""

    longest_wait: float = 1.5
    """The most that the forecast may hold a move up."""
    link: float | None = None
    """What links carry over which no move has gone."""


class Sampling:
    """QEMU's page sampling under way; or none, of a VM that is off."""

    def __init__(self, connections: Connections, vm: Vm, periods: Sequence[int]) -> None:
        self._connections = connections
        self._vm = vm
        self._samples: list[Sample] = []
        self._ready_at = clock.monotonic() + sum(periods) + ANSWERED * len(periods)
        self._task = Task(lambda: self._sample(periods)) if vm.state.active else None

    def _sample(self, periods: Sequence[int]) -> None:
        host = self._connections.get(self._vm.host)
        for seconds in periods:
            self._samples.append(Sample(seconds, changed_within(host, self._vm.uuid, seconds)))

    @property
    def ready_in(self) -> float:
        """Seconds until it is likely to be done."""
        return max(self._ready_at - clock.monotonic(), 0.0)

    def samples(self, wait: float) -> tuple[tuple[Sample, ...], str]:
        """Return what was found within ``wait`` seconds, and why not all if not all was."""
        if self._task is None:
            return (), "it is off"
        try:
            self._task.wait(wait)
        except TimeoutError:
            return tuple(self._samples), "that takes longer than the check"
        except (HostUnreachableError, HypervisorError) as error:
            return tuple(self._samples), str(error)
        return tuple(self._samples), ""


class Foresight:
    """Foresees moves of one VM: begins to measure at once, while others check."""

    def __init__(
        self,
        connections: Connections,
        vm: Vm,
        journal: PastMoves,
        links: Inventory,
        wishes: Wishes,
        periods: Sequence[int] = SHORT,
        probe: Callable[[str], None] | None = None,
    ) -> None:
        """``links``: where what was measured of them is kept; ``probe``: they are measured now, and this is told where
        that does not succeed."""
        self._links = links
        self._probe = probe
        self._connections = connections
        self._vm = vm
        self._journal = journal
        self._wishes = wishes
        self._sampling = Sampling(connections, vm, periods)
        self._patient = periods is not SHORT

    def of(self, source: Host, candidate: Candidate, options: MigrationOptions) -> Forecast:
        """Return what moving it there will be like. Raises nothing for what cannot be found out: the forecast says so.

        At the head of a move (``SHORT``) it waits for the sampling only if the guest is busy and the move long.
        """
        vm, target = self._vm, candidate.target
        past = tuple(map(past_of, self._journal.between(vm.host, target.name, REMEMBERED)))
        back = tuple(map(past_of, self._journal.between(target.name, vm.host, REMEMBERED)))
        measured = self._measured(source, candidate, options)
        link = link_of(past, options.bandwidth, self._wishes.link, back, measured)
        seen = self._busyness()
        disks, ahead = _cargo(vm, source, candidate, options)
        share = memory_share((*past, *back), vm.uuid)
        memory = float(seen.memory or vm.memory) if seen else float(vm.memory)
        in_use = min(memory, memory_in_use(vm, seen) * share)
        cold = options.is_cold(active=vm.state.active)
        floor = (in_use + disks + ahead) / link.rate
        computing = self._computing(seen)
        before = dirtying_before((*past, *back), vm.uuid, computing)
        dirtying, how = (None, "") if cold else self._dirtying(in_use, floor, computing, before)
        known = Known(
            link=link,
            budget=budget_of(vm, options),
            running=vm.state.active,
            cold=cold,
            memory=memory,
            in_use=in_use,
            memory_share=share,
            dirtying=dirtying,
            dirtying_from=how,
            computing=computing,
            writes=seen.written.rate_since(vm.written) if seen and vm.written else 0.0,
            disks=disks,
            ahead=ahead,
            compared=options.verify is not Verify.NONE,
            habits=habits_of(past or back),
        )
        streams = ONE if cold else self._streams(source, candidate, options, carried(measured, past))
        plain = foresee_by(
            known,
            streams,
            asked=options.streams is not None,
            excludes_postcopy=excludes_postcopy(source, target),
        )
        return with_compression(
            plain,
            options.compression,
            self._journal.compressed(vm.uuid),
            lambda dirtied: cache_for(dirtied, vm.memory, source),
            encrypted=goes_encrypted(options, candidate.facts),
        )

    def _streams(self, source: Host, candidate: Candidate, options: MigrationOptions, known: Carried | None) -> Streams:
        """Return by how many connections its memory might go, before post-copy is thought of."""
        target = candidate.target
        cannot = cannot_go_parallel(source, target, tls=goes_encrypted(options, candidate.facts))
        at_once = options.postcopy is PostCopy.NOW and excludes_postcopy(source, target)
        if options.compression is Compression.XBZRLE:
            return ONE
        chosen = proposed(options.streams, known, cannot, now=at_once, limit=options.bandwidth)
        if chosen.connections == 1 or options.streams is not None or known is None or needs_little(known):
            return chosen
        try:
            hosts = [self._connections.get(host.name) for host in (source, target)]
        except HostUnreachableError:
            return ONE
        return where_there_is_room(chosen, known, idle_cpus(hosts))

    def _measured(self, source: Host, candidate: Candidate, options: MigrationOptions) -> MeasuredLink | None:
        """Return what was measured between two hosts: now, if that is asked for, else when it last was."""
        there, vm = candidate.target, self._vm
        if self._probe is None:
            return self._links.link_between(source.name, there.name)
        try:
            found = measure_link(
                self._connections.get(source.name),
                self._connections.get(there.name),
                source,
                there,
                Kind(vm.domain_type, vm.arch, vm.machine),
                tls=goes_encrypted(options, candidate.facts),
            )
        except (HostUnreachableError, HypervisorError) as error:
            self._probe(f"the link from {source.name} to {there.name} could not be measured: {error}")
            return self._links.link_between(source.name, there.name)
        self._links.keep_link(source.name, there.name, found)
        return found

    def _busyness(self) -> Busyness | None:
        if not self._vm.state.active:
            return None
        try:
            return busyness(self._connections.get(self._vm.host), self._vm.uuid)
        except (HostUnreachableError, HypervisorError):
            return None

    def _computing(self, seen: Busyness | None) -> float | None:
        """Return how many CPUs' worth it has computed since the cluster was read; None: not known."""
        before, vm = self._vm.written, self._vm
        if seen is None or before is None or vm.cpu_seconds is None or seen.cpu_seconds is None:
            return None
        passed = seen.written.at - before.at
        return (seen.cpu_seconds - vm.cpu_seconds) / passed if passed >= BASE else None

    def _dirtying(
        self, in_use: float, floor: float, computing: float | None, before: tuple[Dirtying, str] | None
    ) -> tuple[Dirtying | None, str]:
        """Return what the guest dirties, and how that is known; ``before``: the same of an earlier move."""
        ready_in, longest = self._sampling.ready_in, self._wishes.longest_wait
        wait = 0.0 if before else worth_waiting(ready_in, floor, computing, longest)
        samples, why_not = self._sampling.samples(ready_in + PATIENCE if self._patient else wait)
        if samples:
            periods = " and ".join(format_duration(sample.seconds) for sample in samples)
            return fitted(samples, in_use, GRAIN), f"{SAMPLED} over {periods}"
        if before is not None:
            return before
        if computing is not None and computing < CALM:
            return CALM_DIRTYING, f"taken to be little: it computes {computing:.0%} of a CPU"
        return None, why_not


def worth_waiting(ready_in: float, floor: float, computing: float | None, longest: float) -> float:
    """Return for how many seconds a move may be held up by sampling that is likely to be done in ``ready_in``: for none
    where the guest is calm, the move is short, or it would not be done by then."""
    calm = computing is not None and computing < CALM
    allowed = 0.0 if calm else min(longest, WORTH * floor)
    return allowed if ready_in <= allowed else 0.0


def memory_in_use(vm: Vm, seen: Busyness | None) -> float:
    """Return what of a VM's memory is not empty: what its QEMU occupies, less what QEMU itself is taken to need.

    At least what the guest says that it uses. Huge pages do not count as occupied: all of them then.
    """
    if not vm.state.active:
        return 0.0
    memory = (seen.memory if seen else None) or vm.memory
    resident = (seen.resident if seen else None) or vm.memory_used
    if resident is None or vm.hugepages:
        return float(memory)
    itself = QEMU_ITSELF.get(vm.domain_type, QEMU_USUALLY)
    least = (seen.told if seen else None) or 0
    return float(min(memory, max(resident - itself, least)))


def budget_of(vm: Vm, options: MigrationOptions) -> Budget:
    """Return what the controller will hold the move to."""
    postcopy = allowed_postcopy(options.postcopy, was_paused=vm.state is VmState.PAUSED)
    return Budget(options.max_downtime, options.deadline, options.policy, postcopy, options.bandwidth)


def _cargo(vm: Vm, source: Host, candidate: Candidate, options: MigrationOptions) -> tuple[float, float]:
    """Return what the disks hold that are copied, and what travels beside them; of files that nobody has told the size
    of, nothing is counted."""
    held = {disk.target: disk.allocation or disk.capacity or 0 for disk in vm.disks}
    disks = sum(held.get(plan.target, 0) for plan in candidate.resolution.copies)
    live = not options.is_cold(active=vm.state.active)
    files = cargo_of(vm, source, candidate.target, options, candidate.resolution, live=live).files
    ahead = sum(file.size for file in files if file.role is not Role.DISK)
    return float(disks), float(ahead)


def past_of(ended: Ended) -> Past:
    """Return an ended move as what is learnt from."""
    bandwidth = ended.asked.get("bandwidth")
    return Past(ended.kind, ended.vm_uuid, ended.source, ended.target, bandwidth, ended.report, ended.ago)
