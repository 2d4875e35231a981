"""Images that are built upon others: which one each names, here and at the target, where it may lie elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from mudanza.hypervisor.connection import HostConnection
from mudanza.hypervisor.probing.files import file_lengths
from mudanza.hypervisor.streams import read_bytes, write_bytes
from mudanza.hypervisor.xml.disks import image_path
from mudanza.journal.jobs import JobHandle
from mudanza.migration.freight.qcow2_header import HEAD, NoRoomError, Patch, backing_name, renamed
from mudanza.migration.record import ColdRecord
from mudanza.model.errors import MigrationFailedError
from mudanza.model.host import Host
from mudanza.preflight.cargo import CargoFile


def refuse_unknown_bases(source: HostConnection, here: Host, files: Sequence[CargoFile]) -> None:
    """Raise MigrationFailedError where an image is built upon one that libvirt did not tell of: it would stay behind.

    Raises HypervisorError, HostUnreachableError.
    """
    lowest = [image for file in files if (image := _lowest(file)) is not None]
    lengths = file_lengths(source, here, lowest)
    for path in lowest:
        if base := backing_name(read_bytes(source, here, path, 0, min(HEAD, lengths[path] or 0))):
            raise MigrationFailedError(
                f"{path} is built upon {base}, which libvirt of {here.name} does not know",
                remedy=f"let it look, on {here.name}: virsh pool-refresh POOL; or name the base in the definition "
                "(<backingStore>); then try again",
            )


def _lowest(file: CargoFile) -> str | None:
    """Return the qcow2 file on which, as far as libvirt told, all of a disk is built; None where there is none."""
    path, kind = (file.chain[-1].path, file.chain[-1].format) if file.chain else (file.source, file.source_format)
    is_device = path.startswith("/dev/") or (path == file.source and file.source_is_block)
    return None if kind != "qcow2" or is_device or file.below else path


def name_bases_anew(
    target: HostConnection, there: Host, handle: JobHandle, record: ColdRecord, ours: Collection[str]
) -> None:
    """Have images name the ones they are built upon where these lie at the target. Only ``ours`` are written to.

    Raises MigrationFailedError where that cannot be, HypervisorError, HostUnreachableError.
    """
    places = record.places
    for file in record.files:
        base = places.get(file.below, file.below)
        if base == file.below or file.source_format != "qcow2" or not file.as_it_is:
            continue
        patches = _patches(read_bytes(target, there, file.path, 0, HEAD), file, base, ours)
        write = partial(_write, target, there, file.path, patches)
        handle.perform("name base", {"path": file.path, "base": base}, write)


def _write(target: HostConnection, there: Host, path: str, patches: Sequence[Patch]) -> None:
    for at, data in patches:
        write_bytes(target, there, path, at, data)


def _patches(head: bytes, file: CargoFile, base: str, ours: Collection[str]) -> tuple[Patch, ...]:
    named = backing_name(head)
    if named is None or image_path(named, file.path) == base:
        return ()
    if file.path not in ours:
        raise MigrationFailedError(
            f"{file.path}, which lay at the target already, is built upon {named}, and would have to be upon {base}",
            remedy="map its directory to another pool (--map-storage), or let disk and chain become one image "
            "(--chain flatten)",
        )
    try:
        return renamed(head, base)
    except NoRoomError:
        raise MigrationFailedError(
            f"{file.path} cannot name {base}, on which it is built: the name is too long for its header",
            remedy="map its directory to a pool of a shorter path, or let disk and chain become one image: "
            "--chain flatten",
        ) from None
