"""Do the copied disks fit, and are the shared ones safe to hand over?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from mudanza.model.finding import Finding
from mudanza.model.host import Pool
from mudanza.model.migration import Answer, Probe
from mudanza.model.units import format_size
from mudanza.model.vm import Disk
from mudanza.preflight.case import Case, blocks_live
from mudanza.preflight.mapping import BLOCK_POOLS, DiskPlan
from mudanza.preflight.wording import because, blocker, listed, virsh, vm_key, warning

DROPS_HOST_CACHE = 4_000_000
"""The first QEMU that drops the host's page cache of an image at the switchover (``drop-cache`` of its file
driver, since 4.0); from there on libvirt takes host-cached shared disks for safe."""
_UNCACHED = frozenset({"none", "directsync"})
_UNKNOWN = Probe()


def places(case: Case) -> Iterator[Finding]:
    """What stood in the way of giving each disk a place, and maps that led nowhere."""
    yield from case.plan.findings
    yield from case.cargo.findings


def shareable_in_use(case: Case) -> Iterator[Finding]:
    """What a running VM writes to cannot be copied as it was at one instant, and it would write on into its own."""
    for disk, _ in case.planned("copy"):
        if not disk.shareable or case.live:
            continue
        users = [
            vm.name
            for vm in case.cluster.vms_on(case.source.name)
            if vm.uuid != case.vm.uuid and vm.state.active and any(other.source == disk.source for other in vm.disks)
        ]
        if users:
            yield blocker(
                "disk-shareable",
                f"disk {disk.target}",
                f"{disk.source} is shareable and in use by {listed(users)}: a copy would part from theirs",
                "shut them down and move them too, or put it on storage that both hosts share",
            )


def free_space(case: Case) -> Iterator[Finding]:
    """All disks that go into one pool fit into it together."""
    by_pool: dict[str, list[tuple[Disk, DiskPlan]]] = {}
    for disk, plan in case.planned("copy"):
        by_pool.setdefault(plan.pool, []).append((disk, plan))
    for name, copies in by_pool.items():
        pool = case.target.pool(name)
        if pool is not None:
            yield from _space_in(case, pool, copies)


def _space_in(case: Case, pool: Pool, copies: list[tuple[Disk, DiskPlan]]) -> Iterator[Finding]:
    reserved = case.facts.reserved_room.get(pool.name, 0)
    available = max(case.facts.room.get(pool.name, pool.available) - reserved, 0)
    names = ", ".join(plan.target for _, plan in copies)
    virtual = sum(plan.size for _, plan in copies)
    needed = sum(_least(disk, plan, pool) for disk, plan in copies)
    room = f"pool {pool.name} of {case.target.name} has {format_size(available)} free"
    if reserved:
        room += f" besides {format_size(reserved)} for VMs on their way there ({listed(case.facts.arriving)})"
    remedy = (
        f"free space there ({virsh(case.target, 'vol-list', '--pool', pool.name, '--details')}), "
        "or map to another pool: --map-storage A=B"
    )
    if needed > available:
        lacking = format_size(needed - available)
        message = f"{room}; {names} take {format_size(needed)} at least: {lacking} too little"
        yield blocker("pool-space", f"pool {pool.name}", message, remedy)
    elif virtual > available:
        yield warning(
            "pool-space-virtual",
            f"pool {pool.name}",
            f"{room}: enough for the {format_size(needed)} in {names} now, not for the {format_size(virtual)} "
            "that may come to be there",
            remedy,
        )


def _least(disk: Disk, plan: DiskPlan, pool: Pool) -> int:
    """Thin images take what is allocated; where that is not known, and in a volume group, the whole size."""
    if pool.kind in BLOCK_POOLS or disk.allocation is None:
        return plan.size
    return disk.allocation


def occupied(case: Case) -> Iterator[Finding]:
    """We write into no volume that somebody else has made. A shareable disk may have come with another VM: it is used
    if it is the same byte for byte."""
    for disk, plan in case.planned("copy"):
        probe = case.facts.occupied.get(plan.target, _UNKNOWN)
        look = virsh(case.target, "vol-info", "--pool", plan.pool, "--vol", plan.volume)
        if probe.answer is Answer.YES and disk.shareable and not case.live and plan.format == disk.format:
            continue
        if probe.answer is Answer.YES:
            yield blocker(
                "volume-occupied",
                f"disk {plan.target}",
                f"{case.target.name} already has {probe.detail or plan.path}",
                f"see whose it is ({look}), then rename or delete it, or map to another pool: --map-storage A=B",
            )
        elif probe.answer is Answer.UNKNOWN:
            yield blocker(
                "volume-unknown",
                f"disk {plan.target}",
                f"whether {case.target.name} has {plan.path} already was not found out{because(probe.detail)}",
                f"{virsh(case.target, 'pool-refresh', '--pool', plan.pool)}, then try again; look: {look}",
            )


def occupied_beside(case: Case) -> Iterator[Finding]:
    """Nor over any other file."""
    for file in case.cargo.files:
        probe = case.facts.occupied.get(file.path, _UNKNOWN)
        if file.needs_free_place and probe.answer is Answer.YES:
            yield blocker(
                "volume-occupied",
                f"file {file.source}",
                f"{case.target.name} already has {file.path}, where the {file.label} would go",
                f"see whose it is (on {case.target.name}: ls -l -- {shlex.quote(file.path)}), then rename or delete it",
            )


def data_elsewhere(case: Case) -> Iterator[Finding]:
    """An image whose content lies in another file is worth nothing without that one, which no pool tells of."""
    travelling = {file.source: file for file in case.cargo.files if file.as_it_is}
    copied = {disk.source: plan for disk, plan in case.planned("copy")}
    for path, probe in case.facts.elsewhere.items():
        if probe.answer is not Answer.YES:
            continue
        if (file := travelling.get(path)) is not None:
            yield blocker(
                "data-elsewhere",
                f"{file.role} {path}",
                f"its content lies in another file ({probe.detail}), which would stay behind",
                "move the VM live without --chain keep, which makes one image of both; or let it get another format: "
                f"--format raw; or make one of them while the VM is off: qemu-img convert -f {file.source_format}",
            )
        elif path in copied:
            yield warning(
                "data-file-stays",
                f"disk {copied[path].target}",
                f"it arrives as one image, and the file with its content ({probe.detail}) stays behind",
                f"delete that on {case.source.name} once the VM has moved, unless you keep the source",
            )


def root_squashed(case: Case) -> Iterator[Finding]:
    """Where root is nobody, libvirt gives what it makes to nobody else, and QEMU may not open it."""
    for name in dict.fromkeys(plan.pool for _, plan in case.planned("copy")):
        probe = case.facts.squashed.get(name, _UNKNOWN)
        if probe.answer is Answer.YES:
            yield blocker(
                "pool-squashes-root",
                f"pool {name}",
                f"pool {name} of {case.target.name} lies on storage where root is not root{because(probe.detail)}, and "
                "QEMU, which is another user, could not open the copy",
                "export it to that host without squashing root (NFS: no_root_squash), or map to another pool: "
                "--map-storage A=B",
            )


def host_cache(case: Case) -> Iterator[Finding]:
    """A shared image must not be half in the cache of the host the guest leaves. As in libvirt's own check,
    except that ``unsafe`` never passes: there the guest's flushes do not reach the storage."""
    for disk, _ in case.planned("shared"):
        if disk.kind == "network" or disk.shareable or disk.cache in _UNCACHED:
            continue
        drops = min(case.source.qemu_version, case.target.qemu_version) >= DROPS_HOST_CACHE
        if disk.cache != "unsafe" and drops:
            continue
        yield blocks_live(
            case,
            "cache-mode",
            f"disk {disk.target}",
            f"it is shared and cached by the host (cache={disk.cache}): the target could read old data",
            f"set cache='none' or 'directsync' (virsh edit {vm_key(case.vm)}) and restart the VM, or move it cold",
        )


def shared_by_pool(case: Case) -> Iterator[Finding]:
    """A disk that names pool and volume is found through the target's pool of that name."""
    for disk, _ in case.planned("shared"):
        if disk.kind != "volume" or disk.pool is None or case.target.pools is None:
            continue
        pool = case.target.pool(disk.pool)
        if pool is None or not pool.active:
            yield blocker(
                "shared-pool-missing",
                f"disk {disk.target}",
                f"its definition names pool {disk.pool}, which {case.target.name} "
                + ("does not have" if pool is None else "has not started"),
                f"define it as on {case.source.name} ({virsh(case.source, 'pool-dumpxml', '--pool', disk.pool)}) "
                f"and start it: {virsh(case.target, 'pool-start', '--pool', disk.pool)}",
            )


def transient_disks(case: Case) -> Iterator[Finding]:
    """libvirt moves no disk whose writes it would have to throw away."""
    for disk in case.vm.disks:
        if disk.transient:
            yield blocks_live(
                case,
                "disk-transient",
                f"disk {disk.target}",
                "it is transient, and libvirt refuses to move a running VM with such a disk",
                "shut the VM off (its writes are thrown away then) and move it cold, or detach it: virsh detach-disk",
            )
