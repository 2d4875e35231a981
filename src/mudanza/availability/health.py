"""What is wrong with hosts' and VMs' availability: pure. Findings for ``mudanza doctor``, in its words: what would show
only when a host dies, and then too late."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mudanza.availability.locking import of_locks
from mudanza.availability.stale import StaleCopy
from mudanza.hypervisor.xml.activation import wishes_autostart
from mudanza.model.cluster import Cluster
from mudanza.model.disk_locks import DiskLocks
from mudanza.model.fencing import Device, DeviceTest, Match
from mudanza.model.finding import Finding
from mudanza.model.kept import KeptUp
from mudanza.model.machine import Verdict
from mudanza.model.protection import Protection, Standing
from mudanza.model.rules import Rules
from mudanza.model.units import format_duration
from mudanza.model.vm import Vm
from mudanza.planning.sharing import declared
from mudanza.preflight.wording import blocker, listed, mudanza, virsh, vm_key, warning

LATE = 2.0
"""So many of its rounds a replica may be old before that is told: one may be under way."""
UNTESTED = 2.0
"""So many of the intervals may go by without a test of a device..."""
UNTESTED_USUALLY = 86400.0
"""... or so many seconds where none are made by themselves."""


@dataclass(frozen=True, slots=True)
class State:
    """What the journal and the hosts say."""

    cluster: Cluster
    kept: Mapping[str, KeptUp]
    protections: Sequence[Protection]
    devices: Mapping[str, Sequence[Device]] = field(default_factory=dict)
    tests: Sequence[DeviceTest] = ()
    matches: Sequence[Match] = ()
    stale: Sequence[StaleCopy] = ()
    shortages: Sequence[str] = ()
    """Who would find no room after which failure, in words, where room is to be kept."""
    moving: frozenset[str] = frozenset()
    """UUIDs of VMs that a job has, which are on their way."""
    locks: Mapping[str, DiskLocks] = field(default_factory=dict)
    """By host, how it locks disks."""
    shared_pools: tuple[str, ...] = ()
    """Pools that the rules say are shared."""
    test_every: float = 0.0
    """Seconds between two tests of a device by themselves; 0: never."""


def of_availability(state: State) -> tuple[Finding, ...]:
    """Return everything that is wrong."""
    cluster = declared(state.cluster, Rules(shared_pools=state.shared_pools))
    locks = of_locks(cluster, state.locks, kept_up=bool(state.kept))
    return (
        *_copies(state),
        *_replicas(state),
        *_addresses(state),
        *_autostart(state),
        *_fences(state),
        *_room(state),
        *locks,
    )


def _copies(state: State) -> Iterator[Finding]:
    """VMs that are known in two places."""
    told = {(each.vm.uuid, each.vm.host) for each in state.stale}
    for each in state.stale:
        yield warning(
            "stale-copy",
            f"VM {each.vm.name}",
            f"{each.vm.host} has an old definition of {each.vm.name}, which runs on {each.runs_on}"
            + (f"; {each.why_not}" if each.why_not else ""),
            f"take it away: {mudanza('ha', 'clean', each.vm.host)}",
        )
    epochs = {each.vm_uuid: each.epoch for each in state.protections}
    still = (vm for vm in state.cluster.vms if vm.uuid not in state.moving and not vm.claims)
    for uuid, places in _places(still).items():
        running = [vm for vm in places if vm.state.active]
        name = places[0].name
        if len(running) > 1:
            yield blocker(
                "runs-twice",
                f"VM {name}",
                f"{name} runs on {listed(vm.host for vm in running)} at once: each copy writes its own truth",
                f"shut one of them down at once; what each is: {mudanza('show', vm_key(running[0]))}",
            )
            continue
        left = [vm for vm in places if vm.epoch < epochs.get(uuid, 0)]
        for vm in places:
            if vm.state.active or (vm.uuid, vm.host) in told:
                continue
            others = listed(other.host for other in places if other is not vm)
            is_the_vm = not running and vm not in left and len(places) - len(left) == 1
            if vm in left:
                said = f"{vm.host} has the copy of {name} that it has left by failover; it is on {others} by now"
                remedy = f"have it protect it the other way: {mudanza('reprotect', vm_key(vm))}"
            else:
                said = f"{name} is known on {vm.host}, where it is off, and on {others}"
                remedy = f"look which one it is; the other: virsh undefine, on its host ({mudanza('vms')})"
            if not is_the_vm and (running or vm in left or vm is places[-1]):
                yield warning("known-twice", f"VM {name}", said, remedy)


def _places(vms: Iterable[Vm]) -> Mapping[str, list[Vm]]:
    """Return the VMs that more than one host lists, those that run first."""
    found = defaultdict[str, list[Vm]](list)
    for vm in sorted(vms, key=lambda vm: (not vm.state.active, vm.host)):
        found[vm.uuid].append(vm)
    return {uuid: places for uuid, places in found.items() if len(places) > 1}


def _replicas(state: State) -> Iterator[Finding]:
    kept = {each.vm_uuid for each in state.protections if each.standing is Standing.ON}
    several = {*_places(state.cluster.vms), *state.moving}
    runs_at = {(vm.uuid, vm.host) for vm in state.cluster.vms if vm.state.active and vm.uuid not in several}
    for each in state.protections:
        subject = f"VM {each.vm_name}"
        if each.standing is Standing.FAILED_OVER and each.vm_uuid in kept:
            continue  # it has another one
        if each.standing is Standing.FAILED_OVER:
            yield warning(
                "no-replica",
                subject,
                f"{each.vm_name} was brought up at {each.target} from its replica, and has none since",
                f"protect it the other way: {mudanza('reprotect', each.vm_name)}",
            )
        elif each.standing is Standing.LEFT:
            yield warning(
                "replica-left",
                subject,
                f"{each.vm_name} ran on its replica at {each.target}, and has come up elsewhere since: what it ran on "
                "takes up room there",
                f"have a replica begin with it: {mudanza('reprotect', each.vm_name, '--to', each.target)}",
            )
        elif each.standing is Standing.ON and (each.vm_uuid, each.target) in runs_at:
            yield warning(
                "replica-beside",
                subject,
                f"{each.vm_name} is on {each.target} itself, where its replica is: no rounds are made of that",
                f"move it away ({mudanza('migrate', each.vm_name)}), or protect it elsewhere",
            )
        elif each.paused_by:
            yield warning(
                "replica-paused",
                subject,
                f"no rounds are made of the replica of {each.vm_name} at {each.target}: {each.paused_by} has paused it",
                f"go on: {mudanza('protection', 'resume', each.vm_name, '--on', each.target)}",
            )
        elif each.standing is Standing.ON and each.lag is not None and each.lag > LATE * each.every:
            old = format_duration(each.lag)
            yield warning(
                "replica-late",
                subject,
                f"the replica of {each.vm_name} at {each.target} is {old} old, and was to be {each.every:g} s",
                f"see why: {mudanza('protections')}; make a round: {mudanza('sync', each.vm_name)}",
            )


def _addresses(state: State) -> Iterator[Finding]:
    """Guests that are at home, and have the addresses still that a plan gave them elsewhere."""
    for each in state.protections:
        given = each.readdressed
        if given is not None and given.owed_at:
            yield warning(
                "addresses-of-elsewhere",
                f"VM {each.vm_name}",
                f"the guest of {each.vm_name} is on {given.owed_at}, and has the addresses that it was given at "
                f"{given.at}: its agent has not taken them back",
                "see that its guest agent runs: the daemon tries it again, and so does "
                f"{mudanza('reprotect', each.vm_name)}, which says how it is done by hand",
            )


def _autostart(state: State) -> Iterator[Finding]:
    """What starts by itself must not where it may run elsewhere by then; and what does so no more should again."""
    protected = {each.vm_uuid for each in state.protections}
    for vm in state.cluster.vms:
        if vm.autostart and (vm.uuid in state.kept or vm.uuid in protected):
            why = "kept up" if vm.uuid in state.kept else "protected"
            yield warning(
                "autostart-armed",
                f"VM {vm.name}",
                f"{vm.host} starts {vm.name} when it boots, which is {why}: it may run elsewhere by then",
                f"switch it off: {virsh(state.cluster.host(vm.host), 'autostart', '--disable', vm_key(vm))}",
            )
        elif not vm.autostart and vm.uuid not in state.kept and vm.uuid not in protected and _wishes(vm):
            yield warning(
                "autostart-disarmed",
                f"VM {vm.name}",
                f"{vm.host} does not start {vm.name} when it boots, which was switched off for a replica that it has "
                "no more",
                f"switch it on: {virsh(state.cluster.host(vm.host), 'autostart', vm_key(vm))}",
            )


def _wishes(vm: Vm) -> bool:
    return bool(vm.xml) and wishes_autostart(vm.xml)


def _fences(state: State) -> Iterator[Finding]:
    needed = {each.ran_on for each in state.kept.values() if each.ran_on}
    for host in sorted(needed - {name for name, there in state.devices.items() if there}):
        yield warning(
            "no-fence",
            f"host {host}",
            f"VMs that are kept up run on {host}, and it has no fence device: nothing proves that it is off",
            f"name one: {mudanza('fence', 'set', host, 'bmc')} --agent fence_ipmilan …",
        )
    matches = {(each.host, each.device): each for each in state.matches}
    tests = {(each.host, each.device): each for each in state.tests}
    limit = UNTESTED * state.test_every if state.test_every else UNTESTED_USUALLY
    for host, devices in state.devices.items():
        for device in devices:
            yield from _of_match(host, device, matches.get((host, device.name)))
            yield from _of_test(host, device, tests.get((host, device.name)), limit)


def _of_match(host: str, device: Device, match: Match | None) -> Iterator[Finding]:
    subject, again = f"host {host}", f"compare it: {mudanza('fence', 'test', host)}"
    if match is None:
        said = f"nobody has compared whether {device.shown} switches {host}"
        yield warning("fence-unmatched", subject, said, again)
    elif match.verdict is Verdict.OTHER:
        said = f"{device.shown} of {host} switches another machine: {match.said}"
        yield warning("fence-other-machine", subject, said, f"name the right one: {mudanza('fence', 'set', host)} …")
    elif match.verdict is Verdict.UNKNOWN and not match.asked_by:
        said = f"whether {device.shown} switches {host} cannot be told: {match.said}"
        yield warning("fence-unmatched", subject, said, again)


def _of_test(host: str, device: Device, test: DeviceTest | None, limit: float) -> Iterator[Finding]:
    again = f"ask it: {mudanza('fence', 'test', host)}; mudanza serve does so by itself (fencing.test_every)"
    if test is None:
        said = f"{device.shown} of {host} was never asked on schedule whether it answers"
        yield warning("fence-untested", f"host {host}", said, again)
    elif test.fault:
        said = f"{device.shown} of {host} {test.fault}"
        yield warning("fence-silent", f"host {host}", said, f"mend it: {mudanza('fence', 'test', host)}")
    elif test.ago > limit:
        said = f"{device.shown} of {host} was last asked {format_duration(test.ago)} ago whether it answers"
        yield warning("fence-untested", f"host {host}", said, again)


def _room(state: State) -> Iterator[Finding]:
    for each in state.shortages:
        yield warning(
            "reserve-lost",
            "all hosts",
            f"room is to be kept for hosts that fail, and {each}",
            f"make room: {mudanza('plan', 'balance')}; or add a host, or lower survive_hosts",
        )
