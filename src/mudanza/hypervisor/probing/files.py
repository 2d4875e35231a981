"""Which files a host has, and whether two hosts see the very same one. No file of the owner's is ever changed.

A file is looked for by way of a ghost (see ``ghost``) that names it as a raw disk: libvirt then opens that one file
and reads nothing into it. A storage pool on the directory would open everything in it.
"""

from __future__ import annotations

import errno
import hashlib
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import libvirt

from mudanza.hypervisor.connection import HostConnection, message
from mudanza.hypervisor.own.ghost import disk_name, ghost
from mudanza.hypervisor.own.marker import NoMarkerError, marker
from mudanza.hypervisor.probing.image_heads import data_elsewhere
from mudanza.model.errors import HypervisorError, MudanzaError
from mudanza.model.host import Host
from mudanza.model.migration import Answer, Probe
from mudanza.model.vm import Disk

LOOK_TIMEOUT = 10.0
"""Seconds a host may take to look for the files of one question."""

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_NEVER_OPENED = ("/dev/", "/proc/", "/sys/", "/run/", "/var/run/")
"""Opening a device, a pipe or a socket can set something off, or never return."""
_HEAD = 4096
"""Bytes of an image that are compared on both hosts."""
_LOOKS = 3
"""How often a head that differs is read again: a guest may have written to it in between."""

Seats = tuple[tuple[HostConnection, Host], tuple[HostConnection, Host]]
"""The source and the target: how they are asked, and what is known of them."""


def probe_files(
    target: HostConnection,
    about: Host,
    paths: Iterable[str],
    *,
    devices: frozenset[str] = frozenset(),
    unopened: frozenset[str] = frozenset(),
) -> Mapping[str, Probe]:
    """Return for each path whether the host has it. UNKNOWN where it could not be found out.

    ``devices``: those of them that are disks, and may be opened though they lie in /dev. ``unopened``: those that
    may be pipes or sockets.
    """
    wanted = list(dict.fromkeys(paths))
    avoided = {path for path in wanted if path.startswith(_NEVER_OPENED) and path not in devices} | unopened
    openable = [path for path in wanted if path not in avoided]
    closed = {path: Probe(Answer.UNKNOWN, "it is not opened just to see whether it is there") for path in wanted}
    return closed | _look(target, about, openable, devices, _size)


def file_lengths(
    host: HostConnection, about: Host, paths: Iterable[str], devices: frozenset[str] = frozenset()
) -> Mapping[str, int | None]:
    """Return how many bytes each file or device is long on a host; None where it has none of that name.

    ``devices``: those of them that are block devices. Raises HypervisorError where it could not be found out.
    """
    found = _look(host, about, list(dict.fromkeys(paths)), devices, _length)
    for path, probe in found.items():
        if probe.answer is Answer.UNKNOWN:
            raise HypervisorError(about.name, f"the length of {path} could not be found out: {probe.detail}")
    return {path: int(probe.detail) if probe.answer is Answer.YES else None for path, probe in found.items()}


def probe_data_elsewhere(
    source: HostConnection, about: Host, paths: Iterable[str], devices: frozenset[str] = frozenset()
) -> Mapping[str, Probe]:
    """Return for each image whether it keeps content in another file; ``detail`` names that one.

    ``devices``: those of them that are block devices.
    """
    found = _look(source, about, list(dict.fromkeys(paths)), devices, _data_elsewhere)
    held = {path: Probe(Answer.NO) for path, probe in found.items() if probe.answer is Answer.YES and not probe.detail}
    return found | held


def probe_shared(
    source: HostConnection, target: HostConnection, here: Host, there: Host, disks: Sequence[Disk]
) -> Mapping[str, Probe]:
    """Return for each disk (by its target name) whether both hosts see the very same image.

    YES takes a marker: a file of a random name, made next to the image on the source, is seen under the same path on
    the target, and the image begins alike on both. A file of the same name in another place is NO. Devices are
    UNKNOWN, for nothing can be put next to them. A symbolic link inside a shared directory that leads to different
    images on the two hosts is noticed only where these begin differently.
    """
    if here.host_uuid and here.host_uuid == there.host_uuid:
        return {disk.target: Probe(Answer.YES, "both names lead to the same machine") for disk in disks}
    images = {disk.target: disk.source or "" for disk in disks if not _is_device(disk)}
    seen = probe_files(target, there, images.values())
    seats = (source, here), (target, there)
    present = sorted(path for path, probe in seen.items() if probe.answer is Answer.YES)
    directories = {directory: same_directory(seats, directory) for directory in set(map(posixpath.dirname, present))}
    proven = {path: directories[posixpath.dirname(path)] for path in present}
    compared = [path for path in present if proven[path].answer is Answer.YES]
    answers = {**seen, **proven, **_same_images(seats, compared, proven)}
    devices = {disk.target: _unprovable(disk) for disk in disks if _is_device(disk)}
    return devices | {name: answers[path] for name, path in images.items()}


