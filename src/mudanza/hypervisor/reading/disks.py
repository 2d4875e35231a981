"""What the storage says of a VM's disks: where they are, whose they are, how large, on top of what."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import libvirt

from mudanza.hypervisor.xml.disks import image_path
from mudanza.hypervisor.xml.resources import Volume, parse_volume
from mudanza.model.vm import Backing, Disk, Vm

_LONGEST_CHAIN = 200
"""libvirt itself follows no longer one."""
_parsed = lru_cache(20_000)(parse_volume)
"""Most volumes are the same at the next look."""


def with_volumes(raw: Any, vm: Vm) -> Vm:
    """Fill in what the host's storage tells of every image. Raises libvirtError where there is no storage driver."""
    domain = raw.lookupByUUIDString(vm.uuid)
    return replace(vm, disks=tuple(_with_volume(raw, domain, vm, disk) for disk in vm.disks))


def _with_volume(raw: Any, domain: Any, vm: Vm, disk: Disk) -> Disk:
    if not disk.is_local_image:
        return disk
    volume = _volume_of(raw, disk)
    if volume is None:
        # A guest whose figures were being asked for by somebody else told none; one that hangs is not asked again.
        return disk if disk.capacity is not None or vm.error is not None else _with_image_size(domain, disk)
    known = _parsed(volume.XMLDesc(0), vm.host)
    disk = replace(
        disk,
        source=known.path or disk.source,
        pool=disk.pool or volume.storagePoolLookupByVolume().name(),
        volume=disk.volume or known.name,
        owner=known.owner,
        mode=known.mode,
        capacity=known.capacity if disk.capacity is None else disk.capacity,
        allocation=known.allocation if disk.allocation is None else disk.allocation,
    )
    # Of a running guest libvirt has written the whole chain into the XML itself.
    return disk if vm.state.active else replace(disk, backing=disk.backing or _chain(raw, vm.host, known))


def _volume_of(raw: Any, disk: Disk) -> Any | None:
    try:
        if disk.kind == "volume":
            return raw.storagePoolLookupByName(disk.pool).storageVolLookupByName(disk.volume)
        return raw.storageVolLookupByPath(disk.source)
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_STORAGE_VOL, libvirt.VIR_ERR_NO_STORAGE_POOL):
            return None
        raise


def _with_image_size(domain: Any, disk: Disk) -> Disk:
    """Return the sizes of an image outside all pools, as libvirt reads them from the file or asks QEMU for them."""
    try:
        capacity, allocation, _ = domain.blockInfo(disk.target)
    except libvirt.libvirtError:
        # A missing or unreadable image is for preflight to find: here its size is not known.
        return disk
    return replace(disk, capacity=capacity, allocation=allocation)


def _chain(raw: Any, host: str, top: Volume) -> tuple[Backing, ...]:
    images: list[Backing] = []
    below = top.backing
    while below is not None and len(images) < _LONGEST_CHAIN:
        below = replace(below, path=image_path(below.path, top.path or ""))
        images.append(below)
        try:
            top = _parsed(raw.storageVolLookupByPath(below.path).XMLDesc(0), host)
        except libvirt.libvirtError:
            # Outside all pools: the chain is known down to here.
            break
        below = top.backing
    return tuple(images)
