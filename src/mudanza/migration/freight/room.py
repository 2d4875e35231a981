"""Places for files at the target: made, written down in the journal before and after, and found again by a repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from lxml import etree

from mudanza.hypervisor.connections import Connections
from mudanza.hypervisor.own.directories import pool_on
from mudanza.hypervisor.volumes import Volumes
from mudanza.journal.jobs import LONG_LOOK, Job, JobHandle, Step
from mudanza.model.errors import HypervisorError
from mudanza.model.host import Host
from mudanza.model.units import MIB
from mudanza.preflight.cargo import CargoFile, Role

_PRIVATE = frozenset({Role.NVRAM, Role.SAVED, Role.SNAPSHOT})
_NOTHING_YET = MIB
"""Bytes that a file may take up and still hold nothing but an image's own bookkeeping."""


@dataclass(frozen=True, slots=True)
class Place:
    """A volume that a job's journal says it made. ``pool`` is empty for a file outside all pools."""

    pool: str
    volume: str
    path: str


def places_made(job: Job) -> Mapping[str, Place]:
    """Return path → place of every volume that the job made and has not deleted since; it may be half written.

    One of which nobody wrote down how making it went is not among them: see ``Room.make_sure``.
    """
    made: dict[str, Place] = {}
    for step in job.steps:
        if step.name == "create volume" and step.outcome and "made" in step.outcome:
            place = _place(step.intent)
            made[place.path] = place
        elif _deleted_at_target(step, job):
            made.pop(_place(step.intent).path, None)
    return made


def _deleted_at_target(step: Step, job: Job) -> bool:
    if step.name != "delete volume" or step.intent["host"] != job.target or "path" not in step.intent:
        return False
    return bool(step.outcome and step.outcome.get("done"))


def _place(intent: Mapping[str, object]) -> Place:
    return Place(str(intent["pool"]), str(intent["volume"]), str(intent["path"]))


class Room:
    """Makes places at one target for one job."""

    def __init__(self, connections: Connections, handle: JobHandle, about: Host) -> None:
        self._connections = connections
        self._handle = handle
        self._about = about

    def make(self, file: CargoFile, length: int) -> None:
        """Make the empty volume or file that ``length`` bytes go into. Raises HypervisorError, HostUnreachableError.

        Preflight has seen that there is none of that name; libvirt refuses where one came there since.
        """
        size = _size(file, length)
        intent = {"pool": file.pool, "volume": file.volume, "path": file.path, "size": size, "device": file.is_block}
        with self.volumes_at(file) as (volumes, pool):
            make_volume(self._handle, intent, lambda: volumes.create(pool, place_xml(file, length)))

    def make_sure(self, job: Job) -> None:
        """Find out how making a place went whose controller died over it, and write that down.

        Preflight saw none there, so that what is there is ours if it is as it was ordered and still empty. Raises
        HypervisorError, HostUnreachableError.
        """
        for step in job.steps_named("create volume"):
            if step.outcome is None:
                device = bool(step.intent.get("device"))  # older versions did not write it down for live moves
                ours = self._is_new(_place(step.intent), int(step.intent["size"]), device=device)
                outcome = {"made": step.intent["path"]} if ours else {"error": "nothing of ours is there"}
                self._handle.done(step.n, outcome)

    def _is_new(self, place: Place, size: int, *, device: bool) -> bool:
        with self._pool(place.pool, place.path.rpartition("/")[0]) as pool:
            volumes = self._connections.volumes(self._about.name)
            volumes.refresh(pool)
            if place.volume not in volumes.names(pool):
                return False
            found = volumes.read(pool, place.volume)
        return found.capacity == size and (device or (found.allocation or 0) <= _NOTHING_YET)

    def hold(self) -> None:
        """Make sure the job is ours before a look at who uses what. Raises LeaseLostError."""
        self._handle.renew(LONG_LOOK)

    def remove(self, place: Place) -> None:
        """Delete what this job made. Raises HypervisorError, HostUnreachableError."""
        intent = {"host": self._about.name, "pool": place.pool, "volume": place.volume, "path": place.path}
        self._handle.hold_on(LONG_LOOK)
        with self._pool(place.pool, place.path.rpartition("/")[0]) as pool:
            volumes = self._connections.volumes(self._about.name)
            if not place.pool:
                volumes.refresh(pool)
            there = place.volume in volumes.names(pool)
            delete: Callable[[], None] = partial(volumes.delete, pool, place.volume) if there else (lambda: None)
            self._handle.perform("delete volume", intent, delete)

    @contextmanager
    def volumes_at(self, file: CargoFile) -> Iterator[tuple[Volumes, str]]:
        """Have the pool that a file of the target lies in: its own, or one of ours while the block runs."""
        with self._pool(file.pool, file.directory) as pool:
            yield self._connections.volumes(self._about.name), pool

    @contextmanager
    def _pool(self, pool: str, directory: str) -> Iterator[str]:
        if pool:
            yield pool
            return
        with pool_on(self._connections.get(self._about.name), self._about, directory) as ours:
            yield ours


def make_volume(handle: JobHandle, intent: Mapping[str, object], make: Callable[[], str]) -> None:
    """Make a volume, written down before and after.

    Raises HypervisorError: libvirt makes one whole or not at all, and says no before it touches one that exists; and
    HostUnreachableError, after which nobody knows.
    """
    handle.keep()
    step = handle.intend("create volume", intent)
    handle.assert_held()
    try:
        made = make()
    except HypervisorError as error:
        handle.done(step, {"error": str(error)})
        raise
    handle.done(step, {"made": made})


def place_xml(file: CargoFile, length: int) -> str:
    """Return the XML of the volume for a file: as long as the source's where its bytes travel, else of its format."""
    root = etree.Element("volume")
    etree.SubElement(root, "name").text = file.volume
    size = _size(file, length)
    etree.SubElement(root, "capacity", unit="bytes").text = str(size)
    # Of a logical volume with less than all its space libvirt makes an LVM snapshot that breaks when it has filled up.
    etree.SubElement(root, "allocation", unit="bytes").text = str(size if file.is_block else 0)
    target = etree.SubElement(root, "target")
    etree.SubElement(target, "format", type="raw" if file.as_it_is else file.format)
    if not file.as_it_is and file.format == "qcow2":
        # Not told, libvirt makes qcow2 version 2, which can hold no dirty bitmap.
        etree.SubElement(target, "compat").text = "1.1"
    if file.role in _PRIVATE:
        etree.SubElement(etree.SubElement(target, "permissions"), "mode").text = "0600"
    elif file.for_others_too:
        etree.SubElement(etree.SubElement(target, "permissions"), "mode").text = "0644"
    return etree.tostring(root, encoding="unicode")


def _size(file: CargoFile, length: int) -> int:
    return length if file.as_it_is else file.size