def _is_device(disk: Disk) -> bool:
    return disk.kind == "block" or (disk.source or "").startswith("/dev/")


def _unprovable(disk: Disk) -> Probe:
    return Probe(Answer.UNKNOWN, f"{disk.source} is a device: nothing can be put next to it to prove it")


def same_directory(seats: Seats, directory: str) -> Probe:
    """Return whether both see the very same directory: a file of a random name made on the source is on the target."""
    (source, here), (target, there) = seats
    try:
        with marker(source, here, directory) as made:
            seen = probe_files(target, there, [made.path])[made.path]
    except NoMarkerError as error:
        return Probe(Answer.UNKNOWN, str(error))
    if seen.answer is Answer.NO:
        return Probe(Answer.NO, f"{there.name} has a file of that name in a {directory} of its own")
    if seen.answer is Answer.YES:
        return Probe(Answer.YES, f"a marker made in {directory} on {here.name} was seen there on {there.name}")
    return seen


def _same_images(seats: Seats, paths: Sequence[str], proven: Mapping[str, Probe]) -> Mapping[str, Probe]:
    """Compare how images in shared directories begin, for one may be a link that leads elsewhere."""
    answers: dict[str, Probe] = {}
    for _ in range(_LOOKS):
        open_questions = [path for path in paths if path not in answers]
        here, there = (_look(seat, about, open_questions, frozenset(), _head) for seat, about in seats)
        for path in open_questions:
            if Answer.UNKNOWN in (here[path].answer, there[path].answer):
                answers[path] = here[path] if here[path].answer is Answer.UNKNOWN else there[path]
            elif here[path] == there[path]:
                answers[path] = proven[path]
    differing = Probe(Answer.UNKNOWN, "its directory is shared, but it reads differently on the two hosts (a link?)")
    return {path: answers.get(path, differing) for path in paths}


def _look(
    host: HostConnection,
    about: Host,
    paths: Sequence[str],
    devices: frozenset[str],
    inspect: Callable[[Any, str], str],
) -> dict[str, Probe]:
    """Return for each path whether it is there; ``detail`` is what ``inspect`` says of it."""
    if not paths:
        return {}
    disks = [("block" if path in devices else "file", path) for path in paths]

    def ask(raw: Any, name: str) -> dict[str, Probe]:
        domain = raw.lookupByName(name)
        return {path: _inspected(domain, disk_name(n), path, about, inspect) for n, path in enumerate(paths)}

    try:
        with ghost(host, about, disks) as domain:
            return domain.ask(lambda raw: ask(raw, domain.name), timeout=LOOK_TIMEOUT)
    except MudanzaError as error:
        return {path: Probe(Answer.UNKNOWN, str(error)) for path in paths}


def _inspected(domain: Any, disk: str, path: str, about: Host, inspect: Callable[[Any, str], str]) -> Probe:
    try:
        return Probe(Answer.YES, inspect(domain, disk))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR and error.get_int1() in _NOT_THERE:
            return Probe(Answer.NO, f"{about.name} has no {path}")
        return Probe(Answer.UNKNOWN, f"{about.name}: {message(error)}")


def _size(domain: Any, disk: str) -> str:
    return f"{_length(domain, disk)} bytes"


def _length(domain: Any, disk: str) -> str:
    _, _, physical = domain.blockInfo(disk)
    return str(physical)


def _head(domain: Any, disk: str) -> str:
    return hashlib.sha256(_first_bytes(domain, disk)).hexdigest()


def _data_elsewhere(domain: Any, disk: str) -> str:
    return data_elsewhere(_first_bytes(domain, disk)) or ""


def _first_bytes(domain: Any, disk: str) -> bytes:
    _, _, physical = domain.blockInfo(disk)
    return bytes(domain.blockPeek(disk, 0, min(physical, _HEAD))) if physical else b""
