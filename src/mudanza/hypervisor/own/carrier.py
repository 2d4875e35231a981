"""A carrier: a tiny guest that is never run, whose disks are the files to be brought from one host to another.

libvirt migrates it, disks and all, from host to host, encrypted where the hosts can. The files are attached as raw
disks whatever they contain, so that every byte gets there; or their content is read, and written in another format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import libvirt
from lxml import etree

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.domains import Domains, Parameters
from mudanza.hypervisor.own.ghost import disk_name, domain_xml
from mudanza.hypervisor.own.overlays import delete_overlays, make_overlays
from mudanza.hypervisor.own.throwaway import gone_is_fine, remove_domain
from mudanza.hypervisor.uris import migration_uri, peer_uri
from mudanza.model.errors import MudanzaError, UsageError
from mudanza.model.host import Host
from mudanza.model.migration import Side
from mudanza.model.units import KIB, MIB

SECTOR = 512
"""Bytes that QEMU counts in: a file whose length is no multiple would arrive with zeroes behind it."""
START_TIMEOUT = 120.0
"""Seconds a carrier's QEMU may take to start."""
END_TIMEOUT = 60.0
"""Seconds that ending it may take on one host; libvirt kills a QEMU that does not go by itself after 30."""


@dataclass(frozen=True, slots=True)
class Load:
    """One range of a file or device at the source, and where it goes: the same range there. Bytes.

    ``start`` and ``length`` are multiples of SECTOR. Formats other than raw at either end: the content is converted;
    ``length`` is the image's virtual size then, ``start`` 0 and ``whole`` true.
    """

    source: str
    source_is_block: bool
    target: str
    target_is_block: bool
    start: int
    length: int
    whole: bool
    """There is no more of the source than this range."""
    read_only: bool
    """Others may have the source open."""
    source_format: str = "raw"
    target_format: str = "raw"
    backing: tuple[tuple[str, str], ...] = ()
    """Path and format of what the source stands on, from the top to the base, for what is converted."""

    @property
    def is_shielded(self) -> bool:
        """Whether QEMU must not open the source for writing: others have it open, or it would write on opening.

        It does so in a qcow2 image that has dirty bitmaps or was not closed well.
        """
        return self.read_only or self.source_format != "raw"


def joined(loads: Sequence[Load]) -> tuple[Load, ...]:
    """Return the same loads with one range for each shielded file, from the first byte of all its ranges to the last.

    Several ranges of one file are disks that share it, and libvirt lets raw disks do that, but no overlays.
    """
    found: list[Load] = []
    places: dict[tuple[str, str], int] = {}
    for load in loads:
        at = places.setdefault((load.source, load.target), len(found)) if load.is_shielded else len(found)
        if at == len(found):
            found.append(load)
        else:
            found[at] = _hull(found[at], load)
    return tuple(_rounded(load) for load in found)


def _hull(one: Load, other: Load) -> Load:
    start = min(one.start, other.start)
    return replace(one, start=start, length=max(one.start + one.length, other.start + other.length) - start)


def _rounded(load: Load) -> Load:
    """Let a shielded range begin a sector earlier where that makes it whole KiB, which small overlays have to be."""
    if load.is_shielded and load.start and load.length % KIB:
        return replace(load, start=load.start - SECTOR, length=load.length + SECTOR)
    return load


@dataclass(frozen=True, slots=True)
class Kind:
    """What a guest must be like to run on both hosts: that of the VM whose files are carried."""

    domain_type: str
    arch: str
    machine: str | None


