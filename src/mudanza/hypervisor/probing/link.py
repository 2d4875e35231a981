"""How fast is the way from one host to another? Disks without a VM go it for a few seconds, as a VM's disk would.

First one, by one connection; then several side by side, each by its own. Their image is made so that next to nothing is
written at the source: all clusters of what it shows are one and the same. The target writes what comes, into files of
our own. Paused guests that are never run carry them by QEMU's mirror: same login, address, ports and encryption as a
move. All of it is taken away afterwards, and nothing of any VM is opened.
"""

from __future__ import annotations

import secrets
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import libvirt

from mudanza import clock
from mudanza.hypervisor.bounded import Task, for_each
from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.domains import Domains
from mudanza.hypervisor.own.carrier import Kind, Load, carrier_xml
from mudanza.hypervisor.own.ghost import disk_name
from mudanza.hypervisor.own.throwaway import Throwaway, remove_domain, throwaway_name
from mudanza.hypervisor.streams import upload
from mudanza.hypervisor.uris import migration_uri, peer_uri
from mudanza.model.errors import HostUnreachableError, HypervisorError, MudanzaError
from mudanza.model.host import Host
from mudanza.model.link import MeasuredLink
from mudanza.model.units import MIB
from mudanza.preflight.mapping import FILE_POOLS

AMOUNT = 256 * MIB
"""The most that is sent by one connection..."""
EACH = 128 * MIB
"""...and by each of several..."""
SPAN = 6.0
"""...and the seconds that either may take."""
BEGINNING = 15.0
"""Seconds until something must have come through."""
PARTING = 1.0
"""Seconds that it may take to end by itself once enough is known: all of it may have got there..."""
ENDING = 15.0
"""...and that ending it may take."""
TIMEOUT = 20.0
"""Seconds that each of making, filling and starting it may take."""
SEVERAL = (4, 8)
"""How many connections are tried side by side: more of them only if the fewer ones have carried more than before."""
MORE = 1.2
"""How many times as much that is at the least."""
CARRIERS = 4
"""How many guests carry those disks at the most: more of them at once are as much as one libvirt works on in time."""
CLUSTER, PARTS = 2 * MIB, 6
"""What the image is made of, beside what it shows: parts of that size, most of each being empty."""
_LOOK = 0.05


@dataclass(frozen=True, slots=True)
class _Course:
    """From where to where, and how."""

    source: HostConnection
    target: HostConnection
    here: Host
    there: Host
    kind: Kind
    peer: str
    tls: bool


@dataclass(frozen=True, slots=True)
class _Sent:
    """A guest's disks on their way."""

    domains: Domains
    key: str
    disks: Sequence[str]
    migration: Task[None]


def measure_link(
    source: HostConnection, target: HostConnection, here: Host, there: Host, kind: Kind, *, tls: bool
) -> MeasuredLink:
    """Return what gets from ``here`` to ``there``, by one connection and by several side by side: as many as more of
    them have carried more. ``kind``: of guests that both can run.

    Raises HypervisorError where it cannot be measured, and HostUnreachableError.
    """
    peer = peer_uri(there.entry)
    if peer is None:
        raise HypervisorError(here.name, f"no URI is known by which it reaches {there.name}")
    course = _Course(source, target, here, there, kind, peer, tls)
    one = _rate(course, 1, AMOUNT)
    best = MeasuredLink(one, one, 1)
    for connections in SEVERAL:
        several = _rate(course, connections, EACH)
        if best.connections > 1 and several < best.several * MORE:
            break
        best = MeasuredLink(one, several, connections)
        if several < one * MORE:
            break
    return best


