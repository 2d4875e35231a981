"""Where each disk and each network card of a VM ends up at its target. Used by preflight and by migration alike."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from mudanza.model.finding import Finding
from mudanza.model.host import Host, Pool
from mudanza.model.migration import Answer, Chain, Facts, Media, MigrationOptions, Probe
from mudanza.model.vm import Disk, Nic, Vm
from mudanza.preflight.wording import because, blocker, listed, start_driver, virsh, warning

FILE_POOLS = frozenset({"dir", "fs", "netfs"})
BLOCK_POOLS = frozenset({"logical"})
_MAPPABLE_NICS = frozenset({"network", "bridge", "direct"})
_UNKNOWN = Probe()
_POOL_ON_BOTH = "make a pool of its directory on both hosts (virsh pool-define-as NAME dir --target DIRECTORY)"
_REFUSED = ("Permission denied", "not permitted")
"""What a host says where root is nobody, as on NFS."""


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """What happens to one disk. ``size`` is its virtual size in bytes; names that do not apply are empty.

    ``copy``: into a volume of our own making; ``shared``: both hosts open the same image; ``none``: nothing to
    carry (an empty drive, or a read-only image that lies at the target under the same path); ``eject``: the drive
    is empty at the target.
    """

    target: str
    action: Literal["copy", "shared", "none", "eject"]
    reason: str
    pool: str = ""
    volume: str = ""
    path: str = ""
    format: str = "raw"
    size: int = 0
    pool_is_block: bool = False


@dataclass(frozen=True, slots=True)
class NicPlan:
    """What a network card hangs on here and there; None where its kind names nothing."""

    mac: str
    kind: str
    source: str | None
    target: str | None
    mapped: bool = False


@dataclass(frozen=True, slots=True)
class Resolution:
    """Every disk and card with its place at the target. A disk without a place has a finding instead of a plan."""

    disks: tuple[DiskPlan, ...]
    nics: tuple[NicPlan, ...]
    findings: tuple[Finding, ...]

    @property
    def copies(self) -> tuple[DiskPlan, ...]:
        """The disks that travel."""
        return tuple(plan for plan in self.disks if plan.action == "copy")

    @property
    def nic_names(self) -> Mapping[str, str]:
        """MAC address → network, bridge or device at the target."""
        return {nic.mac: nic.target for nic in self.nics if nic.target is not None}


def resolve(vm: Vm, source: Host, target: Host, options: MigrationOptions, facts: Facts) -> Resolution:
    """Decide what happens to each disk and card. Of the facts it reads ``shared`` only.

    Source and target may be one host: then only disks that a map leads elsewhere move.
    """
    plans: list[DiskPlan] = []
    findings: list[Finding] = []
    cold = options.is_cold(active=vm.state.active)
    in_place = source.name == target.name
    for disk in vm.disks:
        if in_place and (disk.shareable or disk.device == "floppy" or not disk.is_local_image):
            outcome: DiskPlan | Finding = _in_place(disk, "shared", "it stays")
        else:
            shared = Probe(Answer.YES) if in_place else facts.shared.get(disk.target, _UNKNOWN)
            outcome = _plan_disk(disk, source, target, options, shared, cold=cold)
        if isinstance(outcome, DiskPlan) and outcome.action == "copy":
            outcome = _unless_taken(outcome, plans)
        if isinstance(outcome, DiskPlan):
            plans.append(outcome)
        else:
            findings.append(outcome)
    nics = tuple(_plan_nic(nic, options) for nic in vm.nics)
    findings += _unused_storage_maps(vm, source, options)
    findings += _unused_network_maps(vm, source, options)
    return Resolution(tuple(plans), nics, tuple(findings))


def shared_candidates(vm: Vm) -> tuple[Disk, ...]:
    """Return the disks of which it has to be found out whether both hosts see the same image."""
    return tuple(disk for disk in vm.disks if disk.is_local_image and not opened_read_only(disk))


def opened_read_only(disk: Disk) -> bool:
    """Whether the guest only reads it: such an image is not carried but expected at the target."""
    return disk.readonly or disk.device == "cdrom"


def _plan_disk(
    disk: Disk, source: Host, target: Host, options: MigrationOptions, shared: Probe, *, cold: bool
) -> DiskPlan | Finding:
    if disk.source is None and disk.volume is None:
        return DiskPlan(disk.target, "none", "the drive is empty")
    wanted = mapped_pool(disk, options)
    if disk.kind == "network" and (wanted is None or opened_read_only(disk)):
        return _in_place(disk, "shared", "both hosts reach it over the network")
    if not disk.is_local_image:
        return _uncopyable_kind(disk)
    if disk.device in ("cdrom", "floppy") and options.media is Media.EJECT:
        return DiskPlan(disk.target, "eject", "taken out of the drive")
    if opened_read_only(disk):
        return _in_place(disk, "none", "read-only, opened at the target under the same path")
    if wanted is None and shared.answer is Answer.YES:
        return _in_place(disk, "shared", "both hosts see the same image" + because(shared.detail))
    if wanted is None and shared.answer is Answer.UNKNOWN:
        return _sharing_unknown(disk, shared)
    against = _why_not_copied(disk, source, options, cold=cold)
    return against or _plan_copy(disk, source, target, wanted, shared, options)


def _in_place(disk: Disk, action: Literal["shared", "none"], reason: str) -> DiskPlan:
    return DiskPlan(
        disk.target,
        action,
        reason,
        pool=disk.pool or "",
        volume=disk.volume or "",
        path=disk.source or "",
        format=disk.format,
        size=disk.capacity or 0,
        pool_is_block=disk.kind == "block",
    )


def _directory(disk: Disk) -> str:
    return str(PurePosixPath(disk.source or "").parent)


def mapped_pool(disk: Disk, options: MigrationOptions) -> str | None:
    """Return the pool a disk is to be led to, if any.

    The pool's name wins over its directory, so that one odd disk can be led elsewhere.
    """
    if disk.pool is not None and disk.pool in options.map_storage:
        return options.map_storage[disk.pool]
    if disk.source is None or not disk.is_local_image:
        return None
    return next((to for key, to in options.map_storage.items() if _is_directory(key, disk)), None)


def _is_directory(key: str, disk: Disk) -> bool:
    return key.startswith("/") and str(PurePosixPath(key)) == _directory(disk)


def _leads_somewhere(key: str, disk: Disk) -> bool:
    paths = (disk.source, *(image.path for image in disk.backing))
    return any(_is_directory(key, replace(disk, source=path)) for path in paths)


def _uncopyable_kind(disk: Disk) -> Finding:
    return blocker(
        "disk-kind",
        f"disk {disk.target}",
        f"a disk of type {disk.kind} is tied to its host and cannot be carried over",
        "detach it (virsh detach-disk), or put its data on an image in a storage pool",
    )


def _sharing_unknown(disk: Disk, shared: Probe) -> Finding:
    ways = [] if disk.kind == "block" else [_POOL_ON_BOTH]
    if any(words in shared.detail for words in _REFUSED):
        ways.insert(0, "let root make files there, though it may be nobody (NFS: anonuid and anongid of the export)")
    ways.append(f"say where to copy it: {_map_hint(disk)}")
    return blocker(
        "shared-unknown",
        f"disk {disk.target}",
        f"whether both hosts see the same {disk.source} could not be found out{because(shared.detail)}",
        "; or ".join(ways),
    )


def _why_not_copied(disk: Disk, source: Host, options: MigrationOptions, *, cold: bool) -> Finding | None:
    """A cold copy is one of bytes: it asks neither what they mean nor whether somebody writes to them elsewhere."""
    subject = f"disk {disk.target}"
    if disk.shareable and not cold:
        return blocker(
            "disk-shareable",
            subject,
            f"{disk.source} is shareable: other VMs may write to it, and a copy would part from theirs",
            "put it on storage that both hosts share, or detach it: virsh detach-disk",
        )
    if disk.device == "lun":
        return blocker(
            "disk-lun",
            subject,
            f"{disk.source} is passed through as a SCSI LUN, which no copy in a pool can stand in for",
            "use it as an ordinary disk (device='disk', virsh edit), which can be copied",
        )
    if disk.encryption is not None and not (cold and _stays_as_it_is(disk, options)):
        return blocker(
            "disk-encrypted",
            subject,
            f"{disk.source} is encrypted ({disk.encryption}), and a copy would need an encrypted volume made first",
            "put it on storage that both hosts share, or let its bytes travel as they are: --mode cold, without "
            "--format and --chain flatten",
        )
    if disk.capacity is None:
        return blocker(
            "disk-size-unknown",
            subject,
            f"the source could not tell the size of {disk.source}, so no volume can be made for it",
            f"see that {source.name} has it; if it lies outside all pools, make a pool of its directory: "
            "virsh pool-define-as, virsh pool-start",
        )
    return None


def _stays_as_it_is(disk: Disk, options: MigrationOptions) -> bool:
    """Whether a cold copy asks nothing of what an image means."""
    flattened = bool(disk.backing) and options.chain is Chain.FLATTEN
    return options.format in (None, disk.format) and not flattened


def _plan_copy(
    disk: Disk, source: Host, target: Host, wanted: str | None, shared: Probe, options: MigrationOptions
) -> DiskPlan | Finding:
    pool = _destination_pool(disk, source, target, wanted)
    if isinstance(pool, Finding):
        return pool
    is_block = pool.kind in BLOCK_POOLS
    image_format = "raw" if is_block else options.format or disk.format
    volume = disk.volume or PurePosixPath(disk.source or "").name
    if options.format is not None:
        volume = _named_for(volume, disk.format, image_format)
    path = f"{(pool.path or '').rstrip('/')}/{volume}"
    if path == disk.source and shared.answer is Answer.YES:
        return _onto_itself(disk, pool)
    if path == disk.source and shared.answer is Answer.UNKNOWN:
        return _sharing_unknown(disk, shared)
    plan = _in_place(disk, "none", "")
    return replace(
        plan,
        action="copy",
        reason=f"copied into pool {pool.name} of {target.name}",
        pool=pool.name,
        volume=volume,
        path=path,
        format=image_format,
        pool_is_block=is_block,
    )


def _named_for(volume: str, before: str, now: str) -> str:
    """A name that ends with its format ends with the new one."""
    return volume.removesuffix(f".{before}") + f".{now}" if volume.endswith(f".{before}") else volume


def _onto_itself(disk: Disk, pool: Pool) -> Finding:
    return blocker(
        "map-onto-itself",
        f"disk {disk.target}",
        f"the map leads {disk.source} to the very same file, in pool {pool.name}",
        "leave that map out: where it lies it needs no copy",
    )


def destination_pool(disk: Disk, source: Host, target: Host, options: MigrationOptions) -> Pool | Finding:
    """Return the target's pool that an image belongs into: the one it is mapped to, or the natural one."""
    return _destination_pool(disk, source, target, mapped_pool(disk, options))


