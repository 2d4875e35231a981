"""Is all of it fit for moving VMs? Pure: from what was seen of hosts, of the ways between them and of the journal.

What stands in the way of any guest on the way from one host to another is preflight's to say, about a guest that needs
nothing: its words and remedies are the same here as for a VM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mudanza.model.cluster import Cluster
from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.migration import Facts, MigrationOptions
from mudanza.model.units import MIB, format_size, format_version
from mudanza.model.vm import Vm, VmState
from mudanza.preflight import compute, identity
from mudanza.preflight.case import Case
from mudanza.preflight.checklist import OF_THE_WAY, Check
from mudanza.preflight.mapping import Resolution
from mudanza.preflight.wording import blocker, listed, mudanza, uri_transport, virsh, warning

TRIED_LIBVIRT, TRIED_QEMU = 9_000_000, 7_002_000
"""The oldest versions that mudanza was tried with, in libvirt's way of counting."""
LITTLE_SPACE = 0.05
"""A share of a pool; below it, hardly any disk finds room."""
JOURNAL_ROOM = 100 * MIB
"""Bytes that the journal's disk should have free: where it is full, no job is begun."""
CLOCK_TOLERANCE = 1.0
"""Seconds that the database's clock may be away from the controller's."""
STAND_IN = "any guest"
_PREFERRED_MACHINES = ("q35", "pc", "virt", "s390-ccw-virtio", "pseries")
_LOCAL = ("unix", "test")

OF_A_WAY: tuple[Check, ...] = (identity.same_host, *OF_THE_WAY, compute.domain_type)


@dataclass(frozen=True, slots=True)
class Examined:
    """One thing that was looked at: what it is, what was found well in a few words, and what was not."""

    subject: str
    said: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class JournalState:
    """What was found of the journal. Bytes, seconds."""

    database: str
    """Where it is, without a password."""
    room: int | None
    """What its disk has free; None where that cannot be told."""
    clock_offset: float
    """Its clock minus the controller's."""
    for_a_person: tuple[int, ...] = ()
    """Jobs that wait for somebody to look."""
    abandoned: tuple[int, ...] = ()
    """Jobs whose controller is gone."""


def stand_in(source: Host, target: Host) -> Vm:
    """Return a guest that is nowhere and needs nothing, as like to real ones as both hosts allow."""
    kinds = source.domain_types & target.domain_types or source.domain_types
    machines = source.machines & target.machines
    machine = next((name for name in _PREFERRED_MACHINES if name in machines), min(machines, default=""))
    return Vm(
        uuid="00000000-0000-0000-0000-000000000000",
        name=STAND_IN,
        host=source.name,
        state=VmState.RUNNING,
        reason="booted",
        persistent=True,
        autostart=False,
        memory=0,
        vcpus=1,
        arch=source.arch,
        machine=machine,
        domain_type="kvm" if "kvm" in kinds else min(kinds, default="qemu"),
        xml="",
    )


def of_way(source: Host, target: Host, cluster: Cluster, facts: Facts) -> tuple[Finding, ...]:
    """Return what stands in the way of any guest from one host to another."""
    nothing = Resolution((), (), ())
    case = Case(stand_in(source, target), source, target, cluster, MigrationOptions(), facts, "live", nothing)
    return tuple(finding for ask in OF_A_WAY for finding in ask(case))


def of_host(host: Host, *, processes_seen: bool) -> tuple[Finding, ...]:
    """Return what is the matter with one host. ``processes_seen``: the controller can look at its QEMUs by ssh."""
    if not host.seen:
        return (_unreachable(host),)
    asked: Iterable[Callable[[Host], Iterator[Finding]]] = (_versions, _acceleration, _pools, _networks, _way_in)
    found = [finding for ask in asked for finding in ask(host)]
    if not processes_seen:
        found.append(_unseen_processes(host))
    return tuple(found)


def _unreachable(host: Host) -> Finding:
    """A host in maintenance may well be off."""
    level, where = (warning, "is in maintenance and ") if host.entry.maintenance else (blocker, "")
    return level(
        "host-unreachable",
        f"host {host.name}",
        f"{host.name} {where}could not be read: {host.error}",
        f"try it: {virsh(host, 'version')}; correct it: {mudanza('host', 'edit', host.name, '--uri', 'URI')}",
    )


def _versions(host: Host) -> Iterator[Finding]:
    for name, version, tried in (
        ("libvirt", host.libvirt_version, TRIED_LIBVIRT),
        ("QEMU", host.qemu_version, TRIED_QEMU),
    ):
        if version < tried:
            yield warning(
                "version-untried",
                f"host {host.name}",
                f"{host.name} has {name} {format_version(version)}; the oldest one that mudanza was tried with is "
                f"{format_version(tried)}",
                f"upgrade {name} on {host.name}, or try a VM that nobody needs first",
            )


