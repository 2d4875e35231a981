"""From the XML of pools, volumes, networks and snapshots to plain data."""

from __future__ import annotations

from dataclasses import dataclass

from mudanza.hypervisor.xml.parsing import attribute, every, first, integer, parse, size, text
from mudanza.model.host import Network, Pool
from mudanza.model.vm import Backing, Snapshot


@dataclass(frozen=True, slots=True)
class Volume:
    """A storage volume. Bytes; times in seconds since the epoch by its host's clock."""

    name: str
    path: str | None
    format: str
    capacity: int | None
    allocation: int | None
    owner: tuple[int, int] | None = None
    mode: int | None = None
    changed_at: float | None = None
    backing: Backing | None = None


def parse_pool(xml: str, host: str, *, active: bool) -> Pool:
    """Read ``<pool>``. Raises HypervisorError for XML that cannot be read."""
    root = parse(xml, host)
    return Pool(
        name=text(root, "name") or "",
        kind=root.get("type") or "",
        path=text(root, "target/path"),
        active=active,
        capacity=size(root, "capacity", default_unit="bytes") or 0,
        available=size(root, "available", default_unit="bytes") or 0,
    )


def parse_volume(xml: str, host: str) -> Volume:
    """Read ``<volume>``. Raises HypervisorError for XML that cannot be read."""
    root = parse(xml, host)
    owner, group = (integer(text(root, f"target/permissions/{who}")) for who in ("owner", "group"))
    mode = text(root, "target/permissions/mode")
    changed = text(root, "target/timestamps/mtime")
    below = text(root, "backingStore/path")
    return Volume(
        name=text(root, "name") or "",
        path=text(root, "target/path"),
        format=attribute(root, "target/format", "type") or "raw",
        capacity=size(root, "capacity", default_unit="bytes"),
        allocation=size(root, "allocation", default_unit="bytes"),
        owner=(owner, group) if owner is not None and group is not None else None,
        mode=int(mode, 8) if mode else None,
        changed_at=float(changed) if changed else None,
        backing=Backing(below, attribute(root, "backingStore/format", "type") or "raw") if below else None,
    )


def parse_network(xml: str, host: str, *, active: bool) -> Network:
    """Read ``<network>``. Raises HypervisorError for XML that cannot be read."""
    root = parse(xml, host)
    forward = first(root, "forward")
    return Network(
        name=text(root, "name") or "",
        active=active,
        forward=None if forward is None else forward.get("mode") or "nat",
        bridge=attribute(root, "bridge", "name"),
        portgroups=tuple(group.get("name") or "" for group in every(root, "portgroup")),
    )


def parse_snapshot(xml: str, host: str, *, current: bool) -> Snapshot:
    """Read ``<domainsnapshot>``. Raises HypervisorError for XML that cannot be read."""
    root = parse(xml, host)
    kinds = [attribute(root, "memory", "snapshot"), *(disk.get("snapshot") for disk in every(root, "disks/disk"))]
    return Snapshot(
        name=text(root, "name") or "",
        external="external" in kinds,
        current=current,
        parent=text(root, "parent/name"),
        memory=attribute(root, "memory", "file"),
        disks=frozenset(path for source in every(root, "domain/devices/disk/source") if (path := source.get("file"))),
    )
