"""Everything a switched-off VM is: the files and devices that travel, and where each one ends up. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from mudanza.model.finding import Finding
from mudanza.model.host import Host
from mudanza.model.migration import Chain, Media, MigrationOptions
from mudanza.model.units import MIB
from mudanza.model.vm import Backing, Disk, Vm
from mudanza.preflight.mapping import BLOCK_POOLS, DiskPlan, Resolution, destination_pool, opened_read_only
from mudanza.preflight.wording import blocker

SMALL = MIB
"""Files up to this size go through the controller: a carrier takes about two seconds to start and to end."""
NVRAM_DIRECTORY = "/var/lib/libvirt/qemu/nvram"
"""Where libvirt keeps UEFI variables unless told otherwise, as ``NAME_VARS.fd``."""
SAVE_DIRECTORY = "/var/lib/libvirt/qemu/save"
"""Where libvirt keeps the memory of VMs it has saved (managed save), as ``NAME.save``."""


class Role(StrEnum):
    """What a file is to its VM."""

    DISK = "disk"
    BACKING = "backing image"
    MEDIUM = "medium"
    NVRAM = "UEFI variables"
    SAVED = "saved memory"
    SNAPSHOT = "snapshot's memory"


@dataclass(frozen=True, slots=True)
class CargoFile:
    """One file or device that travels. Names that do not apply are empty."""

    role: Role
    label: str
    """What reports and errors call it: ``vda``, ``vda's base.qcow2``…"""
    source: str
    path: str
    """Where it will lie."""
    pool: str = ""
    """The target's pool; empty: its directory, which no pool needs to know."""
    volume: str = ""
    source_pool: str = ""
    source_volume: str = ""
    source_is_block: bool = False
    is_block: bool = False
    format: str = "raw"
    """What it will be at the target."""
    source_format: str = "raw"
    size: int = 0
    """Its virtual size in bytes, where it is an image."""
    chain: tuple[Backing, ...] = ()
    """What is flattened into it."""
    below: str = ""
    """Path at the source of the image it is built upon, where that travels along."""
    own: bool = True
    """No other VM has a claim on it, and it is no medium: it may be deleted at the source, as far as nothing refers to
    it."""
    for_others_too: bool = False
    """Others may have it open: it is only read, and one that lies at the target already is used if it is the same
    byte for byte."""
    must_exist: bool = False
    """It has to lie at the target already, the same byte for byte."""
    optional: bool = False
    """The VM may have come to be without it."""
    seen_by_both: bool = False

    @property
    def as_it_is(self) -> bool:
        """Whether its bytes travel as they are, whatever they mean; else its content does, into another format."""
        return self.format == self.source_format and not self.chain

    @property
    def needs_free_place(self) -> bool:
        """Whether nothing may lie yet where it is going to. Of disks the target's pools are asked; UEFI variables
        are overwritten."""
        return self.role in (Role.SAVED, Role.SNAPSHOT)

    @property
    def directory(self) -> str:
        """The directory at the target that it lies in."""
        return posixpath.dirname(self.path)