def _acceleration(host: Host) -> Iterator[Finding]:
    if "kvm" not in host.domain_types:
        yield warning(
            "no-kvm",
            f"host {host.name}",
            f"{host.name} has no KVM: its guests are emulated, many times slower, and those of hosts with it cannot go "
            "there",
            f"on {host.name}: switch virtualization on in its firmware, then modprobe kvm_intel (or kvm_amd); "
            "virt-host-validate qemu says more",
        )


def _pools(host: Host) -> Iterator[Finding]:
    subject = f"host {host.name}"
    if not any(pool.active for pool in host.pools or ()):
        yield warning(
            "no-pool",
            subject,
            f"{host.name} has no active storage pool: disks can be copied neither there nor from there",
            "make one: " + virsh(host, "pool-define-as", "default", "dir", "--target", "/var/lib/libvirt/images"),
        )
    for pool in host.pools or ():
        if not pool.active:
            yield warning(
                "pool-off",
                subject,
                f"pool {pool.name} of {host.name} is not active",
                f"start it: {virsh(host, 'pool-start', pool.name)}",
            )
        elif pool.available < LITTLE_SPACE * pool.capacity:
            yield warning(
                "pool-full",
                subject,
                f"pool {pool.name} of {host.name} has {format_size(pool.available)} free "
                f"of {format_size(pool.capacity)}",
                "make room, or keep VMs away from it with --map-storage",
            )


def _networks(host: Host) -> Iterator[Finding]:
    for network in host.networks or ():
        if not network.active:
            yield warning(
                "network-off",
                f"host {host.name}",
                f"network {network.name} of {host.name} is not active: VMs on it cannot come",
                f"start it: {virsh(host, 'net-start', network.name)}",
            )


def _way_in(host: Host) -> Iterator[Finding]:
    if not host.encrypted and uri_transport(host.entry.uri) not in _LOCAL:
        yield warning(
            "way-in-clear",
            f"host {host.name}",
            f"the controller reaches {host.name} by {host.entry.uri}, which is not encrypted: definitions and their "
            "passwords can be read on the wire",
            mudanza("host", "edit", host.name, "--uri", f"qemu+ssh://root@{host.hostname or 'ADDRESS'}/system"),
        )


def _unseen_processes(host: Host) -> Finding:
    return warning(
        "no-root-login",
        f"host {host.name}",
        f"the controller cannot look at the processes of {host.name} as root by ssh: where its libvirt hangs just as a "
        "VM is handed over, a person has to look (exit 5)",
        "reach it by ssh: "
        + mudanza("host", "edit", host.name, "--uri", f"qemu+ssh://root@{host.hostname or 'ADDRESS'}/system")
        + f"; where that is so already: install iproute2 and a POSIX shell on {host.name}",
    )


def of_cluster(hosts: Sequence[Host]) -> tuple[Finding, ...]:
    """Return where hosts differ so that VMs cannot go everywhere unasked."""
    seen = [host for host in hosts if host.seen]
    pools = {host.name: {pool.name for pool in host.pools or () if pool.active} for host in seen}
    networks = {host.name: {network.name for network in host.networks or () if network.active} for host in seen}
    return (
        *_not_everywhere("pool", pools, "--map-storage"),
        *_not_everywhere("network", networks, "--map-network"),
    )


def _not_everywhere(what: str, names: dict[str, set[str]], option: str) -> Iterator[Finding]:
    for name in sorted(set().union(*names.values())):
        have = [host for host, known in names.items() if name in known]
        lack = [host for host in names if host not in have]
        if lack:
            yield warning(
                f"{what}-not-everywhere",
                f"{what} {name}",
                f"{what} {name} is on {listed(have)}, and not on {listed(lack)}",
                f"make it there too, or say what stands for it: {option} {name}=OTHER",
            )


def of_journal(journal: JournalState) -> tuple[Finding, ...]:
    """Return what is the matter with the journal, and what waits in it."""
    found = []
    if journal.room is not None and journal.room < JOURNAL_ROOM:
        found.append(
            warning(
                "journal-room",
                "journal",
                f"the disk of the journal has {format_size(journal.room)} free, and without room no job is begun",
                f"make room where {journal.database} is; what is old goes with: {mudanza('journal', 'forget')}",
            )
        )
    if abs(journal.clock_offset) > CLOCK_TOLERANCE:
        found.append(
            warning(
                "journal-clock",
                "journal",
                f"the database's clock is {abs(journal.clock_offset):.1f} s "
                f"{'ahead of' if journal.clock_offset > 0 else 'behind'} the controller's",
                "leases go by the database's clock, what you read by this machine's: chronyc tracking on both",
            )
        )
    if journal.for_a_person:
        numbers = listed(map(str, journal.for_a_person))
        remedy = mudanza("job", "show", str(journal.for_a_person[0]))
        found.append(warning("jobs-for-a-person", "journal", f"a person must look at job {numbers}", remedy))
    if journal.abandoned:
        left = f"job {listed(map(str, journal.abandoned))} was left behind by a controller that is gone"
        found.append(warning("jobs-left-behind", "journal", left, f"have it finished: {mudanza('work', '--once')}"))
    return tuple(found)