def _destination_pool(disk: Disk, source: Host, target: Host, wanted: str | None) -> Pool | Finding:
    if target.pools is None:
        return blocker(
            "pools-unknown",
            f"disk {disk.target}",
            f"the storage pools of {target.name} could not be asked for",
            start_driver(target, "storage"),
        )
    pool = target.pool(wanted) if wanted is not None else _natural_pool(disk, source, target)
    if pool is None:
        return _no_pool(disk, target, wanted)
    if pool.kind not in FILE_POOLS | BLOCK_POOLS or not pool.path:
        return blocker(
            "pool-kind",
            f"pool {pool.name}",
            f"disk {disk.target} cannot be copied into pool {pool.name} of {target.name}, which is of type {pool.kind}",
            f"map it to a pool of type {listed(FILE_POOLS | BLOCK_POOLS)}: {_map_hint(disk)}",
        )
    if not pool.active:
        return blocker(
            "pool-inactive",
            f"pool {pool.name}",
            f"disk {disk.target} belongs into pool {pool.name} of {target.name}, which is inactive",
            virsh(target, "pool-start", "--pool", pool.name),
        )
    return pool


def _natural_pool(disk: Disk, source: Host, target: Host) -> Pool | None:
    """The pool with the disk's own directory, else the one of the same name and kind as at the source."""
    directory = _directory(disk)
    at_path = target.pool_at(directory) or next(
        (pool for pool in target.pools or () if pool.path and str(PurePosixPath(pool.path)) == directory), None
    )
    if at_path is not None or disk.pool is None:
        return at_path
    here, there = source.pool(disk.pool), target.pool(disk.pool)
    return there if here and there and here.kind == there.kind else None


