"""What is told of a picture to who knows the one before it: what has changed, and nothing else. Pure.

Of most VMs a figure or two have changed since the last look. To send all of ten thousand again, and to read it, would
take as long as looking at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

from mudanza.model.cluster import Cluster
from mudanza.model.host import Host
from mudanza.model.vm import Vm

Item = TypeVar("Item")
NOBODY = Cluster((), ())
"""What somebody knows who was told nothing yet."""
UNTOLD = "<domain/>"
"""What is told in place of a definition: these are most of a picture's bytes, and who works on a VM reads them anew."""
PART = 50
"""Hosts or VMs that are unpacked at a time: about a millisecond's work."""
_DEFINITIONS = frozenset({"xml", "inactive_xml"})

Entry = int | tuple[int, Mapping[str, Any]] | Any
"""One that is as it was before, by its place there; or with these fields changed; or one that is new, as a whole."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """The difference between two clusters; definitions are left out."""

    hosts: Sequence[Entry]
    vms: Sequence[Entry]


def packed(before: Cluster, after: Cluster) -> Parcel:
    """Return what is to be told of a cluster to who was told of the one before."""
    return Parcel(
        list(_packed(before.hosts, after.hosts, lambda host: host.name, lambda host: host)),
        list(_packed(before.vms, after.vms, lambda vm: (vm.host, vm.uuid), without_definitions)),
    )


def unpacked(before: Cluster, parcel: Parcel, rest: Callable[[], None] = lambda: None) -> Cluster:
    """Return the cluster that was told of, by what it was before; its VMs are without their definitions.

    ``rest`` is called after every ``PART`` of them: what has other things to do rests there.
    """
    hosts: tuple[Host, ...] = tuple(_unpacked(before.hosts, parcel.hosts, rest))
    vms: tuple[Vm, ...] = tuple(_unpacked(before.vms, parcel.vms, rest))
    return Cluster(hosts, vms)


def without_definitions(vm: Vm) -> Vm:
    """Return a VM without its definitions; whether it has one for its next start is told."""
    return replace(vm, xml=UNTOLD, inactive_xml=vm.inactive_xml and UNTOLD)


def _packed(
    before: Sequence[Item], after: Iterable[Item], key: Callable[[Item], object], bare: Callable[[Item], Item]
) -> Iterable[Entry]:
    places = {key(item): place for place, item in enumerate(before)}
    for item in after:
        place = places.get(key(item))
        if place is None:
            yield bare(item)
        elif before[place] is item:
            yield place
        else:
            changes = _changes(before[place], item)
            yield (place, changes) if changes else place


def _changes(before: Any, after: Any) -> dict[str, Any]:
    kind: Any = type(after)
    names, values = _reader_of(kind)
    found = {
        name: new
        for name, old, new in zip(names, values(before), values(after), strict=True)
        if old is not new and old != new
    }
    for name in found.keys() & _DEFINITIONS:
        new = found.pop(name)
        if (getattr(before, name) is None) != (new is None):
            found[name] = new and UNTOLD
    return found


@cache
def _reader_of(kind: Any) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """Return the names of a dataclass's fields, and what reads all of them at once."""
    names = tuple(field.name for field in fields(kind))
    return names, attrgetter(*names)


def _unpacked(before: Sequence[Any], entries: Iterable[Entry], rest: Callable[[], None]) -> Iterable[Any]:
    for number, entry in enumerate(entries, start=1):
        if number % PART == 0:
            rest()
        if isinstance(entry, int):
            yield before[entry]
        elif isinstance(entry, tuple):
            place, changes = entry
            yield replace(before[place], **changes)
        else:
            yield entry