def _rate(course: _Course, connections: int, amount: int) -> float:
    """Return what so many disks of that size get through together in a second, from when all of them move."""
    guests = min(connections, CARRIERS)
    with ExitStack() as stack:
        each = partial(_carrier, course, connections // guests, amount, room=amount * connections)
        ready = [stack.enter_context(each()) for _ in range(guests)]
        sent: list[_Sent] = []
        try:
            sent += [begin() for begin in ready]
            return rate_of(_marks(sent, amount), course.here)
        finally:
            for_each(_end, sent, workers=len(ready), timeout=2 * ENDING)


@contextmanager
def _carrier(course: _Course, disks: int, amount: int, room: int) -> Iterator[Callable[[], _Sent]]:
    """Have disks ready to go, and a guest that carries them, while the block runs; what is given sends them off."""
    name, key = throwaway_name("rehearsal"), str(uuid.uuid4())
    with ExitStack() as stack:
        loads = [_disk(stack, course, amount, room) for _ in range(disks)]
        stack.enter_context(Throwaway(course.target, name, remove_domain))
        # First it goes from the source, so that it cannot come to the target any more.
        guest = stack.enter_context(Throwaway(course.source, name, remove_domain))
        xml = carrier_xml(name, key, course.kind, loads, over={})
        guest.ask(lambda raw: _start(raw, xml), timeout=TIMEOUT)
        names = [disk_name(number) for number in range(disks)]
        yield partial(_send, course, key, carrier_xml(name, key, course.kind, loads), names)


def _disk(stack: ExitStack, course: _Course, amount: int, room: int) -> Load:
    return Load(
        source=stack.enter_context(_file(course.source, course.here, PARTS * CLUSTER, repeating_image(amount))),
        source_is_block=False,
        target=stack.enter_context(_file(course.target, course.there, amount, room=room)),
        target_is_block=False,
        start=0,
        length=amount,
        whole=True,
        read_only=False,
        source_format="qcow2",
    )


def _send(course: _Course, key: str, as_there: str, disks: list[str]) -> _Sent:
    entry = course.there.entry
    parameters: dict[str, int | str | list[str]] = {"destination_xml": as_there, "migrate_disks": disks}
    if address := migration_uri(entry):
        parameters["migrate_uri"] = address
    if course.tls and entry.tls_name:
        parameters["tls.destination"] = entry.tls_name
    flags = ("LIVE", "PAUSED", "NON_SHARED_DISK", *(("TLS",) if course.tls else ()))
    domains = Domains(course.source)
    return _Sent(domains, key, disks, Task(lambda: domains.migrate_p2p(key, course.peer, parameters, flags)))


def _end(sent: _Sent) -> None:
    """Have libvirt end it, so that it is in one place when it is taken away: what hangs is given up then."""
    acts = () if _ends_within(sent.migration, PARTING) else (sent.domains.cut_off_copies, sent.domains.abort_job)
    for act in acts:
        with suppress(HypervisorError, HostUnreachableError):  # there is nothing to be ended any more
            act(sent.key)
    if acts:
        _ends_within(sent.migration, ENDING)


def _ends_within(migration: Task[None], limit: float) -> bool:
    with suppress(MudanzaError, TimeoutError):
        migration.wait(limit)
    return migration.ended


def _marks(sent: Sequence[_Sent], amount: int) -> list[tuple[float, int]]:
    """Return when how much of all had come through, one mark for each step while all of them were on their way."""
    marks: list[tuple[float, int]] = []
    begun = clock.monotonic()
    while clock.monotonic() < (marks[0][0] + SPAN if marks else begun + BEGINNING):
        for each in sent:
            if each.migration.ended:
                each.migration.wait(0)  # raises what it has raised
                return marks
        through = [done for each in sent for done in _come_through(each)]
        if all(through) and (not marks or sum(through) > marks[-1][1]):
            marks.append((clock.monotonic(), sum(through)))
        if max(through) >= amount:
            break
        clock.sleep(_LOOK)
    return marks


def _come_through(sent: _Sent) -> list[int]:
    """Return how much of each disk has come through; nothing where there is no mirror yet, or no more."""
    try:
        jobs = sent.domains.disk_jobs(sent.key, sent.disks)
    except HypervisorError:
        jobs = {}
    return [jobs.get(disk, (0, 0))[0] for disk in sent.disks]


def rate_of(marks: list[tuple[float, int]], here: Host) -> float:
    """Return the rate between the first step and the last: what stands before the first one is buffers filling.

    Raises HypervisorError where there are too few.
    """
    if len(marks) < 2 or marks[-1][0] <= marks[0][0]:
        raise HypervisorError(here.name, "too little got through to tell a rate")
    (begun, first), (ended, last) = marks[0], marks[-1]
    return (last - first) / (ended - begun)


@contextmanager
def _file(
    host: HostConnection,
    about: Host,
    size: int,
    content: Mapping[int, bytes] = MappingProxyType({}),
    room: int | None = None,
) -> Iterator[str]:
    """Have a file of our own on a host while the block runs, in the pool of files with the most room; its path.

    ``room``: what it and its like may come to together; None: it is alone.
    """
    pools = [pool for pool in about.pools or () if pool.active and pool.kind in FILE_POOLS and pool.path]
    # What is written over the network would be measured twice.
    pool = max(pools, key=lambda pool: (pool.kind != "netfs", pool.available), default=None)
    if pool is None or pool.available < 2 * (room or size):
        raise HypervisorError(about.name, "it has no pool of files with room for what would be sent")
    name = throwaway_name("marker")
    with Throwaway(host, name, partial(_delete, pool=pool.name)) as file:
        yield file.ask(lambda raw: _make(raw, pool.name, name, size, content), timeout=TIMEOUT)


def _make(raw: Any, pool: str, name: str, size: int, content: Mapping[int, bytes]) -> str:
    xml = (
        f"<volume><name>{name}</name><capacity unit='bytes'>{size}</capacity><allocation unit='bytes'>0</allocation>"
        "<target><format type='raw'/></target></volume>"
    )
    volume = raw.storagePoolLookupByName(pool).createXML(xml, 0)
    for start, part in content.items():
        upload(raw, volume, start, part)
    return str(volume.path())


def _delete(raw: Any, name: str, *, pool: str) -> None:
    raw.storagePoolLookupByName(pool).storageVolLookupByName(name).delete(0)


def _start(raw: Any, xml: str) -> None:
    raw.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)


def repeating_image(size: int) -> Mapping[int, bytes]:
    """Return a qcow2 image (QEMU's docs/interop/qcow2.txt) of that virtual size, as its parts by where they lie.

    Every cluster of it is the same one, of random bytes: as after many snapshots, only that it is told of one image.
    The clusters are as large as can be, for QEMU's mirror sends each by itself.
    """
    clusters = size // CLUSTER
    header, table, block, level_1, level_2, data = (number * CLUSTER for number in range(PARTS))
    head = (
        (b"QFI\xfb", 3),
        (0, 0),  # it stands on nothing
        (CLUSTER.bit_length() - 1, size, 0),
        (1, level_1),
        (table, 1),
        (0, 0),
        (0, 0, 0, 4, 104),
    )
    alone = 1 << 63  # of a cluster that nothing else refers to
    return {
        header: struct.pack(">4sI QI IQI IQ QI IQ QQQII", *(value for group in head for value in group)),
        table: struct.pack(">Q", block),
        block: struct.pack(">6H", 1, 1, 1, 1, 1, clusters),
        level_1: struct.pack(">Q", level_2 | alone),
        level_2: struct.pack(">Q", data) * clusters,
        data: secrets.token_bytes(CLUSTER),
    }