def _no_pool(disk: Disk, target: Host, wanted: str | None) -> Finding:
    known = listed(pool.name for pool in target.pools or ())
    missing = f"named {wanted!r}" if wanted is not None else f"at {_directory(disk)}"
    if wanted is None and disk.pool is not None:
        missing += f", nor one named {disk.pool!r} of the same type"
    return blocker(
        "pool-missing",
        f"disk {disk.target}",
        f"{target.name} has no pool {missing} (it has: {known})",
        f"map it: {_map_hint(disk)}, or make one, then pool-build and pool-start it: "
        + virsh(target, "pool-define-as", wanted or disk.pool or "images", "dir", "--target", _directory(disk)),
    )


def _map_hint(disk: Disk) -> str:
    return shlex.join(("--map-storage", f"{disk.pool or _directory(disk)}=POOL"))


def _unless_taken(plan: DiskPlan, earlier: list[DiskPlan]) -> DiskPlan | Finding:
    other = next((p for p in earlier if p.action == "copy" and p.path == plan.path), None)
    if other is None:
        return plan
    return blocker(
        "volume-clash",
        f"disk {plan.target}",
        f"disks {other.target} and {plan.target} would both become {plan.path}",
        "map their directories to different pools: --map-storage DIRECTORY=POOL",
    )