def carrier_xml(
    name: str, uuid: str, kind: Kind, loads: Sequence[Load], *, over: Mapping[int, str] | None = None
) -> str:
    """Return the carrier as it starts at the source, ``over``: number of a shielded load → path of its overlay.

    Without ``over``: as it arrives at the target.
    """
    root = etree.fromstring(domain_xml(name, kind.domain_type, kind.arch, machine=kind.machine))
    etree.SubElement(root, "uuid").text = uuid
    devices = next(root.iter("devices"))
    etree.SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    shared = _shared(loads)
    for number, load in enumerate(loads):
        disk = _target_disk(load) if over is None else _source_disk(load, over.get(number))
        etree.SubElement(disk, "target", dev=disk_name(number), bus="scsi")
        if number in shared:
            etree.SubElement(disk, "shareable")
        # libvirt puts at most 15 on a controller by itself; virtio-scsi takes thousands.
        etree.SubElement(disk, "address", type="drive", controller="0", bus="0", target="0", unit=str(number))
        devices.append(disk)
    return etree.tostring(root, encoding="unicode")


def _shared(loads: Sequence[Load]) -> frozenset[int]:
    """Return the numbers of the loads whose file is more than one disk, at the source or at the target."""
    sources = Counter(load.source for load in loads if not load.is_shielded)
    targets = Counter(load.target for load in loads)
    return frozenset(
        n
        for n, load in enumerate(loads)
        if (sources[load.source] > 1 and not load.is_shielded) or targets[load.target] > 1
    )


def _source_disk(load: Load, overlay: str | None) -> Any:
    start = None if load.whole else load.start
    if overlay is None:
        return _disk(load.source_format, load.source, load.source_is_block, start, load.length)
    disk = _disk("qcow2", overlay, False, None, 0)
    above = disk
    for path, format_ in ((load.source, load.source_format), *load.backing):
        is_top = above is disk
        is_block = load.source_is_block if is_top else path.startswith("/dev/")
        above = etree.SubElement(above, "backingStore", type="block" if is_block else "file")
        etree.SubElement(above, "format", type=format_)
        _add_source(above, path, is_block, start if is_top else None, load.length)
    etree.SubElement(above, "backingStore")
    return disk


def _target_disk(load: Load) -> Any:
    # A device may be longer than what goes onto it, and QEMU wants both ends to be of one length.
    exact = load.target_format == "raw" and (load.target_is_block or not load.whole)
    return _disk(load.target_format, load.target, load.target_is_block, load.start if exact else None, load.length)


def _disk(format_: str, path: str, is_block: bool, start: int | None, length: int) -> Any:
    disk = etree.Element("disk", type="block" if is_block else "file", device="disk")
    etree.SubElement(disk, "driver", name="qemu", type=format_)
    _add_source(disk, path, is_block, start, length)
    return disk


def _add_source(parent: Any, path: str, is_block: bool, start: int | None, length: int) -> None:
    source = etree.SubElement(parent, "source", {"dev" if is_block else "file": path})
    if start is not None:
        slices = etree.SubElement(source, "slices")
        etree.SubElement(slices, "slice", type="storage", offset=str(start), size=str(length))


