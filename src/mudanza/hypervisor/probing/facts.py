"""Everything that has to be tried to be known about one VM and one pair of hosts."""

from __future__ import annotations

import errno
import logging
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import libvirt

from mudanza import clock
from mudanza.hypervisor.bounded import Task, all_of, for_each
from mudanza.hypervisor.connection import HostConnection, message
from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.own.ghost import GHOST_TIMEOUT, ghost
from mudanza.hypervisor.own.marker import NoMarkerError, marker
from mudanza.hypervisor.own.throwaway import REMOVAL_TIMEOUT, sweep
from mudanza.hypervisor.probing.addresses import probe_addresses
from mudanza.hypervisor.probing.clocks import probe_clock
from mudanza.hypervisor.probing.cpus import probe_cpu
from mudanza.hypervisor.probing.files import probe_data_elsewhere, probe_files, probe_shared
from mudanza.hypervisor.probing.rehearsal import REHEARSAL_TIMEOUT
from mudanza.hypervisor.probing.rehearsal import rehearse as rehearse_migration
from mudanza.hypervisor.uris import peer_uri, transport
from mudanza.model.disk_locks import DiskLocks
from mudanza.model.errors import HostUnreachableError, HypervisorError, MudanzaError
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Facts, MigrationOptions, Probe, Tls
from mudanza.model.vm import Vm
from mudanza.preflight.cargo import cargo_of, images_of, is_device
from mudanza.preflight.devices import addresses_needed
from mudanza.preflight.files import files_needed
from mudanza.preflight.mapping import DiskPlan, resolve, shared_candidates

PEER_TIMEOUT = 10.0
"""Seconds the source's libvirt may take to log in to the target's."""
LINK_TIMEOUT = GHOST_TIMEOUT + PEER_TIMEOUT + REMOVAL_TIMEOUT + 2 * REHEARSAL_TIMEOUT + 5.0
"""Seconds that trying the way between the hosts may take: a login, and a rehearsal with and without TLS."""
INTERRUPTED_TIMEOUT = 5.0
"""Seconds a trial under way may take to end when the program is to end; what it leaves then, the next check sweeps."""
ROOM_TIMEOUT = 10.0
"""Seconds a pool may take to be looked through anew; without an answer its last figures are used."""
ROOM_PATIENCE = 5.0
"""Seconds for which a pool is asked again that is not looked through because a volume is being made in it: that of the
VM before, as a rule, whose room the last figures know nothing of."""
ROOM_AGAIN = 0.2
"""Seconds between two of these."""
_SWEEP_TIMEOUT = 10.0
_OF_FILES = frozenset({"virtiofs", "9p", "nvdimm", "ssh"})
"""Kinds of host devices whose paths are no pipes or sockets."""
_LOGINS = 5
"""How often a login is tried whose outcome is unclear."""