def _plan_nic(nic: Nic, options: MigrationOptions) -> NicPlan:
    if nic.kind not in _MAPPABLE_NICS or nic.source is None:
        return NicPlan(nic.mac, nic.kind, nic.source, nic.source)
    mapped = options.map_network.get(nic.source)
    return NicPlan(nic.mac, nic.kind, nic.source, mapped or nic.source, mapped is not None)


def _unused_storage_maps(vm: Vm, source: Host, options: MigrationOptions) -> Iterator[Finding]:
    known = [pool.name for pool in source.pools or ()]
    paths = {str(PurePosixPath(pool.path)) for pool in source.pools or () if pool.path}
    for key, to in options.map_storage.items():
        if any(key == disk.pool or _leads_somewhere(key, disk) for disk in vm.disks):
            continue
        is_known = key in known or (key.startswith("/") and str(PurePosixPath(key)) in paths)
        yield _unused(f"storage map {key}={to}", "disk", "pools", known, is_known, source)


def _unused_network_maps(vm: Vm, source: Host, options: MigrationOptions) -> Iterator[Finding]:
    networks = [network.name for network in source.networks or ()]
    used = {nic.source for nic in vm.nics if nic.kind in _MAPPABLE_NICS}
    for key, to in options.map_network.items():
        if key not in used:
            is_known = key in networks or key in (source.interfaces or ())
            known = networks + [name for name in used if name]
            yield _unused(f"network map {key}={to}", "network card", "networks", known, is_known, source)


def _unused(subject: str, thing: str, things: str, known: list[str], is_known: bool, source: Host) -> Finding:
    if is_known:
        return warning(
            "map-not-needed",
            subject,
            f"no {thing} of this VM uses it",
            "nothing to do where several VMs are moved with the same maps; else leave it out",
        )
    return blocker(
        "map-unused",
        subject,
        f"it matches no {thing} of this VM and nothing on {source.name} ({things} there: {listed(set(known))})",
        "correct the name before the equals sign: it is the one at the source",
    )