class Carrier:
    """One carrier. Name and UUID are the caller's, so that they are on record before there is anything."""

    def __init__(
        self,
        source: HostConnection,
        target: HostConnection,
        here: Host,
        there: Host,
        name: str,
        uuid: str,
        kind: Kind,
    ) -> None:
        self._source, self._target = source, target
        self._here, self._there = here, there
        self.name, self.uuid = name, uuid
        self._kind = kind
        self._loads: tuple[Load, ...] = ()
        self._overlays: tuple[str, ...] = ()
        self._ended = False

    @property
    def loads(self) -> tuple[Load, ...]:
        """What it carries, each as a disk, in this order; see ``joined``."""
        return self._loads

    def start(self, loads: Sequence[Load]) -> None:
        """Start it at the source, paused. Raises HostUnreachableError and HypervisorError."""
        self._loads = joined(loads)
        shielded = [number for number, load in enumerate(self._loads) if load.is_shielded]
        files = [self._loads[number].source for number in shielded if not self._loads[number].source_is_block]
        if shielded:
            sizes = [self._loads[number].length for number in shielded]
            self._overlays = make_overlays(self._source, self._here, files[0] if files else None, sizes)
        over = dict(zip(shielded, self._overlays, strict=True))
        xml = carrier_xml(self.name, self.uuid, self._kind, self._loads, over=over)
        self._source.ask(lambda raw: self._create(raw, xml), timeout=START_TIMEOUT)

    def _create(self, raw: Any, xml: str) -> None:
        raw.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
        if self._ended:  # nobody waits for it any more
            with gone_is_fine():
                remove_domain(raw, self.name)

    def order(self, *, tls: bool, bandwidth: int | None = None) -> tuple[str, Parameters, tuple[str, ...]]:
        """Return peer URI, parameters and flags for ``Domains.migrate_p2p``.

        ``bandwidth`` in bytes per second, for all disks together: libvirt limits each one, and in whole MiB.
        Raises UsageError where the source knows no way to the target.
        """
        entry = self._there.entry
        peer = peer_uri(entry)
        if peer is None:
            raise UsageError(
                f"{self._here.name} cannot reach {entry.name}: no address other hosts could use is known",
                remedy=f"tell it: mudanza host edit {entry.name} --peer-uri qemu+tls://NAME/system",
            )
        parameters: dict[str, int | str | list[str]] = {
            "destination_xml": carrier_xml(self.name, self.uuid, self._kind, self._loads),
            "migrate_disks": self._disks,
        }
        if uri := migration_uri(entry):
            parameters["migrate_uri"] = uri
        if bandwidth:
            parameters["bandwidth"] = max(1, bandwidth // len(self._loads) // MIB)
        if tls and entry.tls_name:
            parameters["tls.destination"] = entry.tls_name
        return peer, parameters, ("LIVE", "PAUSED", "NON_SHARED_DISK", *(("TLS",) if tls else ()))

    @property
    def _disks(self) -> list[str]:
        return [disk_name(number) for number in range(len(self._loads))]

    def disk_progress(self) -> tuple[tuple[int, int] | None, ...]:
        """Return for each of ``loads`` how many bytes of how many have got there, holes included; None: not told.

        Raises HostUnreachableError and HypervisorError.
        """
        jobs = Domains(self._source).disk_jobs(self.uuid, self._disks)
        return tuple(jobs.get(disk) for disk in self._disks)

    def has_come_in(self) -> bool:
        """Whether the target says that it has all of it. False also where it does not say."""
        there = Domains(self._target).sighting(self.uuid)
        return there.side is Side.PRESENT and there.job is None

    def has_left(self) -> bool:
        """Whether the source says that it is gone from there. False also where it does not say."""
        return Domains(self._source).sighting(self.uuid).side is Side.ABSENT

    def arrived(self) -> bool:
        """Whether both hosts say that all of it is at the target. False also where one does not say."""
        return self.has_left() and self.has_come_in()

    def end_at_target(self) -> None:
        """Take it away from the target. Raises HostUnreachableError and HypervisorError."""
        end_carrier(self._target, self.name)

    def end(self) -> tuple[str, ...]:
        """Take it away from both hosts and return, in words, from which that failed and why. Repeatable.

        First it goes from the source, so that it cannot come to the target any more. What it has brought stays.
        One that another process started is ended as well, and its overlays are left to be swept up.
        """
        self._ended = True
        failures = []
        for host in (self._source, self._target):
            try:
                end_carrier(host, self.name)
            except MudanzaError as error:
                failures.append(f"{self.name} may still be on {host.name}: {error}")
        try:
            delete_overlays(self._source, self._here, self._overlays)
        except MudanzaError as error:
            failures.append(f"{', '.join(self._overlays)} may still be on {self._source.name}: {error}")
        return tuple(failures)


def end_carrier(host: HostConnection, name: str) -> None:
    """Take a carrier away from one host, if it is there. Raises HostUnreachableError and HypervisorError."""
    host.ask(lambda raw: _end(raw, name), timeout=END_TIMEOUT)


def _end(raw: Any, name: str) -> None:
    with gone_is_fine():
        remove_domain(raw, name)