Volumes = AbstractSet[tuple[str, str]]
"""Volumes of one host, each by the names of its pool and its own."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seats:
    """Both hosts: how they are asked, and what is known of them."""

    source: HostConnection
    target: HostConnection
    here: Host
    there: Host


@dataclass(frozen=True, slots=True)
class _Link:
    peer: Probe
    tls: Probe
    data_path: Probe


@dataclass(frozen=True, slots=True)
class _Storage:
    shared: Mapping[str, Probe]
    files: Mapping[str, Probe]
    occupied: Mapping[str, Probe]
    room: Mapping[str, int]
    elsewhere: Mapping[str, Probe]
    squashed: Mapping[str, Probe]


def gather_facts(
    connections: Connections,
    vm: Vm,
    source: Host,
    target: Host,
    options: MigrationOptions,
    *,
    rehearse: bool,
    arriving: Volumes = frozenset(),
) -> Facts:
    """Return what preflight needs to know beyond what can be read, each probe with a limit of its own.

    ``rehearse``: also send a tiny paused guest the way the VM would go (about two seconds), without which it stays
    unknown whether data gets through and whether encrypted. ``arriving``: volumes of the target that other disks are
    being copied into; what they hold already counts as room, for they are to be counted in full. Nothing is left
    behind, and no VM is touched. What could not be found out is UNKNOWN with the reason. Raises HostUnreachableError
    for a host that cannot be reached.
    """
    if source.host_uuid and source.host_uuid == target.host_uuid:
        return Facts(same_machine=True)
    connections.open_all([source.name, target.name])
    seats = _Seats(connections.get(source.name), connections.get(target.name), source, target)
    all_of([lambda: _sweep(seats.source), lambda: _sweep(seats.target)], timeout=_SWEEP_TIMEOUT)
    link = Task(lambda: _probe_link(seats, vm, options, rehearse=rehearse))
    try:
        # One after the other, for each takes milliseconds, and a further connection over ssh takes longer.
        storage = _probe_storage(seats, vm, options, arriving)
        addresses = probe_addresses(seats.target, target, vm, addresses_needed(vm))
        cpu = probe_cpu(seats.target, vm, source)
        clock_offset = probe_clock(seats.source, seats.target, source, target)
        locks = _locks_of(connections, source, target, storage.shared)
        told = link.wait(LINK_TIMEOUT)
    except BaseException:
        _let_finish(link)
        raise
    return Facts(
        cpu=cpu,
        peer=told.peer,
        tls=told.tls,
        data_path=told.data_path,
        shared=storage.shared,
        files=storage.files,
        occupied=storage.occupied,
        room=storage.room,
        elsewhere=storage.elsewhere,
        squashed=storage.squashed,
        addresses=addresses,
        clock_offset=clock_offset,
        locks=locks,
    )


def _locks_of(
    connections: Connections, source: Host, target: Host, shared: Mapping[str, Probe]
) -> tuple[DiskLocks, DiskLocks]:
    """Return how both hosts lock disks, where there are such that both see."""
    if not any(probe.answer is Answer.YES for probe in shared.values()):
        return DiskLocks(), DiskLocks()
    names = [source.name, target.name]
    found = for_each(connections.disk_locks, names, workers=len(names), timeout=LINK_TIMEOUT)
    here, there = (each if isinstance(each, DiskLocks) else DiskLocks(why=str(each)) for each in found)
    return here, there


def gather_way(connections: Connections, vm: Vm, source: Host, target: Host) -> Facts:
    """Return what can be found out of the way from one host to another, whatever VM goes it: the login, whether data
    gets through and whether encrypted, and the clocks. ``vm`` lends its kind, as for ``rehearse``.

    Nothing is left behind. Raises HostUnreachableError for a host that cannot be reached.
    """
    if source.host_uuid and source.host_uuid == target.host_uuid:
        return Facts(same_machine=True)
    seats = _Seats(connections.get(source.name), connections.get(target.name), source, target)
    all_of([lambda: _sweep(seats.source), lambda: _sweep(seats.target)], timeout=_SWEEP_TIMEOUT)
    link = Task(lambda: _probe_link(seats, vm, MigrationOptions(), rehearse=True))
    try:
        clock_offset = probe_clock(seats.source, seats.target, source, target)
        told = link.wait(LINK_TIMEOUT)
    except BaseException:
        _let_finish(link)
        raise
    return Facts(peer=told.peer, tls=told.tls, data_path=told.data_path, clock_offset=clock_offset)


def gather_facts_in_place(
    connections: Connections, vm: Vm, host: Host, others: Sequence[Host], options: MigrationOptions, arriving: Volumes
) -> Facts:
    """Return what has to be known before disks of a VM move to other pools of its own host.

    ``shared`` says of each whether any of the ``others`` sees the same image, and may therefore use it.
    Raises HostUnreachableError for a host that cannot be reached.
    """
    seat = connections.get(host.name)
    all_of([lambda: _sweep(seat)], timeout=_SWEEP_TIMEOUT)
    copies = resolve(vm, host, host, options, Facts()).copies
    return Facts(
        shared=_seen_elsewhere(connections, vm, host, others, copies),
        occupied=probe_occupied(seat, host, copies),
        room=probe_room(seat, [plan.pool for plan in copies], arriving),
        squashed=probe_squashed(seat, host, copies),
    )


def _seen_elsewhere(
    connections: Connections, vm: Vm, host: Host, others: Sequence[Host], copies: Sequence[DiskPlan]
) -> Mapping[str, Probe]:
    moving = {plan.target for plan in copies}
    disks = [disk for disk in vm.disks if disk.target in moving]
    found = {disk.target: Probe(Answer.NO) for disk in disks}
    for other in others:
        if not other.seen:
            unseen = Probe(Answer.UNKNOWN, f"{other.name} did not answer")
            answers: Mapping[str, Probe] = {disk.target: unseen for disk in disks}
        else:
            answers = probe_shared(connections.get(host.name), connections.get(other.name), host, other, disks)
        found = {name: answers[name] if probe.answer is Answer.NO else probe for name, probe in found.items()}
    return found


def _let_finish(link: Task[_Link]) -> None:
    """Whoever interrupts us (Ctrl-C) gives what is under way the time to take its guests away."""
    with suppress(Exception):
        link.wait(INTERRUPTED_TIMEOUT)


def _sweep(host: HostConnection) -> None:
    try:
        host.ask(sweep, timeout=_SWEEP_TIMEOUT)
    except MudanzaError as error:
        _log.warning("what controllers that are gone may have left behind could not be looked for: %s", error)


def _probe_link(seats: _Seats, vm: Vm, options: MigrationOptions, *, rehearse: bool) -> _Link:
    peer = probe_peer(seats.source, seats.here, seats.there)
    if peer.answer is Answer.NO or not rehearse:
        untried = Probe(Answer.UNKNOWN, "it was not tried" if not rehearse else "without a login it cannot be tried")
        return _Link(peer, untried, untried)

    def attempt(*, tls: bool) -> Probe:
        return rehearse_migration(seats.source, seats.target, seats.here, seats.there, vm, tls=tls)

    if options.tls is Tls.OFF:
        return _Link(peer, Probe(Answer.UNKNOWN, "it was not tried"), attempt(tls=False))
    encrypted = attempt(tls=True)
    return _Link(peer, encrypted, encrypted if encrypted.answer is Answer.YES else attempt(tls=False))


def _probe_storage(seats: _Seats, vm: Vm, options: MigrationOptions, arriving: Volumes) -> _Storage:
    shared = probe_shared(seats.source, seats.target, seats.here, seats.there, shared_candidates(vm))
    files = probe_files(
        seats.target,
        seats.there,
        files_needed(vm, seats.there),
        devices=frozenset(d.source for d in vm.disks if d.kind == "block" and d.device == "disk" and d.source),
        unopened=frozenset(
            d.path for d in vm.host_devices if d.path and d.kind not in ("virtiofs", "9p", "nvdimm", "ssh")
        ),
    )
    known = Facts(shared=shared, files=files)
    plan = resolve(vm, seats.here, seats.there, options, known)
    live = not options.is_cold(active=vm.state.active)
    cargo = cargo_of(vm, seats.here, seats.there, options, plan, live=live).files
    occupied = probe_occupied(seats.target, seats.there, plan.copies)
    beside = probe_files(seats.target, seats.there, [file.path for file in cargo if file.needs_free_place])
    room = probe_room(seats.target, [copy.pool for copy in plan.copies], arriving)
    images = images_of(vm, cargo)
    elsewhere = probe_data_elsewhere(seats.source, seats.here, images, frozenset(filter(is_device, images)))
    squashed = probe_squashed(seats.target, seats.there, plan.copies)
    return _Storage(shared, files, {**beside, **occupied}, room, elsewhere, squashed)


def probe_occupied(target: HostConnection, about: Host, copies: Iterable[DiskPlan]) -> Mapping[str, Probe]:
    """Return for each disk to be copied (by its target name) whether its place is taken; ``detail`` is the path.

    The place itself is looked at, for a pool's list knows nothing of files that came there behind its back.
    """
    plans = list(copies)
    devices = frozenset(plan.path for plan in plans if plan.pool_is_block)
    seen = probe_files(target, about, [plan.path for plan in plans], devices=devices)
    taken = {path: Probe(Answer.YES, path) for path, probe in seen.items() if probe.answer is Answer.YES}
    return {plan.target: taken.get(plan.path, seen[plan.path]) for plan in plans}


def probe_squashed(target: HostConnection, about: Host, copies: Iterable[DiskPlan]) -> Mapping[str, Probe]:
    """Return for each pool of files that disks would be copied into whether root is somebody else there, so that what
    libvirt makes may not be QEMU's to open; ``detail`` says who. Asked only where QEMU is not root itself.
    """
    if about.qemu_owner is None or about.qemu_owner[0] == 0:
        return {}
    return {plan.pool: _who_is_root(target, about, plan) for plan in copies if not plan.pool_is_block}


def _who_is_root(target: HostConnection, about: Host, plan: DiskPlan) -> Probe:
    try:
        with marker(target, about, posixpath.dirname(plan.path)) as made:
            owner = made.owner
    except NoMarkerError as error:
        return Probe(Answer.UNKNOWN, str(error))
    if owner is None:
        return Probe(Answer.UNKNOWN, "libvirt did not tell whose the file is that it made there")
    return Probe(Answer.YES if owner[0] else Answer.NO, f"what root makes there belongs to user {owner[0]}")


def probe_room(target: HostConnection, pools: Iterable[str], arriving: Volumes = frozenset()) -> Mapping[str, int]:
    """Return for each pool how many bytes are free in it or taken by volumes that are ``arriving``.

    libvirt's own figure is as old as its last look into the pool.

    A pool that cannot be looked through now (a volume is being made in it for long, it takes too long) is left out.
    """
    room = {}
    for pool in dict.fromkeys(pools):
        try:
            coming = [volume for place, volume in arriving if place == pool]
            room[pool] = _patiently(target, partial(_room_in, pool=pool, arriving=coming))
        except MudanzaError as error:
            _log.info("the free space of pool %s was not read anew: %s", pool, error)
    return room


def _patiently(target: HostConnection, look: Callable[[Any], int]) -> int:
    until = clock.monotonic() + ROOM_PATIENCE
    while True:
        try:
            return target.ask(look, timeout=ROOM_TIMEOUT)
        except HypervisorError as error:
            if "asynchronous jobs" not in str(error) or clock.monotonic() >= until:
                raise
        clock.sleep(ROOM_AGAIN)


def _room_in(raw: Any, pool: str, arriving: Sequence[str]) -> int:
    found = raw.storagePoolLookupByName(pool)
    found.refresh(0)
    _, _, _, available = found.info()
    made = set(found.listVolumes()).intersection(arriving)
    return int(available) + sum(_allocation(found, volume) for volume in made)


def _allocation(pool: Any, volume: str) -> int:
    _, _, allocation = pool.storageVolLookupByName(volume).info()
    return int(allocation)


def probe_peer(source: HostConnection, here: Host, there: Host) -> Probe:
    """Return whether the source's libvirt can log in to the target's.

    The source is asked to migrate a ghost: libvirt first logs in to the target, then refuses, for a migration of a
    definition alone (OFFLINE) has to be made persistent there (PERSIST_DEST) and this one is not. So nothing of it
    reaches the target, and no VM's job lock is held while a login hangs.
    """
    uri = peer_uri(there.entry)
    if uri is None:
        return Probe(Answer.UNKNOWN, f"no URI is known by which {here.name} reaches {there.name}")
    try:
        with ghost(source, here) as domain:
            return domain.ask(lambda raw: _try_login(raw, domain.name, uri), timeout=PEER_TIMEOUT)
    except HypervisorError as error:
        return Probe(Answer.UNKNOWN, str(error))
    except HostUnreachableError as error:
        if source.answers():
            return Probe(Answer.NO, f"no login from {here.name} to {uri} within {PEER_TIMEOUT:g} s")
        return Probe(Answer.UNKNOWN, str(error))


def _try_login(raw: Any, name: str, uri: str) -> Probe:
    domain = raw.lookupByName(name)
    for _ in range(_LOGINS):
        probe = _log_in(domain, uri)
        if probe.answer is not Answer.UNKNOWN:
            break
    return probe


def _log_in(domain: Any, uri: str) -> Probe:
    # TLS only so that a source that insists on it (migrate_tls_force) does not refuse before the login.
    flags = libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_OFFLINE | libvirt.VIR_MIGRATE_TLS
    try:
        domain.migrateToURI3(uri, {}, flags)
    except libvirt.libvirtError as error:
        return _read_login(error, uri)
    return Probe(Answer.UNKNOWN, "libvirt did not refuse what it should have refused")


def _read_login(error: libvirt.libvirtError, uri: str) -> Probe:
    code, origin = error.get_error_code(), error.get_error_domain()
    if (code, origin) == (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_QEMU):
        return Probe(Answer.YES, f"logged in to {uri}")
    # The refusal may be lost: hanging up can fail over ssh, and libvirt then reports that instead.
    broken_off = (code, origin, error.get_int1()) == (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC, errno.EIO)
    hung_up = broken_off and "ssh" in transport(uri)
    if hung_up or code in (libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_ERR_OPERATION_TIMEOUT):
        return Probe(Answer.UNKNOWN, message(error))
    return Probe(Answer.NO, message(error))