@dataclass(frozen=True, slots=True)
class Cargo:
    """All that travels, and what has no place."""

    files: tuple[CargoFile, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def places(self) -> dict[str, str]:
        """Path at the source → path at the target, of every file that travels."""
        return {file.source: file.path for file in self.files}


def keeps_chain(options: MigrationOptions, *, live: bool) -> bool:
    """Whether the images that disks build on stay files of their own at the target."""
    if options.chain is None:
        return not live
    return options.chain is not Chain.FLATTEN


def arrives_on_chain(disk: Disk, plan: DiskPlan, options: MigrationOptions, *, live: bool) -> bool:
    """Whether a disk that is copied keeps what it is built upon, if anything."""
    return plan.format == disk.format and keeps_chain(options, live=live)


def cargo_of(
    vm: Vm, source: Host, target: Host, options: MigrationOptions, plan: Resolution, *, live: bool = False
) -> Cargo:
    """Return what of a switched-off VM travels; of a running one (``live``) what is sent ahead, for its disks, its
    memory and its UEFI variables QEMU carries itself.

    UEFI variables and saved memory are named by libvirt's rules where the definition does not name them, and are
    optional then.
    """
    found: dict[str, CargoFile] = {}
    findings: list[Finding] = []
    plans = {each.target: each for each in plan.disks}
    for disk in vm.disks:
        for item in _of_disk(disk, plans.get(disk.target), source, target, options, live=live):
            if isinstance(item, Finding):
                findings.append(item)
            else:  # two disks may stand on one base
                found.setdefault(item.source, item)
    own_files = () if live else (*_firmware(vm), *_saved(vm))
    memory = _snapshot_memory(vm, source, plan) if keeps_chain(options, live=live) else ()
    for file in (*own_files, *memory):
        found.setdefault(file.source, file)
    if live:
        found = {path: file for path, file in found.items() if file.role is not Role.DISK}
    # Images below that were the VM's own disks before its snapshots were made.
    own = {path for snapshot in vm.snapshots for path in snapshot.disks}
    files = tuple(
        replace(file, own=True) if file.role is Role.BACKING and file.source in own else file for file in found.values()
    )
    return Cargo(files, (*findings, *_clashes(files)))


def images_of(vm: Vm, files: Iterable[CargoFile]) -> tuple[str, ...]:
    """Return the paths at the source of all that is opened as an image of a format: what travels as it is, and what
    QEMU copies while the VM runs."""
    travelling = [file.source for file in files if file.source_format != "raw"]
    attached = [disk.source for disk in vm.disks if disk.source and disk.is_local_image and disk.format != "raw"]
    return tuple(dict.fromkeys((*travelling, *attached)))


def _clashes(files: Sequence[CargoFile]) -> Iterator[Finding]:
    """Files of one name in different directories may be led into the same one."""
    first: dict[str, CargoFile] = {}
    for file in files:
        other = first.setdefault(file.path, file)
        if other is not file:
            yield blocker(
                "volume-clash",
                f"file {file.source}",
                f"{other.source} and {file.source} would both become {file.path}",
                "map their directories to different pools: --map-storage DIRECTORY=POOL",
            )


def _of_disk(
    disk: Disk, plan: DiskPlan | None, source: Host, target: Host, options: MigrationOptions, *, live: bool
) -> Iterator[CargoFile | Finding]:
    if plan is None or disk.source is None:
        return
    if plan.action == "copy":
        yield from _copied(disk, plan, source, target, options, live=live)
    elif plan.action == "none" and opened_read_only(disk) and disk.is_local_image:
        removable = disk.device in ("cdrom", "floppy")
        if options.media is Media.COPY or not (removable or live):
            medium = _elsewhere(Role.MEDIUM, disk, Backing(disk.source, disk.format), source, target, options)
            below = disk.backing[0].path if disk.backing else ""
            yield replace(medium, below=below) if isinstance(medium, CargoFile) else medium
            yield from _chain(disk, source, target, options)


def _copied(
    disk: Disk, plan: DiskPlan, source: Host, target: Host, options: MigrationOptions, *, live: bool
) -> Iterator[CargoFile | Finding]:
    flatten = not arrives_on_chain(disk, plan, options, live=live)
    pool, volume = _source_volume(disk, source)
    yield CargoFile(
        Role.DISK,
        disk.target,
        disk.source or "",
        plan.path,
        pool=plan.pool,
        volume=plan.volume,
        source_pool=pool,
        source_volume=volume,
        source_is_block=is_device(disk.source or ""),
        is_block=plan.pool_is_block,
        format=plan.format,
        source_format=disk.format,
        size=plan.size,
        chain=disk.backing if flatten else (),
        below=disk.backing[0].path if disk.backing and not flatten else "",
        own=disk.device != "floppy" and not disk.shareable,
        for_others_too=disk.shareable,
    )
    if not flatten and disk.target not in options.upon:
        yield from _chain(disk, source, target, options)


def _chain(disk: Disk, source: Host, target: Host, options: MigrationOptions) -> Iterator[CargoFile | Finding]:
    for number, image in enumerate(disk.backing, start=1):
        layer = _elsewhere(Role.BACKING, disk, image, source, target, options)
        below = disk.backing[number].path if number < len(disk.backing) else ""
        yield replace(layer, below=below) if isinstance(layer, CargoFile) else layer


def _source_volume(disk: Disk, source: Host) -> tuple[str, str]:
    """Return pool and volume of a disk. What came beside libvirt, as snapshots do, it lists when it looks anew."""
    path = disk.source or ""
    beside = None if disk.pool or is_device(path) else source.pool_at(posixpath.dirname(path))
    return (beside.name, posixpath.basename(path)) if beside else (disk.pool or "", disk.volume or "")


def _elsewhere(
    role: Role, disk: Disk, image: Backing, source: Host, target: Host, options: MigrationOptions
) -> CargoFile | Finding:
    """Plan a file that others may use too, by the same rules as the disk it belongs to."""
    pool_here = source.pool_at(posixpath.dirname(image.path))
    name = posixpath.basename(image.path)
    as_disk = replace(
        disk, source=image.path, format=image.format, pool=pool_here.name if pool_here else None, volume=None
    )
    pool = destination_pool(as_disk, source, target, options)
    if isinstance(pool, Finding):
        return pool
    if pool.kind in BLOCK_POOLS:
        return blocker(
            "chain-in-volume-group",
            f"disk {disk.target}",
            f"{image.path} cannot be kept as a file of its own in pool {pool.name} of {target.name}",
            "let disk and chain become one image: --chain flatten; or map its directory to a pool of files",
        )
    return CargoFile(
        role,
        f"{disk.target}'s {name}",
        image.path,
        f"{(pool.path or '').rstrip('/')}/{name}",
        pool=pool.name,
        volume=name,
        source_pool=pool_here.name if pool_here else "",
        source_volume=name if pool_here else "",
        source_is_block=is_device(image.path),
        format=image.format,
        source_format=image.format,
        own=False,
        for_others_too=True,
        must_exist=role is Role.BACKING and options.chain is Chain.REUSE,
    )


def _firmware(vm: Vm) -> Iterable[CargoFile]:
    if vm.firmware is None:
        return ()
    named = vm.firmware.nvram
    path = named or f"{NVRAM_DIRECTORY}/{vm.name}_VARS.fd"
    # One that is named comes to be when the VM starts for the first time.
    return (CargoFile(Role.NVRAM, "UEFI variables", path, path, volume=posixpath.basename(path), optional=True),)


def _saved(vm: Vm) -> Iterable[CargoFile]:
    if not vm.has_managed_save:
        return ()
    path = f"{SAVE_DIRECTORY}/{vm.name}.save"
    return (CargoFile(Role.SAVED, "saved memory", path, path, volume=posixpath.basename(path)),)


def _snapshot_memory(vm: Vm, source: Host, plan: Resolution) -> Iterator[CargoFile]:
    """What lies beside a shared disk is at the target already."""
    shared = {posixpath.dirname(disk.path) for disk in plan.disks if disk.action == "shared"}
    for snapshot in vm.snapshots:
        if (path := snapshot.memory) is not None and posixpath.dirname(path) not in shared:
            label, name = f"memory of snapshot {snapshot.name}", posixpath.basename(path)
            beside = source.pool_at(posixpath.dirname(path))
            yield CargoFile(
                Role.SNAPSHOT,
                label,
                path,
                path,
                volume=name,
                source_pool=beside.name if beside else "",
                source_volume=name if beside else "",
            )


def is_device(path: str) -> bool:
    """Whether a path names a device, not a file."""
    return path.startswith("/dev/")
